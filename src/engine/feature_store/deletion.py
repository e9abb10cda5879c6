"""Deleting the online rows of an entity, and the log of it.

A deletion may leave a mark in place of the row: the bytes of a row without any feature, that sorts as a row of the
instant of the deletion does. So the rule that nothing older overwrites keeps out what a source still has.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine._common import canonical
from engine._common.caller import who
from engine.errors import InputError, StoreError
from engine.feature_store._codec import MAGIC, NO_KEY, Reader, request_keys
from engine.feature_store.definitions import FeatureView
from engine.feature_store.online.base import OnlineStore, Unavailable
from engine.feature_store.schema import Schema

DELETED_TAG = bytes(
    8
)  # in place of a schema's: csrc/feature_store/codec.hpp reads such a row as one that is not there
NOTE_LENGTH_MAX = 4096
READ_S_MAX = 30.0
_SHORTENED = b"\x01#"


@dataclass(frozen=True, slots=True)
class Deleted:
    """An entry of the log of deletions. It names no entity, because a log outlives the right to know it.

    Attributes:
        at_ns: the time of this machine's clock, nanoseconds since 1970.
        who: user, host and process.
        views: the names of the views.
        rows: how many rows were there and are deleted.
        keys_sha256: sha256 of the canonical JSON of the keys, 64 hex digits: `Deleted.digest_of({"tailnum": "N1"})`.
        mark: whether older rows of a source stay out.
        note: the caller's.
    """

    at_ns: int
    who: str
    views: tuple[str, ...]
    rows: int
    keys_sha256: str
    mark: bool
    note: str = ""

    @staticmethod
    def digest_of(keys: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
        """The digest that the log has for these keys."""
        entities = [keys] if isinstance(keys, Mapping) else keys
        return canonical.digest([{name: str(value) for name, value in each.items()} for each in entities])

    @classmethod
    def from_json(cls, entry: bytes) -> Deleted:
        """An entry as the store keeps it. Raises StoreError for bytes that are none."""
        try:
            found = json.loads(entry)
            return cls(**{**found, "views": tuple(found["views"])})
        except (ValueError, TypeError, KeyError):
            raise StoreError(f"the log of deletions holds something else: {entry[:80]!r}") from None

    def to_json(self) -> bytes:
        """The entry as the store keeps it."""
        return json.dumps(asdict(self)).encode()


def delete_rows(
    online: OnlineStore, view: FeatureView, schema: Schema, keys: Any, *, mark: bool, note: str
) -> Deleted:
    """`FeatureStore.delete`."""
    entities = [keys] if isinstance(keys, Mapping) else list(keys)
    if not entities:
        raise InputError("keys: expected the keys of at least one entity, got none")
    # Requests name the keys as the view does, which may be in a role.
    named = list(zip(view.keys, (kind for _, kind in schema.keys), strict=True))
    stored = stored_keys(online, view.online_name, schema, entities, named)
    return _erased(online, {view.online_name: stored}, entities, view.ttl_ns, mark, note)


def delete_everywhere(online: OnlineStore, keys: Mapping[str, Any], *, mark: bool, note: str) -> Deleted:
    """`FeatureStore.delete_entity`."""
    if not isinstance(keys, Mapping) or not keys:
        raise InputError(f"keys: expected the entity's keys by name, got {keys!r:.80}")
    found: dict[str, list[bytes]] = {}
    there: list[str] = []
    for name in online.views():
        schemas = online.schemas(name)
        if not schemas:
            continue
        names = [key for key, _ in schemas[0].keys]
        there.append(f"{name} ({', '.join(names)})")
        if set(names) == keys.keys():
            found[name] = stored_keys(online, name, schemas[0], [keys], schemas[0].keys)
        elif keys.keys() < set(names):
            found[name] = _with_parts(online, name, schemas[0], keys)
    if not found:
        raise StoreError(
            f"{online}: no view has the keys {', '.join(keys)}; there are: {', '.join(there) or 'none'}"
        )
    return _erased(online, found, [keys], None, mark, note)


def stored_keys(
    online: OnlineStore,
    view: str,
    schema: Schema,
    entities: Sequence[Mapping[str, Any]],
    named: Iterable[tuple[str, str]],
) -> list[bytes]:
    """The stored key of each entity. Raises InputError for a key that is missing, null or of another type."""
    reader = Reader(online.prefix(view), list(named), schema.layout, [("a feature", 0)], None)
    made = request_keys((reader,), entities)
    for place, key in enumerate(made):
        if key == NO_KEY:
            raise InputError(f"keys: entity {place} has a key that is null: {dict(entities[place])!r:.200}")
    return made


def _with_parts(online: OnlineStore, view: str, schema: Schema, keys: Mapping[str, Any]) -> list[bytes]:
    """The stored keys of a view of several entities that have these parts."""
    prefix = online.prefix(view)
    wanted = {}
    for place, (name, kind) in enumerate(schema.keys):
        if name in keys:
            [key] = stored_keys(online, view, schema, [keys], [(name, kind)])
            wanted[place] = key[len(prefix) :]
    found, unknown = [], 0
    for key, _ in online.rows(view):
        tail = key[len(prefix) :]
        if tail.startswith(_SHORTENED):
            unknown += 1
            continue
        parts = parts_of(tail, len(schema.keys))
        if parts is not None and all(parts[place] == text for place, text in wanted.items()):
            found.append(key)
    if unknown:
        raise StoreError(
            f"view {view!r}: {unknown} of its rows have keys too long to be read back, so they cannot be searched; "
            "delete them by all keys of the view, with delete(view, keys)"
        )
    return found


def parts_of(tail: bytes, n_parts: int) -> list[bytes] | None:
    """The parts of a stored key behind the view's prefix; None if it is none. All parts but the last say their
    length."""
    parts = []
    for _ in range(n_parts - 1):
        length, colon, rest = tail.partition(b":")
        if not colon or not length.isdigit():
            return None
        parts.append(rest[: int(length)])
        tail = rest[int(length) :]
    return [*parts, tail]


def mark_of(event_ns: int) -> bytes:
    """The mark of a deletion: it replaces rows up to this instant, and no row of it replaces the mark."""
    return MAGIC + DELETED_TAG + struct.pack(">QQQ", (event_ns + 2**63) % 2**64, 2**64 - 1, 2**64 - 1)


def is_mark(row: bytes) -> bool:
    """Whether this is the mark of a deletion."""
    return row[len(MAGIC) : len(MAGIC) + len(DELETED_TAG)] == DELETED_TAG


def _event_ns(row: bytes) -> int:
    (event,) = struct.unpack_from(">Q", row, len(MAGIC) + len(DELETED_TAG))
    return int(event) - 2**63


def _erased(
    online: OnlineStore,
    keys: Mapping[str, Sequence[bytes]],
    entities: Sequence[Mapping[str, Any]],
    ttl_ns: int | None,
    mark: bool,
    note: str,
) -> Deleted:
    if not isinstance(note, str) or len(note) > NOTE_LENGTH_MAX:
        raise InputError(f"note: expected a text of at most {NOTE_LENGTH_MAX:,} characters, got {note!r:.80}")
    now_ns = time.time_ns()
    every = [key for part in keys.values() for key in part]
    wire = online.wire()
    try:
        rows = wire.read(every, time.monotonic_ns() + int(READ_S_MAX * 1e9)) if every else []
    except Unavailable as error:
        raise StoreError(f"{online}: cannot be read: {error}") from error
    finally:
        wire.close()
    made: dict[bytes, bytes | None] = {}
    deleted = 0
    for key, row in zip(every, rows, strict=True):
        there = row is not None and row.startswith(MAGIC) and len(row) >= 36
        deleted += bool(there and row is not None and not is_mark(row))
        # A row may be ahead of this machine's clock.
        made[key] = (
            mark_of(max(now_ns, _event_ns(row)) if there and row is not None else now_ns) if mark else None
        )
    entry = Deleted(now_ns, who(), tuple(keys), deleted, Deleted.digest_of(entities), mark, note)
    online.erase(made, ttl_ns, entry.to_json())
    return entry
