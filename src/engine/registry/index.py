"""The registry's index: versions, aliases and the audit log, in one SQLite file.

The write-ahead log with synchronous=FULL makes a commit durable when it returns, and lets readers go on while somebody
writes. Everything that belongs together is one transaction begun with the write lock, so two writers take turns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import RegistryError
from engine.registry.versions import AliasState, AuditEntry, Version

APPLICATION_ID = 0x656E6772  # "engr", by which file(1) and we know the file
SCHEMA_VERSION = 1
BUSY_S_MAX = 30.0
PAST_MAX = 100  # versions that an alias can be rolled back along
_SCHEMA = f"""
CREATE TABLE versions(
    name TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL, created_ns INTEGER NOT NULL,
    manifest BLOB NOT NULL, PRIMARY KEY(name, number), UNIQUE(name, digest));
CREATE TABLE blobs(
    name TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(name, number, digest)) WITHOUT ROWID;
CREATE TABLE aliases(
    name TEXT NOT NULL, alias TEXT NOT NULL, number INTEGER NOT NULL, generation INTEGER NOT NULL,
    past TEXT NOT NULL, PRIMARY KEY(name, alias)) WITHOUT ROWID;
CREATE TABLE audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, name TEXT NOT NULL, action TEXT NOT NULL,
    alias TEXT, before INTEGER, after INTEGER NOT NULL, generation INTEGER, who TEXT NOT NULL, note TEXT NOT NULL);
CREATE INDEX audit_name ON audit(name, id);
PRAGMA user_version={SCHEMA_VERSION};
PRAGMA application_id={APPLICATION_ID}
"""


_open_ones: weakref.WeakSet[Index] = weakref.WeakSet()
_adding = threading.Lock()


class Index:
    """One connection to the index. Thread-safe; parent and child of a fork each get another one."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._frozen: tuple[int, ...] | None = None
        with self._translated():
            if create:
                self._create()
        if not path.exists():
            raise RegistryError(f"no registry at {path.parent}: {path.name} is missing")
        with _adding:
            _open_ones.add(self)
        with self._using():
            pass

    def close(self) -> None:
        """Gives the connection back; the next call opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def before_fork(self) -> None:
        """Closes the connection and holds the lock until `after_fork`: SQLite's locks belong to the process, and a
        child that carried a connection along would believe that it holds what only its parent does."""
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        self._lock.release()

    def add_version(
        self, name: str, digest: str, manifest: bytes, blobs: list[str], who: str, note: str
    ) -> Version:
        """Adds a version, or finds the one that has this digest already; durable on return."""
        with self._writing() as connection:
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
        """Points an alias at a version; pointing it where it points already changes nothing."""
        with self._writing() as connection:
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
        """Points an alias at the version it pointed at before."""
        with self._writing() as connection:
            now = _alias(connection, name, alias)
            if now is None:
                raise RegistryError(
                    f"{name!r} has no alias {alias!r}; there are: {_aliases(connection, name)}"
                )
            _require_generation(now, name, alias, generation)
            if not now.past:
                raise RegistryError(
                    f"{name}@{alias} has been at version {now.number} from the start: no way back"
                )
            after = AliasState(name, alias, now.past[-1], now.generation + 1, now.past[:-1])
            return _flip(connection, now, after, "rollback", who, note)

    def alias(self, name: str, alias: str) -> AliasState:
        with self._using() as connection:
            found = _alias(connection, name, alias)
            if found is None:
                if not _numbers(connection, name):
                    raise self._unknown(connection, name)
                raise RegistryError(
                    f"{name!r} has no alias {alias!r}; there are: {_aliases(connection, name)}"
                )
            return found

    def version(self, name: str, number: int) -> Version:
        with self._using() as connection:
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
        """The manifest of a version, as it was registered: its digest is checked. Kept here and not among the blobs
        because a file of its own costs another sync."""
        with self._using() as connection:
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
        """By the whole digest or the beginning of it."""
        with self._using() as connection:
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
        with self._using() as connection:
            return [
                name for (name,) in connection.execute("SELECT DISTINCT name FROM versions ORDER BY name")
            ]

    def versions(self, name: str | None = None) -> list[Version]:
        query = "SELECT name, number, digest, created_ns FROM versions"
        with self._using() as connection:
            if name is None:
                rows = connection.execute(f"{query} ORDER BY name, number").fetchall()
            else:
                rows = connection.execute(f"{query} WHERE name=? ORDER BY number", (name,)).fetchall()
                if not rows:
                    raise self._unknown(connection, name)
        return [Version(*row) for row in rows]

    def aliases(self, name: str) -> list[AliasState]:
        with self._using() as connection:
            rows = connection.execute(
                "SELECT name, alias, number, generation, past FROM aliases WHERE name=? ORDER BY alias",
                (name,),
            ).fetchall()
        return [_state(row) for row in rows]

    def history(self, name: str, alias: str | None) -> list[AuditEntry]:
        query = "SELECT id, at_ns, name, action, alias, before, after, generation, who, note FROM audit WHERE name=?"
        with self._using() as connection:
            if alias is None:
                rows = connection.execute(f"{query} ORDER BY id", (name,)).fetchall()
            else:
                rows = connection.execute(f"{query} AND alias=? ORDER BY id", (name, alias)).fetchall()
        return [AuditEntry(*row) for row in rows]

    def blobs(self) -> set[str]:
        """Digests of everything that some version needs."""
        with self._using() as connection:
            found = connection.execute("SELECT DISTINCT digest FROM blobs").fetchall()
        return {digest for (digest,) in found}

    def problems(self) -> list[str]:
        """What SQLite finds wrong with its own file; empty where nothing is."""
        with self._using() as connection:
            found = [text for (text,) in connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"index: {text}" for text in found]

    def _create(self) -> None:
        # Changing the journal mode does not wait for others, so whoever loses that race tries again.
        give_up = time.monotonic() + BUSY_S_MAX
        while True:
            connection = sqlite3.connect(self.path, timeout=BUSY_S_MAX, isolation_level=None)
            try:
                if not _is_blank(connection):
                    return  # somebody was faster, or it is something else, which is said when it is opened
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if _is_blank(connection):
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                connection.execute("COMMIT")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
            finally:
                connection.close()

    def _connected(self) -> sqlite3.Connection:
        # Nobody tells a reader of a folder that cannot be written of changes that others make to it.
        current = self._frozen is None or self._frozen == self._signature()
        if self._connection is None or not current:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._frozen = None
        try:
            return self._checked(self._uri("mode=rw"))
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
        # A folder that cannot be written has no place for the shared memory of the log. Without a log there is
        # nothing in it to miss.
        wal = self.path.with_name(self.path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise RegistryError(
                f"{self.path}: the folder is read-only and the log beside it is not empty; let a writer open the "
                f"registry once, or copy the folder to where it can be written"
            )
        self._frozen = self._signature()
        return self._checked(self._uri("mode=ro&immutable=1"))

    def _uri(self, options: str) -> str:
        return f"{self.path.absolute().as_uri()}?{options}"

    def _checked(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA trusted_schema=OFF")
            if _pragma(connection, "application_id") != APPLICATION_ID:
                raise RegistryError(
                    f"{self.path}: an SQLite file that is no registry's; choose another folder"
                )
            if (found := _pragma(connection, "user_version")) != SCHEMA_VERSION:
                raise RegistryError(
                    f"{self.path}: version {found} of the index; this build reads {SCHEMA_VERSION}"
                )
            connection.execute("SELECT count(*) FROM versions").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _signature(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        with self._lock, self._translated():
            yield self._connected()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What SQLite raises becomes a RegistryError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RegistryError(f"{self.path}: {_explained(error)}") from None

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
            f"{name}@{alias} has moved on: expected generation {generation}, got {found}; look again before you flip it"
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


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return _pragma(connection, "application_id") == 0 and tables == 0


def is_missing(path: Path) -> bool:
    """Whether there is no index: no file, or one whose maker died before it was one. Raises RegistryError."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        ) as connection:
            return _is_blank(connection)
    except sqlite3.Error:
        return False  # unreadable is not missing, and is explained when it is opened


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _explained(error: Exception) -> str:
    text = str(error)
    if "disk is full" in text:
        return "the disk is full; free some space and try again"
    if "readonly" in text or "read-only" in text:
        return "the folder is read-only: this registry can be read, not changed"
    if "locked" in text:
        return f"other writers have held the index for {BUSY_S_MAX:g} s; try again"
    if "malformed" in text or "not a database" in text:
        return f"the index is damaged ({text}); put registry.db back from a copy, the blobs beside it are untouched"
    return text


def _before_fork() -> None:
    _adding.acquire()
    _held_for_fork.extend(_open_ones)
    for index in _held_for_fork:
        index.before_fork()


def _after_fork() -> None:
    while _held_for_fork:
        _held_for_fork.pop().after_fork()
    _adding.release()


_held_for_fork: list[Index] = []
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
