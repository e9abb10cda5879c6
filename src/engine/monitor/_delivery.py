"""Brings alerts to their handlers, on a thread of its own where nothing may wait for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from engine.monitor.alerts import Alert, Alerts, Handler
from engine.monitor.handlers import Outgoing

# Alerts that wait while a handler hangs; the oldest is left out first. The log of alerts has it all the same.
WAITING_MAX = 1000


class Delivery:
    """Calls the handlers of alerts, in the order of the alerts. Thread-safe.

    With `apart`, handlers run one after the other on a daemon thread, which lives as long as there is something to
    bring. A handler that is slow or hangs holds up later alerts, and a caller at most as long as it wants to wait.
    """

    # How long a caller waits that would see its alerts delivered. Quick handlers are done by then.
    WAIT_S = 1.0

    def __init__(self, alerts: Alerts, apart: bool) -> None:
        self._alerts = alerts
        self._apart = apart
        self._waiting: deque[tuple[Alert, bool, Handler | None]] = deque(maxlen=WAITING_MAX)
        self._repeated: dict[int, float] = {}  # id of a handler -> when it was last told what lasts
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, begun: Iterable[Alert], ended: Iterable[Alert] = ()) -> None:
        """Add alerts that `bring` brings."""
        self._waiting.extend((alert, False, None) for alert in begun)
        self._waiting.extend((alert, True, None) for alert in ended)

    def repeat(self, lasting: Sequence[Alert]) -> None:
        """Add the alerts that last for each handler that is to be told again by now: `repeat_s` says how often."""
        now = time.monotonic()
        for handler in self._alerts.handlers:
            every_s = getattr(handler, "repeat_s", 0.0)
            if not every_s:
                continue
            if not lasting:
                self._repeated.pop(id(handler), None)
            elif now - self._repeated.setdefault(id(handler), now) >= every_s:
                self._repeated[id(handler)] = now
                self._waiting.extend((alert, False, handler) for alert in lasting)

    def flush(self, timeout_s: float) -> None:
        """Wait until handlers with a thread of their own have sent everything, or the time is over."""
        give_up = time.monotonic() + timeout_s
        for handler in list(self._alerts.handlers):
            if isinstance(handler, Outgoing):
                handler.flush(max(give_up - time.monotonic(), 0.0))

    def bring(self, wait_s: float = 0.0) -> None:
        """Call the handlers: on this thread, or with `apart` on another, for which this one waits at most `wait_s`.

        Never raises.
        """
        if not self._apart:
            while (found := self._next()) is not None:
                self._alerts.notify(*found)
        elif self._started():
            self.wait(wait_s)
        else:
            # The interpreter ends and starts no threads; nothing is left to hold up.
            while (found := self._next()) is not None:
                self._alerts.notify(*found)

    def _started(self) -> bool:
        """Start the thread where there is something to bring. Return False where none can be started."""
        with self._lock:
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._run, name="engine-monitor-alerts", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
                    return False
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait until what was added is brought, or the time is over; not on the thread that brings it."""
        thread = self._thread
        if timeout_s > 0.0 and thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                found = self._next()
                if found is None:
                    self._thread = None
                    return
            self._alerts.notify(*found)

    def _next(self) -> tuple[Alert, bool, Handler | None] | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
