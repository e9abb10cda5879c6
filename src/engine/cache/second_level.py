"""The second level: embeddings in LMDB, shared by the processes of a machine, or in Redis, shared by machines.

Both use the readers of the online feature store, which answer by a deadline and leave a bad server alone for a while.
A second level that fails is a miss, and is counted.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine._common import arguments, optional
from engine.errors import InputTypeError, StoreError
from engine.feature_store.online import LMDBOnline, RedisOnline, Unavailable

__all__ = ["LMDBLevel", "RedisLevel", "SecondLevel", "Unavailable"]

# A stored embedding: a mark, the crc32 of the rest, the instant at which it ends (milliseconds since 1970, 0 for
# never), its place in the order of LMDB, and float32 numbers.
_HEADER = struct.Struct("<4sIqQ")
_MARK = b"emb1"
_ORDER, _DATA, _STATE = b"o", b"d", b"s"


class SecondLevel(Protocol):
    """The store behind a cache. Keys are 32 bytes, values bytes. Thread-safe."""

    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The value of each key, None where there is none, by an instant of `time.monotonic_ns()`.

        Raises Unavailable where there is no answer by then.
        """
        ...

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        ...

    def write(self, pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int) -> None:
        """Write values, for ttl_ms milliseconds, 0 for ever. No caller waits for it. Raises StoreError."""
        ...

    def close(self) -> None:
        """Close connections. Later calls open new ones."""
        ...


def packed(value: npt.NDArray[np.float32], ttl_ms: int) -> bytes:
    """The bytes of an embedding, with the instant at which it ends."""
    ends_ms = int(time.time() * 1e3) + ttl_ms if ttl_ms else 0
    return _sealed(ends_ms, 0, np.ascontiguousarray(value, dtype="<f4").tobytes())


def _sealed(ends_ms: int, place: int, numbers: bytes) -> bytes:
    body = _HEADER.pack(_MARK, 0, ends_ms, place)[8:] + numbers
    return _MARK + zlib.crc32(body).to_bytes(4, "little") + body


def unpacked(stored: bytes | None, dimensions: int) -> npt.NDArray[np.float32] | None:
    """The embedding of stored bytes; None for none, for one whose time is up, and for bytes that are none."""
    if stored is None or len(stored) != _HEADER.size + 4 * dimensions:
        return None
    mark, check, ends_ms, _ = _HEADER.unpack_from(stored)
    if mark != _MARK or check != zlib.crc32(stored[8:]) or 0 < ends_ms <= time.time() * 1e3:
        return None
    return np.frombuffer(stored, "<f4", offset=_HEADER.size).astype(np.float32, copy=False)


class LMDBLevel(LMDBOnline):
    """Keep embeddings in an LMDB environment: a read takes microseconds, in place; the processes of a machine share it.

    Args:
        folder: the environment's folder; the first write or read makes it. It must hold nothing else.
        capacity_bytes: the most bytes of all embeddings; beyond that the oldest make room. The file may be three times
            as large, because pages are not full. 1 MiB to 1 TiB.

    Thread-safe, and safe among processes of one machine, but not on a network file system.

    Raises:
        MissingDependencyError: lmdb is not installed.
        InputError, InputTypeError: capacity_bytes out of range, or no int.
    """

    def __init__(self, folder: str | os.PathLike[str], *, capacity_bytes: int = 1 << 30) -> None:
        arguments.whole("capacity_bytes", capacity_bytes, 1 << 20, 1 << 40, type_error=InputTypeError)
        super().__init__(folder, map_bytes=3 * capacity_bytes + (16 << 20))
        self.capacity_bytes = capacity_bytes
        self._reader = self.wire()

    def __repr__(self) -> str:
        return f"LMDBLevel({str(self.folder)!r})"

    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """As `SecondLevel.read`, on the caller's thread."""
        return self._reader.read([_DATA + key for key in keys], deadline_ns)

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read`, which takes microseconds, so the event loop may wait for it."""
        return self.read(keys, deadline_ns)

    def write(self, pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int) -> None:  # type: ignore[override]
        """As `SecondLevel.write`, in one durable transaction. The oldest embeddings make room."""
        with self._writing() as transaction:
            state = transaction.get(_STATE)
            total, place = struct.unpack("<QQ", state) if state is not None else (0, 0)
            for key, value in pairs:
                old = transaction.get(_DATA + key)
                if old is not None:
                    total -= self._forget(transaction, _DATA + key, old)
                place += 1
                ends_ms = _HEADER.unpack_from(value)[2]
                transaction.put(_DATA + key, _sealed(ends_ms, place, value[_HEADER.size :]))
                transaction.put(_ORDER + place.to_bytes(8, "big"), _DATA + key)
                total += len(value)
            total = self._trimmed(transaction, total)
            transaction.put(_STATE, struct.pack("<QQ", total, place))

    def _trimmed(self, transaction: Any, total: int) -> int:
        with transaction.cursor() as cursor:
            while total > self.capacity_bytes and cursor.set_range(_ORDER) and cursor.key()[:1] == _ORDER:
                key = cursor.value()
                old = transaction.get(key)
                total -= self._forget(transaction, key, old)
        return total

    @staticmethod
    def _forget(transaction: Any, key: bytes, old: bytes) -> int:
        """Delete an embedding with its place in the order. Returns its bytes."""
        place = _HEADER.unpack_from(old)[3]
        size = len(old)
        transaction.delete(_ORDER + place.to_bytes(8, "big"))
        transaction.delete(key)
        return size

    def close(self) -> None:
        """Do nothing, because the stores of this process share the environment."""
        self._reader.close()


class RedisLevel:
    """Keep embeddings on a Redis server, shared by any number of machines.

    Args:
        url, namespace, timeout_s: as of `engine.feature_store.RedisOnline`. Give the server a maxmemory and a policy
            such as allkeys-lfu, because nothing else bounds it.

    Thread-safe, and safe across forks. Connects when first used.

    Raises:
        ConfigError: a URL or namespace of another form.
        MissingDependencyError: redis or hiredis is not installed.
    """

    def __init__(self, url: str, *, namespace: str = "engine-cache", timeout_s: float = 5.0) -> None:
        redis = optional.need("redis", "a second level on Redis", "redis")
        store = RedisOnline(url, namespace=namespace, timeout_s=timeout_s)
        self._errors = (redis.exceptions.RedisError, OSError)
        self._prefix = store.prefix("e")
        self._client = store._address.client(redis, timeout_s)
        self._reader = store.wire()
        self._shown = repr(store).replace("RedisOnline", "RedisLevel")

    def __repr__(self) -> str:
        return self._shown

    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """As `SecondLevel.read`, by one MGET."""
        return self._reader.read([self._prefix + key for key in keys], deadline_ns)

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        return await self._reader.read_async([self._prefix + key for key in keys], deadline_ns)

    def write(self, pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int) -> None:
        """As `SecondLevel.write`, pipelined."""
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for key, value in pairs:
                    pipeline.set(self._prefix + key, value, px=ttl_ms or None)
                pipeline.execute()
        except self._errors as error:
            raise StoreError(f"{self._shown}: cannot be written: {error}") from error

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._reader.close()
        self._client.close()
        self._client.connection_pool.disconnect()
