"""What a service says: a bounded list, the log, the monitor's alert and whoever else listens."""

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
    """Something that happened to a service.

    Attributes:
        at_s: wall clock, seconds since 1970.
        kind: "serving" (a version took traffic), "refused" (it did not), "rolled_back" (it was taken off again) or
            "error".
        version: "name@7", or "" where it is about none.
        message: a sentence for people.
    """

    at_s: float
    kind: str
    version: str
    message: str


class Events:
    """The last events, oldest first. Saying one never raises: whoever listens must not be able to stop a rollback."""

    def __init__(self, monitor: Any, on_event: Callable[[Event], Any] | None) -> None:
        self._kept: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._alert = getattr(monitor, "alert", None)
        self._on_event = on_event

    def say(self, kind: str, version: str, message: str, *, severity: str | None = None) -> None:
        """Keeps and passes on an event; with a severity the monitor alerts."""
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
        return [asdict(event) for event in self]
