"""The online store on Postgres: one table of keys and packed rows, shared by any number of machines.

One statement writes the rows of a batch: the server compares the times of each with those of the stored row, so two
writers never leave an older row behind.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from engine._common import arguments, optional
from engine.errors import ConfigError, InputTypeError, StoreError
from engine.feature_store._codec import supersedes
from engine.feature_store.online.base import OnlineStore, remade
from engine.feature_store.online.postgres_wire import PostgresWire

TIMEOUT_S_MAX = 3600.0
PORT = 5432
ATTEMPTS_MAX = 5
ROWS_PER_FETCH = 1_000
IDLE_CONNECTIONS_MAX = 8
_TABLE = re.compile(r"([a-z_][a-z0-9_]{0,49}\.)?[a-z_][a-z0-9_]{0,49}")
_NOTE = b"\x00note\x00"
_REVISION = _NOTE + b"revision"
_SCHEMA = _NOTE + b"schema:"

# csrc/feature_store/codec.hpp describes a row. From the 13th byte on it has 16 bytes of event and created time, then 8
# of revision, and each sorts as its value does. Rows that differ in the revision alone are the same row.
_UPSERT = """
INSERT INTO {table} AS old (k, r)
SELECT k, r FROM unnest(%s::bytea[], %s::bytea[]) AS new (k, r) ORDER BY k
ON CONFLICT (k) DO UPDATE SET r = excluded.r
WHERE substr(old.r, 1, 4) = substr(excluded.r, 1, 4) AND length(old.r) >= 36 AND (
    substr(excluded.r, 13, 16) > substr(old.r, 13, 16)
    OR substr(excluded.r, 13, 16) = substr(old.r, 13, 16) AND substr(excluded.r, 29, 8) >= substr(old.r, 29, 8)
    AND (substr(excluded.r, 37) <> substr(old.r, 37) OR substr(excluded.r, 5, 8) <> substr(old.r, 5, 8)))
RETURNING k
"""
_REVISED = """
INSERT INTO {table} AS old (k, r) VALUES (%s, '1')
ON CONFLICT (k) DO UPDATE SET r = convert_to((convert_from(old.r, 'UTF8')::bigint + 1)::text, 'UTF8')
RETURNING r
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS {table} (k bytea PRIMARY KEY, r bytea NOT NULL);
CREATE TABLE IF NOT EXISTS {table}_log (id bigserial PRIMARY KEY, entry bytea NOT NULL);
"""


class PostgresOnline(OnlineStore):
    """Keep rows in a table of Postgres, each as a key and one string of bytes. The first write makes the table.

    Args:
        url: postgres://[user[:password]@][host][:port][/database][?option=value&…], as libpq takes it, with its
            options (sslmode, sslrootcert, …), or the same as `key=value` words. What it does not say is taken from
            libpq's variables (PGHOST, PGPASSWORD, …) and files.
        table: the name of the table, after that of a schema and a dot, if any; lower case letters, digits and "_".
            Several stores can share a database under different names.
        timeout_s: the longest wait to connect, and for each statement while writing; above 0, at most 3,600. A read
            waits until its request's deadline.

    Attributes:
        table: as given.

    Thread-safe, and safe across forks. Connects when first used. An expired row is no longer served, but it is not
    deleted: the table grows with the number of entities, not with time. Reads use a prepared statement, so a pooler in
    between must pool sessions, or support prepared statements.

    Raises:
        ConfigError: a URL or name of another form.
        InputError: timeout_s is out of range.
        MissingDependencyError: psycopg is not installed.
    """

    def __init__(self, url: str, *, table: str = "engine_online", timeout_s: float = 5.0) -> None:
        self._psycopg = optional.need("psycopg", "the Postgres online store", "postgres")
        if not isinstance(table, str) or not _TABLE.fullmatch(table):
            raise ConfigError(
                f"table: expected lower case letters, digits and '_', 50 at most, got {table!r:.80}"
            )
        arguments.number("timeout_s", timeout_s, 0.0, TIMEOUT_S_MAX, above=True, type_error=InputTypeError)
        conninfo = optional.need("psycopg.conninfo", "the Postgres online store", "postgres")
        said: dict[str, Any] = {}
        try:
            said = conninfo.conninfo_to_dict(url) if isinstance(url, str) else {}
            # libpq reads ports when it connects.
            for port in str(said.get("port") or PORT).split(","):
                int(port)
        except (self._psycopg.Error, ValueError):
            said = {}
        if not said:
            # libpq's message would show a password.
            raise ConfigError(
                "expected a URL like postgres://user@host:5432/database?sslmode=require, or libpq's words "
                "host=… dbname=…, with options that libpq knows"
            )
        self._url, self._said = url, said
        self._shown = " ".join(f"{name}={said[name]}" for name in ("host", "port", "dbname") if name in said)
        self._timeout_s = timeout_s
        self.table = table
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"PostgresOnline({self._shown!r}, table={self.table!r})"

    def __reduce__(self) -> Any:
        return remade, (PostgresOnline, self._url, {"table": self.table, "timeout_s": self._timeout_s})

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view: its name and a zero byte, which no name has."""
        return view.encode() + b"\x00"

    def wire(self) -> PostgresWire:
        """A new reader with connections of its own, which it opens when it first reads."""
        return PostgresWire(self._connected, f"SELECT k, r FROM {self.table} WHERE k = ANY($1)".encode())

    def ping(self) -> None:
        """Raise StoreError if the server cannot be reached, or refuses the user or password."""
        self._done(lambda connection: connection.execute("SELECT 1").fetchone(), reading=True)

    def next_revision(self) -> int:
        """A number above every earlier one, from any machine; durable. Raises StoreError if it cannot be written."""
        return self._done(self._revised)

    def _revised(self, connection: Any) -> int:
        return int(connection.execute(_REVISED.format(table=self.table), [_REVISION]).fetchone()[0])

    def note(self, name: str) -> bytes | None:
        """A small record beside the rows, None if there is none. Raises StoreError if the server cannot be read."""

        def read(connection: Any) -> bytes | None:
            found = connection.execute(
                f"SELECT r FROM {self.table} WHERE k = %s", [_NOTE + name.encode()]
            ).fetchone()
            return None if found is None else found[0]

        return self._done(read, reading=True)

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Write rows and notes as `OnlineStore.write` says, in one transaction: all of them or none."""

        def write(connection: Any) -> tuple[int, int, int, bytes | None]:
            counts = self._put(connection, pairs)
            for name, value in notes.items():
                self._set(connection, _NOTE + name.encode(), value)
            return counts[0], counts[1], counts[2], None

        try:
            return self._done(write)
        except _Foreign as foreign:
            return 0, 0, 0, foreign.key

    def write_next(
        self, make: Callable[[int], Sequence[tuple[bytes, bytes]]], ttl_ns: int | None
    ) -> tuple[int, int, int, bytes | None]:
        """As `OnlineStore.write_next`, in one transaction, because each waits for the disk."""

        def write(connection: Any) -> tuple[int, int, int, bytes | None]:
            counts = self._put(connection, make(self._revised(connection)))
            return counts[0], counts[1], counts[2], None

        try:
            return self._done(write)
        except _Foreign as foreign:
            return 0, 0, 0, foreign.key

    def _put(self, connection: Any, pairs: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Put the newer rows. Returns the numbers of rows written, stored already and older."""
        counts = [0, 0, 0]
        while pairs:
            # One statement takes a key once, so the second row of a key is for the next.
            now: dict[bytes, bytes] = {}
            later = []
            for key, row in pairs:
                if key in now:
                    later.append((key, row))
                else:
                    now[key] = row
            written = connection.execute(
                _UPSERT.format(table=self.table), [list(now), list(now.values())], binary=True
            ).fetchall()
            counts[0] += len(written)
            left = now.keys() - {bytes(key) for (key,) in written}
            if left:
                stored = connection.execute(
                    f"SELECT k, r FROM {self.table} WHERE k = ANY(%s)", [list(left)], binary=True
                )
                for key, old in stored:
                    order = supersedes(now[key], old)
                    if order == -2:
                        raise _Foreign(key)
                    counts[1 if order == 0 else 2] += 1
            pairs = later
        return counts

    def _set(self, connection: Any, key: bytes, value: bytes | None) -> None:
        if value is None:
            connection.execute(f"DELETE FROM {self.table} WHERE k = %s", [key])
        else:
            connection.execute(
                f"INSERT INTO {self.table} (k, r) VALUES (%s, %s) ON CONFLICT (k) DO UPDATE SET r = excluded.r",
                [key, value],
            )

    def note_key(self, name: str) -> bytes:
        """The key that a note is read by."""
        return _NOTE + name.encode()

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view, in the order of the keys."""
        yield from self._range(self.prefix(view))

    def views(self) -> list[str]:
        """The names of the views that were ever written, sorted. Raises StoreError if the server cannot be read."""
        return sorted(key[len(_SCHEMA) :].decode() for key, _ in self._range(_SCHEMA))

    def _range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every key that begins so, with its value, in the order of the keys."""
        query = f"SELECT k, r FROM {self.table} WHERE k > %s AND k < %s ORDER BY k LIMIT {ROWS_PER_FETCH}"
        after, end = prefix, prefix[:-1] + bytes([prefix[-1] + 1])
        # The entity whose key is empty has the prefix alone.
        first = self._done(
            lambda connection: connection.execute(
                f"SELECT k, r FROM {self.table} WHERE k = %s", [prefix], binary=True
            ).fetchall(),
            reading=True,
        )
        yield from first or []
        while True:

            def part(connection: Any, after: bytes = after) -> list[tuple[bytes, bytes]]:
                return connection.execute(query, [after, end], binary=True).fetchall()

            found = self._done(part, reading=True) or []
            yield from found
            if len(found) < ROWS_PER_FETCH:
                return
            after = found[-1][0]

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """As `OnlineStore.erase` says, in one transaction."""

        def erase(connection: Any) -> None:
            for key in sorted(rows):
                self._set(connection, key, rows[key])
            connection.execute(f"INSERT INTO {self.table}_log (entry) VALUES (%s)", [entry])

        self._done(erase)

    def log(self) -> list[bytes]:
        """The entries that `erase` added, oldest first. Raises StoreError if the server cannot be read."""
        found = self._done(
            lambda connection: connection.execute(
                f"SELECT entry FROM {self.table}_log ORDER BY id", binary=True
            ).fetchall(),
            reading=True,
        )
        return [entry for (entry,) in found or []]

    def close(self) -> None:
        """Close the connections that writing opened. A later call opens new ones."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        # psycopg warns of an open connection that is collected. A child must not say goodbye on its parent's socket.
        if getattr(self, "_pid", None) == os.getpid():
            self.close()

    def _connected(self, timeout_s: float) -> Any:
        """A new connection, in autocommit. Raises psycopg's errors."""
        # libpq takes whole seconds, 2 at least.
        timeout = {"connect_timeout": max(2, math.ceil(timeout_s))}
        return self._psycopg.connect(
            **{**timeout, "application_name": "engine", **self._said}, autocommit=True
        )

    def _done(self, call: Callable[[Any], Any], *, reading: bool = False) -> Any:
        """The result of `call(connection)` in one transaction, repeated where the server asks for it.

        Where the table is not there yet, a call that reads gives None, and one that writes makes it first.
        """
        with self._mapped():
            connection = self._idle_or_new()
            try:
                done = self._repeated(connection, call, reading)
            except _Foreign:
                self._kept(connection)
                raise
            except BaseException:
                connection.close()
                raise
            self._kept(connection)
            return done

    def _repeated(self, connection: Any, call: Callable[[Any], Any], reading: bool) -> Any:
        errors = self._psycopg.errors
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with connection.transaction():
                    return call(connection)
            except errors.UndefinedTable:
                if reading:
                    return None
                if attempt == ATTEMPTS_MAX:
                    raise
                self._create(connection)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == ATTEMPTS_MAX:
                    raise

    def _idle_or_new(self) -> Any:
        """A connection whose statements end in time. An idle one is tried first: the server may have closed it."""
        if self._pid != os.getpid():
            # psycopg closes none of another process.
            self._idle, self._pid = [], os.getpid()
        limit = f"SET statement_timeout = {math.ceil(self._timeout_s * 1000)}"
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            try:
                connection.execute(limit)
                return connection
            except self._psycopg.Error:
                connection.close()
        connection = self._connected(self._timeout_s)
        connection.execute(limit)
        return connection

    def _kept(self, connection: Any) -> None:
        if len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def _create(self, connection: Any) -> None:
        errors = self._psycopg.errors
        try:
            connection.execute(_TABLES.format(table=self.table))
        except (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject):
            # Two writers began at the same moment, and the other one made it.
            pass

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        psycopg = self._psycopg
        try:
            yield
        except psycopg.Error as error:
            # A connection's error has several lines, one for each address that was tried.
            text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise StoreError(f"{self}: {text or type(error).__name__}") from error


class _Foreign(Exception):
    """A key that holds no row of a feature view. Raising it ends the transaction."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key
