"""Logs that several processes append to and read in one order: a folder, or a stream of a Redis server.

Every reader sees the same entries in the same order, so processes that apply them come to the same state, bit for bit.
A snapshot of that state stands for the entries before it, which bounds the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from engine._common import durable
from engine._common.optional import need
from engine.errors import MonitorError

# A snapshot replaces the entries before it once they have this many bytes.
SNAPSHOT_BYTES = 16 << 20
# Length and CRC-32 of an entry come before it.
FRAME = struct.Struct("<II")
READ_ENTRIES = 256
LOCK_MS = 30_000


class Found(NamedTuple):
    """The entries since the last exchange.

    Attributes:
        snapshot: bytes that stand for all entries before `entries`; None where the reader knows them.
        entries: list of bytes, in their order.
    """

    snapshot: bytes | None
    entries: list[bytes]


class Log(Protocol):
    """A log that processes share. Not thread-safe."""

    def exchange(self, entries: Sequence[bytes]) -> Found:
        """Append entries, and return all since the last exchange, the own ones included, in the order of all readers.

        Raises OSError; nothing is appended then, or all.
        """

    def wants_snapshot(self) -> bool:
        """Whether a snapshot should be kept."""

    def keep(self, snapshot: bytes) -> None:
        """Keep a snapshot of the state after the last exchange. Does nothing where another process is ahead.

        Raises OSError.
        """


def open_log(address: str | Path, name: str) -> Log:
    """Return the log of a folder, which is made, or of a Redis server (redis://, rediss:// or unix://).

    `name` tells models apart that share a server; in a folder, each has a folder of its own.

    Raises:
        MonitorError: the folder cannot be made.
        MissingDependencyError: redis is not installed.
    """
    text = str(address)
    if text.startswith(("redis://", "rediss://", "unix://")):
        return RedisLog(text, name)
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MonitorError(f"shared={text!r}: expected a folder or a redis:// address: {error}") from None
    return FolderLog(folder)


class FolderLog:
    """Entries in files of a folder on one machine, whose lock is held while one process appends.

    A process that dies while it appends leaves half an entry behind; the next one cuts it off.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segment = 0  # 0: nothing was read yet
        self._offset = 0

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:09}.log"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.log") if path.stem.isdigit())

    def exchange(self, entries: Sequence[bytes]) -> Found:
        with self._locked():
            segments = self._segments() or [1]
            snapshot = None
            if self._segment < segments[0]:
                snapshot = self._snapshot(segments)
            found: list[bytes] = []
            for segment in range(self._segment, segments[-1] + 1):
                if segment != self._segment:
                    self._segment, self._offset = segment, 0
                with open(self._path(segment), "ab+") as file:
                    found += self._read(file)
                    if segment == segments[-1]:
                        self._append(file, entries)
                        found += entries
        return Found(snapshot, found)

    def _snapshot(self, segments: list[int]) -> bytes | None:
        """Go to the beginning of the newest segment that a snapshot leads to. Return the snapshot."""
        self._segment, self._offset = segments[0], 0
        for segment in reversed(segments):
            with contextlib.suppress(FileNotFoundError):
                content = (self._folder / f"{segment:09}.snapshot").read_bytes()
                self._segment = segment
                return content
        return None

    def _read(self, file: BinaryIO) -> list[bytes]:
        """Return the whole entries from the offset on, and cut off half an entry behind them."""
        file.seek(self._offset)
        content, at, found = file.read(), 0, []
        while len(content) - at >= FRAME.size:
            size, check = FRAME.unpack_from(content, at)
            entry = content[at + FRAME.size : at + FRAME.size + size]
            if len(entry) < size or zlib.crc32(entry) != check:
                break
            found.append(entry)
            at += FRAME.size + size
        self._offset += at
        if at < len(content):
            file.truncate(self._offset)
        return found

    def _append(self, file: BinaryIO, entries: Sequence[bytes]) -> None:
        if not entries:
            return
        content = b"".join(FRAME.pack(len(entry), zlib.crc32(entry)) + entry for entry in entries)
        try:
            file.write(content)
            file.flush()
        except OSError:
            # A full disk: a half entry must not stay before later ones.
            with contextlib.suppress(OSError):
                file.truncate(self._offset)
            raise
        self._offset += len(content)

    def wants_snapshot(self) -> bool:
        return self._offset >= SNAPSHOT_BYTES

    def keep(self, snapshot: bytes) -> None:
        with self._locked():
            segments = self._segments()
            if (
                not segments
                or segments[-1] != self._segment
                or os.path.getsize(self._path(self._segment)) != self._offset
            ):
                return
            following = self._segment + 1
            durable.write(self._folder / f"{following:09}.snapshot", snapshot)
            self._path(following).touch()
            # Readers that are behind still find the segment that ends here.
            for old in segments[:-1]:
                for suffix in ("log", "snapshot"):
                    (self._folder / f"{old:09}.{suffix}").unlink(missing_ok=True)


class RedisLog:
    """Entries in a stream of a Redis server of version 5 or later. Machines may differ."""

    def __init__(self, url: str, name: str) -> None:
        redis = need("redis", "monitors that share a Redis server", "redis")
        self._client: Any = redis.Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._errors: type[Exception] = redis.RedisError
        self._stream = f"engine:monitor:{name or 'model'}:log"
        self._kept = f"engine:monitor:{name or 'model'}:snapshot"
        self._last = b""  # nothing was read yet
        self._bytes = 0

    def exchange(self, entries: Sequence[bytes]) -> Found:
        try:
            return self._exchange(entries)
        except self._errors as error:
            raise OSError(f"the Redis server of the shared monitor: {error}") from error

    def _exchange(self, entries: Sequence[bytes]) -> Found:
        snapshot = None
        trimmed = self._client.hget(self._kept, "trimmed") or b"0-0"
        if not self._last or _order(self._last) < _order(trimmed):
            at, snapshot = self._client.hmget(self._kept, "at", "content")
            self._last = at or b"0-0"
        if entries:
            sending = self._client.pipeline(transaction=True)
            for entry in entries:
                sending.xadd(self._stream, {"e": entry})
            sending.execute()
        found: list[bytes] = []
        while True:
            after = b"(" + self._last if self._last != b"0-0" else b"-"
            some = self._client.xrange(self._stream, min=after, max=b"+", count=READ_ENTRIES)
            found += [fields[b"e"] for _, fields in some]
            if some:
                self._last = some[-1][0]
            if len(some) < READ_ENTRIES:
                break
        self._bytes += sum(map(len, found))
        return Found(snapshot, found)

    def wants_snapshot(self) -> bool:
        return self._bytes >= SNAPSHOT_BYTES

    def keep(self, snapshot: bytes) -> None:
        self._bytes = 0
        token = secrets.token_hex(8)
        try:
            if not self._client.set(f"{self._kept}:lock", token, nx=True, px=LOCK_MS):
                return
            before = self._client.hget(self._kept, "at") or b"0-0"
            if _order(before) >= _order(self._last):
                return
            # Readers that are behind the former snapshot begin with this one.
            change = self._client.pipeline(transaction=True)
            change.hset(self._kept, mapping={"at": self._last, "content": snapshot, "trimmed": before})
            if before != b"0-0":
                change.xtrim(self._stream, minid=before, approximate=False)
            change.delete(f"{self._kept}:lock")
            change.execute()
        except self._errors as error:
            raise OSError(f"the Redis server of the shared monitor: {error}") from error


def _order(entry_id: bytes) -> tuple[int, int]:
    """Return the place of an entry of a stream: milliseconds, then a number."""
    at, number = entry_id.split(b"-")
    return int(at), int(number)
