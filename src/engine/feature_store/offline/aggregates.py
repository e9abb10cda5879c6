"""The rows of a view with windowed aggregates, computed from the events of its source.

DuckDB reads and sorts the events, and the core sums the windows, exactly. DuckDB's own window sums depend in their last
bits on the other rows that were read, and training and serving read different spans of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store.definitions import FeatureView
from engine.feature_store.offline import view_rows
from engine.feature_store.offline._windows import window_aggregate_of
from engine.feature_store.offline.columns import Snapshot


def aggregated_rows(
    view: FeatureView,
    snapshot: Snapshot,
    kinds: Mapping[str, str],
    connection: Any,
    range_ns: tuple[int | None, int | None],
) -> Any:
    """A pyarrow Table of the view's rows with event times in [start, end), sorted by keys and time: k0…, t, f0….

    The events of the longest window before `start` are read too. That span of the source is held in memory, in the
    columns that the view reads.
    """
    import pyarrow as pa

    start, end = range_ns
    read_from = None if start is None else start - view.window_ns_max
    # The view's own columns, then each aggregated column once.
    inputs = list(dict.fromkeys(aggregate.column for aggregate in view.aggregates))
    columns = [*view.columns, *inputs]
    rows = view_rows.plain_rows(view, snapshot, kinds, columns, (read_from, end), numbered=True)
    keys = view_rows.keys(view)
    events = connection.sql(
        f"SELECT * EXCLUDE (e) FROM ({rows}{_events_only(view)}) ORDER BY {', '.join(keys)}, t, c NULLS FIRST, o"
    ).to_arrow_table()
    groups = _groups(events, keys)
    times = events["t"].to_numpy()
    made: dict[str, Any] = {name: events[name] for name in [*keys, "t"]}
    made |= {f"f{i}": events[f"f{i}"] for i in range(len(view.columns))}
    made |= _aggregate_columns(view, events, inputs, groups, times)
    table = pa.table(made)
    # The last event of an instant is the view's row. Events before `start` were read for the windows alone.
    keep = _last_of_instant(groups, times)
    if start is not None:
        keep &= times >= start
    return table if keep.all() else table.filter(pa.array(keep))


def _events_only(view: FeatureView) -> str:
    """SQL that leaves each event once: of rows with one event id the newest; of rows without an id, those that were
    written last, because each of them is an event of its own."""
    source = view.source
    partition = ", ".join([*view_rows.keys(view), "t", "e"])
    written_last = f"rank() OVER (PARTITION BY {partition} ORDER BY c DESC NULLS LAST) = 1"
    newest = f"row_number() OVER (PARTITION BY {partition} ORDER BY c DESC NULLS LAST, o DESC) = 1"
    if source.event_id is not None:
        return f" QUALIFY CASE WHEN e IS NULL THEN {written_last} ELSE {newest} END"
    return "" if source.created_time is None else f" QUALIFY {written_last}"


def _aggregate_columns(
    view: FeatureView, events: Any, inputs: list[str], groups: npt.NDArray[Any], times: npt.NDArray[Any]
) -> dict[str, Any]:
    """The column of each aggregate, by its name in the result. Aggregates of one window share one pass over it."""
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
    """A number for each row, which goes up by one where the entity changes. The rows are sorted by entity."""
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
    """Whether each row is the last one of its entity and instant."""
    last = np.ones(len(times), dtype=bool)
    last[:-1] = (groups[1:] != groups[:-1]) | (times[1:] != times[:-1])
    return last
