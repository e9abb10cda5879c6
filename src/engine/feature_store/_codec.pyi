from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

MAGIC: bytes
KINDS: tuple[str, ...]
LIST: str
REASONS: tuple[str, ...]
NO_KEY: bytes

def keys_of(prefix: bytes, columns: Sequence[Sequence[int | str]]) -> list[bytes]:
    """The stored keys of many entities, as a list of bytes.

    Args:
        prefix: the view's, as `OnlineStore.prefix` gives it.
        columns: for each key column a list of int, str or bytes, equally long.
    """

def supersedes(new: bytes, old: bytes) -> int:
    """The outcome of writing the row `new` over the stored bytes `old`.

    1: write it. 0: it is the stored row. -1: it is older. -2: `old` is no row and must not be overwritten.

    Raises:
        ValueError: `new` is no row.
    """

def request_keys(readers: tuple[Reader, ...], requests: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The stored keys of requests, request by request and reader by reader, as a flat list of bytes.

    Args:
        readers: one a view.
        requests: mappings with the views' entity keys.

    Raises:
        InputError: a request is no mapping, or an entity key is absent or of another type.
    """

def merge(
    readers: tuple[Reader, ...],
    requests: Sequence[Mapping[str, Any]],
    keys: list[bytes],
    blobs: Sequence[bytes | None] | None,
    now_ns: int,
    counts: list[int],
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """For each request a pair: a new dict of the request with its online features, and the names of the missing ones.

    Args:
        readers: one a view.
        requests: as given to `request_keys`.
        keys: as `request_keys` returned them.
        blobs: the stored row of each key, None where there is none. None for all if the store did not answer: then
            every feature is missing, and nothing is counted.
        now_ns: the time for TTLs, nanoseconds since 1970.
        counts: a list with one count for each of REASONS, which is added to.
    """

class Layout:
    """The layout of one view's stored rows. Immutable.

    Attributes:
        tag: 8 bytes that name the schema.
        kinds: the kind of each column, from KINDS, or LIST.

    Args:
        tag: 8 bytes that name the schema.
        kinds: the kind of each column, from KINDS, or LIST; 1 to 1,024 of them.

    Raises:
        ValueError: a tag of another length, an unknown kind, or a number of columns out of range.
    """

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
    ) -> list[bytes]:
        """The rows as a list of bytes.

        Args:
            event_ns: int64 [n], nanoseconds since 1970.
            created_ns: int64 [n], the same; None if the source has no created time.
            revision: of the materialisation, 0 to 2^64 - 1.
            columns: for each column int64 or float64 [n], or for text a list of n str, or for lists a list of n bytes
                objects, 8 bytes a float.
            nulls: for each column uint8 [n], not zero where the value is null; None for no nulls.

        Raises:
            ValueError: columns of different lengths, or texts of more than 4 GiB in one row.
        """

    def unpack(self, blob: bytes) -> tuple[int, int | None, int, list[Any]] | str:
        """(event_ns, created_ns or None, revision, values) of a stored row.

        Bytes that cannot be read give a str instead, the reason out of REASONS.
        """

class Reader:
    """Read one view's rows into requests. Thread-safe under the GIL.

    Attributes:
        names: the full names of the features that are read.
        unknown: the tags of rows that were met and are of no layout known here.

    Args:
        prefix: the beginning of the stored keys.
        keys: pairs of the request's key name and its kind, "int", "text" or "bytes".
        layout: the layout of the rows.
        wanted: pairs of a feature's full name and its column in the layout.
        ttl_ns: a row older than this is expired; None for never.
    """

    names: tuple[str, ...]
    unknown: set[bytes]
    def __init__(
        self,
        prefix: bytes,
        keys: Sequence[tuple[str, str]],
        layout: Layout,
        wanted: Sequence[tuple[str, int]],
        ttl_ns: int | None,
    ) -> None: ...
    def also(self, layout: Layout, columns: Sequence[int | None]) -> None:
        """Read rows of another layout too.

        Args:
            layout: the layout.
            columns: for each of `names` its column there, None if it has none: such a feature is then missing.
        """
