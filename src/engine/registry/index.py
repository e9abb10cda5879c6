"""The registry's index: versions, aliases and the audit log, in one SQLite file.

Each change is one transaction that begins with the write lock, so two writers wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from engine.errors import RegistryError
from engine.registry.connection import Connection
from engine.registry.versions import AliasState, AuditEntry, Version

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
            (last,) = connection.execute(
                "SELECT coalesce(max(number), 0) FROM versions WHERE name=?", (name,)
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
            after = AliasState(name, alias, number, now.generation + 1 if now else 1, past)
            return _flip(connection, now, after, "promote", who, note)

    def point_back(self, name: str, alias: str, who: str, note: str, generation: int | None) -> AliasState:
        """Point an alias back at its previous version."""
        with self._connection.writing() as connection:
            now = _alias(connection, name, alias)
            if now is None:
                raise RegistryError(
                    f"{name!r} has no alias {alias!r}; there are: {_aliases(connection, name)}"
                )
            _require_generation(now, name, alias, generation)
            if not now.past:
                raise RegistryError(f"{name}@{alias} has no version before {now.number} to roll back to")
            after = AliasState(name, alias, now.past[-1], now.generation + 1, now.past[:-1])
            return _flip(connection, now, after, "rollback", who, note)

    def alias(self, name: str, alias: str) -> AliasState:
        """Return the state of an alias. Raises RegistryError if it does not exist."""
        with self._connection.using() as connection:
            found = _alias(connection, name, alias)
            if found is None:
                if not _numbers(connection, name):
                    raise self._unknown(connection, name)
                raise RegistryError(
                    f"{name!r} has no alias {alias!r}; there are: {_aliases(connection, name)}"
                )
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


def _state(row: tuple[Any, ...]) -> AliasState:
    name, alias, number, generation, past = row
    return AliasState(name, alias, number, generation, tuple(json.loads(past)))


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
