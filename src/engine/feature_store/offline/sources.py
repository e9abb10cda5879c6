"""Sources on this machine: Parquet files and tables in memory, their columns, their digests and their rows.

A digest is of the content, because a copied file or a clock set back would fool sizes and times.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from engine._common import canonical, optional
from engine.errors import InputTypeError, StoreError
from engine.feature_store.definitions import Source
from engine.feature_store.offline import lakes, remote
from engine.feature_store.offline.columns import Files, Snapshot, SourceColumns, key_kind_of, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

# Rehash a file only when its ctime changes; copy tools cannot reset it. Two writes within one tick of the file system's
# clock leave the same ctime, so keep a digest only if the file has rested this long.
SETTLED_NS = 2 * 10**9
_DIGESTS_MAX = 100_000
# Writers of partitions put this in place of a null.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# A number with zeros before it is a text: 007 is not 7.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_digests: dict[tuple[str, int, int, int, int], str] = {}
_table_digests: dict[int, tuple[weakref.ref[Any], str]] = {}


def columns_of(source: Source, folder: str | os.PathLike[str] | None = None) -> SourceColumns:
    """The columns of a source; of files, only the metadata is read. Arguments and errors as of `take`."""
    if lakes.is_lake(source.data):
        version = source.data.open(folder)
        return SourceColumns(source, version.place, version.types)
    return _found(source, folder)[0]


def take(source: Source, folder: str | os.PathLike[str] | None = None, *, content: bool = True) -> Snapshot:
    """The content of a source now. Every file that changed since the last time is read whole.

    Args:
        source: Parquet files, or a table in memory.
        folder: where relative paths start; None for the working directory.
        content: False for a digest of each file's path, inode, size and times of change. The content is then read only
            of files that changed within the last SETTLED_NS: the system's clock may not tell their next change apart.

    Raises:
        StoreError: no file matches, a file is not Parquet or cannot be read, or files disagree about a column.
        InputTypeError: the data is neither a path nor a table.
    """
    if lakes.is_lake(source.data):
        version = source.data.open(folder)
        return Snapshot(source, version.place, version.types, version.digest, version=version)
    columns, files, table = _found(source, folder)
    fresh: dict[str, str] = {}
    if table is not None:
        digest = _digest_of_table(table)
    else:
        options = source.storage_options or {}
        parts: list[Any] = [
            remote.stamp(file, options) if remote.protocol_of(file)
            else _digest_of_file(file) if content
            else _stamp_of(file, fresh)
            for file in files
        ]  # fmt: skip
        if columns.partitions:
            # The values in the names of folders are content too.
            parts = [parts, [_partitions_of(file, columns.partitions) for file in files]]
        digest = canonical.digest(parts)
    return Snapshot(
        source, columns.place, columns.types, digest, files, table,
        partitions=columns.partitions, lacking=columns.lacking, fresh=fresh,
    )  # fmt: skip


def fresh_unchanged(snapshot: Snapshot) -> bool:
    """Whether the files that were new at a look still have the content that they had then."""
    return all(_digest_of_file(file) == digest for file, digest in snapshot.fresh.items())


def _stamp_of(file: str, fresh: dict[str, str]) -> list[Any]:
    """What changes when a file does. A copy tool can set back a file's times, but not its ctime."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}") from None
    if time.time_ns() - found.st_ctime_ns <= SETTLED_NS:
        fresh[file] = _digest_of_file(file)
    return [os.path.realpath(file), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def read(snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
    """The columns `names` of all rows, in the source's order. Raises StoreError if a file cannot be read."""
    import pyarrow as pa

    if snapshot.version is not None:
        found: pa.Table = snapshot.version.read(names)
        return found
    if snapshot.table is not None:
        return snapshot.table.select(names)
    pq = parquet()
    try:
        parts = [_read_file(pq, file, snapshot, names) for file in snapshot.files]
        return pa.concat_tables(parts, promote_options="permissive").select(names)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{snapshot.place}: cannot be read: {error}") from None


def _read_file(pq: Any, file: str, snapshot: Snapshot, names: Sequence[str]) -> pa.Table:
    """The columns of one file, those in the names of its folders too. A column that it lacks is left out."""
    import pyarrow as pa

    there = schema_of(pq, file, snapshot.source).names
    inside = [name for name in names if name in there and name not in snapshot.partitions]
    if remote.protocol_of(file):
        table = remote.table(pq, file, inside, snapshot.source.storage_options or {})
    else:
        table = pq.read_table(file, columns=inside, partitioning=None)
    for name, value in _partitions_of(file, snapshot.partitions).items():
        if name in names:
            kind = snapshot.types[name]
            typed = int(value) if value is not None and pa.types.is_integer(kind) else value
            table = table.append_column(name, pa.array([typed] * len(table), kind))
    # A file without any of the columns has rows all the same.
    return table if table.num_columns else pa.table({names[0]: pa.nulls(len(table))})


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
    files, partitions = _files(source, folder)
    types: dict[str, Any] = {}
    lacking: dict[str, str] = {}
    first: dict[str, str] = {}
    for file in files:
        try:
            found = _types(schema_of(pq, file, source))
        except (OSError, ValueError) as error:
            raise StoreError(f"{file}: cannot be read as Parquet: {error}") from None
        if first:
            lacking |= {name: files[0] for name in found if name not in types}
            lacking |= {name: file for name in types if name not in found}
        for name, kind in found.items():
            types[name] = _agreed(name, types.get(name, kind), kind, first.setdefault(name, file), file)
    # A column that the files have is theirs.
    partitions = tuple(name for name in partitions if name not in types)
    for name in partitions:
        values = [_partitions_of(file, (name,))[name] for file in files]
        types[name] = _type_of_texts(values)
    place = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return SourceColumns(source, place, types, partitions=partitions, lacking=lacking), files, None


def schema_of(pq: Any, file: str, source: Source) -> Any:
    """The Arrow schema of a Parquet file of a source."""
    if remote.protocol_of(file):
        return remote.schema(pq, file, source.storage_options or {})
    return pq.read_schema(file)


def all_there(snapshot: Snapshot) -> bool:
    """Whether no file of a snapshot has been removed since."""
    options = snapshot.source.storage_options or {}
    return all(
        remote.exists(file, options) if remote.protocol_of(file) else os.path.exists(file)
        for file in snapshot.files
    )


def _types(schema: Any) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for field in schema:
        if field.name in types:
            raise StoreError(f"the source has two columns named {field.name!r}")
        types[field.name] = field.type
    return types


def _agreed(name: str, first: Any, kind: Any, first_file: str, file: str) -> Any:
    """The type of a column that has these two types in two files.

    A column of nulls fits any other, and whole numbers become floats. A column that changed its kind between files is
    refused, because a silent cast would hide the change.
    """
    import pyarrow as pa

    if first == kind or pa.types.is_null(kind):
        return first
    if pa.types.is_null(first):
        return kind
    meanings = _meaning(first), _meaning(kind)
    if {meaning for meaning, _ in meanings} == {"int", "float"}:
        return pa.float64()
    if meanings[0] != meanings[1]:
        raise StoreError(
            f"column {name!r} has type {first} in {first_file} and {kind} in {file}; "
            "write one of them again with the type of the other"
        )
    if "uint64" in (str(first), str(kind)) or "[ns" in str(kind):
        return kind if str(first) != "uint64" else first
    return first


def _meaning(kind: Any) -> tuple[str, bool]:
    """The part of a type that all files must share: int32 and int64 are both whole numbers, but a zone matters."""
    found = "date" if str(kind).startswith("date") else kind_of(kind) or key_kind_of(kind) or str(kind)
    return found, getattr(kind, "tz", None) is None


def _files(source: Source, folder: str | os.PathLike[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of a source in their order, and the names of the columns that stand in the names of their folders."""
    found: list[str] = []
    partitions: dict[str, None] = {}
    if isinstance(source.data, Files):
        partitions = dict.fromkeys(source.data.partitions)
    for pattern in source.patterns or ():
        if remote.protocol_of(pattern):
            matches, root = remote.listed(pattern, source.storage_options or {})
            if not matches:
                raise StoreError(f"{pattern}: no such Parquet file")
            partitions |= _steps(match[len(root) :].split("/")[:-1] for match in matches)
            found += matches
            continue
        pattern = remote.local(pattern)
        path = within(folder, pattern)
        # A file of that very name wins over the pattern: names may have brackets in them.
        if os.path.isfile(path):
            found.append(path)
            continue
        root = path if os.path.isdir(path) else _root(path)
        matches = _in_folder(path) if os.path.isdir(path) else sorted(glob.glob(path, recursive=True))
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise StoreError(f"{path}: no such Parquet file")
        partitions |= _steps(Path(os.path.relpath(match, root)).parts[:-1] for match in matches)
        found += matches
    if not found:
        raise StoreError("the source names no file")
    return tuple(dict.fromkeys(found)), tuple(partitions)


def within(folder: str | os.PathLike[str] | None, path: str) -> str:
    """A path of a source, which starts in `folder` where it is relative."""
    return path if folder is None else os.path.join(folder, path)


def _steps(paths: Iterable[Sequence[str]]) -> dict[str, None]:
    """The names of the columns in the names of these folders, in order."""
    steps = (step for path in paths for step in path)
    return dict.fromkeys(step.partition("=")[0] for step in steps if step.find("=") > 0)


def _in_folder(folder: str) -> list[str]:
    """The Parquet files in a folder and in those below, without those that are hidden or in the making."""
    found = []
    for path in sorted(Path(folder).rglob("*.parquet")):
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            found.append(str(path))
    return found


def _root(pattern: str) -> str:
    """The folder above the first wildcard of a pattern."""
    parts = Path(pattern).parts
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[:wild])) if wild else "."


def _partitions_of(file: str, names: Iterable[str]) -> dict[str, str | None]:
    """The value of each of these columns in the names of a file's folders, the last that there is; None for a null."""
    values: dict[str, str | None] = {}
    steps = Path(file).parts[:-1]
    for name in names:
        last = next((step for step in reversed(steps) if step.startswith(f"{name}=")), None)
        value = None if last is None else unquote(last.partition("=")[2])
        values[name] = None if value in ("", NULL_PARTITION) else value
    return values


def _type_of_texts(values: Iterable[str | None]) -> Any:
    """The Arrow type of a column of texts: whole numbers if all of them are, as they are written, or else text."""
    import pyarrow as pa

    whole = all(value is None or (_WHOLE.fullmatch(value) and abs(int(value)) < 2**63) for value in values)
    return pa.int64() if whole else pa.string()


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
    """The digest of a table, kept for as long as it lives: it never changes."""
    known = _table_digests.get(id(table))
    if known is not None and known[0]() is table:
        return known[1]
    digest = _content_of_table(table)
    place = id(table)
    _table_digests[place] = (weakref.ref(table, lambda _: _table_digests.pop(place, None)), digest)
    return digest


def _content_of_table(table: pa.Table) -> str:
    import pyarrow as pa

    sink = _Digest()
    plain = table.replace_schema_metadata(None)
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, plain.schema) as stream:
        stream.write_table(plain, max_chunksize=1 << 16)
    return sink.sha256.hexdigest()
