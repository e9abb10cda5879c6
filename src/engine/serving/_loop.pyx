"""Event loops: how requests of a loop are submitted in bulk, and how their answers get back to it.

Who owns what, and why nothing is freed too early:

- A slot of the native table points to a Python object through `user`: an AnswerFuture for one request, a ManyCall for
  many. Whoever submits takes a reference for the slot (Py_INCREF), and whoever takes the slot off the completions gives
  it back (Py_DECREF) exactly once: a drain, or `drop_answers` for a closed loop, or `cancelled` where it abandons the
  slot before anybody answers it.
- The native core never touches `user`. It only pushes the slot's index onto the loop's completions, from any thread and
  without the GIL, and signals the eventfd.
- A bridge holds a reference to its `Completions`, and must outlive its pending requests. `Bridges` keeps every bridge
  until its loop is closed or gone and `pending` is 0, and a bridge keeps its engine.
- A bridge does not keep its loop: one that its owner drops without closing it must be collected, and its descriptors
  with it. While requests are pending, their futures keep the loop.
- `pending` and all flags here are touched with the GIL held only.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.pystate cimport PyThreadState, PyThreadState_Get
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy

from engine._common._assert cimport ENGINE_ASSERT
from engine._common._gil cimport share_gil
from engine.serving._answers cimport Answer
from engine.serving._futures cimport PENDING
from engine.serving._rows cimport table
from engine.serving._scheduler cimport NO_SLOT, Caller, Completions, Runtime, SlotTable, now_ns

import asyncio
import weakref

from engine.serving._executors import no_descriptor

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    PyObject* PyThreadState_GetDict() noexcept  # borrowed
    PyObject* PyDict_GetItem(PyObject* dict, object key) noexcept  # borrowed

_get_running_loop = asyncio.get_running_loop

# The loop whose completions a thread drains now, and that thread. asyncio.get_running_loop makes a system call before
# Python 3.12; a task that a drain steps, and that asks again, need not pay for it. With several such threads the last
# one counts, and the others ask asyncio.
cdef object _draining_loop = None
cdef PyThreadState* _draining_thread = NULL
# asyncio 3.11 keeps the thread's running loop in an object of the thread's dict, a new one for each run of a loop.
# The loop above is the running one only while that object stays: a step may run another loop. Later versions keep it
# elsewhere and make no system call, so they are asked each time.
cdef object _draining_run = None
cdef object RUNNING_LOOP = "__asyncio_running_event_loop__"


cdef object running_loop():
    if PyThreadState_Get() == _draining_thread and PyDict_GetItem(PyThreadState_GetDict(),
                                                                  RUNNING_LOOP) == <PyObject*>_draining_run:
        return _draining_loop
    return _get_running_loop()


cdef int remember_loop(object loop) except -1:
    global _draining_loop, _draining_thread, _draining_run
    cdef PyObject* run = PyDict_GetItem(PyThreadState_GetDict(), RUNNING_LOOP)
    if run is not NULL:
        _draining_loop, _draining_run = loop, <object>run
        _draining_thread = PyThreadState_Get()
    return 0


cdef int forget_loop() except -1:
    global _draining_loop, _draining_thread, _draining_run
    _draining_thread = NULL
    _draining_loop = _draining_run = None
    return 0


@cython.final
cdef class ManyCall:
    """A call of many rows in the batch lane. Not public."""

    cdef int wait(self) except -1:
        cdef vector[uint32_t] queued
        cdef bint done = False
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] != NO_SLOT:
                queued.push_back(self.slots[i])
        while not done:
            with nogil:
                done = self.engine.runtime.wait_group(self.group, queued)
            if done:
                break
            # A signal came. Its handler may raise (KeyboardInterrupt), and slots that point to this call must not
            # survive it: the rows are finished first.
            try:
                PyErr_CheckSignals()
            except BaseException:
                self.cancelled()
                with nogil:
                    while not self.engine.runtime.wait_group(self.group, queued):
                        pass
                self.drop()
                raise
        return 0

    cdef object collect(self, bint synchronous):
        cdef Runtime* runtime = self.engine.runtime
        cdef uint32_t width = self.engine._n_outputs
        cdef double* values = <double*>cnp.PyArray_DATA(self.values)
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] == NO_SLOT:
                continue
            self.outcomes[i] = runtime.outcome(self.slots[i])
            memcpy(values + <size_t>i * width, runtime.values(self.slots[i]), width * sizeof(double))
            runtime.give_back(self.slots[i])
        return self.engine._answers(self.deployment, self.outcomes.data(), self.n, self.values, self.matrix, True,
                                    synchronous, self.missing)

    cdef int drop(self) except -1:
        cdef Runtime* runtime = self.engine.runtime
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] != NO_SLOT:
                runtime.give_back(self.slots[i])
        runtime.counters().cancelled.fetch_add(self.n)
        return 0

    def cancelled(self, uint32_t _=0):
        """Stop work on rows that nobody has answered yet: the future was cancelled."""
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] != NO_SLOT:
                self.engine.runtime.abandon_row(self.slots[i])


cdef ManyCall submit_many(Versions engine, Deployment deployment, const Request& request, cnp.ndarray matrix,
                          cnp.ndarray deadlines, LoopBridge loop, object missing, bint* complete):
    cdef ManyCall call = ManyCall.__new__(ManyCall)
    cdef uint32_t n = matrix.shape[0]
    call.engine = engine
    call.deployment = deployment
    call.n = n
    call.slots.resize(n)
    call.outcomes.resize(n)
    call.values = table(n, engine._n_outputs, cnp.NPY_FLOAT64)
    call.matrix = matrix
    call.missing = missing
    cdef void* rows = cnp.PyArray_DATA(matrix)
    cdef const int64_t* due = <const int64_t*>cnp.PyArray_DATA(deadlines)
    cdef double* out = <double*>cnp.PyArray_DATA(call.values)
    cdef Caller caller
    caller.completions = loop.native if loop is not None else NULL
    caller.group = &call.group
    caller.user = <void*><PyObject*>call
    # Without the GIL, so executors may answer rows before this returns. Only this thread reads the completions of its
    # loop, so nobody uses `user` before the caller has taken the slots' reference.
    with nogil:
        complete[0] = engine.runtime.submit_many(request, rows, n, due, caller, call.slots.data(), call.outcomes.data(),
                                                 out)
    return call


@cython.final
cdef class LoopBridge:
    """One event loop's end of the completions. Not public."""

    def __dealloc__(self):
        # Reached only with nothing pending, because Bridges keeps every bridge that has. If the interpreter ends
        # before, the core may still signal: the memory stays.
        if self.native is not NULL and self.native.pending == 0:
            self.native.release()

    cdef int retire(self) except -1:
        self.native.release()
        self.native = NULL
        self.kick = self.poll = self.watch = None  # bound methods of the bridge, which keep it
        return 0

    cdef object loop(self):
        return None if self.address is NULL else <object>self.address

    def _loop_is_gone(self, _):
        self.address = NULL
        if self.native is NULL:
            return  # it was closed before, and swept
        ENGINE_ASSERT(self.native.pending == 0, b"the futures of pending requests keep their loop")
        self.retire()
        self.bridges.forget(self)

    def _kick(self):
        self.kicking = False
        self.engine.runtime.kick()
        if self.native is not NULL:
            self.engine.runtime.answer_before_next_dispatch(self.native[0])
        share_gil()

    cdef int kick_later(self) except -1:
        if not self.kicking:
            self.kicking = True
            self.loop().call_soon(self.kick)
        return 0

    # Where sleeping is dear and answers are quick, looking at every turn costs less than being woken for each answer.
    cdef int start_polling(self) except -1:
        self.poll_until_ns = now_ns() + self.engine.runtime.executors().watch_ns()
        if not self.polling:
            self.polling = True
            self.native.start_polling()
            self.loop().call_soon(self.poll)
        return 0

    def _poll(self):
        # Nobody signals a loop that polls, so the next look is scheduled before any task is stepped: the task may raise
        # KeyboardInterrupt, or run the loop itself and wait for another answer.
        if self.native.pending and now_ns() < self.poll_until_ns:
            self.loop().call_soon(self.poll)
            if self.native.has_answers() or self.rest != NO_SLOT:
                self.drain()
            return
        self.polling = False
        # An answer that came between the last look and this line was not signalled: look here.
        if self.native.stop_polling() or self.rest != NO_SLOT:
            self.drain()

    def _hand_out_rest(self):
        if self.rest != NO_SLOT:
            self.drain()

    def cancelled(self, uint32_t index):
        """Abandon slot `index`, because its future was cancelled. A drain gives it back if it is answered already."""
        cdef AnswerFuture future = <AnswerFuture>self.engine.runtime.slots()[index].user
        if self.engine.runtime.abandon(index):
            ENGINE_ASSERT(self.native.pending > 0, b"a slot that is abandoned was pending")
            self.native.pending -= 1
            self.engine.runtime.counters().cancelled.fetch_add(1)
            Py_DECREF(future)

    def drain(self, bint direct=True):
        """Hand out all answers that are there.

        The loop calls it when the eventfd is readable. No task of the loop runs then, so with `direct` the waiting
        tasks are stepped here and now.
        """
        cdef SlotTable* slots = &self.engine.runtime.slots()
        cdef object loop = self.loop()
        cdef uint32_t index
        cdef bint taken = False
        interrupted = None
        self.drains += 1
        self.engine.runtime.answer_before_next_dispatch(self.native[0])
        if direct:
            if self.drains > 1:  # a task runs the loop: only asyncio knows whether another one may be stepped in it
                direct = asyncio.current_task(loop) is None
            remember_loop(loop)
        while True:
            if self.rest == NO_SLOT:
                if taken:
                    break
                taken = True
                self.rest = self.native.take_all(slots[0])
                if self.rest == NO_SLOT:
                    break
                # The first task may run the loop and wait for one of the other answers.
                if direct and not self.polling and slots[0][self.rest].next_done_value() != NO_SLOT:
                    loop.call_soon(self._hand_out_rest)
            share_gil()  # between two answers; the task that is stepped with each may take long
            index = self.rest
            # Read before the slot is given back: another request may take it at once, and link it elsewhere.
            self.rest = slots[0][index].next_done_value()
            ENGINE_ASSERT(self.native.pending > 0, b"an answer on a loop's completions was pending")
            self.native.pending -= 1
            try:
                if slots[0][index].group is not NULL:
                    self.finish_many(index)
                else:
                    self.finish_one(index, direct)
            except BaseException as error:  # a task that was stepped raised KeyboardInterrupt or SystemExit
                interrupted = error  # the answers behind it must still be handed out
        self.drains -= 1
        forget_loop()
        share_gil()
        if interrupted is not None:
            raise interrupted
        if self.engine._closed and self.native.pending == 0:
            self.stop_reading()

    cdef int finish_one(self, uint32_t index, bint direct) except -1:
        cdef Versions engine = self.engine
        cdef Runtime* runtime = engine.runtime
        cdef AnswerFuture future = <AnswerFuture>runtime.slots()[index].user  # a reference of our own …
        Py_DECREF(future)  # … so the slot's can go
        if future.state != PENDING:  # cancelled after it was answered, so `cancelled` could not abandon the slot
            runtime.give_back(index)
            runtime.counters().cancelled.fetch_add(1)
            return 0
        cdef Outcome outcome = runtime.outcome(index)
        cdef int64_t returned = now_ns()
        cdef Answer answer = engine._answer(engine._deployment_of(outcome.deployment), outcome, runtime.values(index),
                                            returned)
        runtime.account(outcome, returned, True, False)
        if engine._observer is not NULL or engine._shadow is not NULL:
            engine._show_one(outcome, answer, runtime.row(index), runtime.values(index))
        # Before the task is stepped: it may submit again, and the slot is free for it.
        runtime.give_back(index)
        answer.missing = future.missing
        return future.finish(answer, direct)

    cdef int finish_many(self, uint32_t index) except -1:
        cdef ManyCall call = <ManyCall>self.engine.runtime.slots()[index].user
        Py_DECREF(call)
        if call.future.state != PENDING:
            return call.drop()
        return call.future.finish(call.collect(False), False)

    cdef int start_reading(self) except -1:
        if not self.reading:
            self.loop().add_reader(self.native.fd(), self.drain)
            self.reading = True
        return 0

    cdef int stop_reading(self) except -1:
        loop = self.loop()
        if self.reading and loop is not None and not loop.is_closed():
            loop.remove_reader(self.native.fd())
        self.reading = False
        return 0

    # A closed loop can neither set its futures nor run their callbacks. The caller holds the loop: the futures that are
    # dropped here may be the last to do so, and a loop that goes takes what is read here along.
    cdef int drop_answers(self) except -1:
        cdef Runtime* runtime = self.engine.runtime
        cdef SlotTable* slots = &runtime.slots()
        cdef uint32_t index = self.native.take_all(slots[0])
        cdef uint32_t following
        cdef object user
        while index != NO_SLOT:
            following = slots[0][index].next_done_value()
            ENGINE_ASSERT(self.native.pending > 0, b"an answer on a loop's completions was pending")
            self.native.pending -= 1
            user = <object>slots[0][index].user
            Py_DECREF(user)
            if slots[0][index].group is not NULL:
                (<ManyCall>user).drop()
            else:
                runtime.give_back(index)
                runtime.counters().cancelled.fetch_add(1)
            index = following
        return 0

    cdef int close(self) except -1:
        loop = self.loop()
        if loop is None or loop.is_closed():
            return self.drop_answers()
        running = asyncio._get_running_loop()
        if running is loop or not loop.is_running():
            self.drain(False)  # a task may have called close(), and a loop steps one task at a time
            return 0
        try:
            loop.call_soon_threadsafe(self.drain)
        except RuntimeError:  # it was closed this moment
            self.drop_answers()
        return 0


@cython.final
cdef class Bridges:
    """The bridges of one engine. Not public."""

    def __cinit__(self):
        self.by_id = {}

    cdef LoopBridge of(self, Versions engine, object loop):
        if self.last is not None and self.last.address == <PyObject*>loop:
            return self.last
        cdef LoopBridge bridge = self.by_id.get(id(loop))
        if bridge is None or bridge.address != <PyObject*>loop:
            self.sweep()
            bridge = LoopBridge.__new__(LoopBridge)
            bridge.engine, bridge.bridges = engine, self
            bridge.address = <PyObject*>loop
            try:
                bridge.watch = weakref.ref(loop, bridge._loop_is_gone)
            except TypeError:
                bridge.watch = loop
            try:
                bridge.native = new Completions()
            except OSError as error:
                raise no_descriptor(error) from None
            bridge.rest = NO_SLOT
            bridge.kick, bridge.poll = bridge._kick, bridge._poll
            bridge.start_reading()
            self.by_id[id(loop)] = bridge
        self.last = bridge
        return bridge

    cdef int sweep(self) except -1:
        cdef LoopBridge bridge
        self.last = None
        for key, found in list(self.by_id.items()):
            bridge = <LoopBridge>found
            loop = bridge.loop()  # held for drop_answers
            if loop is not None and not loop.is_closed():
                continue
            bridge.drop_answers()
            if bridge.native.pending == 0:
                bridge.retire()
                del self.by_id[key]
        return 0

    # The loop of a bridge is gone.
    cdef int forget(self, LoopBridge bridge) except -1:
        if self.last is bridge:
            self.last = None
        for key, found in list(self.by_id.items()):
            if found is bridge:
                del self.by_id[key]
        return 0

    cdef int close(self) except -1:
        for bridge in list(self.by_id.values()):
            (<LoopBridge>bridge).close()
        return 0
