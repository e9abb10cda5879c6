"""BigQueryOffline computes features by BigQuery: views of plain columns and the point-in-time join run there as SQL.

Windows are computed by the core in this process, from the events that BigQuery has chosen: those of the labels' time,
in the columns that the view reads. So their sums have the same bits as everywhere.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine._common import arguments, canonical, optional
from engine.errors import ConfigError, EngineError, InputError, InputTypeError, StoreError
from engine.feature_store.definitions import FeatureView, Source, require
from engine.feature_store.instants import NS_MAX, time_range
from engine.feature_store.offline import sources, sql
from engine.feature_store.offline.base import (
    Features,
    Joined,
    View,
    batch_schema,
)
from engine.feature_store.offline.columns import Snapshot, SourceColumns, kinds_of
from engine.feature_store.offline.foreign import explained, first_line
from engine.feature_store.offline.rows import (
    Range,
    RowsOffline,
    features_of,
    joined_by_sql,
    key_names,
    labels_for_sql,
    plain,
    roots,
)

if TYPE_CHECKING:
    import pyarrow as pa

BYTES_MAX = 2**63 - 1
# Rows of one INSERT, which BigQuery limits by the length of its text.
INSERT_ROWS = 2_000
_LAST_US = NS_MAX // 1000
_ARROW = {
    "STRING": "string", "BYTES": "binary", "INTEGER": "int64", "INT64": "int64", "FLOAT": "float64",
    "FLOAT64": "float64", "BOOLEAN": "bool", "BOOL": "bool", "DATE": "date32",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """The estimate of a query that is about to run.

    Attributes:
        bytes: that it will read, by BigQuery's dry run; None where the service makes none.
        query: the SQL.
        doing: the purpose, in words.
    """

    bytes: int | None
    query: str
    doing: str


class BigQueryOffline(RowsOffline):
    """Compute features by BigQuery.

    Args:
        dataset: "project.dataset" or "dataset" for the labels' tables, which are deleted after use.
        client: a google.cloud.bigquery.Client; None makes one, with the environment's credentials.
        bytes_max: the most bytes that a query may read: one whose dry run says more is refused before it runs, and
            BigQuery refuses it too. None for no limit.
        on_estimate: called with an Estimate before each query that reads a source.
        upload: how labels come to BigQuery: "load" by a load job of Parquet, "insert" by INSERT statements, for
            services without load jobs.
        folder: where relative paths of sources start, which are no tables.

    A source is a table or view of BigQuery, "dataset.table" or "project.dataset.table"; labels may also be files or a
    table in memory. BigQuery has no order of rows, so give a created time if rows may have copies. Its times are in
    microseconds. The digest of a table is of what BigQuery says of its last change, so no row is read; rows in the
    streaming buffer may be missing from it. Of a view, an external table, or a table of which BigQuery names no change,
    it is of all rows.

    Thread-safe.

    Raises:
        MissingDependencyError: google-cloud-bigquery is not installed.
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        dataset: str,
        *,
        client: Any = None,
        bytes_max: int | None = None,
        on_estimate: Callable[[Estimate], None] | None = None,
        upload: str = "load",
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._bigquery = optional.need("google.cloud.bigquery", "the BigQuery offline store", "bigquery")
        sources.parquet()
        super().__init__(folder)
        if not isinstance(dataset, str) or not dataset:
            raise ConfigError(f"dataset: expected 'project.dataset' or 'dataset', got {dataset!r:.80}")
        if bytes_max is not None:
            arguments.whole("bytes_max", bytes_max, 1, BYTES_MAX, type_error=InputTypeError)
        if on_estimate is not None and not callable(on_estimate):
            raise InputTypeError(f"on_estimate: expected a callable, got {type(on_estimate).__name__}")
        self.upload = arguments.one_of("upload", upload, ("load", "insert"), error=ConfigError)
        self.dataset, self.bytes_max, self.on_estimate = dataset, bytes_max, on_estimate
        with _google("opening BigQuery"):
            self._client = self._bigquery.Client() if client is None else client

    def columns(self, source: Source) -> SourceColumns:
        """The columns of a source and their Arrow types. Raises StoreError if it cannot be found or read."""
        name = _table(require(source, Source, "source"), self.folder)
        if name is None:
            return super().columns(source)
        return SourceColumns(source, f"table {name}", _types(self._described(name)))

    def snapshot(self, source: Source) -> Snapshot:
        """The columns of a source and a digest of its last change. Raises StoreError if it cannot be found or read."""
        name = _table(require(source, Source, "source"), self.folder)
        if name is None:
            return super().snapshot(source)
        table = self._described(name)
        types = _types(table)
        about = [str(part) for part in (table.full_table_id, table.created, table.modified, table.num_rows)]
        if table.modified is None or table.table_type not in (None, "TABLE"):
            # The time of a view's last change says nothing of its rows.
            about = [name, self._content(name)]
        digest = canonical.digest(
            ["bigquery", about, [[column, str(kind)] for column, kind in types.items()]]
        )
        return Snapshot(source, f"table {name}", types, digest)

    def _content(self, name: str) -> str:
        """sha256 of all rows of a table, in any order."""
        found = self._arrow(f"SELECT * FROM {_place(name)}", f"digest of table {name}")
        return canonical.digest(sorted(map(repr, found.to_pylist())))

    def look(self, source: Source) -> Snapshot:
        """`snapshot`, which reads no content of files."""
        name = _table(require(source, Source, "source"), self.folder)
        return super().look(source) if name is None else self.snapshot(source)

    def read(self, snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
        """The columns `names` of all rows of a source: labels are read so. Raises StoreError if it cannot be read."""
        name = _table(snapshot.source, self.folder)
        if name is None:
            return super().read(snapshot, names)
        import pyarrow as pa

        for column in names:
            snapshot.type_of(column, "columns")
        # BigQuery has no order of rows, and labels are to come in one that is the same each time.
        chosen = ", ".join(_quoted(column) for column in names)
        query = f"SELECT {chosen} FROM {_place(name)} AS r ORDER BY TO_JSON_STRING(r)"
        found = self._arrow(query, "reading labels")
        return found.cast(pa.schema([(column, snapshot.types[column]) for column in names]))

    def rows(self, view: View, columns: Sequence[str], range_ns: Range) -> pa.Table:
        """The rows of a view's source with event times in [start, end), as `plain` makes them. Raises as that does."""
        name = _table(view.snapshot.source, self.folder)
        if name is None:
            return plain(view, sources.read(view.snapshot, roots(view, columns)), columns, range_ns)
        chosen = ", ".join(_quoted(column) for column in roots(view, columns))
        time = _quoted(view.snapshot.source.event_time)
        wanted = []
        for bound, sign, slack in ((range_ns[0], ">=", -1), (range_ns[1], "<=", 1)):
            if bound is not None and self._is_timestamp(view):
                wanted.append(f"{time} {sign} TIMESTAMP_MICROS({bound // 1000 + slack})")
        # Rows without an event time are to be seen, and refused.
        where = f" WHERE {time} IS NULL OR ({' AND '.join(wanted)})" if wanted else ""
        found = self._arrow(
            f"SELECT {chosen} FROM {_place(name)}{where}", f"reading view {view.definition.name!r}"
        )
        return plain(view, found, columns, range_ns)

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time; of plain columns, found by BigQuery.

        Args:
            feature_definition: the view.
            start_time, end_time: datetimes or ISO 8601 texts with a time zone; None for no bound.

        Raises:
            ConfigError: `feature_definition` is no FeatureView.
            InputError: the range is empty, a time has no zone, or a column is missing or of another type.
            StoreError: the source cannot be read, or the query would read more than `bytes_max`.
        """
        definition = require(feature_definition, FeatureView, "feature_definition")
        name = _table(definition.source, self.folder)
        if name is None or definition.aggregates:
            return super().compute(definition, start_time, end_time)
        range_ns = time_range(start_time, end_time)
        kinds_of(definition, self.columns(definition.source))
        view = View.of(definition, self.look(definition.source))
        self._check_times(view, name)
        query = sql.newest(
            f"({self._rows_sql(view, name)}) AS r",
            keys=len(definition.keys), features=len(definition.columns), range_ns=range_ns,
        )  # fmt: skip
        table = self._arrow(query, f"view {definition.name!r}").select(batch_schema(view).names)
        table = table.cast(batch_schema(view)).sort_by([(key, "ascending") for key in key_names(definition)])
        return features_of(view, range_ns, table)

    def _join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], view: View) -> Joined:
        definition = view.definition
        name = _table(view.snapshot.source, self.folder)
        if name is None or definition.aggregates or not len(label_ns):
            return super()._join(labels, label_ns, view)
        self._check_times(view, name)
        of_labels, table = labels_for_sql(labels, label_ns, view)
        with self._uploaded(table) as place:
            query = sql.join(
                sql.BIGQUERY, place, f"({self._rows_sql(view, name)}) AS r", keys=len(definition.keys),
                features=len(definition.columns), carried=["i"], ttl_ns=definition.ttl_ns, explain=True,
            )  # fmt: skip
            found = self._arrow(query, f"joining view {definition.name!r}")
        return joined_by_sql(found, of_labels, label_ns, view)

    def _rows_sql(self, view: View, name: str) -> str:
        """SQL of the rows of a view's source: k0…, t, c, o, f0…; without those that lack a key."""
        definition, snapshot = view.definition, view.snapshot
        source = snapshot.source
        keys = [f"{_value(view, key)} AS k{i}" for i, key in enumerate(definition.source_keys)]
        created = _instant(snapshot, source.created_time) if source.created_time else "CAST(NULL AS INT64)"
        features = [f"{_value(view, column)} AS f{i}" for i, column in enumerate(definition.columns)]
        taken = ", ".join(
            [*keys, f"{_instant(snapshot, source.event_time)} AS t", f"{created} AS c", "0 AS o", *features]
        )
        wanted = [f"{_quoted(key)} IS NOT NULL" for key in definition.source_keys]
        if view.created_end_ns is not None:
            wanted.append(f"({created} IS NULL OR {created} < {view.created_end_ns})")
        return f"SELECT {taken} FROM {_place(name)} WHERE {' AND '.join(wanted)}"

    def _check_times(self, view: View, name: str) -> None:
        """Raise InputError if a row of the source has no event time."""
        time = view.snapshot.source.event_time
        query = f"SELECT COUNT(*) AS n FROM {_place(name)} WHERE {_quoted(time)} IS NULL"
        absent = self._arrow(query, f"view {view.definition.name!r}")["n"][0].as_py()
        if absent:
            raise InputError(
                f"view {view.definition.name!r}: column {time!r} of table {name} is null in {absent} rows; a row needs "
                "an event time, so leave those rows out of the source"
            )

    @staticmethod
    def _is_timestamp(view: View) -> bool:
        kind = view.snapshot.type_of(view.snapshot.source.event_time, "times")
        return str(kind).startswith("timestamp") and kind.tz is not None

    def _described(self, name: str) -> Any:
        with _google(f"table {name}"):
            return self._client.get_table(name if name.count(".") == 2 else f"{self._client.project}.{name}")

    def _arrow(self, query: str, doing: str) -> pa.Table:
        """The rows of a query, by the Storage Read API where its client is installed and the service has it."""
        if "ASOF" in query.upper().split():
            raise AssertionError("BigQuery has no ASOF join; emulators that take it are wrong")
        config = self._bigquery.QueryJobConfig()
        if self.bytes_max is not None:
            config.maximum_bytes_billed = self.bytes_max
        if self.bytes_max is not None or self.on_estimate is not None:
            estimate = self.estimate(query, doing)
            if self.on_estimate is not None:
                self.on_estimate(estimate)
            if self.bytes_max is not None and estimate.bytes is not None and estimate.bytes > self.bytes_max:
                raise StoreError(
                    f"{doing}: the query would read {estimate.bytes:,} bytes, and bytes_max is {self.bytes_max:,}; "
                    "raise it, or partition the table by its event time"
                )
        with _google(doing):
            return (
                self._client.query(query, job_config=config)
                .result()
                .to_arrow(create_bqstorage_client=self._has_storage())
            )

    def estimate(self, query: str, doing: str = "a query") -> Estimate:
        """The bytes that a query would read, by a dry run, which costs nothing. None where the service makes none."""
        config = self._bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        try:
            read = int(self._client.query(query, job_config=config).total_bytes_processed)
        except Exception as error:
            if not _says_unsupported(error):
                raise StoreError(f"{doing}: {first_line(error)}") from error
            return Estimate(None, query, doing)
        return Estimate(read, query, doing)

    def _has_storage(self) -> bool:
        """Whether results may come by the Storage Read API: of the real service, with its client installed."""
        if "googleapis.com" not in str(self._client._connection.API_BASE_URL):
            return False
        try:
            optional.need("google.cloud.bigquery_storage", "BigQuery's Storage Read API", "bigquery")
        except EngineError:
            return False
        return True

    @contextmanager
    def _uploaded(self, table: pa.Table) -> Iterator[str]:
        """The name of a table of BigQuery with these rows, which is deleted afterwards."""
        place = f"{self.dataset}.engine_labels_{uuid.uuid4().hex}"
        if place.count(".") == 1:
            place = f"{self._client.project}.{place}"
        with _google("uploading the labels"):
            try:
                if self.upload == "load":
                    self._load(table, place)
                else:
                    self._insert(table, place)
                yield _place(place)
            finally:
                self._client.delete_table(place, not_found_ok=True)

    def _load(self, table: pa.Table, place: str) -> None:
        import io

        config = self._bigquery.LoadJobConfig(source_format="PARQUET")
        data = io.BytesIO()
        sources.parquet().write_table(table, data)
        data.seek(0)
        self._client.load_table_from_file(data, place, job_config=config).result()

    def _insert(self, table: pa.Table, place: str) -> None:
        kinds = {"int64": "INT64", "string": "STRING", "binary": "BYTES", "uint64": "NUMERIC"}
        fields = [self._bigquery.SchemaField(each.name, kinds[str(each.type)]) for each in table.schema]
        self._client.create_table(self._bigquery.Table(place, schema=fields))
        names = ", ".join(table.column_names)
        for start in range(0, len(table), INSERT_ROWS):
            part = table.slice(start, INSERT_ROWS).to_pylist()
            values = ", ".join(f"({', '.join(map(_literal, row.values()))})" for row in part)
            self._client.query(f"INSERT INTO {_place(place)} ({names}) VALUES {values}").result()


def _table(source: Source, folder: Any) -> str | None:
    """The name of the table that a source is; None for files and for a table in memory."""
    data = source.data
    if not isinstance(data, str) or "/" in data or not 1 <= data.count(".") <= 2:
        return None
    if data.endswith(".parquet") or os.path.exists(sources.within(folder, data)):
        return None
    return data


def _types(table: Any) -> dict[str, Any]:
    """The Arrow type of each column of a table."""
    return {field.name: _type(field) for field in table.schema}


def _type(field: Any) -> Any:
    import pyarrow as pa

    name = field.field_type.upper()
    if name in ("RECORD", "STRUCT"):
        kind = pa.struct([(each.name, _type(each)) for each in field.fields])
    elif name == "TIMESTAMP":
        kind = pa.timestamp("us", "UTC")
    elif name == "DATETIME":
        kind = pa.timestamp("us")
    elif name == "NUMERIC":
        kind = pa.decimal128(
            field.precision or 38, field.scale or 9 if field.precision is None else field.scale or 0
        )
    else:
        made = getattr(pa, {"bool": "bool_"}.get(_ARROW.get(name, ""), _ARROW.get(name, "null")))
        kind = made()
    return pa.list_(kind) if field.mode == "REPEATED" else kind


def _quoted(name: str) -> str:
    return sql.BIGQUERY.identifier(name)


def _place(name: str) -> str:
    return ".".join(f"`{part.replace('`', '')}`" for part in name.split("."))


def _column(snapshot: Snapshot, name: str) -> str:
    path = snapshot.path_of(name)
    assert path is not None, "the columns of a view were checked"
    return ".".join(_quoted(part) for part in path)


def _value(view: View, name: str) -> str:
    """A column in the type of its kind; a time as microseconds since 1970."""
    kind, column = view.kinds[name], _column(view.snapshot, name)
    if kind == "time":
        return _micros(column, view.snapshot.type_of(name, "columns"))
    if kind == "list":
        # An array that is null comes out empty, as BigQuery stores it.
        return column
    return f"CAST({column} AS {sql.BIGQUERY.types[kind]})"


def _micros(column: str, kind: Any) -> str:
    if str(kind).startswith("date"):
        return f"UNIX_DATE({column}) * 86400000000"
    return f"UNIX_MICROS({column if kind.tz is not None else f'TIMESTAMP({column})'})"


def _instant(snapshot: Snapshot, name: str) -> str:
    """A column of times as nanoseconds since 1970. One before 1677 is taken for the first that there is, one after 2262
    for `sql.NEVER`."""
    whole = _micros(_column(snapshot, name), snapshot.type_of(name, "times"))
    return (
        f"CASE WHEN {whole} > {_LAST_US} THEN {sql.NEVER} WHEN {whole} < {-_LAST_US} THEN {-_LAST_US * 1000} "
        f"ELSE {whole} * 1000 END"
    )


def _literal(value: Any) -> str:
    """A key or an instant as a literal of BigQuery."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"FROM_BASE64('{base64.b64encode(value).decode()}')"
    if isinstance(value, int):
        return str(value)
    for sign, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        value = value.replace(sign, escaped)
    return f"'{value}'"


def _says_unsupported(error: Exception) -> bool:
    return "not supported" in str(error).lower() or "not implemented" in str(error).lower()


def _google(doing: str) -> AbstractContextManager[None]:
    return explained(doing, modules=("google.", "requests.", "urllib3."))
