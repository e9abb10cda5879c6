"""Counters of the user's own, for what the business counts."""

from __future__ import annotations

import re
import threading

from engine.errors import MonitorError
from engine.monitor.outcomes import checked

VERSIONS_MAX = 64


class BusinessCounter:
    """Only ever grows. Thread-safe; made by `ModelMonitor.counter`."""

    def __init__(self, name: str, description: str) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", str(name)):
            raise MonitorError(f"a counter's name is of a-z, 0-9 and _, starting with a letter; got {name!r}")
        self.name = name
        self.description = description or name
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()

    def inc(self, amount: float = 1.0, version: str = "") -> None:
        """Adds `amount`, at least 0, under a version (64 of them at most, then under the first)."""
        added = checked("amount", amount)
        if added < 0.0:
            raise MonitorError(f"counter {self.name!r} only grows, got {added}")
        with self._lock:
            if version not in self._values and len(self._values) >= VERSIONS_MAX:
                version = next(iter(self._values))
            self._values[version] = self._values.get(version, 0.0) + added

    @property
    def values(self) -> dict[str, float]:
        """Totals by version."""
        with self._lock:
            return dict(self._values)
