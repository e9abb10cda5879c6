"""The values that every offline store gives and takes, and the protocol of a store: rows as Arrow batches, and a join.

Nothing here knows DuckDB, so a store on Spark, BigQuery or Polars needs only pyarrow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common import arguments
from engine.errors import InputTypeError
from engine.feature_store.definitions import SEPARATOR, Aggregate, FeatureView, Source, require
from engine.feature_store.offline import sources
from engine.feature_store.offline.columns import Snapshot, SourceColumns, is_unsigned, kinds_of
from engine.feature_store.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

# Why a label row has a view's row or has none, by code. Every code but FOUND means that the row is missing.
REASONS = ("found", "null_key", "unknown_entity", "not_yet", "expired")
FOUND, NULL_KEY, UNKNOWN_ENTITY, NOT_YET, EXPIRED = range(len(REASONS))
_COUNT_MAX = 2**63 - 1


def look(offline: OfflineStore, source: Source) -> Snapshot:
    """A snapshot of a source whose digest changes when its content does, by the store's `look` if it has one."""
    found: Snapshot = getattr(offline, "look", offline.snapshot)(source)
    return found


def unchanged(offline: OfflineStore, seen: Snapshot) -> bool:
    """Whether the rows of a look are what they were. New files may have come."""
    if seen.table is not None:
        return True
    return look(offline, seen.pinned).digest == seen.digest and sources.fresh_unchanged(seen)


class OfflineStore(Protocol):
    """The five methods that FeatureStore calls on an offline store. DuckDBOffline has them; so may any other object.

    It may have a sixth, `look(source)`: a `snapshot` that reads no content. Its digest need only change when the
    content does, and `materialize` then reads no more than its range.

    Every method may be called from several threads at once.
    """

    def columns(self, source: Source) -> SourceColumns:
        """The columns of a source and their Arrow types. Read no row: this is how definitions are checked.

        Raises:
            StoreError: the source cannot be found or read.
            InputTypeError: the store cannot read this kind of data.
        """
        ...

    def snapshot(self, source: Source) -> Snapshot:
        """The columns of a source and a digest of its rows, as they are now. Raises as `columns` does.

        Equal digests must mean equal rows: a dataset is reproducible because of that.
        """
        ...

    def read(self, snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
        """The columns `names` of all rows of a source, in an order that is the same each time. Labels are read so.

        Raises:
            StoreError: the rows cannot be read.
        """
        ...

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time.

        Args:
            feature_definition: the view.
            start_time, end_time: datetimes or ISO 8601 texts with a time zone; None for no bound.

        Raises:
            InputError: the range is empty, a time has no zone, or a column is missing or of another type.
            StoreError: the source cannot be read.
        """
        ...

    def join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], views: Sequence[View]) -> list[Joined]:
        """The row of each view that holds at each label's instant: one Joined a view, in the order of `views`.

        The newest row with event time <= instant is the view's row. It decides even where a value in it is null, and
        where it has expired: no older row takes its place.

        Args:
            labels: the label rows, with every view's key columns.
            label_ns: int64 [labels], each row's instant in nanoseconds since 1970.
            views: each with a snapshot of its source.

        Raises:
            InputError: the labels lack a key column, or have it in another type.
            StoreError: a source cannot be read.
        """
        ...


class SourcesOffline(OfflineStore):
    """The part of an offline store that is the same wherever sources are files, lakes and tables in memory.

    Args:
        folder: where relative paths of sources start; None for the working directory.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if folder is not None:
            os.fspath(folder)  # raises TypeError for what is no path
        self.folder = folder

    def columns(self, source: Source) -> SourceColumns:
        """The columns of a source and their Arrow types; of files, only the metadata is read.

        Raises:
            StoreError: no file matches, a file cannot be read, or files disagree about a column.
            InputTypeError: the data is neither a path nor a table.
        """
        return sources.columns_of(require(source, Source, "source"), self.folder)

    def snapshot(self, source: Source) -> Snapshot:
        """The columns, the files or table, and a digest of the content of a source now. Raises as `columns` does."""
        return sources.take(require(source, Source, "source"), self.folder)

    def look(self, source: Source) -> Snapshot:
        """`snapshot` that reads no content: the digest is of what tells that files have changed. Raises as `columns`.

        Files that are so new that they could change and not show it are read whole.
        """
        return sources.take(require(source, Source, "source"), self.folder, content=False)

    def read(self, snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
        """The columns `names` of all rows of a source, in its order: files by name, rows as they lie.

        Raises:
            InputError: the source has no such column.
            StoreError: a file cannot be read.
        """
        for name in names:
            snapshot.type_of(name, "columns")
        return sources.read(snapshot, names)


@dataclass(frozen=True)
class View:
    """A view and the content of its source at one moment.

    Attributes:
        definition: the view.
        snapshot: the content of its source.
        kinds: the kind of each column that the view reads, by the column's name.
        created_end_ns: leave out rows whose created time is not before this instant; None for none.
        stored: join the columns of stored rows, where they are not the features.
    """

    definition: FeatureView
    snapshot: Snapshot
    kinds: Mapping[str, str]
    created_end_ns: int | None = field(default=None, kw_only=True)
    stored: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, definition: FeatureView, snapshot: Snapshot) -> View:
        """The view on this content. Raises InputError if a column is missing or of a type that is no feature."""
        return cls(definition, snapshot, kinds_of(definition, snapshot))

    @property
    def kinds_out(self) -> tuple[str, ...]:
        """The kind of each feature, in the view's order."""
        return _kinds_out(self.definition, self.kinds)

    @property
    def kinds_stored(self) -> tuple[str, ...]:
        """The kind of each column of a stored row, in the order of `stored_columns`."""
        return _kinds_stored(self.definition, self.kinds)

    @property
    def key_kinds(self) -> tuple[str, ...]:
        """The kind of each key, "int", "text" or "bytes", in the view's order."""
        return tuple(self.kinds[key] for key in self.definition.source_keys)

    @property
    def schema(self) -> Schema:
        """The types that stored rows of this view are tagged with."""
        return schema_of(self.definition, self.kinds)


def schema_of(definition: FeatureView, kinds: Mapping[str, str]) -> Schema:
    """The schema of a view, given the kinds of the columns that it reads."""
    key_kinds = tuple(kinds[key] for key in definition.source_keys)
    return Schema.of(definition, key_kinds, _kinds_stored(definition, kinds))


def _kinds_out(definition: FeatureView, kinds: Mapping[str, str]) -> tuple[str, ...]:
    made = (_kind_of(aggregate, definition, kinds) for aggregate in definition.aggregates)
    return (*(kinds[column] for column in definition.columns), *made)


def _kind_of(aggregate: Aggregate, definition: FeatureView, kinds: Mapping[str, str]) -> str:
    if aggregate.function in ("count", "distinct"):
        return "int"
    if aggregate.function in ("first", "last") and not definition.at_request:
        return kinds[aggregate.column]
    return "float"


def _kinds_stored(definition: FeatureView, kinds: Mapping[str, str]) -> tuple[str, ...]:
    if not definition.at_request:
        return _kinds_out(definition, kinds)
    events = len(definition.inputs) + 1
    return (*(kinds[column] for column in definition.columns), *["list"] * events)


@dataclass(frozen=True)
class Features:
    """The newest row of each entity with an event time in [start, end): `compute` returns it, `upsert` writes it.

    Args:
        view: the view and the content of its source.
        run: a digest of view, range and content. Two Features with the same `run` hold the same rows in the same order.
        rows: the number of rows.
        read: called as read(skip, rows_max); returns an iterator of pyarrow RecordBatches as `batches` describes them.
        write: called as write(online, progress, revision) in place of `online.upsert` where the rows lie on other
            processes, which write them; returns a Written, or None if they cannot. None for rows that lie here.
    """

    view: View
    run: str
    rows: int
    read: Callable[[int, int], Iterator[Any]] = field(repr=False)
    write: Callable[[Any, Any, int], Any] | None = field(default=None, repr=False, kw_only=True)

    def batches(self, skip: int = 0, rows_max: int = 10_000) -> Iterator[Any]:
        """The rows as pyarrow RecordBatches, in the same order each time.

        The columns are k0, k1, … (int64, uint64, string or binary), the event time `t` and the created time `c` (int64
        nanoseconds since 1970; `c` is null without one), then f0, f1, …: bool, int64, float64, string or a list of
        float64 as their kind says, and int64 microseconds since 1970 for a time.

        Args:
            skip: leave out this many rows at the beginning.
            rows_max: the most rows of one batch, at least 1.

        Raises:
            InputError: a count below its minimum.
            StoreError: the rows cannot be read.
        """
        arguments.whole("skip", skip, 0, _COUNT_MAX, type_error=InputTypeError)
        arguments.whole("rows_max", rows_max, 1, _COUNT_MAX, type_error=InputTypeError)
        return self.read(skip, rows_max)

    @property
    def table(self) -> Any:
        """All rows as a pyarrow Table: the view's keys, the event time, and `view__column` of each stored column."""
        import pyarrow as pa

        view = self.view.definition
        found = pa.Table.from_batches(self.batches(), batch_schema(self.view))
        made = {name: found[f"k{i}"] for i, name in enumerate(view.keys)}
        made[view.source.event_time] = found["t"].cast(pa.timestamp("ns", "UTC"))
        for i, (name, kind) in enumerate(zip(view.stored_columns, self.view.kinds_stored, strict=True)):
            made[f"{view.name}{SEPARATOR}{name}"] = as_feature(found[f"f{i}"], kind)
        return pa.table(made)


@dataclass(frozen=True)
class Joined:
    """The part of a training table that one view gives.

    Attributes:
        columns: for each feature, in the view's order, a pyarrow array as long as the labels.
        reasons: uint8 [labels], an index into REASONS.
    """

    columns: list[Any]
    reasons: npt.NDArray[np.uint8]


def as_feature(column: Any, kind: str) -> Any:
    """A column of `Features.batches` in the type that its kind has in tables: a time becomes a timestamp."""
    import pyarrow as pa

    return column.cast(pa.timestamp("us", "UTC")) if kind == "time" else column


def batch_schema(view: View) -> pa.Schema:
    """The Arrow schema of the batches of this view's Features."""
    import pyarrow as pa

    whole = pa.int64()
    types = {"bool": pa.bool_(), "int": whole, "float": pa.float64(), "text": pa.string(), "time": whole}
    types["list"] = pa.list_(pa.float64())
    of_keys = {"int": whole, "text": pa.string(), "bytes": pa.binary()}
    keys = [
        (
            f"k{i}",
            pa.uint64()
            if kind == "int" and is_unsigned(view.snapshot.type_of(key, "key"))
            else of_keys[kind],
        )
        for i, (key, kind) in enumerate(zip(view.definition.source_keys, view.key_kinds, strict=True))
    ]
    features = [(f"f{i}", types[kind]) for i, kind in enumerate(view.kinds_stored)]
    return pa.schema([*keys, ("t", whole), ("c", whole), *features])
