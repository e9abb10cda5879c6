"""The future that `predict_async` returns: an asyncio.Future whose first waiter is woken at once.

asyncio wakes the waiters of a future in the loop's next turn, and a turn costs 3 us of selectors and Python, a quarter
of a round trip. A drain of the engine's completions is a callback of the loop itself with no task running, so it may as
well step the waiting task there and then. Everything else about the future is asyncio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

_add_done_callback = asyncio.Future.add_done_callback
_set_result = asyncio.Future.set_result


class AnswerFuture(asyncio.Future):
    """A future of an Answer. Not made by users."""

    # The first callback to be added and the context to run it in; None when there is none or it has been taken.
    _first: tuple[Callable[[Any], object], Context] | None = None
    # Whom to tell, and of which request, when nobody waits for the answer any more.
    under_way: tuple[Any, int] | None = None
    missing: tuple[str, ...] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        if self._first is None and not self.done():
            self._first = (fn, context if context is not None else copy_context())
        else:
            _add_done_callback(self, fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        removed = super().remove_done_callback(fn)
        if self._first is not None and self._first[0] == fn:
            self._first = None
            removed += 1
        return removed

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            if self.under_way is not None:
                self.under_way[0].cancelled(self.under_way[1])
            self._wake_later()
        return cancelled

    def set_result(self, result: Any, /) -> None:
        _set_result(self, result)
        self._wake_later()

    def set_exception(self, exception: BaseException | type[BaseException], /) -> None:
        super().set_exception(exception)
        self._wake_later()

    def answer(self, result: Any) -> None:
        """Sets the result and runs the first callback now. Only for a callback of the loop with no task running."""
        first, self._first = self._first, None
        _set_result(self, result)
        if first is not None:
            first[1].run(first[0], self)

    def _wake_later(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            self.get_loop().call_soon(first[0], self, context=first[1])
