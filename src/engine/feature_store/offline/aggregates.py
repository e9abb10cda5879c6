"""The rows of a view with windowed aggregates, computed from the events of its source.

DuckDB reads and sorts the events, and the core computes the windows, exactly. DuckDB's own window sums depend in their
last bits on the other rows that were read, and training and serving read different spans of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store.definitions import Aggregate, FeatureView
from engine.feature_store.offline import view_rows
from engine.feature_store.offline._windows import Events
from engine.feature_store.offline.base import View

Array = npt.NDArray[Any]
MISSING = float("nan")


@dataclass(frozen=True)
class EventRows:
    """The events of a view's source, each once, sorted by keys, time, created time and place.

    Attributes:
        view: the view.
        table: k0…, t, c, then f0… of the view's columns and then of each aggregated column.
        groups: int64 [n], which goes up by one where the entity changes.
        times: int64 [n].
    """

    view: FeatureView
    table: Any
    groups: Array
    times: Array

    @property
    def last_of_instant(self) -> Array:
        """Whether each event is the last one of its entity and instant: it is the view's row."""
        last = np.ones(len(self.times), dtype=bool)
        last[:-1] = (self.groups[1:] != self.groups[:-1]) | (self.times[1:] != self.times[:-1])
        return last

    def input(self, column: str) -> Any:
        """The values of an aggregated column, as one pyarrow array."""
        place = len(self.view.columns) + self.view.inputs.index(column)
        return one_array(self.table[f"f{place}"])


def events_of(
    view: View, connection: Any, range_ns: tuple[int | None, int | None], *, touched: bool = False
) -> EventRows:
    """The events with times in [start - the longest window, end), held in memory in the columns that the view reads.

    Args:
        view: the view and the content of its source.
        connection: DuckDB's, with which the source is registered.
        range_ns: start and end; None for no bound.
        touched: only those of entities that have an event in [start, end).
    """
    definition = view.definition
    start, end = range_ns
    read_from = None if start is None else start - definition.window_ns_max
    columns = [*definition.columns, *definition.inputs]
    rows = _plain(view, columns, (read_from, end), numbered=True)
    keys = view_rows.keys(definition)
    wanted = rows
    if touched and start is not None:
        # The keys alone are read for the entities, and only the row groups of the range.
        entities = _plain(view, [], (start, end))
        names = ", ".join(keys)
        wanted = (
            f"SELECT * FROM ({rows}) SEMI JOIN (SELECT DISTINCT {names} FROM ({entities})) USING ({names}) "
            "WHERE true"
        )
    table = connection.sql(
        f"SELECT * EXCLUDE (o, e) FROM ({wanted}{_events_only(definition)}) "
        f"ORDER BY {', '.join(keys)}, t, c NULLS FIRST, o"
    ).to_arrow_table()
    return EventRows(definition, table, _groups(table, keys), table["t"].to_numpy())


def _plain(
    view: View, columns: list[str], range_ns: tuple[int | None, int | None], *, numbered: bool = False
) -> str:
    return view_rows.plain_rows(
        view.definition, view.snapshot, view.kinds, columns, range_ns,
        numbered=numbered, created_end_ns=view.created_end_ns,
    )  # fmt: skip


def aggregated_rows(view: View, connection: Any, range_ns: tuple[int | None, int | None]) -> Any:
    """A pyarrow Table of the view's rows with event times in [start, end), sorted by keys and time: k0…, t, f0….

    Args:
        view: of which windows end at the row's event time.
        connection: DuckDB's, with which the source is registered.
        range_ns: start and end; None for no bound.
    """
    import pyarrow as pa

    definition, start = view.definition, range_ns[0]
    events = events_of(view, connection, range_ns, touched=True)
    keep = events.last_of_instant
    # Events before `start` were read for the windows alone.
    if start is not None:
        keep &= events.times >= start
    made: dict[str, Any] = {name: events.table[name] for name in [*view_rows.keys(definition), "t"]}
    made |= {f"f{i}": events.table[f"f{i}"] for i in range(len(definition.columns))}
    for i, column in enumerate(windowed(events), start=len(definition.columns)):
        made[f"f{i}"] = column
    table = pa.table(made)
    return table if keep.all() else table.filter(pa.array(keep))


def windowed(events: EventRows) -> Iterator[Any]:
    """The column of each aggregate, over the window that ends at each event. Aggregates of one window share a pass."""
    inputs = {column: events.input(column) for column in events.view.inputs}
    yield from windows_over(events.view.aggregates, Events(events.groups, events.times), inputs)


def newest_events(events: EventRows, ends: Array) -> list[Any]:
    """The stored columns of rows whose windows end at the request: event times, then each input, as lists of floats.

    Args:
        events: sorted by entity and time.
        ends: int64 [m], the place of each row's event. The lists hold the events up to it in the longest window.
    """
    import pyarrow as pa

    window = events.view.window_ns_max
    begins = _begins(events, ends, window)
    counts = ends + 1 - begins
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    places = np.repeat(begins - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(
        counts.sum()
    )
    # A time keeps its bits as a float, because a list holds floats.
    columns = [pa.array(events.times[places].view(np.float64))]
    columns += [pa.array(floats_of(events.input(column))[places]) for column in events.view.inputs]
    return [pa.ListArray.from_arrays(offsets, column) for column in columns]


def _begins(events: EventRows, ends: Array, window_ns: int) -> Array:
    """The first event of each row's entity that is not older than the window."""
    present = np.ones(len(events.times), np.uint8)
    # A window that is closed at its old end may need one event more.
    first, _ = Events(events.groups, events.times).ends(present, min(window_ns + 1, 2**63 - 1))
    return first[ends]


def windows_over(
    aggregates: tuple[Aggregate, ...], events: Events, inputs: Mapping[str, Any]
) -> Iterator[Any]:
    """The column of each aggregate, as a pyarrow array as long as the events.

    Args:
        aggregates: the aggregates.
        events: the sorted events.
        inputs: a pyarrow array for each aggregated column.
    """
    import pyarrow as pa

    done: dict[tuple[Any, ...], Any] = {}

    def once(what: str, aggregate: Aggregate, compute: Callable[..., Any], values: Any) -> Any:
        """Compute it, once for all aggregates of a column and window."""
        span = aggregate.window_ns, aggregate.closed == "left"
        key = (what, aggregate.column, *span)
        if key not in done:
            done[key] = compute(values, *span)
        return done[key]

    floats: dict[str, Array] = {}
    for aggregate in aggregates:
        function, column = aggregate.function, aggregate.column
        span = aggregate.window_ns, aggregate.closed == "left"
        values = inputs[column]
        if function in ("first", "last"):
            ends = once("ends", aggregate, events.ends, _present(values))
            places = ends[0 if function == "first" else 1]
            yield values.take(pa.array(places, mask=places < 0))
            continue
        if function == "distinct":
            yield pa.array(events.distinct(codes_of(values), *span))
            continue
        if column not in floats:
            floats[column] = floats_of(values)
        numbers = floats[column]
        if function == "std":
            count, spread = events.spread(numbers, *span)
            yield pa.array(spread, mask=count < 2)
        elif function == "quantile":
            window, before = span
            count, found = events.quantile(numbers, window, aggregate.quantile, before)
            yield pa.array(found, mask=count == 0)
        else:
            yield _sums(function, once("sums", aggregate, events.aggregate, numbers))


def _sums(function: str, window: tuple[Array, Array, Array, Array]) -> Any:
    import pyarrow as pa

    count, total, least, greatest = window
    if function == "count":
        return pa.array(count)
    with np.errstate(invalid="ignore"):
        mean = total / np.maximum(count, 1)
    result = {"sum": total, "mean": mean, "min": least, "max": greatest}[function]
    return pa.array(result, mask=count == 0)


def one_array(column: Any) -> Any:
    """A column as one pyarrow array."""
    import pyarrow as pa

    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def floats_of(values: Any) -> Array:
    """Numbers or booleans as float64, NaN for null."""
    import pyarrow as pa

    return values.cast(pa.float64()).fill_null(MISSING).to_numpy(zero_copy_only=False)


def _present(values: Any) -> Array:
    """uint8: whether each value is neither null nor NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = values.is_valid()
    if pa.types.is_floating(values.type):
        found = pc.and_(found, pc.invert(pc.fill_null(pc.is_nan(values), False)))
    return found.to_numpy(zero_copy_only=False).astype(np.uint8)


def codes_of(values: Any) -> Array:
    """A small whole number for each different value, -1 for null and NaN. Both zeros are one value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type):
        values = pc.add(values, 0.0)
    codes = values.dictionary_encode().indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(_present(values) != 0, codes, -1)


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


def _groups(events: Any, keys: list[str]) -> npt.NDArray[np.int64]:
    """A number for each row, which goes up by one where the entity changes. The rows are sorted by entity."""
    import pyarrow.compute as pc

    if events.num_rows == 0:
        return np.empty(0, np.int64)
    changed = np.zeros(events.num_rows, dtype=bool)
    for key in keys:
        column = one_array(events[key])
        changed[1:] |= pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(
            zero_copy_only=False
        )
    return np.cumsum(changed)
