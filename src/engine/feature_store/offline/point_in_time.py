"""The point-in-time join: for each label row the newest row of a view that was true at the label's instant.

Label rows come out as they went in: none is dropped, none is doubled. A view's row at exactly the label's instant
counts. The newest row decides, even where a value in it is null or its TTL has passed: no older row takes its place.

Rows that fit into memory are joined by the core, on numbers that stand for their entities. DuckDB's ASOF join does it
for more rows, because it spills to disk; it takes three times as long, and twice the memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.feature_store.instants import NS_MIN
from engine.feature_store.offline import view_rows
from engine.feature_store.offline._asof import newest_before_of
from engine.feature_store.offline._windows import Events
from engine.feature_store.offline.aggregates import (
    MISSING,
    EventRows,
    floats_of,
    newest_events,
    windows_over,
)
from engine.feature_store.offline.base import (
    EXPIRED,
    FOUND,
    NOT_YET,
    NULL_KEY,
    UNKNOWN_ENTITY,
    Joined,
    View,
    as_feature,
)
from engine.feature_store.offline.columns import is_unsigned

# Given key columns k0, k1, … without nulls: whether each of these entities has any row, at any event time.
Known = Callable[[Any], npt.NDArray[np.bool_]]


def known_by(cursor: Any, view: View) -> Known:
    """`Known` by DuckDB, with which the view's source is registered."""

    def known(keys: Any) -> npt.NDArray[np.bool_]:
        cursor.register("absent", keys.append_column("i", [np.arange(len(keys))]))
        rows = view_rows.known_keys(view.definition, view.snapshot, view.kinds, view.created_end_ns)
        same = _same(name for name in keys.column_names)
        found = np.zeros(len(keys), dtype=bool)
        found[
            cursor.sql(
                f"SELECT l.i FROM absent l WHERE EXISTS (SELECT 1 FROM ({rows}) v WHERE {same})"
            ).fetchnumpy()["i"]
        ] = True
        return found

    return known


def join(cursor: Any, labels: Any, label_ns: npt.NDArray[np.int64], view: View, rows: str) -> Joined:
    """The view's row for each label, by DuckDB.

    Args:
        cursor: the DuckDB connection that runs it; the view's source is registered with it.
        labels: a pyarrow Table with the view's keys among its columns, in types that `check_keys` has accepted.
        label_ns: int64 [labels], the instants.
        view: the view.
        rows: SQL of the view's rows, one for each entity and event time: k0…, t, f0….
    """
    import pyarrow as pa

    keys = key_columns(labels, view)
    n_rows = len(label_ns)
    cursor.register("labels", pa.table({**keys, "i": pa.array(np.arange(n_rows)), "t": pa.array(label_ns)}))
    same = _same(keys)
    kinds = view.kinds_stored
    features = "".join(f", v.f{i}" for i in range(len(kinds)))
    found = cursor.sql(
        f"SELECT l.i, v.t{features} FROM labels l ASOF LEFT JOIN ({rows}) v ON {same} AND l.t >= v.t"
    ).to_arrow_table()
    found = _in_place(found, n_rows)
    matched = found["t"]
    absent = matched.is_null().to_numpy()
    reasons = reasons_of(absent, matched.fill_null(0).to_numpy(), label_ns, view.definition.ttl_ns)
    explain(reasons, keys, known_by(cursor, view))
    columns = [as_feature(found[f"f{i}"], kind) for i, kind in enumerate(kinds)]
    return Joined(without(columns, reasons == EXPIRED), reasons)


def join_in_memory(
    known: Known, labels: Any, label_ns: npt.NDArray[np.int64], view: View, rows: Any
) -> Joined:
    """`join` by the core.

    Args:
        known: tells which entities without a row among `rows` have one all the same.
        rows: a pyarrow Table of the view's rows, in the source's order: k0…, t, f0…; and c if copies of a row are
            told apart by their created time.
    """
    found = Found.of(known, labels, label_ns, view, rows)
    columns = [as_feature(found.taken(rows[f"f{i}"]), kind) for i, kind in enumerate(view.kinds_stored)]
    return Joined(columns, found.reasons)


def join_windows(
    known: Known, labels: Any, label_ns: npt.NDArray[np.int64], view: View, events: EventRows
) -> Joined:
    """`join` for a view whose windows end at the label's instant."""
    import pyarrow as pa

    definition = view.definition
    rows = events.table
    found = Found.of(known, labels, label_ns, view, rows)
    columns = [
        as_feature(found.taken(rows[f"f{i}"]), view.kinds_out[i]) for i in range(len(definition.columns))
    ]
    if view.stored:
        places = np.maximum(found.places, 0)
        for column in newest_events(events, places) if len(rows) else []:
            columns.append(_masked(column, found.reasons != FOUND))
        return Joined(columns or [pa.nulls(len(label_ns))] * len(view.kinds_stored), found.reasons)
    # A label is an event without values, behind the events of its instant.
    groups = np.concatenate([found.groups, found.label_groups])
    times = np.concatenate([events.times, label_ns])
    order = np.lexsort((times, groups))
    at_labels = np.empty(len(order), np.int64)
    at_labels[order] = np.arange(len(order))
    at_labels = at_labels[len(events.times) :]
    blank = np.full(len(label_ns), MISSING)
    inputs = {
        column: pa.array(np.concatenate([floats_of(events.input(column)), blank])[order])
        for column in definition.inputs
    }
    sorted_groups = np.cumsum(np.diff(groups[order], prepend=groups[order][:1]) != 0)
    for column in windows_over(definition.aggregates, Events(sorted_groups, times[order]), inputs):
        columns.append(_masked(column.take(pa.array(at_labels)), found.reasons != FOUND))
    return Joined(columns, found.reasons)


def _masked(column: Any, absent: npt.NDArray[np.bool_]) -> Any:
    """A column with nulls where `absent` says so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return column if not absent.any() else pc.if_else(pa.array(absent), pa.scalar(None, column.type), column)


@dataclass(frozen=True)
class Found:
    """The row that each label has.

    Attributes:
        places: int64 [labels], the place of the row; -1 where it is missing or expired.
        reasons: uint8 [labels], an index into REASONS.
        groups, label_groups: int64 [rows] and [labels], a number for each entity; -1 for an entity without rows.
    """

    places: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.int64]
    label_groups: npt.NDArray[np.int64]

    @classmethod
    def of(cls, known: Known, labels: Any, label_ns: npt.NDArray[np.int64], view: View, rows: Any) -> Found:
        """The rows of these labels; arguments as of `join_in_memory`."""
        keys = key_columns(labels, view)
        groups, label_groups, n_groups = coded([rows[name] for name in keys], [*keys.values()])
        times = rows["t"].to_numpy()
        created = None
        if "c" in rows.column_names and rows["c"].null_count < len(rows):
            # A null created time is before every other.
            created = rows["c"].fill_null(NS_MIN - 1).to_numpy()
        places = newest_before_of(groups, times, created, label_groups, label_ns, n_groups)
        absent = places < 0
        matched = times[np.maximum(places, 0)] if len(times) else np.zeros(len(places), np.int64)
        reasons = reasons_of(absent, matched, label_ns, view.definition.ttl_ns)
        # An entity without rows may have later ones, which were not read.
        explain(reasons, keys, known, np.flatnonzero(label_groups < 0))
        places[reasons == EXPIRED] = -1
        return cls(places, reasons, groups, label_groups)

    def taken(self, column: Any) -> Any:
        """The value of each label's row, null without one."""
        import pyarrow as pa

        # Gathering from one chunk is several times faster than from many.
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        return column.take(pa.array(self.places, mask=self.places < 0))


def coded(
    rows: Sequence[Any], labels: Sequence[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """A number for each entity of the rows, from 0: of each row, and of each label, -1 for one that no row has.

    Args:
        rows: the key columns of the rows, without nulls.
        labels: the same of the labels, with nulls.
    """
    import pyarrow as pa

    groups, label_groups, n_groups = _codes_of(rows[0], alike(labels[0], rows[0].type))
    for column, label in zip(rows[1:], labels[1:], strict=True):
        own, label_own, n_own = _codes_of(column, alike(label, column.type))
        # Two numbers become one, and are numbered again, so that they stay small.
        joint = groups * n_own + own
        label_joint = np.where((label_groups < 0) | (label_own < 0), -1, label_groups * n_own + label_own)
        groups, label_groups, n_groups = _codes_of(pa.array(joint), pa.array(label_joint))
    return groups, label_groups, n_groups


def _codes_of(column: Any, label: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.dictionary_encode()
    known = encoded.dictionary
    label_codes = pc.index_in(label, value_set=known, skip_nulls=True).fill_null(-1)
    return (
        encoded.indices.cast(pa.int64()).to_numpy(),
        label_codes.cast(pa.int64()).to_numpy(),
        len(known),
    )


def alike(label: Any, wanted: Any) -> Any:
    """A key column of the labels in the type of the rows' column; null for a value that this type has not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if label.type == wanted:
        return label
    if getattr(label.type, "extension_name", None) is not None:
        return uuid_texts(label).cast(wanted)
    if pa.types.is_integer(label.type) and pa.types.is_integer(wanted):
        bound = pa.scalar(2**63 - 1 if label.type == pa.uint64() else 0, label.type)
        fits = pc.less_equal(label, bound) if label.type == pa.uint64() else pc.greater_equal(label, bound)
        return pc.if_else(fits, label, pa.scalar(None, label.type)).cast(wanted)
    return label.cast(wanted)


def uuid_texts(column: Any) -> Any:
    """A column of UUIDs as text."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    encoded = column.storage.dictionary_encode()
    texts = [str(uuid.UUID(bytes=value)) for value in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _same(keys: Iterable[str]) -> str:
    return " AND ".join(f"l.{key} = v.{key}" for key in keys)


def _in_place(found: Any, n_rows: int) -> Any:
    """The rows in the labels' order, which a parallel join does not keep."""
    places = found["i"].to_numpy()
    if len(places) != n_rows:
        raise AssertionError(f"the join made {len(places)} rows of {n_rows} labels")
    order = np.full(n_rows, -1, dtype=np.int64)
    order[places] = np.arange(n_rows)
    if n_rows and order.min() < 0:
        raise AssertionError("the join lost a label row")
    # Gathering from one chunk is several times faster than from many.
    return found.combine_chunks().take(order)


def reasons_of(
    absent: npt.NDArray[np.bool_],
    matched: npt.NDArray[np.int64],
    label_ns: npt.NDArray[np.int64],
    ttl_ns: int | None,
) -> npt.NDArray[np.uint8]:
    """FOUND or EXPIRED for a label with a row, and NOT_YET for one without, which `explain` looks into.

    Args:
        absent: bool [labels], whether there is no row.
        matched: int64 [labels], the event time of each label's row, anything where there is none.
        label_ns: int64 [labels], the instants.
        ttl_ns: the view's TTL in nanoseconds, or None.
    """
    reasons = np.where(absent, NOT_YET, FOUND).astype(np.uint8)
    if ttl_ns is not None:
        # Unsigned, because an event and a label at the two ends of the clock are 584 years apart.
        age = label_ns.view(np.uint64) - matched.view(np.uint64)
        reasons[~absent & (age > ttl_ns)] = EXPIRED
    return reasons


def without(columns: list[Any], absent: npt.NDArray[np.bool_]) -> list[Any]:
    """Columns with nulls where `absent` says so."""
    return [_masked(column, absent) for column in columns] if absent.any() else columns


def explain(
    reasons: npt.NDArray[np.uint8],
    keys: dict[str, Any],
    known: Known,
    absent: npt.NDArray[np.int64] | None = None,
) -> None:
    """Change NOT_YET to NULL_KEY where a key is null, and to UNKNOWN_ENTITY where the source has no such entity.

    Args:
        keys: the labels' key columns, as of `key_columns`.
        absent: the labels to look into; None for all that are NOT_YET.
    """
    import pyarrow as pa

    if absent is None:
        absent = np.flatnonzero(reasons == NOT_YET)
    if not len(absent):
        return
    picked = pa.table(keys).take(absent)
    null = np.zeros(len(absent), dtype=bool)
    for name in picked.column_names:
        null |= picked[name].is_null().to_numpy()
    reasons[absent[null]] = NULL_KEY
    absent, picked = absent[~null], picked.filter(~null)
    if len(absent):
        reasons[absent] = np.where(known(picked), NOT_YET, UNKNOWN_ENTITY).astype(np.uint8)


def key_columns(labels: Any, view: View) -> dict[str, Any]:
    """The labels' key columns in the view's types, under the names of the query: k0, k1, …."""
    import pyarrow as pa

    types = {"int": pa.int64(), "text": pa.string(), "bytes": pa.binary()}
    keys = {}
    for i, (key, kind) in enumerate(zip(view.definition.keys, view.key_kinds, strict=True)):
        # DuckDB compares whole numbers of any two types by their value.
        unsigned = kind == "int" and is_unsigned(labels[key].type)
        keys[f"k{i}"] = labels[key].cast(pa.uint64() if unsigned else _plain(types[kind], labels[key].type))
    return keys


def _plain(wanted: Any, given: Any) -> Any:
    """The type to cast a column to. DuckDB reads a UUID, and then takes it for its text."""
    return given if getattr(given, "extension_name", None) is not None else wanted
