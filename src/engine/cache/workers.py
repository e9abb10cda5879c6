"""Threads that do what no caller waits for: late embeddings, and writing the second level."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

QUEUE_MAX = 1024


class Worker:
    """A thread that works off a bounded queue, begun by the first item.

    Args:
        name: of the thread.
        work: called with a list of items, oldest first; must not raise.
        batch_max: the most items a call gets.

    Attributes:
        dropped: items that made room for newer ones.

    Thread-safe. The thread does not keep a process alive.
    """

    def __init__(self, name: str, work: Callable[[list[Any]], None], batch_max: int) -> None:
        self._name = name
        self._work = work
        self._batch_max = batch_max
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._closed = False
        self.dropped = 0

    def put(self, item: Any) -> Any:
        """Queue an item. Returns the oldest one where that made room, the item itself once closed, else None."""
        with self._changed:
            if self._closed:
                return item
            self._items.append(item)
            oldest = self._items.popleft() if len(self._items) > QUEUE_MAX else None
            self.dropped += oldest is not None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return oldest

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every item is done, for timeout_s seconds at most. Returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._items and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> list[Any]:
        """Take no further items, and wait for the call in progress, for timeout_s seconds at most.

        Returns the items that were not begun.
        """
        with self._changed:
            self._closed = True
            left, self._items = list(self._items), deque()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._items or self._closed)
                if self._closed:
                    return
                count = min(len(self._items), self._batch_max)
                items = [self._items.popleft() for _ in range(count)]
                self._busy = True
            self._work(items)
