# Event loops and calls of many rows, as CoreEngine sees them.
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libcpp.vector cimport vector

cimport numpy as cnp

from engine.serving._deployment cimport Deployment, Versions
from engine.serving._futures cimport AnswerFuture
from engine.serving._scheduler cimport Completions, Group, Outcome, Request

# asyncio.get_running_loop(), without its system call for a task that a drain steps.
cdef object running_loop()


cdef class ManyCall:
    # A predict_many in the batch lane, from submission to collection. The slots of its rows point to it; it outlives
    # them.
    cdef Versions engine
    cdef Deployment deployment
    cdef Group group                 # counts the rows that are still to be answered
    cdef vector[uint32_t] slots      # one a row; NO_SLOT where the row was answered at submission
    cdef vector[Outcome] outcomes
    cdef cnp.ndarray values, matrix  # float64 [n, n_outputs]; the rows as the models take them
    cdef AnswerFuture future         # None for a caller that waits
    cdef object missing
    cdef uint32_t n

    # Waits without the GIL until every row is answered. A signal handler that raises abandons the rows.
    cdef int wait(self) except -1
    # The Answers; gives the slots back.
    cdef object collect(self, bint synchronous)
    # Gives the slots back unread: nobody waits for the answers any more.
    cdef int drop(self) except -1


# Submits rows [n, n_features]. `loop` is None for a caller that waits. complete[0]: every row is answered already.
cdef ManyCall submit_many(Versions engine, Deployment deployment, const Request& request, cnp.ndarray matrix,
                          cnp.ndarray deadlines, LoopBridge loop, object missing, bint* complete)


cdef class Bridges


cdef class LoopBridge:
    # One event loop's end of the completions. Lives until its loop is closed or gone, and everything submitted is
    # answered.
    cdef Versions engine
    cdef Completions* native
    cdef PyObject* address           # of the loop, borrowed; null once it is gone
    cdef object watch                # a weak reference to the loop, which says when; the loop where it takes none
    cdef bint reading                # the loop watches the eventfd
    cdef bint kicking                # a kick is scheduled for the end of this turn
    cdef bint polling                # a poll is scheduled for the next turn
    cdef int64_t poll_until_ns
    cdef uint32_t drains             # that run now, one within a task that another one steps
    cdef uint32_t rest               # first slot of the answers that a drain has taken and not handed out yet
    cdef object kick, poll           # bound methods, bound once: submissions pass them to call_soon
    cdef Bridges bridges

    # The loop, None once it is gone.
    cdef object loop(self)
    # Gives the completions up, once nothing is pending and the loop is closed or gone.
    cdef int retire(self) except -1
    # Wakes an executor once this turn of the loop ends, for all requests that the turn submits.
    cdef int kick_later(self) except -1
    # Looks for answers at every turn from now on instead of being woken for them.
    cdef int start_polling(self) except -1
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
    # Collects answers that nobody can receive, because the loop is closed.
    cdef int drop_answers(self) except -1
    # The engine is closed and every request answered: hands out the answers where that is still possible.
    cdef int close(self) except -1
    cdef int finish_one(self, uint32_t index, bint direct) except -1
    cdef int finish_many(self, uint32_t index) except -1


cdef class Bridges:
    # The bridges of one engine, by loop. Does not know the engine: one that never met a loop is in no reference cycle.
    cdef dict by_id                  # id(loop) -> LoopBridge
    cdef LoopBridge last
    # Hot: the running loop's bridge, which is almost always the last one that was asked for.
    cdef LoopBridge of(self, Versions engine, object loop)
    # Drops the bridges of closed loops for which nothing is pending any more.
    cdef int sweep(self) except -1
    cdef int forget(self, LoopBridge bridge) except -1
    cdef int close(self) except -1
