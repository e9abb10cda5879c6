"""Executor threads that several engines share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from engine._common.options import OPTIONS
from engine.errors import ConfigError
from engine.serving._executors import CoreExecutors


class Executors(CoreExecutors):
    """Threads that run the primaries of several engines in their batch lanes: `Engine(..., executors=executors)`.

    The threads take requests of all engines earliest deadline first. At overload each engine gets its share by
    `Engine(weight=)`, so a flooded engine starves no other. An engine without requests takes no time of theirs, so
    thousands may be open. A thread that is stuck in a model is replaced: after 1.5 deadlines of its engine, or after 4
    times the worst duration of such batches if that is longer.

    Args:
        threads: number of threads, 1 to 64.
        spin: as in Engine.
        realtime_priority: run the threads under SCHED_FIFO at this priority, 1 to 99; off unless given. A model that
            does not return then takes its core from all other programs, so leave a core free.
        cpus: numbers of the processors that the threads may run on; any unless given.

    Raises:
        ConfigError: an argument is out of range, or the system refuses the priority or the processors.

    Thread-safe. Close the engines first, then the executors, or use both as context managers. After a fork, the child
    must make its own.

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
        count = OPTIONS["executors"].checked(threads, name="threads")
        self._make(count, bool(spin), *placement(realtime_priority, cpus))

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
    """Return the priority and the processors, checked as far as possible without asking the system for them."""
    priority = OPTIONS["realtime_priority"].checked(realtime_priority)
    chosen = OPTIONS["cpus"].checked(cpus)
    allowed = os.sched_getaffinity(0)
    if chosen is not None and not (chosen and allowed.issuperset(chosen)):
        raise ConfigError(f"cpus must be some of {sorted(allowed)}, which this process may use, got {chosen}")
    return priority, chosen
