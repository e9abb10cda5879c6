"""Alerts, who is told of them, and the log of the latest."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import MonitorError

SEVERITIES = ("info", "warning", "critical")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
LOGGER = logging.getLogger("engine.monitor")


@dataclass(slots=True)
class Alert:
    """One lasting condition, or a message of the user's.

    Attributes:
        number: int, counts up within a monitor.
        message: str, what was seen, in words.
        severity: "info", "warning" or "critical".
        kind: "input_drift", "output_drift", "fallback_share", "late_share", "error_share" or "message".
        column: str, the feature or output; empty where it is about neither.
        started_row, detected_row: int, rows (or answers) the monitor had seen when the change began, by estimate, and
            when it was certain; None for a message.
        ended_row: int, when it was last seen, once it is over; None while it lasts.
        detected_at, ended_at: float, seconds since the epoch.
        evidence: dict of plain figures.
    """

    number: int
    message: str
    severity: str
    kind: str = "message"
    column: str = ""
    started_row: int | None = None
    detected_row: int | None = None
    ended_row: int | None = None
    detected_at: float = 0.0
    ended_at: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def lasts(self) -> bool:
        """Still so; a message lasts for no time."""
        return self.kind != "message" and self.ended_at is None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lasts": self.lasts}


Handler = Callable[[Alert], Any]


def log_alert(alert: Alert) -> None:
    """The handler there is by default: the logger "engine.monitor"."""
    LOGGER.log(LEVELS[alert.severity], "%s: %s", alert.kind, alert.message)


class Alerts:
    """The latest alerts, and the handlers that are called once for each, when it begins. Thread-safe.

    A handler that raises is logged and counted; the others are called all the same.
    """

    KEPT = 1000

    def __init__(self, handlers: Iterable[Handler] | None) -> None:
        self.handlers: list[Handler] = list(handlers) if handlers is not None else [log_alert]
        for handler in self.handlers:
            if not callable(handler):
                raise MonitorError(f"an alert handler must be callable, got {type(handler).__name__}")
        self.handler_errors = 0
        self._kept: deque[Alert] = deque(maxlen=self.KEPT)
        self._numbers = itertools.count(1)
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def add(self, message: str, severity: str, **details: Any) -> Alert:
        """Keeps an alert, without telling anybody yet. Raises MonitorError for a severity that is none."""
        if severity not in SEVERITIES:
            raise MonitorError(f"severity must be one of {', '.join(SEVERITIES)}, got {severity!r}")
        alert = Alert(next(self._numbers), str(message), severity, detected_at=time.time(), **details)
        with self._lock:
            self._kept.append(alert)
            key = alert.kind, severity
            self._counts[key] = self._counts.get(key, 0) + 1
        return alert

    def tell(self, alert: Alert) -> None:
        """Calls the handlers. Never raises."""
        for handler in list(self.handlers):
            try:
                handler(alert)
            except Exception:
                self.handler_errors += 1
                LOGGER.exception("an alert handler failed on: %s", alert.message)

    def all(self) -> list[Alert]:
        """The latest 1,000, oldest first."""
        with self._lock:
            return list(self._kept)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many there ever were, by kind and severity."""
        with self._lock:
            return dict(self._counts)
