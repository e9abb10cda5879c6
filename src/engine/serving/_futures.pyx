# cython: annotation_typing=False
"""The future that `predict_async` returns: all that asyncio asks of a future, in C. Its first waiter is woken at once.

asyncio wakes the waiters of a future in the loop's next turn, and a turn costs 3 us of selectors and Python, a good
part of a round trip. A drain of the engine's completions is a callback of the loop itself, so no task runs and the
waiting task can be stepped there and then. A subclass of asyncio.Future would need Python methods for that, which cost
another microsecond. asyncio accepts any object with `_asyncio_future_blocking` as a future (asyncio.isfuture), so this
is a class of its own. Failures of a model are answers. An exception in a future is a mistake of the caller (a row of
another width, a closed engine), or asyncio set it; if nobody looks at it, the loop's exception handler hears of it.

A future is made, finished and cancelled on the thread of its loop, with the GIL held. The native slot holds one
reference to it while its answer is on the way; _loop.pyx says who takes and gives back which.
"""
cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from engine._common._assert cimport ENGINE_ASSERT

import asyncio
from contextvars import copy_context
from types import GenericAlias

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* (*tp_iternext)(PyObject*) except? NULL
    ctypedef struct PyThreadState:
        PyObject* context
    PyThreadState* PyThreadState_Get() noexcept
    bint PyTuple_Check(object) noexcept
    bint PyExceptionInstance_Check(object) noexcept
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    # Declared as if it could not fail, because the exception that it sets is meant for the caller.
    void PyErr_SetObject(PyObject* kind, PyObject* value) noexcept
    PyObject* PyExc_StopIteration

cdef tuple STATES = ("PENDING", "CANCELLED", "FINISHED")
_CancelledError = asyncio.CancelledError
_InvalidStateError = asyncio.InvalidStateError


@cython.final
@cython.freelist(256)
cdef class AnswerFuture:
    """An Answer or Answers to come: awaitable, and a future in all that asyncio asks of one.

    Made by `Engine.predict_async` only. Use it on the thread of its event loop, like any `asyncio.Future`; cancelling
    it frees the request's place in the queue.
    """

    def __init__(self, loop=None):
        self.loop = asyncio.get_event_loop() if loop is None else loop

    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    # With these two a Task runs the future as it runs a coroutine; without `close` it is none for all others.
    def send(self, value):
        """Continue the await, as `next(future)` does. For tasks."""
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        """Raise an exception in the await. For tasks."""
        if isinstance(kind, BaseException):
            if value is not None:
                raise TypeError("instance exception may not have a separate value")
            error = kind
        elif isinstance(kind, type) and issubclass(kind, BaseException):
            error = value if isinstance(value, BaseException) else kind() if value is None else kind(value)
        else:
            raise TypeError(f"expected an exception, got {type(kind).__name__}")
        raise error if traceback is None else error.with_traceback(traceback)

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
        if self.exception() is not None:
            raise self.failure.with_traceback(self.failure.__traceback__)
        return self.answer

    def exception(self):
        """Return the caller's mistake (a row of another width, a closed engine), or None. Raises as `result`.

        Failures of a model are answers, and no exceptions.
        """
        if self.state == CANCELLED:
            raise self._make_cancelled_error()
        if self.state == PENDING:
            raise _InvalidStateError("the answer is not there yet")
        self.seen()
        return self.failure

    def get_loop(self):
        """Return the event loop that the future belongs to."""
        return self.loop

    # asyncio and debuggers read these attributes of any future.

    @property
    def _loop(self):
        return self.loop

    @property
    def _state(self):
        return STATES[self.state]

    @property
    def _result(self):
        return self.answer

    @property
    def _exception(self):
        return self.failure

    @property
    def _callbacks(self):
        if self.first is None and not self.others:
            return None
        first = [] if self.first is None else [(self.first, self.first_context)]
        return first + (self.others or [])

    @property
    def _cancel_message(self):
        return self.message

    @_cancel_message.setter
    def _cancel_message(self, message):
        self.message = message

    @property
    def _log_traceback(self):
        return self.unseen is not None

    @_log_traceback.setter
    def _log_traceback(self, value):
        if value:
            raise ValueError("_log_traceback can only be set to False")
        self.seen()

    @property
    def _Future__log_traceback(self):
        return self._log_traceback

    @_Future__log_traceback.setter
    def _Future__log_traceback(self, value):
        self._log_traceback = value

    @property
    def _log_destroy_pending(self):
        return False

    @_log_destroy_pending.setter
    def _log_destroy_pending(self, value):
        pass

    @property
    def _source_traceback(self):
        return None

    @property
    def _asyncio_awaited_by(self):
        return None

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
        self.seen()
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
        runs. Raise InvalidStateError if the future is done already.
        """
        self.require_pending()
        self.finish(answer, step)

    def set_exception(self, error):
        """Set an exception for the waiters. Not for users. Raise InvalidStateError if the future is done already."""
        self.require_pending()
        if isinstance(error, type):
            error = error()
        if not isinstance(error, BaseException):
            raise TypeError(f"expected an exception, got {type(error).__name__}")
        if isinstance(error, StopIteration):
            raise TypeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        self.keep_failure(error)
        if self.owner is not None:  # nobody waits for the answer any more
            self.owner.cancelled(self.request)
            self.owner = None
        self.wake_later()

    cdef int keep_failure(self, object error) except -1:
        self.failure, self.state = error, FINISHED
        self.unseen = _Unseen(error, self.loop)
        return 0

    cdef int seen(self) except -1:
        if self.unseen is not None:
            self.unseen.error = self.unseen = None
        return 0

    cdef int require_pending(self) except -1:
        if self.state != PENDING:
            raise _InvalidStateError(f"{STATES[self.state]}: {self!r}")
        return 0

    cdef int finish(self, object answer, bint step) except -1:
        ENGINE_ASSERT(self.state == PENDING, b"a future is finished once")
        self.answer, self.state, self.owner = answer, FINISHED, None
        if not step or self.first is None:
            return self.wake_later()
        first, context = self.first, self.first_context
        self.first = self.first_context = None
        if self.others is not None:
            self.wake_later()
        # The context of the drain is left meanwhile: if the step runs the loop, that calls the drain again in it.
        around = left_context()
        PyContext_Enter(context)
        try:
            first(self)
        finally:
            PyContext_Exit(context)
            if around is not None:
                PyContext_Enter(around)
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
        known = self.failure if self.failure is not None else self.answer
        return f"AnswerFuture({repr(known) if self.state == FINISHED else STATES[self.state].lower()})"


# Leaves the context that a callback of the loop runs in, and returns it; None outside of one.
cdef object left_context():
    cdef PyObject* current = PyThreadState_Get().context
    if current is NULL:
        return None
    context = <object>current
    try:
        PyContext_Exit(context)
    except RuntimeError:  # nobody entered it: the thread's own
        return None
    return context


# __new__ alone: a call of the class would pack its arguments into a tuple.
cdef AnswerFuture pending_answer(object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop = loop
    return future


cdef AnswerFuture ready_answer(object answer, object loop):
    cdef AnswerFuture future = AnswerFuture.__new__(AnswerFuture)
    future.loop, future.answer, future.state = loop, answer, FINISHED
    return future


cdef AnswerFuture failed_answer(object error, object loop):
    cdef AnswerFuture future = pending_answer(loop)
    future.keep_failure(error)
    return future


class _Unseen:
    """The failure of a future that nobody has looked at; asyncio reports those of its own futures in the same way."""

    __slots__ = ("error", "loop")

    def __init__(self, error, loop):
        self.error, self.loop = error, loop

    def __del__(self):
        if self.error is not None:
            self.loop.call_exception_handler({"message": "AnswerFuture exception was never retrieved",
                                              "exception": self.error,
                                              "future": f"<AnswerFuture finished exception={self.error!r:.200}>"})


class _TaskOfAnswer:
    def __init__(self, task, AnswerFuture future):
        self.task, self.future = task, future

    def cancelled(self, _):
        self.task.cancel()

    def done(self, task):
        cdef AnswerFuture future = self.future
        if future.state != PENDING:
            return
        future.owner = None
        if task.cancelled():
            future.cancel()
        elif task.exception() is not None:
            future.set_exception(task.exception())
        else:
            future.set_result(task.result())


cdef AnswerFuture answer_of_task(object task, object loop):
    cdef AnswerFuture future = pending_answer(loop)
    future.owner = _TaskOfAnswer(task, future)
    task.add_done_callback(future.owner.done)
    return future


# __next__ for the interpreter. The slot that Cython makes would add a frame to the StopIteration of every answer. The
# result is a new reference, as tp_iternext demands; NULL with StopIteration set ends the await.
cdef PyObject* _next(PyObject* this) except? NULL:
    cdef AnswerFuture future = <AnswerFuture>this
    cdef object answer = future.answer
    if future.state == FINISHED and future.failure is None and not (
            PyTuple_Check(answer) or PyExceptionInstance_Check(answer)):
        PyErr_SetObject(PyExc_StopIteration, <PyObject*>future.answer)
        return NULL
    following = future.__next__()
    Py_INCREF(following)
    return <PyObject*>following


(<PyTypeObject*>AnswerFuture).tp_iternext = _next


class _NoLoop:
    # Takes the first step of a task, and never runs it.
    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        pass


def _let_tasks_run():
    """Let `loop.create_task` take an AnswerFuture, although `asyncio.iscoroutine` keeps saying that it is none.

    `asyncio.wait` refuses coroutines and must take answers; `create_task` refuses all else. The Task of CPython, in C,
    remembers the types that it has found to be coroutines, so it is shown one answer that passes for one. Where
    asyncio keeps no such memory, create_task refuses answers as it refuses other futures.
    """
    known = getattr(asyncio.coroutines, "_iscoroutine_typecache", None)
    if known is None or AnswerFuture in known:
        return
    known.add(AnswerFuture)
    try:
        loop = _NoLoop()
        task = asyncio.Task(AnswerFuture.__new__(AnswerFuture), loop=loop, name="engine")
        task._log_destroy_pending = False
    finally:
        known.discard(AnswerFuture)


_let_tasks_run()
