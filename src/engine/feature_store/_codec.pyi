from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

MAGIC: bytes
KINDS: tuple[str, ...]
REASONS: tuple[str, ...]
NO_KEY: bytes

def keys_of(prefix: bytes, columns: Sequence[Sequence[int | str]]) -> list[bytes]: ...
def supersedes(new: bytes, old: bytes) -> int: ...
def request_keys(readers: tuple[Reader, ...], requests: Sequence[Mapping[str, Any]]) -> list[bytes]: ...
def merge(
    readers: tuple[Reader, ...],
    requests: Sequence[Mapping[str, Any]],
    keys: list[bytes],
    blobs: Sequence[bytes | None] | None,
    now_ns: int,
    counts: list[int],
) -> list[tuple[dict[str, Any], tuple[str, ...]]]: ...

class Layout:
    tag: bytes
    kinds: tuple[str, ...]
    def __init__(self, tag: bytes, kinds: Sequence[str]) -> None: ...
    def pack(
        self,
        event_ns: npt.ArrayLike,
        created_ns: npt.ArrayLike | None,
        revision: int,
        columns: Sequence[Any],
        nulls: Sequence[npt.ArrayLike | None],
    ) -> list[bytes]: ...
    def unpack(self, blob: bytes) -> tuple[int, int | None, int, list[Any]] | str: ...

class Reader:
    names: tuple[str, ...]
    def __init__(
        self,
        prefix: bytes,
        keys: Sequence[tuple[str, str]],
        layout: Layout,
        wanted: Sequence[tuple[str, int]],
        ttl_ns: int | None,
    ) -> None: ...
