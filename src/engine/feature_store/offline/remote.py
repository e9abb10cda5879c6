"""Parquet files in object stores and other places with a URL (s3://, gs://, abfs://, …), by fsspec.

fsspec finds the driver of a URL's protocol (s3fs, gcsfs, adlfs), and the driver finds credentials as its cloud's own
tools do. Nothing is kept: each look lists the place anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engine._common import optional
from engine.errors import EngineError, MissingDependencyError, StoreError

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# What changes with the content of an object, as the drivers name it.
_CHANGES = ("ETag", "etag", "md5Hash", "crc32c", "generation", "VersionId", "version_id", "LastModified")
_CHANGES_TOO = ("last_modified", "mtime", "updated", "created", "modified")
Options = Mapping[str, Any]


def protocol_of(path: str) -> str | None:
    """The protocol of a URL, None for a path on this machine."""
    found = _URL.match(path)
    return None if found is None or found[1].lower() == "file" else found[1].lower()


def local(path: str) -> str:
    """A path on this machine, without the file:// that it may have before it."""
    return path[len("file://") :] if path.lower().startswith("file://") else path


def filesystem(path: str, options: Options) -> Any:
    """The fsspec file system of a URL.

    Raises:
        MissingDependencyError: fsspec, or the driver of the protocol, is not installed.
        StoreError: the protocol is unknown, or the driver refuses an option.
    """
    fsspec = optional.need("fsspec", f"a source at {protocol_of(path)}://", "remote")
    try:
        return fsspec.filesystem(protocol_of(path), **options)
    except ImportError as error:
        raise MissingDependencyError(f"{path}: {error}") from None
    except Exception as error:
        raise StoreError(f"{path}: cannot be opened: {type(error).__name__}: {error}") from None


def listed(path: str, options: Options) -> tuple[list[str], str]:
    """The files of a URL that is a file, a folder or a pattern, sorted; and the folder above its first wildcard."""
    fs = filesystem(path, options)
    begin = f"{protocol_of(path)}://"
    with _explained(path):
        fs.invalidate_cache()
        if not _is_pattern(path) and fs.isfile(path):
            return [path], path.rpartition("/")[0]
        if not _is_pattern(path):
            found = [str(name) for name in fs.find(path)]
            root = path.rstrip("/")
            within = [name for name in found if _is_part(name, fs._strip_protocol(root))]
        else:
            parts = path.split("/")
            wild = next(place for place, part in enumerate(parts) if _is_pattern(part))
            root = "/".join(parts[:wild])
            within = [str(name) for name in fs.glob(path) if fs.isfile(name)]
    return [begin + name.lstrip("/") for name in sorted(within)], root


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _is_part(name: str, root: str) -> bool:
    """Whether this is a Parquet file in the folder that is neither hidden nor in the making."""
    steps = name[len(root) :].split("/")
    return name.endswith(".parquet") and not any(step.startswith((".", "_")) for step in steps)


def stamp(file: str, options: Options) -> list[Any]:
    """Return facts that change when an object does: its size, its version and the digest that its store keeps."""
    fs = filesystem(file, options)
    with _explained(file):
        fs.invalidate_cache()
        found = fs.info(file)
    said = [str(found[name]) for name in (*_CHANGES, *_CHANGES_TOO) if found.get(name) is not None]
    if not said:
        raise StoreError(
            f"{file}: its store says neither a version nor a time of change, so a change could not be noticed"
        )
    return [file, found.get("size"), *said]


def exists(file: str, options: Options) -> bool:
    """Whether an object is there."""
    fs = filesystem(file, options)
    with _explained(file):
        fs.invalidate_cache()
        return bool(fs.exists(file))


def schema(pq: Any, file: str, options: Options) -> Any:
    """The Arrow schema of a Parquet file, of which the end alone is read."""
    with _explained(file), arrow(file, options).open_input_file(_path(file, options)) as opened:
        return pq.read_schema(opened)


def table(pq: Any, file: str, columns: list[str], options: Options) -> Any:
    """Columns of a Parquet file as a pyarrow Table."""
    with _explained(file), arrow(file, options).open_input_file(_path(file, options)) as opened:
        return pq.ParquetFile(opened).read(columns=columns)


def arrow(file: str, options: Options) -> Any:
    """pyarrow's view of the file system."""
    from pyarrow import fs

    return fs.PyFileSystem(fs.FSSpecHandler(filesystem(file, options)))


def _path(file: str, options: Options) -> str:
    return str(filesystem(file, options)._strip_protocol(file))


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise a driver's errors, which may be of any class, as StoreError."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        raise StoreError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
