"""Progress of a long command on stderr: one line that is written over, or plain lines where it is no terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self, TextIO

SILENT_S = 2.0  # a command that ends sooner says nothing
TERMINAL_EVERY_S = 0.2
PLAIN_EVERY_S = 10.0


_interrupted = threading.Event()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the next Progress of this process raise KeyboardInterrupt after Ctrl-C, though a library has swallowed it.

    C modules that import others while they run may do so. Does nothing outside the main thread, or where the caller has
    a handler of its own.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupted.clear()


class Progress:
    """Prints how much is done. Thread-safe. Use it as a context, so that the line ends.

    Args:
        label: the subject of the line.
        unit: the plural of what is counted.
        stream: where to print; stderr unless given.
    """

    def __init__(self, label: str, unit: str, stream: TextIO | None = None) -> None:
        self._label, self._unit = label, unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._next_s = time.monotonic() + SILENT_S
        self._lock = threading.Lock()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done, if a line is due. Raises KeyboardInterrupt after Ctrl-C."""
        if _interrupted.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        with self._lock:
            if now < self._next_s:
                return
            self._next_s = now + (TERMINAL_EVERY_S if self._terminal else PLAIN_EVERY_S)
            share = f"{100 * done // max(total, 1)} %"
            line = f"{self._label}: {done:,} of {total:,} {self._unit}, {share}"
            self._shown = True
            print(
                f"\r{line}" if self._terminal else line, end="" if self._terminal else "\n", file=self._stream
            )
            self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._terminal:
            print(file=self._stream)
