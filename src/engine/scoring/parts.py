"""The finished parts of an incomplete output: files in a folder beside it. A later run takes them up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine._common import durable
from engine._common.optional import need
from engine.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

RUN = b"engine.run"


class Parts:
    """The parts of one run.

    Args:
        target: the output.
        run: digest of everything that decides the output. Parts of another run are removed.
    """

    def __init__(self, target: Path, run: str) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".parts")
        self.run = run.encode()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock. Raises InputError if another process holds it."""
        try:
            self.folder.mkdir(exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror}") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is scoring into {self.target}") from None
            yield
        finally:
            os.close(lock)

    def finished(self, index: int, rows: int) -> bool:
        """Return whether a part is whole, of this run, and has `rows` rows. Remove any other file of its name."""
        path = self._path(index)
        try:
            found = parquet().read_metadata(path)
            if (found.metadata or {}).get(RUN) == self.run and found.num_rows == rows:
                return True
        except (OSError, ValueError):
            pass
        path.unlink(missing_ok=True)
        return False

    @contextlib.contextmanager
    def writing(self, index: int, schema: pa.Schema) -> Iterator[Any]:
        """Yield a Parquet writer for a part. The part appears, durable, when the block ends."""
        with _durable(self._path(index), schema.with_metadata({RUN: self.run})) as writer:
            yield writer

    def join(self, count: int, schema: pa.Schema) -> None:
        """Write the parts to the output in order, let it appear in one step, and remove the parts."""
        with _durable(self.target, schema) as writer:
            for index in range(count):
                source = parquet().ParquetFile(self._path(index), memory_map=True)
                for group in range(source.num_row_groups):
                    writer.write_table(source.read_row_group(group).replace_schema_metadata(schema.metadata))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.parquet"


@contextlib.contextmanager
def _durable(path: Path, schema: pa.Schema) -> Iterator[Any]:
    try:
        with (
            durable.replacing(path) as out,
            parquet().ParquetWriter(out, schema, compression="snappy") as writer,
        ):
            yield writer
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def parquet() -> Any:
    """Return pyarrow.parquet. Raises MissingDependencyError where it is not installed."""
    return need("pyarrow.parquet", "scoring files", "store")
