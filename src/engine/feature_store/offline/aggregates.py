"""Windowed aggregates: the rows of a view that has some, computed from the events of its source.

DuckDB reads and sorts the events; the windows themselves are summed by the core, exactly, because DuckDB's own window
sums depend in their last bits on what else was read, and training and serving read different spans of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store import view_rows
from engine.feature_store._windows import window_aggregate_of
from engine.feature_store.definitions import FeatureView
from engine.feature_store.sources import Snapshot


def aggregated_rows(
    view: FeatureView,
    snapshot: Snapshot,
    kinds: Mapping[str, str],
    connection: Any,
    range_ns: tuple[int | None, int | None],
) -> Any:
    """A pyarrow Table of the view's rows with event times in [start, end), sorted by keys and time: k0…, t, f0….

    The events of the longest window before `start` are read too. In memory is that span of the source, the columns of
    the view alone.
    """
    import pyarrow as pa

    start, end = range_ns
    read_from = None if start is None else start - view.window_ns_max
    # The columns as they are, then each aggregated column once.
    inputs = list(dict.fromkeys(aggregate.column for aggregate in view.aggregates))
    columns = [*view.columns, *inputs]
    rows = view_rows.plain_rows(view, snapshot, kinds, columns, (read_from, end), numbered=True)
    keys = view_rows.keys(view)
    partition = ", ".join([*keys, "t", "e"])
    order = "c DESC NULLS LAST, o DESC"
    events = connection.sql(
        f"SELECT * EXCLUDE (e) FROM ({rows} QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {order}) = 1) "
        f"ORDER BY {', '.join(keys)}, t, c NULLS FIRST, o"
    ).to_arrow_table()
    groups = _groups(events, keys)
    times = events["t"].to_numpy()
    made: dict[str, Any] = {name: events[name] for name in [*keys, "t"]}
    made |= {f"f{i}": events[f"f{i}"] for i in range(len(view.columns))}
    made |= _aggregates(view, events, inputs, groups, times)
    table = pa.table(made)
    # Of the events of one instant the last is the row, and what was read for the windows alone is not.
    keep = _last_of_instant(groups, times)
    if start is not None:
        keep &= times >= start
    return table if keep.all() else table.filter(pa.array(keep))


def _aggregates(
    view: FeatureView, events: Any, inputs: list[str], groups: npt.NDArray[Any], times: npt.NDArray[Any]
) -> dict[str, Any]:
    import pyarrow as pa

    values = {
        column: events[f"f{len(view.columns) + i}"].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        for i, column in enumerate(inputs)
    }
    windows: dict[tuple[str, int], Any] = {}
    made = {}
    for i, aggregate in enumerate(view.aggregates, start=len(view.columns)):
        key = (aggregate.column, aggregate.window_ns)
        if key not in windows:
            windows[key] = window_aggregate_of(groups, times, values[aggregate.column], aggregate.window_ns)
        count, total, least, greatest = windows[key]
        if aggregate.function == "count":
            made[f"f{i}"] = pa.array(count)
            continue
        with np.errstate(invalid="ignore"):
            mean = total / np.maximum(count, 1)
        result = {"sum": total, "mean": mean, "min": least, "max": greatest}[aggregate.function]
        made[f"f{i}"] = pa.array(result, mask=count == 0)
    return made


def _groups(events: Any, keys: list[str]) -> npt.NDArray[np.int64]:
    """A number for each row that goes up by one where the entity changes; the rows are sorted by it."""
    import pyarrow.compute as pc

    if events.num_rows == 0:
        return np.empty(0, np.int64)
    changed = np.zeros(events.num_rows, dtype=bool)
    for key in keys:
        column = events[key].combine_chunks()
        changed[1:] |= pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(
            zero_copy_only=False
        )
    return np.cumsum(changed)


def _last_of_instant(groups: npt.NDArray[Any], times: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    last = np.ones(len(times), dtype=bool)
    last[:-1] = (groups[1:] != groups[:-1]) | (times[1:] != times[:-1])
    return last
