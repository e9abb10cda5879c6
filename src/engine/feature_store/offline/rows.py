"""RowsOffline: the whole of an offline store over rows in Arrow, for back ends that only read them.

A back end gives the rows of a view under the names k0…, t, c, e, f0…. Everything that follows is here: copies, events,
windows, the newest row and the join. They are the same on every back end because they are computed by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine._common import canonical
from engine.errors import InputError
from engine.feature_store.definitions import FeatureView, require
from engine.feature_store.instants import NS_MAX, NS_MIN, time_range
from engine.feature_store.offline import aggregates, point_in_time
from engine.feature_store.offline.base import (
    EXPIRED,
    NOT_YET,
    NULL_KEY,
    UNKNOWN_ENTITY,
    Features,
    Joined,
    SourcesOffline,
    View,
    as_feature,
    batch_schema,
)
from engine.feature_store.offline.columns import Snapshot, check_keys, is_unsigned, kinds_of

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
Range = tuple[int | None, int | None]
JOINS_MAX = 2
# The event time of rows that hold at no instant, such as those of the year 9999.
NEVER = NS_MAX
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY_US = 86_400 * 10**6
_EXACT = 2**53


class RowsOffline(SourcesOffline):
    """An offline store whose back end is one method, `rows`. Thread-safe if that is.

    Args:
        folder: where relative paths of sources start; None for the working directory.
    """

    def rows(self, view: View, columns: Sequence[str], range_ns: Range) -> pa.Table:
        """The rows of a view's source with event times in [start, end), in the source's order, as `plain` makes them.

        Args:
            view: the view and the content of its source.
            columns: the columns of the source to take as f0, f1, ….
            range_ns: start and end in nanoseconds since 1970; None for no bound.

        Raises:
            InputError: an event time is null, or a value cannot be read as its column's kind.
            StoreError: the source cannot be read.
        """
        raise NotImplementedError

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time, in memory.

        Args:
            feature_definition: the view.
            start_time, end_time: datetimes or ISO 8601 texts with a time zone; None for no bound.

        Raises:
            ConfigError: `feature_definition` is no FeatureView.
            InputError: the range is empty, a time has no zone, or a column is missing or of another type.
            StoreError: the source cannot be read.
        """
        range_ns = time_range(start_time, end_time)
        source = require(feature_definition, FeatureView, "feature_definition").source
        kinds_of(feature_definition, self.columns(source))
        view = View.of(feature_definition, self.look(source))
        rows = self.rows(view, read_columns(feature_definition), read_range(feature_definition, range_ns))
        return features_of(view, range_ns, newest(view, rows, range_ns))

    def join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], views: Sequence[View]) -> list[Joined]:
        """The row of each view that holds at each label's instant: one Joined a view, in the order of `views`.

        Args:
            labels: the label rows, with every view's key columns.
            label_ns: int64 [labels], each row's instant in nanoseconds since 1970.
            views: each with a snapshot of its source.

        Raises:
            InputError: there is not one instant for each label; the labels lack a key column, or have it in another
                type; or a source row has no event time.
            StoreError: a source cannot be read.
        """
        check_join(labels, label_ns, views)
        with ThreadPoolExecutor(max_workers=JOINS_MAX) as pool:
            return list(pool.map(lambda view: self._join(labels, label_ns, view), views))

    def _join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], view: View) -> Joined:
        rows = self.rows(view, read_columns(view.definition), (None, end_of(label_ns)))
        return joined(view, rows, labels, label_ns, self.known(view))

    def known(self, view: View) -> point_in_time.Known:
        """Tells which entities have a row at any event time. The keys are read when it is asked."""

        def known(keys: Any) -> npt.NDArray[np.bool_]:
            return among(keys, self.rows(view, [], (None, None)))

        return known


def among(keys: pa.Table, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether each entity of `keys` (k0…) is one of the rows'."""
    names = keys.column_names
    _, found, _ = point_in_time.coded([rows[name] for name in names], [keys[name] for name in names])
    return found >= 0


def check_join(labels: pa.Table, label_ns: npt.NDArray[np.int64], views: Sequence[View]) -> None:
    """Raise InputError if there is not one instant for each label, or the labels' keys do not fit the views'."""
    if len(label_ns) != labels.num_rows:
        raise InputError(f"label_ns: expected {labels.num_rows:,} instants, got {len(label_ns):,}")
    types = dict(zip(labels.column_names, labels.schema.types, strict=True))
    for view in views:
        check_keys(types, view.definition, view.kinds)


def end_of(label_ns: npt.NDArray[np.int64]) -> int | None:
    """The end of the event times that hold for labels: rows beyond the last label hold for none.

    No instant is greater than NS_MAX, so with one there the end is None.
    """
    last_ns = int(label_ns.max()) if len(label_ns) else 0
    return None if last_ns == NS_MAX else last_ns + 1


def features_of(view: View, range_ns: Range, table: pa.Table) -> Features:
    """The computed rows of a range, which lie in memory."""
    run = canonical.digest([view.definition.version, list(range_ns), view.snapshot.digest])

    def read(skip: int, rows_max: int) -> Iterator[Any]:
        yield from table.slice(skip).combine_chunks().to_batches(max_chunksize=rows_max)

    return Features(view, run, table.num_rows, read)


def labels_for_sql(
    labels: pa.Table, label_ns: npt.NDArray[np.int64], view: View
) -> tuple[dict[str, Any], pa.Table]:
    """The labels' key columns by name, and the relation that `sql.join` takes: i for places, t, and k0….

    The keys there are of the view's own types; one that no row can have is null.
    """
    import pyarrow as pa

    of_labels = point_in_time.key_columns(labels, view)
    types = types_of(view, ())
    alike = {name: point_in_time.alike(column, types[name]) for name, column in of_labels.items()}
    return of_labels, pa.table({"i": pa.array(np.arange(len(label_ns))), "t": pa.array(label_ns), **alike})


def joined_by_sql(
    found: pa.Table, of_labels: Mapping[str, Any], label_ns: npt.NDArray[np.int64], view: View
) -> Joined:
    """The view's row for each label, of a join in a back end.

    Args:
        found: one row a label in any order: i, f0…, and v_t and v_first of `sql.join`, or the code of a reason.
        of_labels: as of `labels_for_sql`.
        label_ns: as of `join`.
    """
    import pyarrow as pa

    order = np.empty(len(label_ns), np.int64)
    order[found["i"].to_numpy()] = np.arange(len(found))
    found = found.combine_chunks().take(pa.array(order))
    if "reason" in found.column_names:
        reasons = found["reason"].to_numpy().astype(np.uint8)
    else:
        absent = found["v_t"].is_null().to_numpy()
        matched = found["v_t"].cast(pa.int64()).fill_null(0).to_numpy()
        reasons = point_in_time.reasons_of(absent, matched, label_ns, view.definition.ttl_ns)
        reasons[(reasons == NOT_YET) & found["v_first"].is_null().to_numpy()] = UNKNOWN_ENTITY
        for column in of_labels.values():
            reasons[column.is_null().to_numpy()] = NULL_KEY
    kinds = view.kinds_stored if view.stored else view.kinds_out
    columns = [as_feature(found[f"f{i}"].cast(arrow_of(kind)), kind) for i, kind in enumerate(kinds)]
    return Joined(point_in_time.without(columns, reasons == EXPIRED), reasons)


def read_columns(definition: FeatureView) -> list[str]:
    """The columns of the source that a view takes as f0, f1, …: its features, then what it aggregates."""
    return [*definition.columns, *definition.inputs]


def read_range(definition: FeatureView, range_ns: Range) -> Range:
    """The range of event times that the rows of a range depend on."""
    start, end = range_ns
    return (None if start is None else max(start - definition.window_ns_max, NS_MIN), end)


def joined(
    view: View, rows: pa.Table, labels: pa.Table, label_ns: npt.NDArray[np.int64], known: point_in_time.Known
) -> Joined:
    """The view's row for each label.

    Args:
        view: the view.
        rows: as `RowsOffline.rows` gives them, in the source's order, all that are not later than the last label.
        labels, label_ns: as of `join`.
        known: tells which entities without a row among `rows` have one all the same.
    """
    definition = view.definition
    rows = rows.filter(_below(rows, NEVER)) if _has_never(rows) else rows
    if definition.at_request:
        return point_in_time.join_windows(known, labels, label_ns, view, events_of(view, rows))
    if definition.aggregates:
        rows = aggregated(events_of(view, rows), None)
    elif definition.source.created_time is None:
        rows = rows.drop_columns("c")
    return point_in_time.join_in_memory(known, labels, label_ns, view, rows)


def newest(view: View, rows: pa.Table, range_ns: Range) -> pa.Table:
    """The newest row of each entity with start <= event time < end, with the schema of `batch_schema`, sorted by keys.

    Args:
        view: the view.
        rows: as `RowsOffline.rows` gives them for `read_range`, in the source's order.
        range_ns: start and end; None for no bound.
    """
    import pyarrow as pa

    definition = view.definition
    start, _ = range_ns
    schema = batch_schema(view)
    rows = rows.filter(_below(rows, NEVER)) if _has_never(rows) else rows
    if not definition.aggregates:
        codes = entity_codes(rows, len(definition.source_keys))
        places = last_of_each(codes, rows["t"].to_numpy(), _created(rows))
        found = rows.take(pa.array(places))
    elif definition.at_request:
        events = events_of(view, rows)
        ends = np.ones(len(events.times), dtype=bool)
        ends[:-1] = events.groups[1:] != events.groups[:-1]
        if start is not None:
            ends &= events.times >= start
        places = np.flatnonzero(ends)
        found = events.table.take(pa.array(places)).select(
            [*key_names(definition), "t", "c", *(f"f{i}" for i in range(len(definition.columns)))]
        )
        if len(events.times):
            for i, column in enumerate(
                aggregates.newest_events(events, places), start=len(definition.columns)
            ):
                found = found.append_column(f"f{i}", column)
        else:
            found = schema.empty_table()
    else:
        found = aggregated(events_of(view, rows), start)
        codes = entity_codes(found, len(definition.source_keys))
        times = found["t"].to_numpy()
        found = found.take(pa.array(last_of_each(codes, times, np.zeros(len(times), np.int64))))
    if definition.aggregates:
        # The row is one of many events', so no created time is its own.
        found = found.drop_columns("c") if "c" in found.column_names else found
        found = found.append_column("c", pa.nulls(len(found), pa.int64()))
    return (
        found.select(schema.names)
        .cast(schema)
        .sort_by([(name, "ascending") for name in key_names(definition)])
    )


def key_names(definition: FeatureView) -> list[str]:
    """k0, k1, …: the names of a view's keys in its rows."""
    return [f"k{i}" for i in range(len(definition.source_keys))]


def last_of_each(codes: Array, times: Array, created: Array) -> Array:
    """int64: the place of the newest row of each entity, by time, then by created time, then by place."""
    order = np.lexsort((created, times, codes))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = codes[order][1:] != codes[order][:-1]
    return order[last]


def events_of(view: View, rows: pa.Table) -> aggregates.EventRows:
    """The events among rows of a source, each once, sorted by entity, time, created time and place.

    Rows of one entity, time and event id are copies, and the newest is the event. Without an id, each row that was
    written last is an event.
    """
    import pyarrow as pa

    codes, times, created = (
        entity_codes(rows, len(view.definition.source_keys)),
        rows["t"].to_numpy(),
        _created(rows),
    )
    ids = (
        aggregates.codes_of(aggregates.one_array(rows["e"]))
        if "e" in rows.column_names
        else np.full(len(codes), -1)
    )
    order = np.lexsort((created, ids, times, codes))
    c, t, i, w = codes[order], times[order], ids[order], created[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (c[1:] != c[:-1]) | (t[1:] != t[:-1]) | (i[1:] != i[:-1])
    # The created time of the last row of each group, which is its newest.
    ends = np.flatnonzero(last)
    newest_created = w[ends][np.searchsorted(ends, np.arange(len(order)))] if len(order) else w
    kept = order[np.where(i < 0, w == newest_created, last)]
    kept = np.sort(kept)
    sort = np.lexsort((created[kept], times[kept], codes[kept]))
    kept = kept[sort]
    groups = np.cumsum(np.diff(codes[kept], prepend=codes[kept][:1]) != 0)
    table = rows.drop_columns([name for name in ("e",) if name in rows.column_names]).take(pa.array(kept))
    return aggregates.EventRows(view.definition, table, groups.astype(np.int64), times[kept])


def aggregated(events: aggregates.EventRows, start: int | None) -> pa.Table:
    """The rows of a view whose windows end at the row's event time, from `start` on: k0…, t, f0…."""
    import pyarrow as pa

    definition = events.view
    keep = events.last_of_instant
    if start is not None:
        keep &= events.times >= start
    made: dict[str, Any] = {name: events.table[name] for name in [*key_names(definition), "t"]}
    made |= {f"f{i}": events.table[f"f{i}"] for i in range(len(definition.columns))}
    for i, column in enumerate(aggregates.windowed(events), start=len(definition.columns)):
        made[f"f{i}"] = column
    return pa.table(made).filter(pa.array(keep))


def entity_codes(rows: pa.Table, n_keys: int) -> Array:
    """int64 [rows]: a number for each entity."""
    columns = [rows[f"k{i}"] for i in range(n_keys)]
    codes, _, _ = point_in_time.coded(columns, [column.slice(0, 0) for column in columns])
    return codes


def _created(rows: pa.Table) -> Array:
    """int64: the created time of each row; null is before every other."""
    if "c" not in rows.column_names:
        return np.zeros(len(rows), np.int64)
    return rows["c"].fill_null(NS_MIN - 1).to_numpy()


def _has_never(rows: pa.Table) -> bool:
    import pyarrow.compute as pc

    return len(rows) > 0 and pc.max(rows["t"]).as_py() == NEVER


def _below(rows: pa.Table, end: int) -> Any:
    import pyarrow.compute as pc

    return pc.less(rows["t"], end)


# Columns of a source as Arrow, in the types of their kinds.


def plain(view: View, table: pa.Table, columns: Sequence[str], range_ns: Range) -> pa.Table:
    """The rows of a source in memory as every back end gives them: k0…, t, c, e, f0….

    Rows with a null key are left out, and so are those that were not created before `view.created_end_ns` or are not
    in the range. The others keep their order. `c` is null without a created time, `e` is left out without an event id.
    An event time after 2262 is NEVER.

    Args:
        table: the columns of the source that the view reads.
        columns: those to take as f0, f1, ….

    Raises:
        InputError: an event time is null, or a value cannot be read as its column's kind.
    """
    import pyarrow as pa

    definition, snapshot = view.definition, view.snapshot
    source = snapshot.source
    event = instants(column_of(table, snapshot, source.event_time))
    if event.null_count:
        first = int(np.flatnonzero(event.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(
            f"view {definition.name!r}: column {source.event_time!r} of {snapshot.place} is null in "
            f"{event.null_count} of {len(event)} rows, first in row {first}; a row needs an event time, so leave "
            "those rows out of the source"
        )
    made: dict[str, Any] = {}
    for i, key in enumerate(definition.source_keys):
        made[f"k{i}"] = _value(view, table, key, key=True)
    made["t"] = event
    written = pa.nulls(len(event), pa.int64())
    if source.created_time is not None:
        written = instants(column_of(table, snapshot, source.created_time))
    made["c"] = written
    if source.event_id is not None:
        made["e"] = column_of(table, snapshot, source.event_id)
    made |= {f"f{i}": _value(view, table, column) for i, column in enumerate(columns)}
    rows = pa.table(made)
    return rows.filter(pa.array(_wanted(view, rows, range_ns)))


def _wanted(view: View, rows: pa.Table, range_ns: Range) -> npt.NDArray[np.bool_]:
    times = rows["t"].to_numpy()
    keep = np.ones(len(times), dtype=bool)
    for name in key_names(view.definition):
        if rows[name].null_count:
            keep &= rows[name].is_valid().to_numpy()
    if view.created_end_ns is not None:
        keep &= _created(rows) < view.created_end_ns
    if range_ns[0] is not None:
        keep &= times >= range_ns[0]
    if range_ns[1] is not None:
        keep &= times < range_ns[1]
    return keep


def roots(view: View, columns: Sequence[str]) -> list[str]:
    """The columns of the source that `plain` reads, each once: of a field within a struct, the struct."""
    source, snapshot = view.snapshot.source, view.snapshot
    named = [source.event_time, source.created_time, source.event_id, *view.definition.source_keys, *columns]
    paths = [snapshot.path_of(name) for name in named if name is not None]
    return list(dict.fromkeys(path[0] for path in paths if path is not None))


def of_version(view: View, range_ns: Range) -> pa.Table:
    """The columns that a view reads of a lake's table; rows that no window of the range sees may be left out."""
    source, definition = view.snapshot.source, view.definition
    start, end = read_range(definition, range_ns)
    bounds = (None if start is None else start // 1000 - 1, None if end is None else end // 1000 + 1)
    names = roots(view, read_columns(definition))
    path = view.snapshot.path_of(source.event_time)
    plain_time = path is not None and len(path) == 1
    found: pa.Table = view.snapshot.version.read(names, source.event_time if plain_time else None, bounds)
    return found


def column_of(table: pa.Table, snapshot: Snapshot, name: str) -> Any:
    """A column, or a field within one, as one pyarrow array without a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = snapshot.path_of(name)
    assert path is not None, "the columns of a view were checked"
    column = table[path[0]]
    for part in path[1:]:
        column = pc.struct_field(column, part)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunk, or too large for one
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _value(view: View, table: pa.Table, name: str, *, key: bool = False) -> Any:
    """A column in the type of its kind. Raises InputError, with the row, for a value that this type has not."""
    import pyarrow as pa

    snapshot = view.snapshot
    column = column_of(table, snapshot, name)
    unsigned = key and is_unsigned(snapshot.type_of(name, "keys"))
    try:
        return as_kind(column, view.kinds[name], unsigned=unsigned)
    except pa.ArrowException as error:
        row = _first_unreadable(column, view.kinds[name], unsigned)
        raise InputError(
            f"view {view.definition.name!r}: column {name!r} of {snapshot.place} has type "
            f"{snapshot.type_of(name, 'columns')} and a value that is out of range, first in row {row}: {error}"
        ) from error


def _first_unreadable(column: Any, kind: str, unsigned: bool) -> int:
    """The first row that cannot be read, by halves."""
    import pyarrow as pa

    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            as_kind(column.slice(low, middle - low), kind, unsigned=unsigned)
            low = middle
        except pa.ArrowException:
            high = middle
    return low


def as_kind(column: Any, kind: str, *, unsigned: bool = False) -> Any:
    """A pyarrow array in the type of its kind: bool, int64 (or uint64), float64, string, binary, a list of float64, or
    int64 microseconds since 1970 of a time, rounded to the past. Raises pyarrow.ArrowInvalid for a value beyond it."""
    import pyarrow as pa

    if kind == "time":
        return microseconds(column)
    if getattr(column.type, "extension_name", None) == "arrow.uuid":
        return point_in_time.uuid_texts(column)
    if kind == "float" and pa.types.is_decimal(column.type):
        return decimals(column)
    if kind == "list" and pa.types.is_decimal(column.type.value_type):
        raise pa.ArrowInvalid("a list of decimals is no list of floats")
    wanted = pa.uint64() if unsigned else arrow_of(kind)
    return column if column.type == wanted else column.cast(wanted, safe=kind not in ("float", "list"))


def decimals(column: Any) -> Any:
    """Decimals as float64: the quotient of two numbers that are exact, so it is rounded once; larger ones as the sum of
    the whole part and of the rest."""
    import pyarrow as pa

    scale = column.type.scale
    if scale <= 0:
        return pa.array(
            [None if value is None else float(value) for value in column.to_pylist()], pa.float64()
        )
    power = 10**scale

    def one(value: Any) -> float | None:
        if value is None:
            return None
        whole = int(value.scaleb(scale))
        if abs(whole) <= _EXACT:
            return whole / power if power <= 10**22 else float(value)
        sign = -1 if whole < 0 else 1
        first, rest = divmod(abs(whole), power)
        return sign * (float(first) + float(rest) / float(power))

    encoded = column.dictionary_encode()
    values = pa.array([one(value) for value in encoded.dictionary.to_pylist()], pa.float64())
    return values.take(encoded.indices)


def _numbers(column: Any) -> tuple[Array, npt.NDArray[np.bool_], int]:
    """The whole numbers of a column of times, where they are null, and the nanoseconds of their unit."""
    import pyarrow as pa

    t = pa.types
    if t.is_date32(column.type):
        column, unit_ns = column.cast(pa.int32()).cast(pa.int64()), 86_400 * 10**9
    elif t.is_date64(column.type):
        column, unit_ns = column.cast(pa.int64()), 10**6
    else:
        unit_ns = _UNIT_NS[column.type.unit]
        column = column.cast(pa.int64())
    absent = column.is_null().to_numpy(zero_copy_only=False)
    return column.fill_null(0).to_numpy(zero_copy_only=False), absent, unit_ns


def microseconds(column: Any) -> Any:
    """Times as int64 microseconds since 1970, rounded to the past."""
    import pyarrow as pa

    values, absent, unit_ns = _numbers(column)
    if unit_ns == 1:
        values = values // 1000
    elif unit_ns > 1000:
        factor = unit_ns // 1000
        if len(values) and np.abs(values).max() > NS_MAX // factor:
            raise pa.ArrowInvalid("a time is beyond the range of microseconds")
        values = values * factor
    return pa.array(values, mask=absent)


def instants(column: Any) -> Any:
    """Times as int64 nanoseconds since 1970. One before 1677 is the first that there is; one after 2262 is NEVER."""
    import pyarrow as pa

    values, absent, unit_ns = _numbers(column)
    if unit_ns > 1:
        least = -(NS_MAX // unit_ns) * unit_ns
        if unit_ns in (10**6, 10**9):
            # As if the column were in microseconds.
            least = -(NS_MAX // 1000) * 1000
        late = values > NS_MAX // unit_ns
        early = values < -(NS_MAX // unit_ns)
        values = np.where(late | early, 0, values) * unit_ns
        values[late], values[early] = NEVER, least
    return pa.array(values, mask=absent)


def types_of(view: View, columns: Sequence[str]) -> Mapping[str, Any]:
    """The Arrow type of each column of `plain` but `e`."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for i, key in enumerate(view.definition.source_keys):
        unsigned = view.kinds[key] == "int" and is_unsigned(view.snapshot.type_of(key, "keys"))
        found[f"k{i}"] = pa.uint64() if unsigned else arrow_of(view.kinds[key])
    found |= {"t": pa.int64(), "c": pa.int64()}
    return found | {f"f{i}": arrow_of(view.kinds[column]) for i, column in enumerate(columns)}


def arrow_of(kind: str) -> Any:
    """The Arrow type of values of a kind; a time is a whole number."""
    import pyarrow as pa

    whole = pa.int64()
    types = {"bool": pa.bool_(), "int": whole, "float": pa.float64(), "text": pa.string(), "time": whole}
    types |= {"list": pa.list_(pa.float64()), "bytes": pa.binary()}
    return types[kind]
