"""Counters of the user's own, for what a business counts."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from engine._common.arguments import finite
from engine.errors import MonitorError

VERSIONS_MAX = 64


class BusinessCounter:
    """A total by version that only grows, made by `ModelMonitor.counter`. Thread-safe.

    Attributes:
        name: str, a-z, 0-9 and _.
        description: str, shown beside the metric.
    """

    def __init__(self, name: str, description: str) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", str(name)):
            raise MonitorError(
                f"a counter's name must be a letter a-z, then up to 62 of a-z, 0-9 and _; got {name!r}"
            )
        self.name = name
        self.description = description or name
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()

    def inc(self, amount: float = 1.0, version: str = "") -> None:
        """Add to the total of a version.

        Args:
            amount: at least 0, finite.
            version: any text. After 64 versions, further ones are counted under the first.

        Raises:
            MonitorError: an amount that is negative or no finite number.
        """
        added = finite("amount", amount, error=MonitorError)
        if added < 0.0:
            raise MonitorError(f"counter {self.name!r} only grows, got {added}")
        with self._lock:
            if version not in self._values and len(self._values) >= VERSIONS_MAX:
                version = next(iter(self._values))
            self._values[version] = self._values.get(version, 0.0) + added

    def restore(self, values: Mapping[str, float]) -> None:
        """Go on from the totals of another process."""
        with self._lock:
            self._values = {str(version): float(value) for version, value in values.items()}

    @property
    def values(self) -> dict[str, float]:
        """The totals by version, a copy."""
        with self._lock:
            return dict(self._values)
