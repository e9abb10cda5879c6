"""Exact waits for a point on the monotonic clock, and a pause of the garbage collector.

An event loop's timers round up to milliseconds, and the kernel adds 50 us of slack to a sleep. Both would be charged to
the engine under load. The load generator waits on a timerfd, which has neither.
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
# time.sleep wakes about this late on an idle machine without slack; the rest of a wait is spent spinning.
_SPIN_NS = 60_000

# os.timerfd_create exists from Python 3.13 on; the C library has had it since 2008.
_libc = ctypes.CDLL(None, use_errno=True)


class WakeTimer:
    """A timerfd: its descriptor becomes readable at a point of `time.monotonic_ns()`."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def arm(self, at_ns: int) -> None:
        """Wake once at `at_ns`, immediately if that is past. Replaces the instant set before."""
        # 0 would disarm the timer; no monotonic clock reads 0 after start-up.
        seconds, nanoseconds = divmod(max(at_ns, 1), 1_000_000_000)
        setting = struct.pack("qqqq", 0, 0, seconds, nanoseconds)
        if _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, setting, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def acknowledge(self) -> None:
        """Read the descriptor, so that it wakes its reader no more."""
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


@contextmanager
def exact_sleeps() -> Iterator[None]:
    """Set the calling thread's timer slack to 1 ns, and restore it."""
    before = _libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_TIMERSLACK, max(before, 1), 0, 0, 0)


def sleep_until(at_ns: int) -> int:
    """Block the calling thread until `at_ns`, asleep for most of the wait. Return the time after it."""
    now = time.monotonic_ns()
    while now < at_ns:
        if at_ns - now > 2 * _SPIN_NS:
            time.sleep((at_ns - now - _SPIN_NS) * 1e-9)
        now = time.monotonic_ns()
    return now


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep the garbage collector out of a measurement, as timeit does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
