"""Notice pages: the target of an alias on a page of memory that all processes of the machine share.

A follower that asks SQLite gives up the GIL five times. Beside busy threads it may wait a switch interval (5 ms) or two
to get it back each time. Comparing a page takes no lock and no system call. The index remains the truth: a page is
published after the commit, readers ignore a damaged one, and followers still ask the index every second.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

from engine.registry.files import lock_within
from engine.registry.versions import AliasState

LOCK_S_MAX = 0.5  # wait for other writers: followers find the flip in the index about as soon
_FOLDER = "notices"
_PAGE_BYTES = 4096
_HEADER_BYTES = 8  # crc32 and length of the JSON that follows
_GENERATION_BYTES = 8  # the first bytes of the page: a reader compares only them


class NoticePage:
    """The page of one alias, as its readers see it. Not thread-safe. Empty until a writer has published it.

    Args:
        registry: the registry's folder.
        name, alias: `name@alias`.
    """

    def __init__(self, registry: Path, name: str, alias: str) -> None:
        self._path = _path(registry, name, alias)
        self._page: mmap.mmap | None = None
        self._seen = b""
        self.open()

    def open(self) -> None:
        """Map the page if it was missing so far. Its present content does not count as a change."""
        if self._page is None:
            with contextlib.suppress(OSError, ValueError), open(self._path, "rb") as file:
                self._page = mmap.mmap(file.fileno(), _PAGE_BYTES, access=mmap.ACCESS_READ)
                self._seen = self._page[:_GENERATION_BYTES]

    @property
    def is_open(self) -> bool:
        """Whether the page exists and is mapped."""
        return self._page is not None

    def changed(self) -> bool:
        """Return whether a writer has published since the last call that returned True."""
        if self._page is None or (now := self._page[:_GENERATION_BYTES]) == self._seen:
            return False
        self._seen = now
        return True

    def read(self) -> AliasState | None:
        """Return the alias's state; None if the page is missing, damaged or being written."""
        return _decoded(self._page[:]) if self._page is not None else None

    def close(self) -> None:
        """Unmap the page."""
        if self._page is not None:
            self._page.close()
            self._page = None


def publish(registry: Path, name: str, alias: str, ask: Callable[[], AliasState]) -> None:
    """Write the state that `ask` returns to the page of an alias.

    `ask` is called under the page's lock, so the last writer publishes the last state.

    Raises:
        OSError: the folder cannot be written, or another writer has held the lock for LOCK_S_MAX.
    """
    path = _path(registry, name, alias)
    path.parent.mkdir(exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
        lock_within(LOCK_S_MAX, file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size < _PAGE_BYTES:  # new: readers do not map it before it has its size
            os.ftruncate(file.fileno(), _PAGE_BYTES)
        page = _encoded(ask())
        with mmap.mmap(file.fileno(), _PAGE_BYTES) as shared:
            # The generation last: readers compare it, and then check the body by its checksum.
            shared[_GENERATION_BYTES:] = page[_GENERATION_BYTES:]
            shared[:_GENERATION_BYTES] = page[:_GENERATION_BYTES]


def _path(registry: Path, name: str, alias: str) -> Path:
    # Hashed: a name never becomes a path.
    return registry / _FOLDER / hashlib.sha256(f"{name}@{alias}".encode()).hexdigest()[:32]


def _encoded(state: AliasState) -> bytes:
    body = json.dumps(astuple(state)).encode()
    generation = state.generation.to_bytes(_GENERATION_BYTES, "little")
    header = zlib.crc32(generation + body).to_bytes(4, "little") + len(body).to_bytes(4, "little")
    page = generation + header + body
    # A state that does not fit is cut off: its reader sees the change, finds it damaged and asks the index.
    return page.ljust(_PAGE_BYTES, b"\0")[:_PAGE_BYTES]


def _decoded(page: bytes) -> AliasState | None:
    generation, rest = page[:_GENERATION_BYTES], page[_GENERATION_BYTES:]
    crc, length = int.from_bytes(rest[:4], "little"), int.from_bytes(rest[4:_HEADER_BYTES], "little")
    body = rest[_HEADER_BYTES : _HEADER_BYTES + length]
    if len(body) < length or zlib.crc32(generation + body) != crc:
        return None
    name, alias, number, found, past = json.loads(body)
    return AliasState(name, alias, number, found, tuple(past))
