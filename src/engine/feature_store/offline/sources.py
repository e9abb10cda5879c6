"""A source as it is found at one moment: its files or table, the types of its columns, and the digest of its content.

Two snapshots with the same digest hold the same rows; that is what makes a dataset reproducible. Files are digested by
content, for a copied file or a clock set back would fool sizes and times.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, InputTypeError, MissingDependencyError, StoreError
from engine.feature_store.definitions import FeatureView, Source, digest_of

if TYPE_CHECKING:
    import pyarrow as pa

# Content is read once for each change of a file, as its inode's change time tells, which no copying tool sets back. A
# file written twice within one tick of that clock would look unchanged; one that has rested this long cannot have been.
SETTLED_NS = 2 * 10**9
_DIGESTS_MAX = 100_000
_digests: dict[tuple[str, int, int, int, int], str] = {}


@dataclass(frozen=True)
class Snapshot:
    """What a source held when it was looked at.

    Attributes:
        source: the definition.
        files: its Parquet files, by name; empty for a table.
        table: the table; None for files.
        types: the type of each column.
        digest: sha256 of the content, 64 hex digits.
    """

    source: Source
    files: tuple[str, ...]
    table: Any
    types: dict[str, Any]
    digest: str

    @property
    def place(self) -> str:
        """Where the rows are, for errors."""
        if not self.files:
            return "the source table"
        return self.files[0] if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more"


def take(source: Source, folder: str | os.PathLike[str] | None = None) -> Snapshot:
    """Looks at a source. Relative paths start at `folder`.

    Raises:
        StoreError: no file, one that is not Parquet or cannot be read, or files that disagree about a column.
        InputTypeError: data that is neither a path nor a table.
    """
    pq = parquet()
    if source.patterns is None:
        table = as_table(source.data)
        return Snapshot(source, (), table, _types(table.schema), _digest_of_table(table))
    files = _files(source.patterns, folder)
    types: dict[str, Any] = {}
    for position, file in enumerate(files):
        try:
            found = _types(pq.read_schema(file))
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: cannot be read as Parquet: {error}") from None
        types = found if position == 0 else _agreed(types, found, files[0], file)
    digest = digest_of([_digest_of_file(file) for file in files])
    return Snapshot(source, files, None, types, digest)


def parquet() -> Any:
    """The module pyarrow.parquet. Raises MissingDependencyError naming the extra where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            "the feature store needs pyarrow: pip install 'deadline-engine[store]'"
        ) from None
    return pyarrow.parquet


def as_table(data: Any) -> pa.Table:
    """A pyarrow Table of whatever speaks Arrow: pyarrow itself, pandas, Polars, DuckDB."""
    parquet()
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    try:
        return pa.table(data)
    except (TypeError, ValueError, pa.ArrowInvalid) as error:
        raise InputTypeError(
            f"expected a path of Parquet files or a table (pyarrow, pandas, Polars), got {type(data).__name__}: {error}"
        ) from None


def kind_of(kind: pa.DataType) -> str | None:
    """The kind of feature that a column of this type is: "bool", "int", "float", "text", "time", or None for none."""
    import pyarrow as pa

    t = pa.types
    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_boolean(kind):
        return "bool"
    if t.is_integer(kind):
        return "int"
    if t.is_float32(kind) or t.is_float64(kind):
        return "float"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    return "time" if t.is_timestamp(kind) else None


def kinds_of(view: FeatureView, snapshot: Snapshot) -> dict[str, str]:
    """The kind of each column that a view reads: keys, features, what is aggregated.

    Raises:
        InputError: a column that is not there, or of a type that is no feature or no key; a time without a zone.
    """
    kinds = {}
    for key in view.keys:
        kinds[key] = _kind(view, snapshot, key, ("int", "text"), "a key is whole numbers or text")
    for column in view.columns:
        kinds[column] = _kind(
            view, snapshot, column, ("bool", "int", "float", "text", "time"),
            "a feature is a number, a boolean, text or a timestamp; cast it in the source",
        )  # fmt: skip
    for aggregate in view.aggregates:
        kinds[aggregate.column] = _kind(
            view, snapshot, aggregate.column, ("bool", "int", "float"), "an aggregate is over numbers"
        )
    if view.source.event_id is not None:
        _type(snapshot, view.source.event_id, f"view {view.name!r}")
    check_times(snapshot, f"view {view.name!r}")
    return kinds


def check_times(snapshot: Snapshot, where: str) -> None:
    """Refuses a source whose event or created times are no instants."""
    import pyarrow as pa

    source = snapshot.source
    for name in (source.event_time, source.created_time):
        if name is None:
            continue
        kind = _type(snapshot, name, where)
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise InputError(
                f"{where}: column {name!r} of {snapshot.place}: expected timestamps, got {kind}; "
                "cast it in the source"
            )
        _require_zone(source, kind, f"{where}: column {name!r} of {snapshot.place}")


def _require_zone(source: Source, kind: Any, where: str) -> None:
    if source.naive != "utc" and getattr(kind, "tz", None) is None:
        raise InputError(
            f"{where} has type {kind}, without a time zone; give it one, or declare the source with naive='utc'"
        )


def _kind(view: FeatureView, snapshot: Snapshot, column: str, allowed: Iterable[str], wanted: str) -> str:
    where = f"view {view.name!r}"
    kind = _type(snapshot, column, where)
    found = kind_of(kind)
    if found is None or found not in allowed:
        raise InputError(f"{where}: column {column!r} of {snapshot.place} has type {kind}: {wanted}")
    if found == "time":
        _require_zone(snapshot.source, kind, f"{where}: column {column!r} of {snapshot.place}")
    return found


def _type(snapshot: Snapshot, column: str, where: str) -> Any:
    if column not in snapshot.types:
        raise InputError(
            f"{where}: {snapshot.place} has no column {column!r}; it has: {', '.join(list(snapshot.types)[:30])}"
        )
    return snapshot.types[column]


def _types(schema: Any) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for field in schema:
        if field.name in types:
            raise StoreError(f"the source has two columns named {field.name!r}")
        types[field.name] = field.type
    return types


def _agreed(first: dict[str, Any], types: dict[str, Any], first_file: str, file: str) -> dict[str, Any]:
    """The columns that both have. One that changed its kind between files is refused, for a silent cast would hide
    it; one that a file lacks is left out, so that only a view that asks for it is refused, by name."""
    for name in first.keys() & types.keys():
        if first[name] != types[name] and _meaning(first[name]) != _meaning(types[name]):
            raise StoreError(
                f"column {name!r} has type {first[name]} in {first_file} and {types[name]} in {file}; "
                "write one of them again with the type of the other"
            )
    return {name: kind for name, kind in first.items() if name in types}


def _meaning(kind: Any) -> tuple[str, bool]:
    """What two files have to agree in: an int32 and an int64 are both whole numbers, but a zone is there or not."""
    return kind_of(kind) or str(kind), getattr(kind, "tz", None) is None


def _files(patterns: Iterable[str], folder: str | os.PathLike[str] | None) -> tuple[str, ...]:
    found: list[str] = []
    for pattern in patterns:
        path = pattern if folder is None else os.path.join(folder, pattern)
        # A name that exists is itself, though it may have brackets in it.
        matches = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise StoreError(f"{path}: no such Parquet file")
        found += matches
    if not found:
        raise StoreError("the source names no file")
    return tuple(dict.fromkeys(found))


def _digest_of_file(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            stat = os.fstat(opened.fileno())
            key = (os.path.realpath(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            if (known := _digests.get(key)) is not None:
                return known
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}") from None
    if time.time_ns() - stat.st_ctime_ns > SETTLED_NS:
        if len(_digests) >= _DIGESTS_MAX:
            _digests.clear()
        _digests[key] = digest
    return digest


class _Digest:
    """sha256 as a file that pyarrow can write to."""

    closed = False

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _digest_of_table(table: pa.Table) -> str:
    import pyarrow as pa

    sink = _Digest()
    plain = table.replace_schema_metadata(None)
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, plain.schema) as stream:
        stream.write_table(plain, max_chunksize=1 << 16)
    return sink.sha256.hexdigest()
