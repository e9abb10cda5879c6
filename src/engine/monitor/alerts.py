"""Alerts, their handlers, and the log of the latest ones."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine._common.arguments import one_of
from engine.errors import MonitorError

SEVERITIES = ("info", "warning", "critical")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
LOGGER = logging.getLogger("engine.monitor")


@dataclass(slots=True)
class Alert:
    """One lasting condition, or one message of the user's own.

    The monitor fills in `ended_row` and `ended_at` when the condition is over.

    Attributes:
        number: int, counts up from 1 within a monitor.
        message: str, the condition in words.
        severity: str, "info", "warning" or "critical".
        kind: str, "input_drift", "output_drift", "performance_drift", "fallback_share", "late_share", "error_share" or
            "message".
        column: str, the feature or output; empty where the alert is about neither.
        started_row: int, the row (for budgets, the answer; for performance, the label) at which the condition began,
            estimated; None for a message.
        detected_row: int, the row or answer at which the condition was certain; None for a message.
        ended_row: int, the row or answer at which the condition was last seen; None while it lasts.
        detected_at: float, seconds since the epoch.
        ended_at: float, seconds since the epoch; None while it lasts.
        evidence: dict of plain figures; for drift also "seen_by", the tests that saw it, and "problem", what is wrong
            in a word or two.
        incident: int, the same for alerts of one cause, such as the columns of one broken feed: the number of the first
            of them.
        reopened: int, how often it began again after an end.
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
    incident: int = 0
    reopened: int = 0

    @property
    def lasts(self) -> bool:
        """Whether the condition still lasts; False for a message."""
        return self.kind != "message" and self.ended_at is None

    def to_json(self) -> dict[str, Any]:
        """Return all attributes and `lasts` as a dict of plain values."""
        return {**asdict(self), "lasts": self.lasts}


@dataclass(frozen=True, slots=True)
class Incident:
    """Alerts of one cause: columns that broke together, or that always move together.

    Attributes:
        number: int, of the first of its alerts.
        kind: str, of its alerts.
        problem: str, what is wrong in a word or two.
        members: tuple of str, the columns.
        started_row: int, the row at which it began, estimated; None for a message.
        lasts: bool, whether any of its alerts lasts.
        alerts: tuple of Alert, the oldest first.
    """

    number: int
    kind: str
    problem: str
    members: tuple[str, ...]
    started_row: int | None
    lasts: bool
    alerts: tuple[Alert, ...]


def incidents(alerts: Iterable[Alert]) -> list[Incident]:
    """Return the incidents of some alerts, the oldest first."""
    by_number: dict[int, list[Alert]] = {}
    for alert in alerts:
        by_number.setdefault(alert.incident or alert.number, []).append(alert)
    return [
        Incident(
            number,
            found[0].kind,
            str(found[0].evidence.get("problem", found[0].kind)),
            tuple(alert.column for alert in found if alert.column),
            min((alert.started_row for alert in found if alert.started_row is not None), default=None),
            any(alert.lasts for alert in found),
            tuple(found),
        )
        for number, found in by_number.items()
    ]


Handler = Callable[[Alert], Any]


def log_alert(alert: Alert) -> None:
    """Log an alert to the logger "engine.monitor"; the handler by default."""
    LOGGER.log(LEVELS[alert.severity], "%s: %s", alert.kind, alert.message)


class Alerts:
    """The latest 1,000 alerts, and the handlers, which are called when each alert begins. Thread-safe.

    A handler that raises is logged and counted, and the others are called all the same.

    Attributes:
        handlers: list of callables that take an Alert.
        end_handlers: list of those of them that are called again when an alert ends.
        handler_errors: int, how often one raised.
    """

    KEPT = 1000

    def __init__(self, handlers: Iterable[Handler] | None) -> None:
        """`handlers`: None for `log_alert`. Raises MonitorError for one that cannot be called."""
        self.handlers: list[Handler] = []
        self.end_handlers: list[Handler] = []
        for handler in handlers if handlers is not None else [log_alert]:
            self.add_handler(handler)
        self.handler_errors = 0
        self._kept: deque[Alert] = deque(maxlen=self.KEPT)
        self._numbers = itertools.count(1)
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def add_handler(self, handler: Handler, ends: bool = False) -> None:
        """Add a handler, with `ends` (or where it has that attribute, true) for the ends of alerts too.

        Raises MonitorError where it cannot be called.
        """
        if not callable(handler):
            raise MonitorError(f"an alert handler must be callable, got {type(handler).__name__}")
        self.handlers.append(handler)
        if ends or getattr(handler, "ends", False):
            self.end_handlers.append(handler)

    def add(self, message: str, severity: str, **details: Any) -> Alert:
        """Keep an alert without calling the handlers, and return it. Raises MonitorError for an unknown severity."""
        one_of("severity", severity, SEVERITIES, error=MonitorError)
        alert = Alert(next(self._numbers), str(message), severity, detected_at=time.time(), **details)
        alert.incident = alert.incident or alert.number
        with self._lock:
            self._kept.append(alert)
            key = alert.kind, severity
            self._counts[key] = self._counts.get(key, 0) + 1
        return alert

    def notify(self, alert: Alert, ended: bool = False, only: Handler | None = None) -> None:
        """Call the handlers with an alert that began, or those for ends with one that `ended`. Never raises.

        `only`: call no other handler.
        """
        for handler in list(self.end_handlers if ended else self.handlers):
            if only is not None and handler is not only:
                continue
            try:
                handler(alert)
            except Exception:
                self.handler_errors += 1
                LOGGER.exception("an alert handler failed on: %s", alert.message)

    def saved(self) -> dict[str, Any]:
        """Return what `restore` takes, in plain values."""
        with self._lock:
            return {
                "kept": [asdict(alert) for alert in self._kept],
                "counts": [[*key, count] for key, count in self._counts.items()],
            }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned. Raises ValueError, KeyError or TypeError where it is damaged."""
        kept = [Alert(**made) for made in saved["kept"]]
        with self._lock:
            self._kept.clear()
            self._kept.extend(kept)
            self._counts = {(kind, severity): int(count) for kind, severity, count in saved["counts"]}
            self._numbers = itertools.count(max((alert.number for alert in kept), default=0) + 1)

    def all(self) -> list[Alert]:
        """Return the latest 1,000 alerts, oldest first."""
        with self._lock:
            return list(self._kept)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many alerts there were since the start, by (kind, severity)."""
        with self._lock:
            return dict(self._counts)
