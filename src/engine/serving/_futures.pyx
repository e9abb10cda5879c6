"""The future that `predict_async` returns: what asyncio asks of one, in C, and with its first waiter woken at once.

asyncio wakes the waiters of a future in the loop's next turn, and a turn costs 3 us of selectors and Python, a good part
of a round trip. A drain of the engine's completions is a callback of the loop itself with no task running, so it may as
well step the waiting task there and then. An asyncio.Future cannot be taught that without methods in Python, which cost
another microsecond; asyncio takes for a future whatever has `_asyncio_future_blocking` (asyncio.isfuture), so this is a
class of its own. It never holds an exception: model failures are answers.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

import asyncio
from contextvars import copy_context

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* (*tp_iternext)(PyObject*) except? NULL
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    # Declared as if they could not fail: the exception they set is what the caller is meant to find.
    void PyErr_SetObject(PyObject* kind, PyObject* value) noexcept
    PyObject* PyExc_StopIteration

_CancelledError = asyncio.CancelledError
_InvalidStateError = asyncio.InvalidStateError


@cython.final
@cython.freelist(256)
cdef class AnswerFuture:
    """An Answer or Answers to come. Awaitable, and a future in all that asyncio asks of one. Not made by users."""

    def __init__(self, loop):
        self.loop = loop

    def __await__(self):
        return self

    __iter__ = __await__

    def __next__(self):
        if self.state == PENDING:
            self._asyncio_future_blocking = True
            return self
        raise StopIteration(self.result())

    def done(self):
        return self.state != PENDING

    def cancelled(self):
        return self.state == CANCELLED

    def result(self):
        if self.state == FINISHED:
            return self.answer
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        raise _InvalidStateError("the answer is not there yet")

    def exception(self):
        self.result()
        return None

    def get_loop(self):
        return self.loop

    def add_done_callback(self, fn, *, context=None):
        """Calls fn(self) once the answer is there or nobody waits for it any more."""
        if context is None:
            context = copy_context()
        if self.state != PENDING:
            self.loop.call_soon(fn, self, context=context)
        elif self.first is None:
            self.first, self.first_context = fn, context
        else:
            if self.others is None:
                self.others = []
            self.others.append((fn, context))

    def remove_done_callback(self, fn):
        """Takes every fn off again and returns how many there were."""
        removed = 0
        if self.first is not None and self.first == fn:
            self.first = self.first_context = None
            removed = 1
        if self.others is not None:
            kept = [pair for pair in self.others if pair[0] != fn]
            removed += len(self.others) - len(kept)
            self.others = kept
        return removed

    def cancel(self, msg=None):
        """Tells the engine that nobody waits any more, and the waiters. False where the answer was there first."""
        if self.state != PENDING:
            return False
        self.state, self.message = CANCELLED, msg
        if self.asked_of is not None:
            self.asked_of.cancelled(self.request)
        self.wake_later()
        return True

    def _make_cancelled_error(self):
        return _CancelledError() if self.message is None else _CancelledError(self.message)

    def set_result(self, answer, *, bint step=False):
        """With `step` the first callback runs now. Only for a callback of the loop with no task running."""
        self.finish(answer, step)

    cdef int finish(self, object answer, bint step) except -1:
        self.answer, self.state, self.asked_of = answer, FINISHED, None
        if not step or self.first is None:
            return self.wake_later()
        first, context = self.first, self.first_context
        self.first = self.first_context = None
        if self.others is not None:
            self.wake_later()
        PyContext_Enter(context)
        try:
            first(self)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int wake_later(self) except -1:
        if self.first is not None:
            self.loop.call_soon(self.first, self, context=self.first_context)
            self.first = self.first_context = None
        if self.others is not None:
            for fn, context in self.others:
                self.loop.call_soon(fn, self, context=context)
            self.others = None
        return 0

    def __repr__(self):
        known = "pending" if self.state == PENDING else "cancelled" if self.state == CANCELLED else repr(self.answer)
        return f"AnswerFuture({known})"


# Without the arguments that a call of the class would have to pack.
cdef AnswerFuture pending_answer(object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop = loop
    return future


cdef AnswerFuture ready_answer(object answer, object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop, future.answer, future.state = loop, answer, FINISHED
    return future


# __next__ once more, for the interpreter: one made by Cython would add a frame to the StopIteration of every answer.
cdef PyObject* _next(PyObject* this) except? NULL:
    cdef AnswerFuture future = <AnswerFuture>this
    if future.state == FINISHED:
        PyErr_SetObject(PyExc_StopIteration, <PyObject*>future.answer)
        return NULL
    following = future.__next__()
    Py_INCREF(following)
    return <PyObject*>following


(<PyTypeObject*>AnswerFuture).tp_iternext = _next
