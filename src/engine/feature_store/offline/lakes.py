"""Tables of lakes as sources: Delta and Iceberg, at the version that a table had when it was looked at.

A version never changes, so the digest of a snapshot names it: table, version and files. The same digest means the same
rows for as long as the table keeps that version; a version that was vacuumed or expired is a StoreError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from engine._common import canonical, optional
from engine.errors import ConfigError, InputTypeError, StoreError
from engine.feature_store.offline.foreign import explained

if TYPE_CHECKING:
    import pyarrow as pa


class Version(Protocol):
    """A lake's table at one version.

    Attributes:
        place: the table and the version, for error texts.
        types: the Arrow type of each column.
        digest: sha256 of what names the version.
        pinned: the table at this version, as the data of a Source.
    """

    place: str
    types: dict[str, Any]
    digest: str
    pinned: Any

    def read(self, names: Sequence[str], time: str | None = None, range_us: Range = (None, None)) -> pa.Table:
        """The columns `names` of the rows, in an order that is the same each time.

        Args:
            time: leave out rows of which this column of timestamps is outside of the range, where that is cheap.
            range_us: start and end in microseconds since 1970, each in the range; None for no bound.

        Raises:
            StoreError: the version is gone, or cannot be read.
        """
        ...


Range = tuple[int | None, int | None]


@dataclass(frozen=True)
class Delta:
    """A Delta table as the data of a Source: `Source(Delta("s3://bucket/flights"), event_time="time")`.

    Args:
        path: a folder, or a URL that deltalake opens (s3://, gs://, az://).
        version: of the table; None for the latest, each time the source is looked at.
        storage_options: of deltalake, for a URL; None leaves it to the environment.

    A later row of the source is one of a file that was added later.

    Raises:
        ConfigError: `path` is no path, or `version` no whole number.
    """

    path: str
    version: int | None = None
    storage_options: Mapping[str, str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise ConfigError(f"Delta: expected a path, got {type(self.path).__name__} {self.path!r:.80}")
        if self.version is not None and (isinstance(self.version, bool) or not isinstance(self.version, int)):
            raise ConfigError(f"Delta: expected a whole number as version, got {self.version!r:.80}")
        object.__setattr__(self, "path", os.fspath(self.path))

    def describe(self) -> str:
        """The part that decides the meaning of a feature: the name without its folders, so that a table may move."""
        return f"delta:{self.path.rstrip('/').rsplit('/', 1)[-1]}"

    def open(self, folder: str | os.PathLike[str] | None) -> Version:
        """The version now. Raises StoreError if there is no such table or version."""
        return _DeltaVersion(self, folder)


class _DeltaVersion:
    def __init__(self, source: Delta, folder: str | os.PathLike[str] | None) -> None:
        deltalake = optional.need("deltalake", "a Delta source", "delta")
        optional.need("pyarrow.dataset", "a Delta source", "delta")
        path = source.path if "://" in source.path else os.path.join(folder or "", source.path)
        options = dict(source.storage_options or {})
        with explained(f"{path}: cannot be read"):
            self._table = deltalake.DeltaTable(path, version=source.version, storage_options=options)
            version = self._table.version()
            actions = _arrow(self._table.get_add_actions(flatten=True)).to_pylist()
            self.types = _types(_arrow_schema(self._table.schema()))
            identity = str(self._table.metadata().id)
        self.place = f"{path} at version {version}"
        actions = [{name: str(value) for name, value in action.items()} for action in actions]
        self._order = {
            action["path"]: (int(_millis(action.get("modification_time", "0"))), action["path"])
            for action in actions
        }
        described = sorted((action["path"], action.get("size_bytes", "")) for action in actions)
        schema = [[name, str(kind)] for name, kind in self.types.items()]
        self.digest = canonical.digest(["delta", identity, version, described, schema])
        self.pinned = replace(source, path=path, version=version)

    def read(self, names: Sequence[str], time: str | None = None, range_us: Range = (None, None)) -> pa.Table:
        import pyarrow as pa
        import pyarrow.dataset as ds

        with explained(f"{self.place}: cannot be read"):
            found = self._table.to_pyarrow_dataset()
            fragments = sorted(found.get_fragments(), key=self._place_of)
            chosen = _within(ds.field(time), found.schema.field(time).type, range_us) if time else None
            parts = [
                each.to_table(schema=found.schema, columns=list(names), filter=chosen) for each in fragments
            ]
            if not parts:
                return pa.table({name: pa.array([], self.types[name]) for name in names})
            return pa.concat_tables(parts).cast(pa.schema([(name, self.types[name]) for name in names]))

    def _place_of(self, fragment: Any) -> tuple[int, str]:
        path = str(fragment.path)
        return next((order for name, order in self._order.items() if path.endswith(name)), (0, path))


def _millis(text: str) -> str:
    return "".join(sign for sign in text if sign.isdigit()) or "0"


@dataclass(frozen=True)
class Iceberg:
    """An Iceberg table as the data of a Source: `Source(Iceberg("default", "flights.departures"), event_time="time")`.

    Args:
        catalog: the name of a catalogue of pyiceberg's configuration; its properties, such as {"type": "sql", "uri":
            "sqlite:////lake/catalog.db", "warehouse": "s3://lake"}; or a catalogue that pyiceberg has loaded.
        table: namespace and name, with a dot between them.
        snapshot_id: of the table; None for the current one, each time the source is looked at.

    A later row of the source is one of a file that was added later.

    Raises:
        ConfigError: the table is no text with a dot in it, or `snapshot_id` no whole number.
    """

    catalog: Any = field(repr=False, compare=False)
    table: str = ""
    snapshot_id: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or "." not in self.table:
            raise ConfigError(
                f"Iceberg: expected a table as 'namespace.name', got {type(self.table).__name__} {self.table!r:.80}"
            )
        whole = isinstance(self.snapshot_id, int) and not isinstance(self.snapshot_id, bool)
        if self.snapshot_id is not None and not whole:
            raise ConfigError(
                f"Iceberg: expected a whole number as snapshot_id, got {self.snapshot_id!r:.80}"
            )

    def describe(self) -> str:
        """The part that decides the meaning of a feature."""
        return f"iceberg:{self.table}"

    def open(self, folder: str | os.PathLike[str] | None) -> Version:
        """The snapshot now. Raises StoreError if there is no such table or snapshot."""
        return _IcebergVersion(self)


class _IcebergVersion:
    def __init__(self, source: Iceberg) -> None:
        optional.need("pyiceberg", "an Iceberg source", "iceberg")
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        place = f"Iceberg table {source.table}"
        with explained(f"{place}: cannot be read"):
            table = _catalog(source.catalog).load_table(source.table)
            snapshot = (
                table.current_snapshot()
                if source.snapshot_id is None
                else table.snapshot_by_id(source.snapshot_id)
            )
            if snapshot is None and source.snapshot_id is not None:
                raise StoreError(f"{place} has no snapshot {source.snapshot_id}: it may have expired")
            self._table, self._snapshot = table, snapshot
            self._id = None if snapshot is None else snapshot.snapshot_id
            scan = table.scan(snapshot_id=self._id)
            schema = scan.projection()
            self.types = _types(_plain_fields(schema_to_pyarrow(schema, include_field_ids=False)))
            uuid = str(table.metadata.table_uuid)
        self.place = f"{place} at snapshot {self._id}"
        listed = None if snapshot is None else snapshot.manifest_list
        types = [[name, str(kind)] for name, kind in self.types.items()]
        self.digest = canonical.digest(["iceberg", uuid, self._id, listed, types])
        # A table without a snapshot has nothing to be pinned to.
        self.pinned = source if self._id is None else replace(source, snapshot_id=self._id)

    def read(self, names: Sequence[str], time: str | None = None, range_us: Range = (None, None)) -> pa.Table:
        import pyarrow as pa

        schema = pa.schema([(name, self.types[name]) for name in names])
        if self._id is None:
            return schema.empty_table()
        with explained(f"{self.place}: cannot be read"):
            scan = self._table.scan(
                snapshot_id=self._id, selected_fields=tuple(names), **_filter(time, range_us)
            )
            from pyiceberg.io.pyarrow import ArrowScan

            # Files by the order in which they were added, so that the later row of two copies is known.
            added = self._added()
            tasks = sorted(scan.plan_files(), key=lambda task: added[task.file.file_path])
            reader = ArrowScan(self._table.metadata, self._table.io, scan.projection(), scan.row_filter)
            return reader.to_table(tasks).select(list(names)).cast(schema)

    def _added(self) -> dict[str, tuple[int, int, str]]:
        """Return what orders the files: the table's sequence numbers; times in its first format, which had none."""
        found = {}
        for manifest in self._snapshot.manifests(self._table.io):
            for entry in manifest.fetch_manifest_entry(self._table.io):
                by = self._table.snapshot_by_id(entry.snapshot_id)
                path = entry.data_file.file_path
                found[path] = (entry.file_sequence_number or 0, by.timestamp_ms if by else 0, path)
        return found


def _filter(time: str | None, range_us: Range) -> dict[str, Any]:
    from pyiceberg.expressions import And, GreaterThanOrEqual, IsNull, LessThanOrEqual, Or

    parts: list[Any] = []
    if time is not None and range_us[0] is not None:
        parts.append(GreaterThanOrEqual(time, _iso(range_us[0])))
    if time is not None and range_us[1] is not None:
        parts.append(LessThanOrEqual(time, _iso(range_us[1])))
    if not parts or time is None:
        return {}
    # Rows without an event time are to be seen, and refused.
    return {"row_filter": Or(IsNull(time), parts[0] if len(parts) == 1 else And(*parts))}


def _iso(us: int) -> str:
    from datetime import timedelta

    from engine.feature_store.instants import EPOCH

    return (EPOCH + timedelta(microseconds=us)).isoformat()


def _within(column: Any, kind: Any, range_us: Range) -> Any:
    """An expression of pyarrow that is true for rows in the range, and for rows without a time; None for no bound."""
    import pyarrow as pa

    if not pa.types.is_timestamp(kind):
        return None
    parts = []
    for bound, low in ((range_us[0], True), (range_us[1], False)):
        if bound is not None:
            at = pa.scalar(bound, pa.int64()).cast(pa.timestamp("us", kind.tz))
            parts.append(column >= at if low else column <= at)
    if not parts:
        return None
    return column.is_null() | (parts[0] if len(parts) == 1 else parts[0] & parts[1])


def _catalog(given: Any) -> Any:
    from pyiceberg.catalog import load_catalog

    if isinstance(given, str):
        return load_catalog(given)
    if isinstance(given, Mapping):
        return load_catalog(
            str(given.get("name", "engine")), **{str(k): v for k, v in given.items() if k != "name"}
        )
    if not hasattr(given, "load_table"):
        raise InputTypeError(
            "Iceberg: expected a catalogue, its name or its properties, got "
            f"{type(given).__name__}: Iceberg(catalog, 'namespace.table')"
        )
    return given


def is_lake(data: Any) -> bool:
    """Whether the data of a source is a table of a lake."""
    return isinstance(data, (Delta, Iceberg))


def _arrow(found: Any) -> Any:
    """A table of any library that Arrow reads."""
    import pyarrow as pa

    return found if isinstance(found, pa.Table) else pa.table(found)


def _arrow_schema(schema: Any) -> Any:
    import pyarrow as pa

    return _plain_fields(pa.schema(schema.to_arrow()))


def _plain_fields(schema: Any) -> Any:
    """A schema with the common type of each text and list, because readers give one or the other."""
    import pyarrow as pa

    return pa.schema([pa.field(each.name, _plain_type(each.type)) for each in schema])


def _plain_type(kind: Any) -> Any:
    import pyarrow as pa

    t = pa.types
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_list(kind) or t.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if t.is_struct(kind):
        return pa.struct([pa.field(each.name, _plain_type(each.type)) for each in kind])
    return kind


def _types(schema: Any) -> dict[str, Any]:
    return {each.name: each.type for each in schema}
