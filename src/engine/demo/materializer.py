"""Materialisation beside the replay."""

from __future__ import annotations

import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.demo import events
from engine.demo.clock import Clock
from engine.feature_store import DuckDBOffline, FeatureStore, LMDBOnline


class Materializer:
    """Brings the events up to the replay's clock into the online store, hour by hour.

    It is a process of its own, because its work would keep the GIL from the answers.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._rows = context.Event(), context.Value("q", 0)
        self._process = context.Process(
            target=_follow, args=(folder, clock.shared, self._stop, self._rows), daemon=True
        )
        self._process.start()

    def stop(self) -> int:
        """End the process. Return the number of rows that it wrote."""
        self._stop.set()
        self._process.join()
        return self._rows.value


def _follow(folder: Path, clock: Any, stop: Any, rows: Any) -> None:
    # It has an hour, the answers have milliseconds. A nice value is not enough: a time slice that has begun goes on.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "online"))
    views = events.views_on(folder / "data")
    done = events.LEARNED
    while not stop.wait(0.01):
        until = datetime.fromtimestamp(clock.value, UTC).replace(minute=0, second=0, microsecond=0)
        if until > done:
            rows.value += sum(store.materialize(view, done, until).written for view in views)
            done = until
