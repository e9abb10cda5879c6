from asyncio import AbstractEventLoop
from collections.abc import Callable, Generator
from contextvars import Context
from types import GenericAlias, TracebackType
from typing import Any, Self

class AnswerFuture:
    """An Answer or Answers to come: awaitable, and a future in all that asyncio asks of one.

    Made by `Engine.predict_async` only. Use it on the thread of its event loop, like any `asyncio.Future`; cancelling
    it frees the request's place in the queue.
    """

    _asyncio_future_blocking: bool
    _cancel_message: Any
    _log_traceback: bool
    _log_destroy_pending: bool
    @property
    def _loop(self) -> AbstractEventLoop: ...
    @property
    def _state(self) -> str: ...
    @property
    def _result(self) -> Any: ...
    @property
    def _exception(self) -> BaseException | None: ...
    @property
    def _callbacks(self) -> list[tuple[Callable[[Self], object], Context]] | None: ...
    @property
    def _source_traceback(self) -> None: ...
    @property
    def _asyncio_awaited_by(self) -> None: ...
    def __init__(self, loop: AbstractEventLoop | None = None) -> None: ...
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...
    def send(self, value: Any) -> Any:
        """Continue the await, as `next(future)` does. For tasks."""
    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Raise an exception in the await. For tasks."""
    def __await__(self) -> Generator[Any, None, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Self: ...
    def done(self) -> bool:
        """Return True if the answer is there, or the future was cancelled."""
    def cancelled(self) -> bool:
        """Return True if the future was cancelled."""
    def result(self) -> Any:
        """Return the Answer or Answers. Raise InvalidStateError before it is there, CancelledError after `cancel`."""
    def exception(self) -> BaseException | None:
        """Return None, because failures of a model are answers; or what `set_exception` set. Raises as `result`."""
    def get_loop(self) -> AbstractEventLoop:
        """Return the event loop that the future belongs to."""
    def add_done_callback(self, fn: Callable[[Self], object], *, context: Context | None = None) -> None:
        """Call fn(self) in the loop, once the answer is there or the future is cancelled.

        Args:
            fn: a callable of one argument.
            context: the contextvars.Context to run it in; a copy of the present one unless given.
        """
    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Remove every `fn` that was added, and return their number."""
    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the request: its place in the queue is free at once, and waiters get CancelledError(msg).

        Return False, and do nothing, if the answer is there already.
        """
    def set_result(self, answer: Any, *, step: bool = False) -> None:
        """Set the answer. Not for users.

        With `step` the first callback runs before this returns. Allowed only in a callback of the loop, where no task
        runs. Raise InvalidStateError if the future is done already.
        """
    def set_exception(self, error: BaseException | type[BaseException]) -> None:
        """Set an exception for the waiters. Not for users. Raise InvalidStateError if the future is done already."""
    def _make_cancelled_error(self) -> BaseException: ...
