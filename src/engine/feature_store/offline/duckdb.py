"""DuckDBOffline computes features from Parquet files and tables in memory by DuckDB, in this process. It keeps none."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine._common import canonical, optional
from engine.errors import ConfigError, InputError, StoreError
from engine.feature_store.definitions import FeatureView, require
from engine.feature_store.instants import time_range
from engine.feature_store.offline import aggregates, point_in_time, remote, rows, view_rows
from engine.feature_store.offline.base import Features, Joined, SourcesOffline, View
from engine.feature_store.offline.columns import Snapshot, kinds_of

if TYPE_CHECKING:
    import pyarrow as pa

FACTS_MAX = 1024
JOINS_MAX = 2
# Rows of a view that may take more memory than this are joined by DuckDB, which spills them to disk.
JOIN_BYTES_MAX = 1 << 29
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TEXT_BYTES = 32  # of a text and its offset, roughly


class DuckDBOffline(SourcesOffline):
    """Compute features from Parquet files and tables by DuckDB, inside this process.

    Args:
        folder: where relative paths of sources start; None for the working directory.
        threads: the number of DuckDB's threads; None for one a core.
        memory_limit: the most memory DuckDB may use, as "2GB"; beyond it, it spills to `spill_folder`. None for
            DuckDB's own limit.
        spill_folder: the folder for data that does not fit into memory; None for DuckDB's own choice.

    Thread-safe; all calls share one DuckDB instance.

    Raises:
        MissingDependencyError: duckdb is not installed.
        StoreError: DuckDB refuses an option.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        memory_limit: str | None = None,
        spill_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        duckdb = optional.need("duckdb", "the DuckDB offline store", "store")
        # A name in a query must mean a relation that this module registered, never a variable of the caller.
        config: dict[str, Any] = {"python_enable_replacements": False}
        if threads is not None:
            config["threads"] = threads
        if memory_limit is not None:
            config["memory_limit"] = memory_limit
        if spill_folder is not None:
            config["temp_directory"] = os.fspath(spill_folder)
        super().__init__(folder)
        with mapped_errors("opening DuckDB"):
            self._duckdb = duckdb.connect(":memory:", config=config)
        self._join_bytes_max = JOIN_BYTES_MAX
        if memory_limit is not None:
            limit = self._duckdb.sql("SELECT current_setting('memory_limit')").fetchall()[0][0]
            number, unit = limit.split()
            self._join_bytes_max = min(JOIN_BYTES_MAX, int(float(number) * _UNITS[unit]) // 4)
        self._lock = threading.Lock()
        self._protocols: dict[str, dict[str, Any]] = {}
        # The facts about a source's rows that were found out, by what was asked. The content of a snapshot never
        # changes.
        self._facts: OrderedDict[tuple[str, ...], Any] = OrderedDict()

    def view(self, definition: FeatureView) -> View:
        """A view with the content of its source now. The columns are checked before any content is read.

        Raises:
            InputError: a column is missing or of a type that is no feature.
            StoreError: the source cannot be read.
        """
        source = require(definition, FeatureView, "feature_definition").source
        kinds_of(definition, self.columns(source))
        return View.of(definition, self.snapshot(source))

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time.

        Args:
            feature_definition: the view.
            start_time, end_time: datetimes or ISO 8601 texts with a time zone; None for no bound.

        Returns:
            The rows, which lie in a temporary table of DuckDB's for as long as this value lives.

        Raises:
            ConfigError: `feature_definition` is no FeatureView.
            InputError: the range is empty, a time has no zone, or a column is missing or of another type.
            StoreError: the source cannot be read.
        """
        range_ns = time_range(start_time, end_time)
        source = require(feature_definition, FeatureView, "feature_definition").source
        kinds_of(feature_definition, self.columns(source))
        # The range alone is read. A digest of the content would read all that is older too.
        view = View.of(feature_definition, self.look(source))
        cursor = self._cursor(view, range_ns)
        with self._explained(view, cursor, f"view {feature_definition.name!r}"):
            self._check_times(view, cursor)
            query = self._newest(view, cursor, range_ns)
            # A table of DuckDB's spills to disk, its rows can be counted, and they can be read from any row on.
            cursor.execute(
                f"CREATE TEMP TABLE computed AS SELECT row_number() OVER () AS n, * FROM ({query})"
            )
            rows = cursor.sql("SELECT count(*) FROM computed").fetchall()[0][0]
        run = canonical.digest([feature_definition.version, list(range_ns), view.snapshot.digest])

        def read(skip: int, rows_max: int) -> Iterator[Any]:
            with mapped_errors("reading the computed rows"):
                found = cursor.sql(f"SELECT * EXCLUDE (n) FROM computed WHERE n > {skip} ORDER BY n")
                yield from found.to_arrow_reader(rows_max)

        return Features(view, run, rows, read)

    def join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], views: Sequence[View]) -> list[Joined]:
        """The row of each view that holds at each label's instant: one Joined a view, in the order of `views`.

        Args:
            labels: the label rows, with every view's key columns.
            label_ns: int64 [labels], each row's instant in nanoseconds since 1970.
            views: as `view` returned them.

        Raises:
            InputError: there is not one instant for each label; the labels lack a key column, or have it in another
                type; or a source row has no event time.
            StoreError: a source cannot be read.
        """
        rows.check_join(labels, label_ns, views)
        # Two at a time, because DuckDB joins the few large entities of one view on one core and leaves others idle.
        with ThreadPoolExecutor(max_workers=JOINS_MAX) as pool:
            return list(pool.map(lambda view: self._join(labels, label_ns, view), views))

    def _join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], view: View) -> Joined:
        definition = view.definition
        cursor = self._cursor(view, (None, None))
        end_ns = rows.end_of(label_ns)
        with self._explained(view, cursor, f"joining view {definition.name!r}"):
            self._check_times(view, cursor)
            known = point_in_time.known_by(cursor, view)
            if definition.at_request:
                events = aggregates.events_of(view, cursor, (None, end_ns))
                return point_in_time.join_windows(known, labels, label_ns, view, events)
            if definition.aggregates:
                found = aggregates.aggregated_rows(view, cursor, (None, end_ns))
                return point_in_time.join_in_memory(known, labels, label_ns, view, found)
            if self._bytes_of(view, cursor) <= self._join_bytes_max:
                query = self._plain(view, (None, end_ns), created=definition.source.created_time is not None)
                found = cursor.sql(query).to_arrow_table()
                return point_in_time.join_in_memory(known, labels, label_ns, view, found)
            query = view_rows.without_copies(self._plain(view, (None, end_ns), numbered=True), definition)
            return point_in_time.join(cursor, labels, label_ns, view, query)

    def _newest(self, view: View, cursor: Any, range_ns: tuple[int | None, int | None]) -> str:
        """SQL of the newest row of each entity in the range: k0…, t, c, f0…, ordered by keys."""
        definition = view.definition
        if definition.at_request:
            cursor.register("aggregated", self._newest_events(view, cursor, range_ns))
            numbered = "SELECT *, NULL::BIGINT AS c, 0 AS o FROM aggregated WHERE true"
        elif definition.aggregates:
            cursor.register("aggregated", aggregates.aggregated_rows(view, cursor, range_ns))
            numbered = "SELECT *, NULL::BIGINT AS c, 0 AS o FROM aggregated WHERE true"
        else:
            numbered = self._plain(view, range_ns, numbered=True)
        features = [f"f{i}" for i in range(len(view.kinds_stored))]
        columns = ", ".join([*view_rows.keys(definition), "t", "c", *features])
        return f"SELECT {columns} FROM ({view_rows.newest(numbered, definition)})"

    @staticmethod
    def _newest_events(view: View, cursor: Any, range_ns: tuple[int | None, int | None]) -> Any:
        """The stored rows of a view whose windows end at the request: k0…, t, f0…."""
        import pyarrow as pa

        definition = view.definition
        events = aggregates.events_of(view, cursor, range_ns, touched=True)
        last = np.ones(len(events.times), dtype=bool)
        last[:-1] = events.groups[1:] != events.groups[:-1]
        if range_ns[0] is not None:
            last &= events.times >= range_ns[0]
        places = np.flatnonzero(last)
        rows = events.table.take(pa.array(places))
        names = [*view_rows.keys(definition), "t", *(f"f{i}" for i in range(len(definition.columns)))]
        made = {name: rows[name] for name in names}
        for i, column in enumerate(aggregates.newest_events(events, places), start=len(definition.columns)):
            made[f"f{i}"] = column
        return pa.table(made)

    @staticmethod
    def _plain(
        view: View,
        range_ns: tuple[int | None, int | None],
        *,
        numbered: bool = False,
        created: bool = False,
    ) -> str:
        """SQL of the rows of a view without aggregates, copies included."""
        return view_rows.plain_rows(
            view.definition, view.snapshot, view.kinds, view.definition.columns, range_ns,
            numbered=numbered, created=created, created_end_ns=view.created_end_ns,
        )  # fmt: skip

    def _bytes_of(self, view: View, cursor: Any) -> int:
        """The memory that all rows of a view take in its own columns, roughly."""
        rows = self._fact(
            ("rows", view.snapshot.digest),
            lambda: cursor.sql(f"SELECT count(*) FROM {view_rows.relation(view.snapshot)}").fetchall()[0][0],
        )
        wide = sum(_TEXT_BYTES if kind in ("text", "bytes", "list") else 8 for kind in view.kinds.values())
        return int(rows) * (wide + 8)

    def _check_times(self, view: View, cursor: Any) -> None:
        """Raise InputError if a row of the source has no event time."""
        source = view.definition.source
        self._fact(
            ("times", source.event_time, view.snapshot.digest),
            lambda: view_rows.check_times(view.definition, view.snapshot, cursor),
        )

    def _fact(self, key: tuple[str, ...], find: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._facts:
                return self._facts[key]
        found = find()
        with self._lock:
            self._facts[key] = found
            while len(self._facts) > FACTS_MAX:
                self._facts.popitem(last=False)
        return found

    @staticmethod
    @contextmanager
    def _explained(view: View, cursor: Any, doing: str) -> Iterator[None]:
        """`mapped_errors` that names the column and the row of a value that cannot be read as its column's kind."""
        import duckdb

        try:
            with mapped_errors(doing):
                yield
        except InputError as error:
            if not isinstance(error.__cause__, duckdb.Error):
                raise
            with mapped_errors(doing):
                found = view_rows.unreadable(view.definition, view.snapshot, view.kinds, cursor)
            if found is None:
                raise
            column, of_type, where = found
            raise InputError(
                f"{doing}: column {column!r} of {view.snapshot.place} has type {of_type} and a value that is out of "
                f"range, {where}: {_first_line(error.__cause__)}"
            ) from error

    def _cursor(self, view: View, range_ns: tuple[int | None, int | None]) -> Any:
        """A new connection to the shared instance, with a source that is no file registered under the name that queries
        use: of a lake, the columns that the view reads, of rows in the range."""
        snapshot = view.snapshot
        self._register(snapshot)
        cursor = self._duckdb.cursor()
        if snapshot.version is not None:
            cursor.register(view_rows.TABLE, rows.of_version(view, range_ns))
        elif snapshot.table is not None:
            cursor.register(view_rows.TABLE, snapshot.table)
        return cursor

    def _register(self, snapshot: Snapshot) -> None:
        """Let DuckDB read the URLs of a source, by fsspec."""
        options = dict(snapshot.source.storage_options or {})
        for name, file in {remote.protocol_of(file): file for file in snapshot.files}.items():
            if name is None:
                continue
            with self._lock:
                known = self._protocols.get(name)
                if known is None:
                    with mapped_errors(file):
                        self._duckdb.register_filesystem(remote.filesystem(file, options))
                    self._protocols[name] = options
                elif known != options:
                    raise ConfigError(
                        f"{file}: another source of this store reads {name}:// with other storage_options; give each "
                        "of them a DuckDBOffline of its own"
                    )


@contextmanager
def mapped_errors(doing: str) -> Iterator[None]:
    """Raise DuckDB's errors as the package's: InputError for a value that cannot be read, StoreError for the rest."""
    import duckdb

    try:
        yield
    except (duckdb.ConversionException, duckdb.OutOfRangeException) as error:
        raise InputError(
            f"{doing}: a value of the source cannot be read as its column's type: {_first_line(error)}"
        ) from error
    except (duckdb.Error, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted":
            # DuckDB takes Ctrl-C while it runs a query.
            raise KeyboardInterrupt from None
        if not isinstance(error, duckdb.Error):
            raise
        raise StoreError(f"{doing}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
