"""The connection to the index: opens or makes it, keeps it apart across forks, and explains SQLite's errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from engine.errors import RegistryError

APPLICATION_ID = 0x656E6772  # "engr": file(1) and this module know the file by it
SCHEMA_VERSION = 1
BUSY_S_MAX = 30.0
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

_open_ones: weakref.WeakSet[Connection] = weakref.WeakSet()
_adding = threading.Lock()


class Connection:
    """One connection to an index. Thread-safe; parent and child of a fork each open another one.

    The write-ahead log with synchronous=FULL makes a commit durable when it returns. Readers go on while a writer
    writes.

    Args:
        path: the index.
        create: make it if it is missing.

    Raises:
        RegistryError: no index (and not `create`), another program's file, a later version's, or a damaged one.
    """

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
        with self.using():
            pass

    def close(self) -> None:
        """Close the connection. The next call opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def before_fork(self) -> None:
        """Close the connection, and hold the lock until `after_fork`.

        SQLite's locks belong to a process. A child that inherited a connection would believe that it holds its parent's
        locks.
        """
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        """Release the lock, in parent and child."""
        self._lock.release()

    def _create(self) -> None:
        # Changing the journal mode does not wait for other processes, so the loser of that race tries again.
        give_up = time.monotonic() + BUSY_S_MAX
        while True:
            connection = sqlite3.connect(self.path, timeout=BUSY_S_MAX, isolation_level=None)
            try:
                if not _is_blank(connection):
                    return  # another process made it, or it is another file: opening it tells
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
        # An immutable connection never sees later changes, so compare the file itself.
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
        # A read-only folder has no place for the shared memory of the log, so the log must be empty.
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
                raise RegistryError(f"{self.path}: an SQLite file of another program; choose another folder")
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
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a write transaction, committed when the block ends and undone when it raises."""
        with self.using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, to one thread at a time."""
        with self._lock, self._translated():
            yield self._connected()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn SQLite's errors into RegistryError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RegistryError(f"{self.path}: {_explained(error)}") from None


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return _pragma(connection, "application_id") == 0 and tables == 0


def is_missing(path: Path) -> bool:
    """Return whether there is no index: no file, or a file whose maker died before it made the tables."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        ) as connection:
            return _is_blank(connection)
    except sqlite3.Error:
        return False  # unreadable is not missing: opening it explains


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
    for connection in _held_for_fork:
        connection.before_fork()


def _after_fork() -> None:
    while _held_for_fork:
        _held_for_fork.pop().after_fork()
    _adding.release()


_held_for_fork: list[Connection] = []
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
