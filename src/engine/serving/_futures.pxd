from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    PENDING
    CANCELLED
    FINISHED


cdef class AnswerFuture:
    # asyncio's Task sets and reads it: https://docs.python.org/3/library/asyncio-future.html
    cdef public bint _asyncio_future_blocking
    cdef uint8_t state
    cdef object loop
    cdef object answer     # Answer or Answers; None while the state is PENDING
    cdef object failure    # a mistake of the caller, or an exception that somebody set; None for none
    cdef object unseen     # reports the failure when it dies; None once somebody has looked at it
    cdef object message    # of the cancellation
    # The first callback that was added with its context, and a list of (callback, context) of all others.
    cdef object first, first_context
    cdef list others
    # On cancellation, `owner.cancelled(request)` is called. None once the answer is there.
    cdef object owner
    cdef uint32_t request  # index of the slot; 0 for many rows
    cdef tuple missing     # names of imputed online features, until the Answer takes them; None for none
    cdef object __weakref__

    # Sets the answer and wakes the waiters: with `step` the first one now, else all in the loop's next turn.
    cdef int finish(self, object answer, bint step) except -1
    cdef int wake_later(self) except -1
    cdef int keep_failure(self, object error) except -1
    cdef int seen(self) except -1
    cdef int require_pending(self) except -1


# A future to be finished later, and one that is finished from birth.
cdef AnswerFuture pending_answer(object loop)
cdef AnswerFuture ready_answer(object answer, object loop)
# One that raises `error` at the await, from birth.
cdef AnswerFuture failed_answer(object error, object loop)
# The result of a Task, as an answer: its exception and its end are the task's, cancelling it cancels the task.
cdef AnswerFuture answer_of_task(object task, object loop)
