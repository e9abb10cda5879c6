"""SparkOffline computes features by Spark: views, windows and the point-in-time join run on its executors.

Views of plain columns are joined by Spark SQL alone. Windows are computed by the core on the executors, whole entities
at a time, so their sums have the same bits as everywhere. Nothing but the result comes to the driver, and of
`training_frame` and of a materialisation not even that.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from engine._common import canonical, optional
from engine.errors import EngineError, InputError, StoreError
from engine.feature_store.definitions import FeatureView, Source, require
from engine.feature_store.instants import time_range
from engine.feature_store.offline import (
    remote,
    rows,
    sources,
    spark_columns,
    spark_executor,
    sql,
)
from engine.feature_store.offline.base import (
    Features,
    Joined,
    OfflineStore,
    View,
    batch_schema,
)
from engine.feature_store.offline.columns import Snapshot, SourceColumns, is_unsigned, key_kind_of, kinds_of

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.feature_store.dataset import DatasetConfig
    from engine.feature_store.online.base import OnlineStore, Progress, Written

_TABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,2}")
_NANOS = "spark.sql.legacy.parquet.nanosAsLong"
_NO_TIME = "engine: a row without event time"
_NO_INSTANT = "engine: a label without an instant"
# The column for the place of a row in its source, while the source's own columns stand beside it.
_PLACE = "engine place of a row"


class SparkOffline(OfflineStore):
    """Compute features by Spark.

    Args:
        session: a SparkSession; None for the active one, or a new one on this machine, whose workers run this Python.
        folder: where relative paths of sources start; None for the working directory.

    A source is a Spark DataFrame, the name of a table of Spark's catalogue, Parquet files, or a table in memory. The
    digest of a DataFrame or of a table is of its rows, so making it reads them all, on the executors. They have no
    order of rows, so give them a created time if rows may have copies; files have one. Their times are in microseconds.

    Executors need this package, pyarrow, and the client of the online store that they write to.

    Thread-safe.

    Raises:
        MissingDependencyError: pyspark is not installed.
    """

    def __init__(self, session: Any = None, *, folder: str | os.PathLike[str] | None = None) -> None:
        optional.need("pyspark", "the Spark offline store", "spark")
        sources.parquet()
        if folder is not None:
            os.fspath(folder)
        self.folder = folder
        self.session = _session() if session is None else session
        _same_python(self.session)
        # Spark reads Parquet's nanoseconds as whole numbers then, and refuses them otherwise.
        self.session.conf.set(_NANOS, "true")

    def columns(self, source: Source) -> SourceColumns:
        """The columns of a source and their Arrow types. Raises StoreError if it cannot be found or read."""
        frame = self._given(require(source, Source, "source"))
        if frame is None:
            return sources.columns_of(source, self.folder)
        with _explained(_place(source)):
            return SourceColumns(source, _place(source), _arrow_types(frame))

    def snapshot(self, source: Source) -> Snapshot:
        """The columns of a source and a digest of its rows now. Raises StoreError if it cannot be found or read."""
        return self._snapshot(source, content=True)

    def look(self, source: Source) -> Snapshot:
        """`snapshot`, which reads no content of files."""
        return self._snapshot(source, content=False)

    def _snapshot(self, source: Source, *, content: bool) -> Snapshot:
        frame = self._given(require(source, Source, "source"))
        if frame is None:
            return sources.take(source, self.folder, content=content)
        with _explained(_place(source)):
            return Snapshot(source, _place(source), _arrow_types(frame), _digest(frame))

    def _glance(self, source: Source) -> Snapshot:
        """The columns and files of a source, with a digest that says nothing of a DataFrame or a table of Spark."""
        frame = self._given(source)
        if frame is None:
            return sources.take(source, self.folder, content=False)
        return Snapshot(source, _place(source), _arrow_types(frame), "")

    def read(self, snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
        """The columns `names` of all rows of a source, on the driver: labels are read so.

        Raises:
            InputError: the source has no such column.
            StoreError: it cannot be read.
        """
        for name in names:
            snapshot.type_of(name, "columns")
        frame = self._given(snapshot.source)
        if frame is None:
            return sources.read(snapshot, names)
        with _explained(snapshot.place):
            return frame.select([sql.SPARK.identifier(name) for name in names]).toArrow()

    def compute(
        self, feature_definition: FeatureView, start_time: Any = None, end_time: Any = None
    ) -> Features:
        """The newest row of each entity with start_time <= event time < end_time, which stays on the executors.

        `FeatureStore.materialize` lets the executors write the rows to the online store, partition by partition.

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
        with _explained(f"view {feature_definition.name!r}"):
            kept = _Kept(self._newest(view, range_ns))
        # The order of rows is the executors', and another run has another one.
        run = canonical.digest(
            [feature_definition.version, list(range_ns), view.snapshot.digest, os.urandom(16).hex()]
        )

        def read(skip: int, rows_max: int) -> Iterator[Any]:
            with _explained(f"view {feature_definition.name!r}"):
                yield from kept.batches(batch_schema(view), skip, rows_max)

        def write(online: OnlineStore, progress: Progress | None, revision: int) -> Written | None:
            with _explained(f"view {feature_definition.name!r}"):
                return kept.write(view, online, progress, revision)

        return Features(view, run, kept.rows, read, write=write)

    def join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], views: Sequence[View]) -> list[Joined]:
        """The row of each view that holds at each label's instant: one Joined a view, in the order of `views`.

        Args:
            labels: the label rows, with every view's key columns.
            label_ns: int64 [labels], each row's instant in nanoseconds since 1970.
            views: each with a snapshot of its source.

        Raises:
            InputError: the labels lack a key column, or have it in another type; or a source row has no event time.
            StoreError: a source cannot be read.
        """
        rows.check_join(labels, label_ns, views)
        return [self._join(labels, label_ns, view) for view in views]

    def training_frame(self, dataset_config: DatasetConfig) -> Any:
        """The training table as a Spark DataFrame, of which nothing has been computed yet and nothing is collected.

        The columns are those of `FeatureStore.get_training_features`, in any order of rows. Sources are read when the
        DataFrame is; no digest is made.

        Args:
            dataset_config: labels and views.

        Raises:
            ConfigError: no DatasetConfig, or a label column has a feature's name.
            InputError: a column is missing or of another type.
            StoreError: a source cannot be read.
        """
        from engine.feature_store import dataset

        dataset.check_dataset(self, dataset_config)
        with _explained("the training frame"):
            return self._training_frame(dataset_config)

    def _training_frame(self, config: DatasetConfig) -> Any:
        import pyspark.sql.functions as f

        from engine.feature_store import dataset

        labels = self._glance(config.labels)
        taken = dataset.label_names(config, list(labels.types))
        of_keys = list(dict.fromkeys(key for view in config.views for key in view.keys))
        # A key that is text or int64 as it stands is its label column: carrying it twice would widen every shuffle.
        plain = {
            name: f"l{i}" for i, name in enumerate(taken) if str(labels.types[name]) in ("string", "int64")
        }
        places = {key: plain.get(key, f"key{i}") for i, key in enumerate(of_keys)}
        at = spark_columns.instant(labels, config.labels.event_time)
        at = f.when(at.isNull(), f.raise_error(f.lit(_NO_INSTANT)).cast("bigint")).otherwise(at)
        made = [f.col(sql.SPARK.identifier(name)).alias(f"l{i}") for i, name in enumerate(taken)]
        for key, place in places.items():
            if key in plain:
                continue
            kind = key_kind_of(labels.type_of(key, "labels"))
            made.append(spark_columns.value(labels, key, kind, key=True).alias(place))
        found = self._read(labels).select(*made, at.alias("t"))
        start, end = time_range(config.start_time, config.end_time)
        if start is not None:
            found = found.where(f.col("t") >= start)
        if end is not None:
            found = found.where(f.col("t") < end)
        names = {f"l{i}": name for i, name in enumerate(taken)}
        carried = [*names, *(place for key, place in places.items() if key not in plain)]
        wanted = set(config.feature_names)
        for number, definition in enumerate(config.views):
            view = replace(
                View.of(definition, self._glance(definition.source)), created_end_ns=config.created_end_ns
            )
            null = f.lit(False)
            for key in definition.keys:
                null = null | f.col(places[key]).isNull()
            own = [
                spark_columns.alike(f.col(places[key]), view, i).alias(f"k{i}")
                for i, key in enumerate(definition.keys)
            ]
            found = self._joined(found.select(*carried, "t", *own), view, carried, explain=config.reasons)
            made = []
            for i, (name, kind) in enumerate(zip(definition.feature_names, view.kinds_out, strict=True)):
                if name in wanted:
                    names[f"v{number}_{i}"] = name
                    made.append(spark_columns.shown(f.col(f"f{i}"), kind).alias(f"v{number}_{i}"))
            if config.reasons:
                names[f"v{number}_r"] = f"{definition.name}__reason"
                made.append(spark_columns.reason(view, found.columns, null).alias(f"v{number}_r"))
            found = found.select(*carried, "t", *made)
            carried += [name for name in found.columns if name.startswith(f"v{number}_")]
        return found.select(*(f.col(name).alias(shown) for name, shown in names.items()))

    def _join(self, labels: pa.Table, label_ns: npt.NDArray[np.int64], view: View) -> Joined:
        of_labels, table = rows.labels_for_sql(labels, label_ns, view)
        with _explained(f"joining view {view.definition.name!r}"):
            found = self._joined(self._of_arrow(table), view, ["i"], explain=True).toArrow()
        return rows.joined_by_sql(found, of_labels, label_ns, view)

    def _joined(self, labels: Any, view: View, carried: Sequence[str], *, explain: bool) -> Any:
        """A DataFrame of the columns `carried` of the labels and f0…, and what tells reasons apart.

        Args:
            labels: `carried`, k0…, and the instant t.
        """
        definition = view.definition
        if not definition.aggregates:
            source = self._rows(view, definition.columns)
            query = sql.join(
                sql.SPARK, "{labels}", "{source}", keys=len(definition.keys), features=len(definition.columns),
                carried=list(carried), ttl_ns=definition.ttl_ns, explain=explain,
                created=definition.source.created_time is not None,
            )  # fmt: skip
            return self.session.sql(query, labels=labels, source=source)
        return self._windowed(labels, view, carried)

    def _windowed(self, labels: Any, view: View, carried: Sequence[str]) -> Any:
        """`_joined` of a view with windows, which the core computes on the executors."""
        import pyspark.sql.functions as f

        keys = rows.key_names(view.definition)
        source = self._rows(view, rows.read_columns(view.definition))
        labels = labels.withColumn("side", f.lit(1))
        joint = source.withColumn("side", f.lit(0)).unionByName(labels, allowMissingColumns=True)
        joint = joint.repartition(*keys).sortWithinPartitions(*keys, "side", "o")
        slim = _slim(view)
        kinds = view.kinds_stored if view.stored else view.kinds_out
        features = [f"f{i} {spark_columns.TYPES[kind]}" for i, kind in enumerate(kinds)]
        fields = {field.name: field.dataType.simpleString() for field in labels.schema}
        schema = ", ".join([*(f"{name} {fields[name]}" for name in [*carried, "t"]), "reason INT", *features])
        run = spark_executor.Windows(slim, [*carried, "t"])
        return joint.mapInArrow(run, schema)

    def _newest(self, view: View, range_ns: rows.Range) -> Any:
        """A DataFrame of the newest row of each entity in the range: k0…, t, c, f0…."""
        definition = view.definition
        keys = rows.key_names(definition)
        if not definition.aggregates:
            query = sql.newest(
                "{source}", keys=len(keys), features=len(definition.columns), range_ns=range_ns
            )
            return self.session.sql(query, source=self._rows(view, definition.columns))
        read_from, end = rows.read_range(definition, range_ns)
        source = self._rows(view, rows.read_columns(definition))
        if end is not None:
            source = source.where(f"t < {end}")
        if range_ns[0] is not None:
            touched = source.where(f"t >= {range_ns[0]}").select(*keys).distinct()
            source = source.where(f"t >= {read_from}").join(touched, keys, "left_semi")
        joint = source.repartition(*keys).sortWithinPartitions(*keys, "o")
        unsigned = [is_unsigned(view.snapshot.type_of(key, "keys")) for key in definition.source_keys]
        of_keys = [
            f"k{i} {spark_columns.UNSIGNED if whole else spark_columns.TYPES[kind]}"
            for i, (kind, whole) in enumerate(zip(view.key_kinds, unsigned, strict=True))
        ]
        features = [f"f{i} {spark_columns.TYPES[kind]}" for i, kind in enumerate(view.kinds_stored)]
        schema = ", ".join([*of_keys, "t BIGINT", "c BIGINT", *features])
        return joint.mapInArrow(spark_executor.Newest(_slim(view), range_ns), schema)

    def _rows(self, view: View, columns: Sequence[str]) -> Any:
        """The rows of a view's source as a DataFrame: k0…, t, c, o, e, f0….

        Rows with a null key are left out, and so are those that were not created before `view.created_end_ns`.
        """
        import pyspark.sql.functions as f

        snapshot, definition = view.snapshot, view.definition
        if not snapshot.files and self._given(snapshot.source) is None:
            table = rows.plain(view, sources.read(snapshot, rows.roots(view, columns)), columns, (None, None))
            table = table.append_column("o", [np.arange(len(table))])
            return self._of_arrow(table)
        source = snapshot.source
        frame = self._read(snapshot)
        at = spark_columns.instant(snapshot, source.event_time)
        at = f.when(at.isNull(), f.raise_error(f.lit(_NO_TIME)).cast("bigint")).otherwise(at)
        written = f.lit(None).cast("bigint")
        if source.created_time is not None:
            written = spark_columns.instant(snapshot, source.created_time)
        made = [
            spark_columns.value(snapshot, key, view.kinds[key], key=True).alias(f"k{i}")
            for i, key in enumerate(definition.source_keys)
        ]
        made += [at.alias("t"), written.alias("c"), f.col(_PLACE).alias("o")]
        if source.event_id is not None:
            made.append(spark_columns.column(snapshot, source.event_id).alias("e"))
        made += [
            spark_columns.value(snapshot, column, view.kinds[column]).alias(f"f{i}")
            for i, column in enumerate(columns)
        ]
        found = frame.select(*made)
        for name in rows.key_names(definition):
            found = found.where(f.col(name).isNotNull())
        if view.created_end_ns is not None:
            found = found.where(f.col("c").isNull() | (f.col("c") < view.created_end_ns))
        return found

    def _read(self, snapshot: Snapshot) -> Any:
        """A source as a DataFrame with its own columns, and the place of each row."""
        import pyspark.sql.functions as f

        frame = self._given(snapshot.source)
        if frame is not None:
            return frame.withColumn(_PLACE, f.monotonically_increasing_id())
        if not snapshot.files:
            table = sources.read(snapshot, list(snapshot.types))
            return self._of_arrow(table.append_column(_PLACE, [np.arange(len(table))]))
        paths = [_spark_path(file) for file in snapshot.files]
        parts = []
        for group in _by_schema(snapshot):
            read = self.session.read.parquet(*(paths[i] for i in group))
            file = f.lit(group[0])
            if len(group) > 1:
                known = f.create_map(*(each for i in group for each in (f.lit(_uri(paths[i])), f.lit(i))))
                file = known[f.col("_metadata.file_path")]
            place = f.shiftleft(file.cast("bigint"), 40) + f.col("_metadata.row_index")
            made = [spark_columns.in_path(snapshot, name).alias(name) for name in snapshot.partitions]
            parts.append(read.select("*", *made, place.alias(_PLACE)))
        found = parts[0]
        for part in parts[1:]:
            found = found.unionByName(part, allowMissingColumns=True)
        return found

    def _of_arrow(self, table: pa.Table) -> Any:
        """A DataFrame of a table on the driver."""
        import pyarrow as pa

        made = {}
        for name in table.column_names:
            column = table[name]
            if pa.types.is_uint64(column.type):
                column = column.cast(pa.decimal128(20, 0))
            made[name] = column
        return self.session.createDataFrame(pa.table(made))

    def _given(self, source: Source) -> Any:
        """The DataFrame that a source is or names; None for files and for tables in memory."""
        data = source.data
        if type(data).__module__.startswith("pyspark."):
            return data
        if (
            isinstance(data, str)
            and _TABLE.fullmatch(data)
            and not os.path.exists(sources.within(self.folder, data))
        ):
            with _explained(data):
                if not self.session.catalog.tableExists(data):
                    raise StoreError(
                        f"{data}: Spark's catalogue has no such table, and there is no such file"
                    )
                return self.session.table(data)
        return None


class _Kept:
    """A DataFrame that Spark keeps for as long as this value lives.

    Attributes:
        rows: the number of its rows.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame.persist()
        self.rows = int(self._frame.count())
        weakref.finalize(self, self._frame.unpersist)

    def batches(self, schema: pa.Schema, skip: int, rows_max: int) -> Iterator[Any]:
        """The rows, one partition after the other; arguments as of `Features.batches`."""
        import pyarrow as pa

        packed = self._frame.mapInArrow(spark_executor.to_ipc, "ipc BINARY")
        for row in packed.toLocalIterator(prefetchPartitions=True):
            table = pa.ipc.open_stream(bytes(row.ipc)).read_all()
            skipped = min(skip, len(table))
            skip -= skipped
            found = table.slice(skipped).select(schema.names).cast(schema)
            yield from found.combine_chunks().to_batches(max_chunksize=rows_max)

    def write(
        self, view: View, online: OnlineStore, progress: Progress | None, revision: int
    ) -> Written | None:
        """Let the executors write the rows; None for an online store that another process cannot open."""
        from engine.feature_store.online.base import Written, foreign

        local = str(self._frame.sparkSession.conf.get("spark.master", "")).startswith("local")
        recipe = spark_executor.portable(online, same_machine=local)
        if recipe is None:
            return None
        online.prepare(view.definition, view.schema)
        run = spark_executor.Writer(_slim(view), recipe, revision)
        found = self._frame.mapInArrow(
            run, "written BIGINT, same BIGINT, older BIGINT, other BINARY"
        ).collect()
        for row in found:
            if row.other is not None:
                raise foreign(view.definition, bytes(row.other))
        written, same, older = (sum(row[place] for row in found) for place in range(3))
        if progress is not None:
            progress(self.rows, self.rows)
        return Written(self.rows, written, same, older, 0)


def _session() -> Any:
    """The active session, or a new one on this machine."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    builder = SparkSession.builder.appName("engine").config("spark.ui.enabled", "false")
    return builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()


def _same_python(session: Any) -> None:
    """Let the workers of a session on this machine run this Python.

    They take the `python3` of the path otherwise, which may lack this package.
    """
    context = getattr(session, "sparkContext", None)
    if context is None or "PYSPARK_PYTHON" in os.environ:
        return
    if str(context.master).startswith("local"):
        context.pythonExec = sys.executable


def _slim(view: View) -> View:
    """A view without the data of its source, to be sent to executors."""
    source = replace(view.definition.source, data=(), storage_options=None)
    snapshot = Snapshot(source, view.snapshot.place, view.snapshot.types, view.snapshot.digest)
    return replace(
        view, definition=replace(view.definition, source=source), snapshot=snapshot, kinds=dict(view.kinds)
    )


def _place(source: Source) -> str:
    """The name of a source of Spark's own, for error texts."""
    return f"table {source.data}" if isinstance(source.data, str) else "the DataFrame"


def _arrow_types(frame: Any) -> dict[str, Any]:
    """The Arrow type of each column of a DataFrame."""
    import pyarrow as pa
    from pyspark.sql.pandas.types import to_arrow_type

    # Later releases ask for the zone of timestamps, and earlier ones do not know the question.
    zone = {"timezone": "UTC"} if "timezone" in inspect.signature(to_arrow_type).parameters else {}
    found: dict[str, Any] = {}
    for field in frame.schema.fields:
        if field.name in found:
            raise StoreError(f"the source has two columns named {field.name!r}")
        kind = to_arrow_type(field.dataType, **zone)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            kind = pa.timestamp("us", "UTC")
        found[field.name] = kind
    return found


def _digest(frame: Any) -> str:
    """A digest of the rows of a DataFrame in any order: sums and exclusive ors of two hashes of each row.

    A null leaves Spark's hash as it is, so each column is hashed with whether it is null.
    """
    import pyspark.sql.functions as f

    columns = []
    for field in frame.schema.fields:
        found = f.col(sql.SPARK.identifier(field.name))
        columns += [
            f.to_json(f.struct(found)) if "map<" in field.dataType.simpleString() else found,
            found.isNull(),
        ]
    one, other = f.xxhash64(f.lit(1), *columns), f.xxhash64(f.lit(2), *columns)
    row = frame.select(one.alias("a"), other.alias("b")).agg(
        f.count("a"), f.sum(f.col("a").cast("decimal(38,0)")), f.bit_xor("a"),
        f.sum(f.col("b").cast("decimal(38,0)")), f.bit_xor("b"),
    ).collect()[0]  # fmt: skip
    return hashlib.sha256(repr((frame.schema.json(), [str(part) for part in row])).encode()).hexdigest()


def _by_schema(snapshot: Snapshot) -> list[list[int]]:
    """The places of the files of a source, those of one schema together: Spark reads only such files at once."""
    pq = sources.parquet()
    if len(snapshot.files) == 1:
        return [[0]]
    groups: dict[str, list[int]] = {}
    for place, file in enumerate(snapshot.files):
        schema = sources.schema_of(pq, file, snapshot.source)
        groups.setdefault(str([(field.name, str(field.type)) for field in schema]), []).append(place)
    return list(groups.values())


def _spark_path(file: str) -> str:
    """A file as Spark is told of it: its name is no pattern, and s3:// is Hadoop's s3a://."""
    path = file if remote.protocol_of(file) else os.path.abspath(file)
    path = re.sub(r"([\\{}\[\]*?])", r"\\\1", path)
    return re.sub(r"^s3://", "s3a://", path)


def _uri(path: str) -> str:
    """A path as `_metadata.file_path` gives it."""
    path = re.sub(r"\\(.)", r"\1", path)
    return path if "://" in path else "file://" + quote(path, safe="/:@!$&'()*+,;=-._~")


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Raise Spark's errors as the package's: InputError for a value that cannot be read, StoreError for the rest."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("pyspark.", "py4j.")):
            raise
        text = str(error)
        if _NO_TIME in text:
            raise InputError(
                f"{doing}: the source has a row whose event time is null; a row needs an event time, so leave those "
                "rows out of the source"
            ) from error
        if _NO_INSTANT in text:
            raise InputError(
                f"{doing}: a label's event time is null; give it one or leave the row out"
            ) from error
        first = next((line for line in text.strip().splitlines() if line.strip()), type(error).__name__)
        if "CAST_OVERFLOW" in text or "ARITHMETIC_OVERFLOW" in text or "CAST_INVALID_INPUT" in text:
            raise InputError(
                f"{doing}: a value of the source cannot be read as its column's type: {first}"
            ) from error
        raise StoreError(f"{doing}: {first}") from error
