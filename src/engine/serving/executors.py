"""Executor threads that several engines share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from engine.errors import ConfigError
from engine.serving._executors import CoreExecutors
from engine.serving.parts import whole


class Executors(CoreExecutors):
    """Threads that run the primaries of several engines in their batch lanes: `Engine(..., executors=executors)`.

    Requests of all the engines are taken earliest deadline first. While there is not enough for all, each engine gets
    its share by `Engine(weight=)`, so one that is flooded starves nobody. An engine without requests costs no time:
    thousands may be open. A thread that is stuck in a model for one and a half of its engine's deadlines (or four times
    what such batches take at the worst) is replaced by a new one.

    Args:
        threads: how many, 1 to 64.
        spin: as in Engine.
        realtime_priority: 1 to 99 to run them under SCHED_FIFO; off unless given. A model that does not return then
            keeps its core from everybody else: leave a core free.
        cpus: numbers of the processors that they may run on; any unless given.

    Raises:
        ConfigError: the system refuses the priority or the processors.

    >>> import engine
    >>> with engine.Executors(threads=2) as pool:
    ...     model = engine.load_model(lambda rows: rows[:, 0], n_features=1)
    ...     with engine.Engine(model, executors=pool, deadline_ms=1000) as eng:
    ...         eng.predict([4.0]).value
    4.0
    """

    def __init__(
        self,
        threads: int = 1,
        *,
        spin: bool = True,
        realtime_priority: int | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        self._make(whole("threads", threads, 1, 64), bool(spin), *placement(realtime_priority, cpus))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Executors(threads={self.threads}{', closed' if self.closed else ''})"


def placement(
    realtime_priority: int | None, cpus: Iterable[int] | None
) -> tuple[int | None, list[int] | None]:
    """Where and how threads run, checked as far as it can be without asking the system."""
    if realtime_priority is not None:
        whole("realtime_priority", realtime_priority, 1, 99)
    if cpus is None:
        return realtime_priority, None
    chosen = sorted({whole("cpus", cpu, 0, 1023) for cpu in cpus})
    allowed = os.sched_getaffinity(0)
    if not chosen or not allowed.issuperset(chosen):
        raise ConfigError(f"cpus must be some of {sorted(allowed)}, which this process may use, got {chosen}")
    return realtime_priority, chosen
