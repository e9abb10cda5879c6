"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(target: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `target` when the block ends, and is removed when it raises.

    The file lies beside `target` while it is written, is synced, renamed, and the folder synced.

    Args:
        sync: False leaves out both syncs: the file is still whole or absent after a crash of the process, though not of
            the machine.

    Raises:
        OSError: as the system gives it. The caller says what was being written.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            yield out
            out.flush()
            if sync:
                os.fsync(out.fileno())
        part.rename(target)
        if sync:
            sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


def write(target: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes `content` to `target` as `replacing` does."""
    with replacing(target, sync=sync) as out:
        out.write(content)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Makes renames in a folder durable."""
    with contextlib.ExitStack() as stack:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        os.fsync(folder)
