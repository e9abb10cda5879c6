"""Waiting for a point on the monotonic clock more exactly than `time.sleep` and `loop.call_at` do.

An event loop's own timers round up to milliseconds and the kernel adds 50 us of slack to a sleep: both would be charged
to whatever is being measured. The load generator waits on a timerfd, which has neither. Beside it, the garbage
collector's rest while a clock is being read.
"""

from __future__ import annotations

import ctypes
import gc
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30
# time.sleep wakes about this late on an idle machine once the slack is gone; the rest of a wait is spun away.
_SPIN_NS = 60_000

# os.timerfd_create exists from Python 3.13 on; the C library has had it since 2008.
_libc = ctypes.CDLL(None, use_errno=True)


class WakeTimer:
    """A timerfd: its descriptor turns readable at a point of `time.monotonic_ns()`."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def arm(self, at_ns: int) -> None:
        """Wakes once at `at_ns`; at once where that is already past. Replaces an earlier arming."""
        # A zero value would disarm it, and no monotonic clock reads zero after start-up.
        seconds, nanoseconds = divmod(max(at_ns, 1), 1_000_000_000)
        setting = struct.pack("qqqq", 0, 0, seconds, nanoseconds)
        if _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, setting, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def acknowledge(self) -> None:
        """Makes the descriptor quiet again after it woke its reader."""
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self.descriptor)


@contextmanager
def exact_sleeps() -> Iterator[None]:
    """Sets the calling thread's timer slack to 1 ns and puts it back."""
    before = _libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_TIMERSLACK, max(before, 1), 0, 0, 0)


def sleep_until(at_ns: int) -> int:
    """Blocks the calling thread until `at_ns`, asleep for most of it, and returns the time it then is."""
    now = time.monotonic_ns()
    while now < at_ns:
        if at_ns - now > 2 * _SPIN_NS:
            time.sleep((at_ns - now - _SPIN_NS) * 1e-9)
        now = time.monotonic_ns()
    return now


@contextmanager
def no_collections() -> Iterator[None]:
    """Keeps the garbage collector out of a measurement, as timeit does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
