"""The registry's index: versions, aliases and the audit log, in one SQLite file.

Each change is one transaction that begins with the write lock, so two writers wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import RegistryError
from engine.registry.connection import Connection
from engine.registry.versions import AliasState, AuditEntry, Version

_TAGS = (
    "CREATE TABLE IF NOT EXISTS tags(name TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, "
    "value TEXT NOT NULL, PRIMARY KEY(name, number, key)) WITHOUT ROWID"
)
PAST_MAX = 100  # previous versions that an alias remembers


class Index:
    """The index, read and changed through one connection. Thread-safe; raises as `Connection` does."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._connection = Connection(path, create=create)

    def close(self) -> None:
        """Close the connection. The next call opens another."""
        self._connection.close()

    def add_version(
        self, name: str, digest: str, manifest: bytes, blobs: list[str], who: str, note: str
    ) -> Version:
        """Return the version with this digest; add it if it is new. Durable on return."""
        with self._connection.writing() as connection:
            found = connection.execute(
                "SELECT name, number, digest, created_ns FROM versions WHERE name=? AND digest=?",
                (name, digest),
            ).fetchone()
            if found:
                return Version(*found)
            # The audit log remembers the numbers of deleted versions.
            (last,) = connection.execute(
                "SELECT max(coalesce((SELECT max(number) FROM versions WHERE name=?1), 0), "
                "coalesce((SELECT max(after) FROM audit WHERE name=?1 AND action='register'), 0))",
                (name,),
            ).fetchone()
            version = Version(name, last + 1, digest, time.time_ns())
            connection.execute(
                "INSERT INTO versions VALUES(?, ?, ?, ?, ?)",
                (name, version.number, digest, version.created_ns, manifest),
            )
            connection.executemany(
                "INSERT INTO blobs VALUES(?, ?, ?)", [(name, version.number, blob) for blob in set(blobs)]
            )
            _log(connection, name, "register", None, None, version.number, None, who, note)
            return version

    def point(
        self, name: str, alias: str, number: int, who: str, note: str, generation: int | None
    ) -> AliasState:
        """Point an alias at a version. No change, and no audit entry, if it points there already."""
        with self._connection.writing() as connection:
            now = _alias(connection, name, alias)
            _require_generation(now, name, alias, generation)
            if (
                connection.execute(
                    "SELECT 1 FROM versions WHERE name=? AND number=?", (name, number)
                ).fetchone()
                is None
            ):
                raise RegistryError(
                    f"{name!r} has no version {number}; there are: {_numbers(connection, name)}"
                )
            if now and now.number == number:
                return now
            past = (*now.past, now.number)[-PAST_MAX:] if now else ()
            before = now.generation if now else _last_generation(connection, name, alias)
            after = AliasState(name, alias, number, before + 1, past)
            return _flip(connection, now, after, "promote", who, note)

    def point_back(self, name: str, alias: str, who: str, note: str, generation: int | None) -> AliasState:
        """Point an alias back at its previous version."""
        with self._connection.writing() as connection:
            now = _existing_alias(connection, name, alias)
            _require_generation(now, name, alias, generation)
            if not now.past:
                raise RegistryError(f"{name}@{alias} has no version before {now.number} to roll back to")
            after = AliasState(name, alias, now.past[-1], now.generation + 1, now.past[:-1])
            return _flip(connection, now, after, "rollback", who, note)

    def delete_version(self, version: Version, who: str, note: str) -> None:
        """Delete a version. Aliases forget that they have pointed at it. Raise if one points at it now."""
        name, number = version.name, version.number
        with self._connection.writing() as connection:
            rows = connection.execute(
                "SELECT name, alias, number, generation, past FROM aliases WHERE name=? ORDER BY alias",
                (name,),
            ).fetchall()
            states = [_state(row) for row in rows]
            if pointing := [state.alias for state in states if state.number == number]:
                raise RegistryError(
                    f"{version} cannot be deleted, because {', '.join(pointing)} points at it; promote another "
                    f"version, or delete the alias first"
                )
            for state in states:
                if number in state.past:
                    past = [each for each in state.past if each != number]
                    # Going back from a version to itself is no step back.
                    past = [
                        each
                        for place, each in enumerate(past)
                        if each != [*past[place + 1 :], state.number][0]
                    ]
                    connection.execute(
                        "UPDATE aliases SET past=? WHERE name=? AND alias=?",
                        (json.dumps(past), name, state.alias),
                    )
            for table in ("versions", "blobs", *(["tags"] if _has_tags(connection) else [])):
                connection.execute(f"DELETE FROM {table} WHERE name=? AND number=?", (name, number))
            _log(connection, name, "delete", None, number, number, None, who, note)

    def delete_alias(self, name: str, alias: str, who: str, note: str, generation: int | None) -> AliasState:
        """Delete an alias, and return its last state."""
        with self._connection.writing() as connection:
            now = _existing_alias(connection, name, alias)
            _require_generation(now, name, alias, generation)
            connection.execute("DELETE FROM aliases WHERE name=? AND alias=?", (name, alias))
            _log(connection, name, "delete alias", alias, now.number, now.number, now.generation, who, note)
            return now

    def set_tags(
        self, version: Version, tags: Mapping[str, str | None], who: str, note: str
    ) -> dict[str, str]:
        """Set and remove tags of a version, and return all that it has then. The log names the keys."""
        with self._connection.writing() as connection:
            # Made by the first tag, so that a registry of an earlier release, and its readers, need no change.
            connection.execute(_TAGS)
            before = _tags(connection, version)
            for key, value in tags.items():
                connection.execute(
                    "DELETE FROM tags WHERE name=? AND number=? AND key=?",
                    (version.name, version.number, key),
                )
                if value is not None:
                    connection.execute(
                        "INSERT INTO tags VALUES(?, ?, ?, ?)", (version.name, version.number, key, value)
                    )
            after = _tags(connection, version)
            if after != before:
                changed = sorted(key for key in tags if before.get(key) != after.get(key))
                words = "; ".join(
                    f"{key}={after[key]}" if key in after else f"{key} removed" for key in changed
                )
                text = f"{note}: {words}" if note else words
                _log(connection, version.name, "tag", None, None, version.number, None, who, text[:8192])
            return after

    def tags(self, version: Version) -> dict[str, str]:
        """Return the tags of a version, sorted by key."""
        with self._connection.using() as connection:
            return _tags(connection, version) if _has_tags(connection) else {}

    def add_note(self, version: Version, who: str, note: str) -> None:
        """Add a note about a version to the audit log."""
        with self._connection.writing() as connection:
            _log(connection, version.name, "note", None, None, version.number, None, who, note)

    def search(self, text: str, name: str | None, tags: Mapping[str, str]) -> list[Version]:
        """Return versions whose name, tags or notes contain a text, and that have every tag; "" fits any value."""
        wanted = text.casefold()
        with self._connection.using() as connection:
            rows = connection.execute(
                "SELECT name, number, digest, created_ns FROM versions WHERE ?1 IS NULL OR name=?1 "
                "ORDER BY name, number",
                (name,),
            ).fetchall()
            notes: dict[tuple[str, int], list[str]] = {}
            for owner, number, note in connection.execute(
                "SELECT name, after, note FROM audit WHERE note<>''"
            ):
                notes.setdefault((owner, number), []).append(note)
            owned: dict[tuple[str, int], dict[str, str]] = {}
            if _has_tags(connection):
                for owner, number, key, value in connection.execute(
                    "SELECT name, number, key, value FROM tags"
                ):
                    owned.setdefault((owner, number), {})[key] = value
        found = []
        for version in (Version(*row) for row in rows):
            own = owned.get((version.name, version.number), {})
            texts = [version.name, *own.keys(), *own.values(), *notes.get((version.name, version.number), [])]
            if wanted and not any(wanted in each.casefold() for each in texts):
                continue
            if all(key in own and value in ("", own[key]) for key, value in tags.items()):
                found.append(version)
        return found

    def alias(self, name: str, alias: str) -> AliasState:
        """Return the state of an alias. Raises RegistryError if it does not exist."""
        with self._connection.using() as connection:
            found = _alias(connection, name, alias)
            if found is None:
                if not _numbers(connection, name):
                    raise self._unknown(connection, name)
                raise _no_alias(connection, name, alias)
            return found

    def version(self, name: str, number: int) -> Version:
        """Return a version by number. Raises RegistryError if it does not exist."""
        with self._connection.using() as connection:
            found = connection.execute(
                "SELECT name, number, digest, created_ns FROM versions WHERE name=? AND number=?",
                (name, number),
            ).fetchone()
            if found is None:
                if not (numbers := _numbers(connection, name)):
                    raise self._unknown(connection, name)
                raise RegistryError(f"{name!r} has no version {number}; there are: {numbers}")
            return Version(*found)

    def manifest(self, version: Version) -> bytes:
        """Return the manifest of a version, checked against its digest.

        It lies in the index and not among the blobs, because another file costs another sync.
        """
        with self._connection.using() as connection:
            row = connection.execute(
                "SELECT manifest FROM versions WHERE name=? AND number=?", (version.name, version.number)
            ).fetchone()
        content = row[0] if row else None
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != version.digest:
            raise RegistryError(
                f"{version}: the manifest is not what was registered (sha256 {version.digest[:12]}…); put "
                f"{self.path.name} back from a copy"
            )
        return content

    def version_by_digest(self, name: str, digest: str) -> Version:
        """Return the one version whose digest begins with `digest`. Raises RegistryError for none or several."""
        with self._connection.using() as connection:
            found = connection.execute(
                "SELECT name, number, digest, created_ns FROM versions WHERE name=? AND substr(digest, 1, ?)=?",
                (name, len(digest), digest),
            ).fetchall()
        if len(found) != 1:
            raise RegistryError(
                f"expected one version of {name!r} with sha256:{digest}, got {len(found)}; give more of them"
            )
        return Version(*found[0])

    def names(self) -> list[str]:
        """Return every name that has a version, sorted."""
        with self._connection.using() as connection:
            return [
                name for (name,) in connection.execute("SELECT DISTINCT name FROM versions ORDER BY name")
            ]

    def versions(self, name: str | None = None) -> list[Version]:
        """Return the versions of one name, or of all, in order of name and number."""
        query = "SELECT name, number, digest, created_ns FROM versions"
        with self._connection.using() as connection:
            if name is None:
                rows = connection.execute(f"{query} ORDER BY name, number").fetchall()
            else:
                rows = connection.execute(f"{query} WHERE name=? ORDER BY number", (name,)).fetchall()
                if not rows:
                    raise self._unknown(connection, name)
        return [Version(*row) for row in rows]

    def aliases(self, name: str) -> list[AliasState]:
        """Return the aliases of a name, sorted."""
        with self._connection.using() as connection:
            rows = connection.execute(
                "SELECT name, alias, number, generation, past FROM aliases WHERE name=? ORDER BY alias",
                (name,),
            ).fetchall()
        return [_state(row) for row in rows]

    def history(self, name: str, alias: str | None) -> list[AuditEntry]:
        """Return the audit log of a name or of one alias, oldest entry first."""
        query = "SELECT id, at_ns, name, action, alias, before, after, generation, who, note FROM audit WHERE name=?"
        with self._connection.using() as connection:
            if alias is None:
                rows = connection.execute(f"{query} ORDER BY id", (name,)).fetchall()
            else:
                rows = connection.execute(f"{query} AND alias=? ORDER BY id", (name, alias)).fetchall()
        return [AuditEntry(*row) for row in rows]

    def blobs(self) -> set[str]:
        """Return the digests of every blob that a version needs."""
        with self._connection.using() as connection:
            found = connection.execute("SELECT DISTINCT digest FROM blobs").fetchall()
        return {digest for (digest,) in found}

    def problems(self) -> list[str]:
        """Return what SQLite's integrity check reports; empty if the file is sound."""
        with self._connection.using() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"index: {text}" for text in found]

    def _unknown(self, connection: sqlite3.Connection, name: str) -> RegistryError:
        known = [
            found
            for (found,) in connection.execute("SELECT DISTINCT name FROM versions ORDER BY name LIMIT 20")
        ]
        return RegistryError(
            f"no model {name!r} in {self.path.parent}; there are: {', '.join(known) or 'none yet'}"
        )


def _alias(connection: sqlite3.Connection, name: str, alias: str) -> AliasState | None:
    row = connection.execute(
        "SELECT name, alias, number, generation, past FROM aliases WHERE name=? AND alias=?", (name, alias)
    ).fetchone()
    return _state(row) if row else None


def _existing_alias(connection: sqlite3.Connection, name: str, alias: str) -> AliasState:
    """Return the state of an alias. Raises RegistryError, which names those there are, if it does not exist."""
    found = _alias(connection, name, alias)
    if found is None:
        raise _no_alias(connection, name, alias)
    return found


def _no_alias(connection: sqlite3.Connection, name: str, alias: str) -> RegistryError:
    return RegistryError(f"{name!r} has no alias {alias!r}; there are: {_aliases(connection, name)}")


def _state(row: tuple[Any, ...]) -> AliasState:
    name, alias, number, generation, past = row
    return AliasState(name, alias, number, generation, tuple(json.loads(past)))


def _last_generation(connection: sqlite3.Connection, name: str, alias: str) -> int:
    """Return the generation of a deleted alias, 0 if there was none: followers know an alias by it."""
    (found,) = connection.execute(
        "SELECT coalesce(max(generation), 0) FROM audit WHERE name=? AND alias=?", (name, alias)
    ).fetchone()
    return int(found)


def _has_tags(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name='tags'").fetchone() is not None


def _tags(connection: sqlite3.Connection, version: Version) -> dict[str, str]:
    return dict(
        connection.execute(
            "SELECT key, value FROM tags WHERE name=? AND number=? ORDER BY key",
            (version.name, version.number),
        ).fetchall()
    )


def _flip(
    connection: sqlite3.Connection,
    now: AliasState | None,
    after: AliasState,
    action: str,
    who: str,
    note: str,
) -> AliasState:
    connection.execute(
        "INSERT OR REPLACE INTO aliases VALUES(?, ?, ?, ?, ?)",
        (after.name, after.alias, after.number, after.generation, json.dumps(after.past)),
    )
    before = now.number if now else None
    _log(connection, after.name, action, after.alias, before, after.number, after.generation, who, note)
    return after


def _log(connection: sqlite3.Connection, *entry: Any) -> None:
    connection.execute(
        "INSERT INTO audit(at_ns, name, action, alias, before, after, generation, who, note) "
        "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (time.time_ns(), *entry),
    )


def _require_generation(now: AliasState | None, name: str, alias: str, generation: int | None) -> None:
    found = now.generation if now else 0
    if generation is not None and generation != found:
        raise RegistryError(
            f"{name}@{alias} has moved on: expected generation {generation}, got {found}; read it again, then flip"
        )


def _numbers(connection: sqlite3.Connection, name: str) -> str:
    rows = connection.execute("SELECT number FROM versions WHERE name=? ORDER BY number", (name,)).fetchall()
    numbers = [str(number) for (number,) in rows]
    return ", ".join(numbers if len(numbers) <= 20 else [*numbers[:3], "…", *numbers[-3:]])


def _aliases(connection: sqlite3.Connection, name: str) -> str:
    rows = connection.execute(
        "SELECT alias FROM aliases WHERE name=? ORDER BY alias LIMIT 20", (name,)
    ).fetchall()
    return ", ".join(alias for (alias,) in rows) or "none"
