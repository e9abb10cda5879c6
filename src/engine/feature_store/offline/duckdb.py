"""The offline store: DuckDB over Parquet files and tables in memory. It computes rows of views, and keeps none."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.errors import InputError, MissingDependencyError, StoreError
from engine.feature_store import aggregates, view_rows
from engine.feature_store.definitions import FeatureView, Source, digest_of
from engine.feature_store.instants import instant_ns, shown
from engine.feature_store.schema import Schema
from engine.feature_store.sources import Snapshot, kinds_of, take

FACTS_MAX = 1024
JOINS_MAX = 2


class OfflineStore(Protocol):
    """What the FeatureStore needs of an offline store: the door for Spark, BigQuery and their like."""

    def snapshot(self, source: Source) -> Snapshot: ...

    def view(self, definition: FeatureView) -> View: ...

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features: ...

    def join(self, labels: Any, label_ns: Any, views: Sequence[View]) -> list[Any]: ...


@dataclass(frozen=True)
class View:
    """A view together with what its source held at one moment: what every query is made of.

    Attributes:
        definition: the view.
        snapshot: of its source.
        kinds: of each column it reads.
    """

    definition: FeatureView
    snapshot: Snapshot
    kinds: Mapping[str, str]

    @property
    def kinds_out(self) -> tuple[str, ...]:
        """The kind of each feature, in order."""
        made = ("int" if a.function == "count" else "float" for a in self.definition.aggregates)
        return (*(self.kinds[column] for column in self.definition.columns), *made)

    @property
    def key_kinds(self) -> tuple[str, ...]:
        return tuple(self.kinds[key] for key in self.definition.keys)

    @property
    def schema(self) -> Schema:
        return Schema.of(self.definition, self.key_kinds, self.kinds_out)


@dataclass(frozen=True)
class Features:
    """The newest row of each entity with an event time in [start, end), as `compute` found them: what `upsert` writes.

    Attributes:
        view: the view and the snapshot of its source.
        run: a digest of view, range and snapshot; the same run has the same rows in the same order.
        rows: how many.
    """

    view: View
    run: str
    rows: int
    _relation: Any = field(repr=False)

    def batches(self, skip: int = 0, rows_max: int = 10_000) -> Iterator[Any]:
        """pyarrow RecordBatches of the rows from `skip` on, sorted by key: k0…, t and c (nanoseconds), f0…."""
        with mapped_errors("reading the computed rows"):
            rows = self._relation(skip)
            yield from rows.to_arrow_reader(rows_max)

    @property
    def table(self) -> Any:
        """A pyarrow Table under the names of the view: its keys, the event time, and `view__column` of each feature."""
        import pyarrow as pa

        with mapped_errors("reading the computed rows"):
            found = self._relation(0).to_arrow_table()
        view = self.view.definition
        made = {name: found[f"k{i}"] for i, name in enumerate(view.keys)}
        made[view.source.event_time] = found["t"].cast(pa.timestamp("ns", "UTC"))
        kinds = self.view.kinds_out
        made |= {name: as_feature(found[f"f{i}"], kinds[i]) for i, name in enumerate(view.feature_names)}
        return pa.table(made)


def as_feature(column: Any, kind: str) -> Any:
    """A column as it came out of a query, in the type that its kind has in tables."""
    import pyarrow as pa

    return column.cast(pa.timestamp("us", "UTC")) if kind == "time" else column


class DuckDBOffline:
    """Computes features from Parquet files and tables by DuckDB, inside this process.

    Args:
        folder: where relative paths of sources start; the working directory unless given.
        threads: of DuckDB; all cores unless given.
        memory_limit: of DuckDB, "2GB", say; beyond it, it spills to `spill_folder`.
        spill_folder: for what does not fit; DuckDB's own choice unless given.

    Thread-safe; calls share one DuckDB instance.

    Raises:
        MissingDependencyError: duckdb is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        memory_limit: str | None = None,
        spill_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        try:
            import duckdb
        except ImportError:
            raise MissingDependencyError(
                "the offline store needs DuckDB: pip install 'deadline-engine[store]'"
            ) from None
        # Names in a query mean what this module registers, never a variable of some caller's.
        config: dict[str, Any] = {"python_enable_replacements": False}
        if threads is not None:
            config["threads"] = threads
        if memory_limit is not None:
            config["memory_limit"] = memory_limit
        if spill_folder is not None:
            config["temp_directory"] = os.fspath(spill_folder)
        self.folder = folder
        with mapped_errors("opening DuckDB"):
            self._duckdb = duckdb.connect(":memory:", config=config)
        self._lock = threading.Lock()
        self._copies: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def snapshot(self, source: Source) -> Snapshot:
        """What a source holds now. Raises StoreError where it cannot be read."""
        return take(source, self.folder)

    def view(self, definition: FeatureView) -> View:
        """A view with its source as it is now. Raises InputError where a column is not there or of no usable type."""
        snapshot = self.snapshot(definition.source)
        return View(definition, snapshot, kinds_of(definition, snapshot))

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time.

        Args:
            feature_definition: the view.
            start_time, end_time: datetimes or ISO 8601 texts with a time zone; None for no bound.

        Raises:
            InputError: an empty range, a time without a zone, a column that is missing or of another type.
            StoreError: a source that cannot be read.
        """
        range_ns = time_range(start_time, end_time)
        view = self.view(feature_definition)
        cursor = self.cursor(view.snapshot)
        with mapped_errors(f"view {feature_definition.name!r}"):
            self.has_copies(view, cursor)
            query = self._newest(view, cursor, range_ns)
            # Kept in a table of DuckDB's, which spills to disk: then the rows are counted, and read from any place.
            cursor.execute(
                f"CREATE TEMP TABLE computed AS SELECT row_number() OVER () AS n, * FROM ({query})"
            )
            rows = cursor.sql("SELECT count(*) FROM computed").fetchall()[0][0]
        run = digest_of([feature_definition.version, list(range_ns), view.snapshot.digest])

        def relation(skip: int) -> Any:
            return cursor.sql(f"SELECT * EXCLUDE (n) FROM computed WHERE n > {skip} ORDER BY n")

        return Features(view, run, rows, relation)

    def _newest(self, view: View, cursor: Any, range_ns: tuple[int | None, int | None]) -> str:
        definition = view.definition
        if definition.aggregates:
            rows = aggregates.aggregated_rows(definition, view.snapshot, view.kinds, cursor, range_ns)
            cursor.register("aggregated", rows)
            numbered = "SELECT *, NULL::BIGINT AS c, 0 AS o FROM aggregated WHERE true"
        else:
            numbered = view_rows.plain_rows(
                definition, view.snapshot, view.kinds, definition.columns, range_ns, numbered=True
            )
        columns = ", ".join([*view_rows.keys(definition), "t", "c", *view_rows.features(definition)])
        return f"SELECT {columns} FROM ({view_rows.newest(numbered, definition)})"

    def rows(self, view: View, cursor: Any, end_ns: int | None = None) -> str:
        """SQL of all rows of a view before `end_ns`, one an entity and event time: k0…, t, f0….

        The statement may name relations registered with the cursor, and is good for it alone.
        """
        definition = view.definition
        if definition.aggregates:
            table = aggregates.aggregated_rows(definition, view.snapshot, view.kinds, cursor, (None, end_ns))
            cursor.register("aggregated", table)
            return "SELECT * FROM aggregated"
        copies = self.has_copies(view, cursor)
        rows = view_rows.plain_rows(
            definition, view.snapshot, view.kinds, definition.columns, (None, end_ns), numbered=copies
        )
        return view_rows.without_copies(rows, definition) if copies else rows

    def has_copies(self, view: View, cursor: Any) -> bool:
        """Whether some entity has two rows of one event time; kept, for a snapshot does not change."""
        key = (view.definition.version, view.snapshot.digest)
        with self._lock:
            if key in self._copies:
                return self._copies[key]
        copies = view_rows.check_facts(view.definition, view.snapshot, cursor, view.kinds)
        with self._lock:
            self._copies[key] = copies
            while len(self._copies) > FACTS_MAX:
                self._copies.popitem(last=False)
        return copies

    def cursor(self, snapshot: Snapshot | None = None) -> Any:
        """A connection of its own to the shared instance, with the snapshot's table under the name queries use."""
        cursor = self._duckdb.cursor()
        if snapshot is not None and snapshot.table is not None:
            cursor.register(view_rows.TABLE, snapshot.table)
        return cursor

    def join(self, labels: Any, label_ns: Any, views: Sequence[View]) -> list[Any]:
        """See `point_in_time.join`."""
        from engine.feature_store.point_in_time import join

        # Two at a time: DuckDB joins the few large entities of one view on one core, which leaves another idle.
        with ThreadPoolExecutor(max_workers=JOINS_MAX) as pool:
            return list(pool.map(lambda view: join(self, labels, label_ns, view), views))


def time_range(start_time: Any, end_time: Any) -> tuple[int | None, int | None]:
    """[start, end) in nanoseconds. Raises InputError for an empty one."""
    start = None if start_time is None else instant_ns(start_time, "start_time")
    end = None if end_time is None else instant_ns(end_time, "end_time")
    if start is not None and end is not None and start >= end:
        raise InputError(
            f"the range is empty: start_time {shown(start)} is not before end_time {shown(end)}, which is not in it"
        )
    return start, end


@contextmanager
def mapped_errors(doing: str) -> Iterator[None]:
    """DuckDB's errors as ours: a value that cannot be read is the source's, the rest the store's."""
    import duckdb

    try:
        yield
    except (duckdb.ConversionException, duckdb.OutOfRangeException) as error:
        raise InputError(
            f"{doing}: a value of the source cannot be read as its column's type: {_first_line(error)}"
        ) from error
    except duckdb.Error as error:
        raise StoreError(f"{doing}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
