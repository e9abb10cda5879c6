"""Durable files: each is whole or absent, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(target: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that replaces `target` when the block ends, and is removed if the block raises.

    The file lies beside `target` while it is written. Then it is synced and renamed, and the folder is synced. A device
    or a pipe (`/dev/null`, `/dev/stdout`) is written to and never replaced.

    Args:
        sync: False leaves out both syncs: the file is then whole or absent after a crash of the process, but not after
            a crash of the machine.

    Raises:
        OSError: of the system. The caller adds the name of the file's purpose.
    """
    if target.exists() and not (target.is_file() or target.is_dir()):
        with target.open("wb") as out:
            yield out
        return
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
    """Write `content` to `target` as `replacing` does."""
    with replacing(target, sync=sync) as out:
        out.write(content)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make renames in a folder durable."""
    with contextlib.ExitStack() as stack:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        os.fsync(folder)
