"""The clock of the replay, and the store as of that clock."""

from __future__ import annotations

import multiprocessing
from datetime import datetime
from typing import Any

from engine.demo.events import LEARNED
from engine.feature_store import FeatureStore


class Clock:
    """The replay's time: the scheduled departure of the flight that is being predicted. Two processes read it."""

    def __init__(self) -> None:
        self.shared = multiprocessing.get_context("spawn").Value("d", LEARNED.timestamp())

    def set(self, at: datetime) -> None:
        """Set the time."""
        self.shared.value = at.timestamp()

    def now_ns(self) -> int:
        """Return the time in nanoseconds since 1970."""
        return int(self.shared.value * 1e9)


class ReplayedStore:
    """A feature store whose online features are read as of the replay's clock."""

    def __init__(self, store: FeatureStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def online_features(self, program: Any, views: Any) -> Any:
        """Return the store's online features, with the replay's clock."""
        return self._store.online_features(program, views, now_ns=self._clock.now_ns)
