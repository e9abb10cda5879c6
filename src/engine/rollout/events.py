"""Events of a service: kept in a bounded list, and passed to the log, the monitor's alert and a callback."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

EVENTS_MAX = 256

log = logging.getLogger("engine.rollout")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a service. Immutable.

    Attributes:
        at_s: wall clock, seconds since 1970.
        kind: "serving" (a version took traffic), "refused" (a version did not take traffic), "rolled_back" (a version
            lost its traffic to the one before) or "error".
        version: "name@7", or "" if the event is about no version.
        message: a sentence for people.
    """

    at_s: float
    kind: str
    version: str
    message: str


class Events:
    """The last EVENTS_MAX events, oldest first.

    Args:
        monitor: its `alert(message, severity=)` is called for events with a severity, if it has one.
        on_event: called with each event; None for none.
    """

    def __init__(self, monitor: Any, on_event: Callable[[Event], Any] | None) -> None:
        self._kept: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._alert = getattr(monitor, "alert", None)
        self._on_event = on_event

    def say(self, kind: str, version: str, message: str, *, severity: str | None = None) -> None:
        """Keep an event and pass it on. Never raises, because a listener must not be able to stop a rollback.

        Args:
            severity: the monitor alerts with it; None for no alert.
        """
        event = Event(time.time(), kind, version, message)
        self._kept.append(event)
        log.log(logging.INFO if severity is None and kind != "error" else logging.WARNING, "%s", message)
        if severity is not None and self._alert is not None:
            with contextlib.suppress(Exception):
                self._alert(message, severity=severity)
        if self._on_event is not None:
            with contextlib.suppress(Exception):
                self._on_event(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._kept))

    def as_dicts(self) -> list[dict[str, Any]]:
        """The events as plain dicts, oldest first."""
        return [asdict(event) for event in self]
