# Event loops: how answers get back to them. Included by _runtime.pyx.


@cython.final
cdef class _ManyCall:
    # A predict_many in the batch lane, from submission to collection.
    cdef CoreEngine engine
    cdef _Served served
    cdef Group group
    cdef vector[uint32_t] slots
    cdef vector[Outcome] outcomes
    cdef cnp.ndarray values, matrix
    cdef AnswerFuture future
    cdef object missing
    cdef uint32_t n

    cdef object collect(self, bint synchronous):
        cdef Runtime* runtime = self.engine.runtime
        cdef uint32_t width = self.engine.n_outputs
        cdef double* values = <double*>cnp.PyArray_DATA(self.values)
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] == NO_SLOT:
                continue
            self.outcomes[i] = runtime.outcome(self.slots[i])
            memcpy(values + <size_t>i * width, runtime.values(self.slots[i]), width * sizeof(double))
            runtime.give_back(self.slots[i])
        return self.engine._answers(self.served, self.outcomes.data(), self.n, self.values, self.matrix, True,
                                    synchronous, self.missing)

    # Nobody waits any more: slots go back, nothing is read.
    cdef int drop(self) except -1:
        cdef Runtime* runtime = self.engine.runtime
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] != NO_SLOT:
                runtime.give_back(self.slots[i])
        runtime.counters().cancelled.fetch_add(self.n)
        return 0

    def cancelled(self, uint32_t _=0):
        """The future was cancelled: rows that nobody has answered yet are not worked on any more."""
        cdef uint32_t i
        for i in range(self.n):
            if self.slots[i] != NO_SLOT:
                self.engine.runtime.abandon_row(self.slots[i])


@cython.final
cdef class _ManyRequest:
    # A Request that outlives the call that made it; the deployment is kept by whoever keeps this.
    cdef Request native


# The loop whose completions a thread is draining, and that thread. asyncio.get_running_loop makes a system call before
# Python 3.12; a task that is stepped by a drain and asks again need not. With several such threads the last one counts,
# and the others ask asyncio.
cdef object _draining_loop = None
cdef PyThreadState* _draining_thread = NULL


cdef inline object _running_loop():
    return _draining_loop if PyThreadState_Get() == _draining_thread else _get_running_loop()


@cython.final
cdef class _LoopBridge:
    # One event loop's end of the completions. Lives until its loop is closed and everything it asked is answered.
    cdef CoreEngine engine
    cdef Completions* native
    cdef readonly object loop
    cdef bint reading, kicking, polling
    cdef int64_t poll_until_ns
    cdef object kick, poll  # bound once: submissions pass them to call_soon

    def _kick(self):
        self.kicking = False
        self.engine.runtime.kick()

    # Where sleeping is dear and answers are quick, the loop looks for them every turn instead of being woken for them.
    cdef int start_polling(self) except -1:
        self.poll_until_ns = now_ns() + self.engine.runtime.executors().watch_ns()
        if not self.polling:
            self.polling = True
            self.native.start_polling()
            self.loop.call_soon(self.poll)
        return 0

    def _poll(self):
        try:
            if self.native.has_answers():
                self.drain()
        finally:  # also when a task that was stepped raised KeyboardInterrupt: nobody signals a loop that polls
            if self.native.pending and now_ns() < self.poll_until_ns:
                self.loop.call_soon(self.poll)
            else:
                self.polling = False
                if self.native.stop_polling():
                    self.native.signal()

    def __dealloc__(self):
        # Reached only with nothing pending: CoreEngine keeps every bridge that has.
        if self.native is not NULL and self.native.pending == 0:
            del self.native

    def cancelled(self, uint32_t index):
        """The future of slot `index` was cancelled. If nobody has answered it, nobody needs to."""
        cdef AnswerFuture future = <AnswerFuture>self.engine.runtime.slots()[index].user
        if self.engine.runtime.abandon(index):
            self.native.pending -= 1
            self.engine.runtime.counters().cancelled.fetch_add(1)
            Py_DECREF(future)

    def drain(self, bint direct=True):
        """Answers what is done. The loop calls it when the eventfd is readable; tasks may then be stepped directly."""
        global _draining_loop, _draining_thread
        cdef SlotTable* slots = &self.engine.runtime.slots()
        cdef uint32_t index = self.native.take_all(slots[0])
        cdef uint32_t following
        interrupted = None
        if direct:
            _draining_loop = self.loop
            _draining_thread = PyThreadState_Get()
        while index != NO_SLOT:
            following = slots[0][index].next_done_value()
            self.native.pending -= 1
            try:
                if slots[0][index].group is not NULL:
                    self._finish_many(index)
                else:
                    self._finish_one(index, direct)
            except BaseException as error:  # a task that was stepped raised KeyboardInterrupt or SystemExit
                interrupted = error
            index = following
        _draining_loop = None
        _draining_thread = NULL
        if interrupted is not None:
            raise interrupted
        if self.engine.closed and self.native.pending == 0:
            self.stop_reading()

    cdef int _finish_one(self, uint32_t index, bint direct) except -1:
        cdef CoreEngine engine = self.engine
        cdef Runtime* runtime = engine.runtime
        cdef AnswerFuture future = <AnswerFuture>runtime.slots()[index].user
        Py_DECREF(future)
        if future.state != PENDING:  # cancelled when the answer was on its way already
            runtime.give_back(index)
            runtime.counters().cancelled.fetch_add(1)
            return 0
        cdef Outcome outcome = runtime.outcome(index)
        cdef int64_t returned = now_ns()
        cdef Answer answer = engine._answer(engine._served_of(outcome.deployment), outcome, runtime.values(index),
                                            returned)
        runtime.account(outcome, returned, True, False)
        if engine._observer is not NULL or engine._shadow is not NULL:
            engine._show_one(outcome, answer, runtime.row(index), runtime.values(index))
        runtime.give_back(index)
        answer.missing = future.missing
        return future.finish(answer, direct)

    cdef int _finish_many(self, uint32_t index) except -1:
        cdef _ManyCall call = <_ManyCall>self.engine.runtime.slots()[index].user
        Py_DECREF(call)
        if call.future.state != PENDING:
            return call.drop()
        return call.future.finish(call.collect(False), False)

    cdef int start_reading(self) except -1:
        if not self.reading:
            self.loop.add_reader(self.native.fd(), self.drain)
            self.reading = True
        return 0

    cpdef stop_reading(self):
        if self.reading and not self.loop.is_closed():
            self.loop.remove_reader(self.native.fd())
        self.reading = False
