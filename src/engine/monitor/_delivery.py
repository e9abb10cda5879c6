"""Brings alerts to their handlers, on a thread of its own where nothing may wait for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from engine.monitor.alerts import Alert, Alerts

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
        self._waiting: deque[tuple[Alert, bool]] = deque(maxlen=WAITING_MAX)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, begun: Iterable[Alert], ended: Iterable[Alert] = ()) -> None:
        """Add alerts that `bring` brings."""
        self._waiting.extend((alert, False) for alert in begun)
        self._waiting.extend((alert, True) for alert in ended)

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

    def _next(self) -> tuple[Alert, bool] | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
