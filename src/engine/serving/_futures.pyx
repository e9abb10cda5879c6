# cython: annotation_typing=False
"""The future that `predict_async` returns: all that asyncio asks of a future, in C. Its first waiter is woken at once.

asyncio wakes the waiters of a future in the loop's next turn, and a turn costs 3 us of selectors and Python, a good
part of a round trip. A drain of the engine's completions is a callback of the loop itself, so no task runs and the
waiting task can be stepped there and then. A subclass of asyncio.Future would need Python methods for that, which cost another
microsecond. asyncio accepts any object with `_asyncio_future_blocking` as a future (asyncio.isfuture), so this is a
class of its own. It never holds an exception, because failures of a model are answers.

A future is made, finished and cancelled on the thread of its loop, with the GIL held. The native slot holds one
reference to it while its answer is on the way; _loop.pyx says who takes and gives back which.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from engine._common._assert cimport ENGINE_ASSERT

import asyncio
from contextvars import copy_context

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* (*tp_iternext)(PyObject*) except? NULL
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    # Declared as if it could not fail, because the exception that it sets is meant for the caller.
    void PyErr_SetObject(PyObject* kind, PyObject* value) noexcept
    PyObject* PyExc_StopIteration

_CancelledError = asyncio.CancelledError
_InvalidStateError = asyncio.InvalidStateError


@cython.final
@cython.freelist(256)
cdef class AnswerFuture:
    """An Answer or Answers to come: awaitable, and a future in all that asyncio asks of one.

    Made by `Engine.predict_async` only. Use it on the thread of its event loop, like any `asyncio.Future`; cancelling
    it frees the request's place in the queue.
    """

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

    def done(self) -> bool:
        """Return True if the answer is there, or the future was cancelled."""
        return self.state != PENDING

    def cancelled(self) -> bool:
        """Return True if the future was cancelled."""
        return self.state == CANCELLED

    def result(self):
        """Return the Answer or Answers. Raise InvalidStateError before it is there, CancelledError after `cancel`."""
        if self.state == FINISHED:
            return self.answer
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        raise _InvalidStateError("the answer is not there yet")

    def exception(self) -> None:
        """Return None, because failures of a model are answers. Raises as `result`."""
        self.result()
        return None

    def get_loop(self):
        """Return the event loop that the future belongs to."""
        return self.loop

    def add_done_callback(self, fn, *, context=None):
        """Call fn(self) in the loop, once the answer is there or the future is cancelled.

        Args:
            fn: a callable of one argument.
            context: the contextvars.Context to run it in; a copy of the present one unless given.
        """
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
        """Remove every `fn` that was added, and return their number."""
        removed = 0
        if self.first is not None and self.first == fn:
            self.first = self.first_context = None
            removed = 1
        if self.others is not None:
            kept = [pair for pair in self.others if pair[0] != fn]
            removed += len(self.others) - len(kept)
            self.others = kept
        return removed

    def cancel(self, msg=None) -> bool:
        """Cancel the request: its place in the queue is free at once, and waiters get CancelledError(msg).

        Return False, and do nothing, if the answer is there already.
        """
        if self.state != PENDING:
            return False
        self.state, self.message = CANCELLED, msg
        if self.owner is not None:
            self.owner.cancelled(self.request)
        self.wake_later()
        return True

    def _make_cancelled_error(self):
        return _CancelledError() if self.message is None else _CancelledError(self.message)

    def set_result(self, answer, *, bint step=False):
        """Set the answer. Not for users.

        With `step` the first callback runs before this returns. Allowed only in a callback of the loop, where no task
        runs.
        """
        self.finish(answer, step)

    cdef int finish(self, object answer, bint step) except -1:
        ENGINE_ASSERT(self.state == PENDING, b"a future is finished once")
        self.answer, self.state, self.owner = answer, FINISHED, None
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


# __new__ alone: a call of the class would pack its arguments into a tuple.
cdef AnswerFuture pending_answer(object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop = loop
    return future


cdef AnswerFuture ready_answer(object answer, object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop, future.answer, future.state = loop, answer, FINISHED
    return future


# __next__ for the interpreter. The slot that Cython makes would add a frame to the StopIteration of every answer. The
# result is a new reference, as tp_iternext demands; NULL with StopIteration set ends the await.
cdef PyObject* _next(PyObject* this) except? NULL:
    cdef AnswerFuture future = <AnswerFuture>this
    if future.state == FINISHED:
        PyErr_SetObject(PyExc_StopIteration, <PyObject*>future.answer)
        return NULL
    following = future.__next__()
    Py_INCREF(following)
    return <PyObject*>following


(<PyTypeObject*>AnswerFuture).tp_iternext = _next
