"""Reads from Postgres inside a deadline: a prepared statement on pooled connections, by libpq's calls that never wait.

psycopg has one timeout for all calls, and each request has a deadline of its own; so the wait for the reply is here. A
reply that comes too late stays outstanding: the connection drops it before the next one. Connections are opened by
threads, because a look-up of a name has no deadline; asyncio reads on threads too.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from engine.feature_store.online._descriptor import readable_by
from engine.feature_store.online.base import Unavailable
from engine.feature_store.online.breaker import Breaker
from engine.feature_store.online.calls import Calls, results, results_async

THREADS_MAX, OPENINGS_MAX, QUEUED_MAX = 32, 8, 256
IDLE_CONNECTIONS_MAX = 64
# With less time left nothing is sent.
WORTH_WAITING_NS = 50_000
# A read that waited this long in vain counts as a failure of the server. A shorter one had too tight a deadline.
PATIENCE_NS = 1_000_000
# A thread watches for a reply this long before it sleeps, because on a virtual machine a wake-up takes longer.
WATCH_NS = 100_000
CONNECT_S_MAX = 5.0
_STATEMENT = b"engine_read"
_BYTEA_ARRAY = 1001
_BINARY = 1


def _pq() -> Any:
    # PostgresOnline has checked that it is installed.
    from psycopg import pq

    return pq


class Connection:
    """One connection with the prepared statement, used by one thread at a time.

    Args:
        opened: psycopg's connection, in autocommit.
        statement: the query; its one parameter is an array of keys.
    """

    def __init__(self, opened: Any, statement: bytes) -> None:
        self._opened, self._pid = opened, os.getpid()
        self._pg = opened.pgconn
        result = self._pg.prepare(_STATEMENT, statement, [_BYTEA_ARRAY])
        statuses = _pq().ExecStatus
        self._good = statuses.TUPLES_OK
        if result.status != statuses.COMMAND_OK:
            raise Unavailable("refused", _message(result))
        self._pg.nonblocking = 1
        # libpq takes no other command before the results of the last one are read.
        self.outstanding = False

    # Hot: once per request.
    def ask(self, keys: list[bytes], deadline_ns: int) -> dict[bytes, bytes]:
        """The row of each key that there is.

        Raises:
            TimeoutError: no reply by the deadline. It stays outstanding, and the connection can be used on.
            OSError: the connection failed.
            Unavailable: the server replied with an error.
        """
        pg = self._pg
        if self.outstanding:
            self._result(deadline_ns)
        pg.send_query_prepared(_STATEMENT, [_array(keys)], [_BINARY], _BINARY)
        self.outstanding = True
        while pg.flush():
            self._wait(deadline_ns, writing=True)
        result = self._result(deadline_ns)
        if result is None or result.status != self._good:
            raise Unavailable("refused", _message(result))
        value = result.get_value
        return {value(row, 0): value(row, 1) for row in range(result.ntuples)}

    def _result(self, deadline_ns: int) -> Any:
        """The last result of the command that was sent, once all of them are there."""
        pg, last = self._pg, None
        while True:
            while pg.is_busy():
                self._wait(deadline_ns)
                pg.consume_input()
            result = pg.get_result()
            if result is None:
                self.outstanding = False
                return last
            last = result

    def _wait(self, deadline_ns: int, writing: bool = False) -> None:
        now_ns = time.monotonic_ns()
        if not writing and readable_by(self._pg.socket, min(now_ns + WATCH_NS, deadline_ns)):
            return
        left_ms = (deadline_ns - time.monotonic_ns()) / 1e6
        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN | (select.POLLOUT if writing else 0))
        if left_ms <= 0 or not poll.poll(left_ms):
            raise TimeoutError("the deadline has passed")

    def close(self) -> None:
        """Close it."""
        self._opened.close()

    def __del__(self) -> None:
        # psycopg warns of an open connection that is collected. A child must not say goodbye on its parent's socket.
        if getattr(self, "_pid", None) == os.getpid():
            self._opened.close()


def _array(keys: Sequence[bytes]) -> bytes:
    """Keys as Postgres' binary form of bytea[]: one dimension, no nulls, the element's type, length and first index."""
    head = (
        b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x11"
        + len(keys).to_bytes(4, "big")
        + b"\x00\x00\x00\x01"
    )
    return head + b"".join([len(key).to_bytes(4, "big") + key for key in keys])


def _message(result: Any) -> str:
    text = b"no reply" if result is None else result.error_message
    return text.decode(errors="replace").strip()


class PostgresWire:
    """Read rows of one table. Thread-safe, and safe across forks.

    Args:
        connect: called as connect(seconds); opens a connection of psycopg's, in autocommit.
        statement: the query of one parameter, an array of keys, for (key, row) pairs.
    """

    blocking = True

    def __init__(self, connect: Callable[[float], Any], statement: bytes) -> None:
        import psycopg

        self._connect = connect
        self._statement = statement
        self._calls = Calls("engine-postgres", THREADS_MAX, QUEUED_MAX)
        self._failure = psycopg.Error
        # Apart from those that read, because a read may wait for a connection.
        self._openings = Calls("engine-postgres-open", OPENINGS_MAX, QUEUED_MAX)
        self._begun()

    def _begun(self) -> None:
        self._idle: list[Connection] = []
        self._pid, self._breaker = os.getpid(), Breaker()

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key. Blocks until `deadline_ns` of `time.monotonic_ns` at most.

        Raises:
            Unavailable: no answer; its reason says why.
        """
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        return self._read(keys, began_ns, deadline_ns)

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        try:
            [rows] = await results_async(
                [self._calls.start(self._read, deadline_ns, keys, began_ns, deadline_ns)], deadline_ns
            )
        except TimeoutError as error:
            raise Unavailable("timeout", f"the store did not answer in time: {error}") from None
        return rows

    def _read(self, keys: list[bytes], began_ns: int, deadline_ns: int) -> Sequence[bytes | None]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = None
        try:
            found = None
            if connection is not None:
                try:
                    found = connection.ask(keys, deadline_ns)
                except TimeoutError:
                    raise
                except (OSError, self._failure):
                    # The server closes a connection that was idle, or was restarted: ask once more on a new one.
                    self._drop(connection)
                    connection = None
            if connection is None or found is None:
                connection = self._opened(deadline_ns)
                found = connection.ask(keys, deadline_ns)
        except Unavailable:
            self._drop(connection)
            self._breaker.failed(certain=True)
            raise
        except TimeoutError as error:
            if deadline_ns - began_ns >= PATIENCE_NS:
                self._breaker.failed(certain=False)
            if self._breaker.open:
                self._drop(connection)
            elif connection is not None:
                self._kept(connection)
            raise Unavailable("timeout", f"the store did not answer in time: {error}") from None
        except (OSError, self._failure) as error:
            self._drop(connection)
            self._breaker.failed(certain=True)
            raise Unavailable(*_reason_of(error)) from None
        self._breaker.succeeded()
        self._kept(connection)
        return list(map(found.get, keys))

    def close(self) -> None:
        """Close the connections. A later read opens new ones."""
        self._drop(None)
        self._calls.close()
        self._openings.close()

    def _admit(self, now_ns: int, deadline_ns: int) -> None:
        if deadline_ns - now_ns < WORTH_WAITING_NS:
            raise Unavailable("out_of_time", "the deadline leaves no time to ask the store")
        if self._pid != os.getpid():
            # A child must not use its parent's sockets, nor close them: the server would take that for a goodbye.
            _inherited.extend(self._idle)
            self._begun()
        if not self._breaker.admits():
            raise Unavailable("store_down", "the store failed a moment ago and is left alone for now")

    def _opened(self, deadline_ns: int) -> Connection:
        """A new connection. One that opens too late for this request is kept for another."""
        future = self._openings.start(self._open, deadline_ns)
        try:
            [opened] = results([future], deadline_ns)
        except TimeoutError:
            future.add_done_callback(self._came_late)
            raise
        return opened

    def _open(self) -> Connection:
        return Connection(self._connect(CONNECT_S_MAX), self._statement)

    def _came_late(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            self._kept(future.result())

    def _kept(self, connection: Connection) -> None:
        if len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection that failed, and the idle ones too, because they lead to the same server."""
        if connection is not None:
            connection.close()
        idle, self._idle = self._idle, []
        for other in idle:
            other.close()


# Connections of a parent process, which its child never closes.
_inherited: list[Connection] = []


def _reason_of(error: Exception) -> tuple[str, str]:
    """The reason and the sentence of `Unavailable` for an error of psycopg."""
    text = str(error).strip() or type(error).__name__
    state = getattr(error, "sqlstate", None) or ""
    # Authorisation, a missing database or table. libpq gives no state for an error of the server while it connects.
    refused = state[:2] in ("28", "3D", "42") or any(
        words in text
        for words in ("password authentication failed", "does not exist", "no pg_hba.conf entry")
    )
    if refused:
        return "refused", text
    return "store_down", f"the store cannot be reached: {text}"
