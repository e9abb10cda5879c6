"""Sources on this machine: Parquet files and tables in memory, their columns, their digests and their rows.

A digest is of the content, because a copied file or a clock set back would fool sizes and times.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine._common import canonical, optional
from engine.errors import InputTypeError, StoreError
from engine.feature_store.definitions import Source
from engine.feature_store.offline.columns import Snapshot, SourceColumns, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

# Rehash a file only when its ctime changes; copy tools cannot reset it. Two writes within one tick of the file system's
# clock leave the same ctime, so keep a digest only if the file has rested this long.
SETTLED_NS = 2 * 10**9
_DIGESTS_MAX = 100_000
_digests: dict[tuple[str, int, int, int, int], str] = {}


def columns_of(source: Source, folder: str | os.PathLike[str] | None = None) -> SourceColumns:
    """The columns of a source; of files, only the metadata is read. Arguments and errors as of `take`."""
    return _found(source, folder)[0]


def take(source: Source, folder: str | os.PathLike[str] | None = None) -> Snapshot:
    """The content of a source now. Every file that changed since the last time is read whole.

    Args:
        source: Parquet files, or a table in memory.
        folder: where relative paths start; None for the working directory.

    Raises:
        StoreError: no file matches, a file is not Parquet or cannot be read, or files disagree about a column.
        InputTypeError: the data is neither a path nor a table.
    """
    columns, files, table = _found(source, folder)
    if table is not None:
        digest = _digest_of_table(table)
    else:
        digest = canonical.digest([_digest_of_file(file) for file in files])
    return Snapshot(source, columns.place, columns.types, digest, files, table)


def read(snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
    """The columns `names` of all rows, in the source's order. Raises StoreError if a file cannot be read."""
    import pyarrow as pa

    if snapshot.table is not None:
        return snapshot.table.select(names)
    pq = parquet()
    try:
        parts = [pq.read_table(file, columns=list(names), partitioning=None) for file in snapshot.files]
        return pa.concat_tables(parts, promote_options="permissive")
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{snapshot.place}: cannot be read: {error}") from None


def parquet() -> Any:
    """The module pyarrow.parquet. Raises MissingDependencyError, which names the extra, if it is not installed."""
    return optional.need("pyarrow.parquet", "the feature store", "store")


def as_table(data: Any) -> pa.Table:
    """A pyarrow Table of any object that Arrow reads: pyarrow's own, pandas, Polars, DuckDB."""
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


def _found(
    source: Source, folder: str | os.PathLike[str] | None
) -> tuple[SourceColumns, tuple[str, ...], Any]:
    """The columns of a source, and its files or its table."""
    pq = parquet()
    if source.patterns is None:
        table = as_table(source.data)
        return SourceColumns(source, "the source table", _types(table.schema)), (), table
    files = _files(source.patterns, folder)
    types: dict[str, Any] = {}
    for position, file in enumerate(files):
        try:
            found = _types(pq.read_schema(file))
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: cannot be read as Parquet: {error}") from None
        types = found if position == 0 else _agreed(types, found, files[0], file)
    place = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return SourceColumns(source, place, types), files, None


def _types(schema: Any) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for field in schema:
        if field.name in types:
            raise StoreError(f"the source has two columns named {field.name!r}")
        types[field.name] = field.type
    return types


def _agreed(first: dict[str, Any], types: dict[str, Any], first_file: str, file: str) -> dict[str, Any]:
    """The columns that both files have.

    A column that changed its kind between files is refused, because a silent cast would hide the change. A column that
    one file lacks is left out, so only a view that reads it is refused, and by name.
    """
    for name in first.keys() & types.keys():
        if first[name] != types[name] and _meaning(first[name]) != _meaning(types[name]):
            raise StoreError(
                f"column {name!r} has type {first[name]} in {first_file} and {types[name]} in {file}; "
                "write one of them again with the type of the other"
            )
    return {name: kind for name, kind in first.items() if name in types}


def _meaning(kind: Any) -> tuple[str, bool]:
    """The part of a type that all files must share: int32 and int64 are both whole numbers, but a zone matters."""
    return kind_of(kind) or str(kind), getattr(kind, "tz", None) is None


def _files(patterns: Iterable[str], folder: str | os.PathLike[str] | None) -> tuple[str, ...]:
    found: list[str] = []
    for pattern in patterns:
        path = pattern if folder is None else os.path.join(folder, pattern)
        # A file of that very name wins over the pattern: names may have brackets in them.
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
