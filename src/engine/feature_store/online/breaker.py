"""When a request may ask a server that has failed. Every store across a network uses it."""

from __future__ import annotations

import random
import threading
import time

FAILURES_MAX = 3
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0


class Breaker:
    """Decide whether a request may ask the server.

    The breaker is closed while the server answers. After FAILURES_MAX failures in a row it opens for a pause, which
    doubles with each further failure. The pause is partly random, so that many processes do not return at once. After
    it, one caller at a time may try.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether failures in a row have opened it."""
        return self._failures >= FAILURES_MAX

    # Hot: once per request.
    def admits(self) -> bool:
        """Whether this caller may ask now. After a pause only the first caller may, until it has found out."""
        if self._failures < FAILURES_MAX:
            return True
        now = time.monotonic()
        with self._lock:
            if now < self._retry_at:
                return False
            # The next caller waits until this one has found out, or for PAUSE_S_MAX.
            self._retry_at = now + PAUSE_S_MAX
            return True

    def succeeded(self) -> None:
        """The server answered: close."""
        self._failures = 0

    def failed(self, certain: bool) -> None:
        """The server failed. A `certain` failure, of the connection itself, opens the breaker; one timeout does not."""
        with self._lock:
            self._failures = max(self._failures + 1, FAILURES_MAX if certain else 0)
            beyond = min(self._failures - FAILURES_MAX, 10)
            if beyond >= 0:
                pause = min(PAUSE_S_MIN * 2**beyond, PAUSE_S_MAX)
                self._retry_at = time.monotonic() + pause * random.uniform(0.75, 1.25)
