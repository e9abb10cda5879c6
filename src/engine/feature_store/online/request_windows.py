"""Windows that end at the request: a stored row holds the entity's last events, and a fetch adds them up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store.definitions import EVENT_TIMES, SEPARATOR, Aggregate, FeatureView
from engine.feature_store.offline._windows import Events

Array = npt.NDArray[Any]


class RequestWindows:
    """The aggregates of a view whose windows end at the request.

    Args:
        view: the view.
        names: the full names of the aggregates to compute.

    Attributes:
        stored: pairs of a name in a fetched request and the stored column that holds the events there.
    """

    def __init__(self, view: FeatureView, names: list[str]) -> None:
        begin = f"{view.name}{SEPARATOR}"
        wanted = set(names)
        self._aggregates = [
            (f"{begin}{each.name}", each) for each in view.aggregates if f"{begin}{each.name}" in wanted
        ]
        inputs = list(dict.fromkeys(each.column for _, each in self._aggregates))
        # No feature has such a name: a name of a request's own input may be anything else.
        self._times = f"{begin}{EVENT_TIMES}"
        self._inputs = {column: f"{begin}{EVENT_TIMES}{column}" for column in inputs}
        self.stored = [(self._times, EVENT_TIMES)] if inputs else []
        self.stored += [(name, f"{EVENT_TIMES}{column}") for column, name in self._inputs.items()]

    def fill(
        self, out: dict[str, Any], missing: tuple[str, ...], request: Mapping[str, Any], now_ns: int
    ) -> tuple[str, ...]:
        """Put the aggregates in place of the events, and return the names of the missing features.

        Args:
            out: the fetched request, which is changed.
            missing: what was missing, events among it.
            request: as it came; a feature that it brings itself stays.
            now_ns: the request's instant, nanoseconds since 1970.
        """
        times = out.pop(self._times, None)
        inputs = {column: out.pop(name, None) for column, name in self._inputs.items()}
        wanted = [(name, each) for name, each in self._aggregates if name not in request]
        if times is None or any(values is None for values in inputs.values()):
            private = {self._times, *self._inputs.values()}
            for name, _ in wanted:
                out[name] = None
            return (*(name for name in missing if name not in private), *(name for name, _ in wanted))
        # A time keeps its bits as a float, because a list holds floats.
        at = np.array(times, np.float64).view(np.int64)
        arrays = {column: np.array(values, np.float64) for column, values in inputs.items()}
        for name, aggregate in wanted:
            out[name] = value_at(aggregate, at, arrays[aggregate.column], now_ns)
        return missing


def value_at(aggregate: Aggregate, times_ns: Array, values: Array, now_ns: int) -> Any:
    """One aggregate over the window that ends at `now_ns`, as the offline store computes it; None over no values.

    Args:
        aggregate: the aggregate.
        times_ns: int64 [n], the events' times, ascending.
        values: float64 [n]; NaN is a missing value.
        now_ns: the end of the window.
    """
    before = aggregate.closed == "left"
    # Unsigned, because two instants may be 584 years apart.
    past = times_ns < now_ns if before else times_ns <= now_ns
    age = np.full(len(times_ns), now_ns, np.int64).view(np.uint64) - times_ns.view(np.uint64)
    oldest = aggregate.window_ns if before else aggregate.window_ns - 1
    there = values[past & (age <= oldest) & ~np.isnan(values)]
    function = aggregate.function
    if function == "count":
        return len(there)
    if function == "distinct":
        return len(np.unique(there))
    if len(there) == 0 or (function == "std" and len(there) < 2):
        return None
    if function in ("first", "last"):
        return float(there[0 if function == "first" else -1])
    events = Events(np.zeros(len(there), np.int64), np.zeros(len(there), np.int64))
    if function == "std":
        return float(events.spread(there, 1)[1][-1])
    if function == "quantile":
        return float(events.quantile(there, 1, aggregate.quantile)[1][-1])
    count, total, least, greatest = (part[-1] for part in events.aggregate(there, 1))
    with np.errstate(invalid="ignore"):
        made = {"sum": total, "mean": total / count, "min": least, "max": greatest}
    return float(made[function])
