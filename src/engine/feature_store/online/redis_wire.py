"""Reads from Redis inside a deadline: on sockets of our own with hiredis, because a client library has one timeout for
all calls, and each request has a deadline of its own.

Three rules keep a bad server cheap. No wait is longer than the deadline. A reply that comes too late stays outstanding:
the connection reads and drops it before the next reply, so a slow server costs no new connections. After failures in a
row no request asks the server for a while, and a read then costs microseconds; after the pause one request tries again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from engine.feature_store.online._descriptor import readable_by
from engine.feature_store.online.base import Unavailable
from engine.feature_store.online.breaker import Breaker
from engine.feature_store.online.redis_address import Address, keep_alive

# A look-up on a quiet machine takes about this long, so with less time left nothing is sent.
WORTH_WAITING_NS = 50_000
# A read that waited this long in vain counts as a failure of the server. A shorter one had too tight a deadline.
PATIENCE_NS = 1_000_000
# A connection with more outstanding replies than this is cheaper to replace.
OUTSTANDING_MAX = 64
CONNECT_S_MAX = 1.0
IDLE_CONNECTIONS_MAX = 64
READ_BYTES = 1 << 16
PIPELINED_MAX = 4096
# A thread watches for a reply this long before it sleeps. After WATCHED_IN_VAIN_MAX replies in a row that took longer,
# it watches for one reply in WATCH_AGAIN_EVERY.
WATCH_NS = 100_000
WATCHED_IN_VAIN_MAX = 8
WATCH_AGAIN_EVERY = 64


def _hiredis() -> Any:
    # RedisOnline has checked that it is installed.
    import hiredis

    return hiredis


class Connection:
    """One socket, used by one thread at a time.

    Attributes:
        outstanding: replies that were not read yet; each belongs to a command that was sent.
    """

    def __init__(self, address: Address, deadline_ns: int) -> None:
        hiredis = _hiredis()
        self._pack = hiredis.pack_command
        self._reader = hiredis.Reader()
        self._error = hiredis.HiredisError
        self.outstanding = 0
        # TLS may have read a reply already, and then the socket shows nothing to watch for.
        self._watches = not address.tls
        self._in_vain = 0
        left_s = min((deadline_ns - time.monotonic_ns()) * 1e-9, CONNECT_S_MAX)
        if left_s <= 0:
            raise TimeoutError("no time left to connect")
        self._socket = address.opened(left_s)
        try:
            for command in address.greeting:
                self.ask(command, deadline_ns)
        except BaseException:
            self.close()
            raise

    # Hot: once per request.
    def ask(self, command: tuple[Any, ...], deadline_ns: int) -> Any:
        """The reply to a command.

        Raises:
            TimeoutError: no reply by the deadline. The reply stays outstanding, and the connection can be used on.
            OSError: the connection failed.
            Unavailable: the server replied with an error.
        """
        connection, reader = self._socket, self._reader
        self._wait_at_most(deadline_ns)
        self._send(self._pack(command))
        self.outstanding += 1
        while True:
            reply = reader.gets()
            while reply is False:
                self._watch(deadline_ns)
                self._wait_at_most(deadline_ns)
                data = connection.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
                reply = reader.gets()
            self.outstanding -= 1
            if self.outstanding == 0:
                break
        if isinstance(reply, self._error):
            raise Unavailable("refused", str(reply))
        return reply

    def send(self, commands: Sequence[tuple[Any, ...]], deadline_ns: int) -> None:
        """Send several commands, whose replies `replies` reads. Raises as `ask` does."""
        self._wait_at_most(deadline_ns)
        self._send(b"".join(map(self._pack, commands)))
        self.outstanding += len(commands)

    def replies(self, count: int, deadline_ns: int) -> list[Any]:
        """The replies to the last `count` commands, errors among them as exceptions of hiredis. Raises as `ask` does,
        apart from Unavailable."""
        found: list[Any] = []
        while self.outstanding:
            reply = self._reader.gets()
            while reply is False:
                self._watch(deadline_ns)
                self._wait_at_most(deadline_ns)
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                self._reader.feed(data)
                reply = self._reader.gets()
            if self.outstanding <= count:
                found.append(reply)
            self.outstanding -= 1
        return found

    def _send(self, packed: bytes) -> None:
        try:
            self._socket.sendall(packed)
        except TimeoutError as error:
            # Part of the command may be on its way, so nothing else can be sent on this connection.
            raise ConnectionResetError("the server reads nothing") from error

    def _watch(self, deadline_ns: int) -> None:
        """Watch for the reply awake, because on a virtual machine a wake-up takes longer than a quick reply."""
        if not self._watches:
            return
        if self._in_vain >= WATCHED_IN_VAIN_MAX and self._in_vain % WATCH_AGAIN_EVERY:
            self._in_vain += 1
            return
        until_ns = min(time.monotonic_ns() + WATCH_NS, deadline_ns)
        self._in_vain = 0 if readable_by(self._socket.fileno(), until_ns) else self._in_vain + 1

    def _wait_at_most(self, deadline_ns: int) -> None:
        """Set the socket's timeout to the time left. Raises TimeoutError if there is none."""
        left_ns = deadline_ns - time.monotonic_ns()
        if left_ns <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(left_ns * 1e-9)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __del__(self) -> None:
        # An exception may have kept a request from returning the connection. The constructor may have made no socket.
        opened = getattr(self, "_socket", None)
        if opened is not None:
            opened.close()


class RedisWire:
    """Read rows by MGET: on pooled connections, and from asyncio pipelined on one connection for each event loop.

    Thread-safe, and safe across forks.
    """

    blocking = True

    def __init__(self, address: Address) -> None:
        self._address = address.look()
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._breaker = Breaker()
        self._broken = (OSError, ValueError, _hiredis().HiredisError)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopConnection] = (
            weakref.WeakKeyDictionary()
        )

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """The stored row of each key. Blocks until `deadline_ns` of `time.monotonic_ns` at most.

        Raises:
            Unavailable: no answer; its reason says why.
        """
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        connection = self._idle_connection()
        try:
            if connection is not None:
                try:
                    rows = connection.ask(("MGET", *keys), deadline_ns)
                except TimeoutError:
                    raise
                except self._broken:
                    # The server closes a connection that was idle, or was restarted: ask once more on a new one.
                    self._drop(connection)
                    connection = None
            if connection is None:
                connection = Connection(self._address, deadline_ns)
                rows = connection.ask(("MGET", *keys), deadline_ns)
        except Unavailable:
            self._drop(connection)
            self._breaker.failed(certain=True)
            raise
        except TimeoutError as error:
            if deadline_ns - began_ns >= PATIENCE_NS:
                self._breaker.failed(certain=False)
            self._return_or_drop(connection)
            if self._breaker.open:
                # Another server may have taken its place, while its connections stay open.
                self._address.look_again()
            raise Unavailable("timeout", f"the store did not answer in time: {error}") from None
        except self._broken as error:
            self._drop(connection)
            self._address.look_again()
            self._breaker.failed(certain=True)
            raise Unavailable("store_down", f"the store cannot be reached: {error}") from None
        self._breaker.succeeded()
        assert connection is not None
        self._idle.append(connection)
        return rows

    async def read_async(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """`read` that does not block the running event loop."""
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        loop = asyncio.get_running_loop()
        pipeline = self._loops.get(loop)
        if pipeline is None or pipeline.pid != os.getpid():
            pipeline = self._loops[loop] = LoopConnection(self._address)
        try:
            async with asyncio.timeout((deadline_ns - began_ns) * 1e-9):
                rows = await pipeline.ask(("MGET", *keys))
        except Unavailable:
            self._breaker.failed(certain=True)
            raise
        except TimeoutError:
            if deadline_ns - began_ns >= PATIENCE_NS:
                self._breaker.failed(certain=False)
            if self._breaker.open:
                pipeline.close()
                self._address.look_again()
            raise Unavailable("timeout", "the store did not answer in time") from None
        except self._broken as error:
            self._address.look_again()
            self._breaker.failed(certain=True)
            raise Unavailable("store_down", f"the store cannot be reached: {error}") from None
        self._breaker.succeeded()
        return rows

    def close(self) -> None:
        """Close the connections. A later read opens new ones."""
        self._drop(None)
        for loop, pipeline in list(self._loops.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(pipeline.close)

    def _admit(self, now_ns: int, deadline_ns: int) -> None:
        if deadline_ns - now_ns < WORTH_WAITING_NS:
            raise Unavailable("out_of_time", "the deadline leaves no time to ask the store")
        if not self._breaker.admits():
            raise Unavailable("store_down", "the store failed a moment ago and is left alone for now")

    def _idle_connection(self) -> Connection | None:
        if self._pid != os.getpid():
            # A child must not use its parent's sockets.
            self._idle, self._pid, self._breaker = [], os.getpid(), Breaker()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _return_or_drop(self, connection: Connection | None) -> None:
        """Keep the connection to a server that is only slow. Drop it once the breaker has opened."""
        keep = not self._breaker.open and len(self._idle) < IDLE_CONNECTIONS_MAX
        if keep and connection is not None and connection.outstanding <= OUTSTANDING_MAX:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection that failed, and the idle ones too, because they lead to the same server."""
        if connection is not None:
            connection.close()
        idle, self._idle = self._idle, []
        for other in idle:
            other.close()


class Lost(ConnectionResetError):
    """The server closed a connection on which requests were waiting."""


class LoopConnection(asyncio.Protocol):
    """One connection for all requests of an event loop. Commands are sent at once, and replies come in their order.

    Attributes:
        pid: the process that made it, because a child must not use it.
    """

    def __init__(self, address: Address) -> None:
        hiredis = _hiredis()
        self.pid = os.getpid()
        self._address = address
        self._pack = hiredis.pack_command
        self._make_reader = hiredis.Reader
        self._error = hiredis.HiredisError
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def ask(self, command: tuple[Any, ...]) -> Any:
        """The reply to a command. If the caller stops waiting, its reply is dropped when it comes.

        A connection that the server has closed since the last reply is opened anew, once.
        """
        if self._transport is not None and not self._transport.is_closing():
            try:
                return await self._asked(command)
            except Lost:
                pass
        if self._transport is None or self._transport.is_closing():
            await self._connected()
        return await self._asked(command)

    async def ask_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to several commands, sent one right behind the other; errors of the server among them as
        exceptions."""
        if self._transport is not None and not self._transport.is_closing():
            try:
                return await self._gathered(commands)
            except Lost:
                pass
        if self._transport is None or self._transport.is_closing():
            await self._connected()
        return await self._gathered(commands)

    async def _gathered(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        found = await asyncio.gather(*map(self._asked, commands), return_exceptions=True)
        for reply in found:
            if isinstance(reply, BaseException) and not isinstance(reply, Unavailable):
                raise reply
        return list(found)

    def _asked(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the server closed the connection")
        if len(self._waiting) >= PIPELINED_MAX:
            self.close()
            raise ConnectionResetError(f"{PIPELINED_MAX:,} replies are outstanding: the server reads nothing")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        transport.write(self._pack(command))
        return future

    def close(self) -> None:
        """Close the connection; requests that wait raise ConnectionResetError."""
        self._hang_up(ConnectionResetError("closed"))

    async def _connected(self) -> None:
        """Open the connection once for all requests that wait for it. It opens on if one of them stops waiting."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
            # Take the error, because asyncio logs one that no request waits for. The next request finds out itself.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        loop, address = asyncio.get_running_loop(), self._address
        async with asyncio.timeout(CONNECT_S_MAX):
            if address.family == socket.AF_UNIX:
                await loop.create_unix_connection(lambda: self, address.target)
            else:
                tls = address.contexts[0] if address.tls else None
                await loop.create_connection(lambda: self, *address.place, ssl=tls)
                assert self._transport is not None
                keep_alive(self._transport.get_extra_info("socket"))
            try:
                for command in address.greeting:
                    await self._asked(command)
            except BaseException:
                self._hang_up(ConnectionResetError("the greeting failed"))
                raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: the connection is open."""
        self._transport = transport  # type: ignore[assignment]
        self._reader = self._make_reader()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: hand each whole reply to the request that has waited longest."""
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not False:
                self._answered(reply)
                reply = self._reader.gets()
        except (self._error, IndexError) as error:
            self._hang_up(ConnectionResetError(f"the server sent bytes that are no reply: {error}"))

    def _answered(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, self._error):
            future.set_exception(Unavailable("refused", str(reply)))
        else:
            future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio: requests that wait raise ConnectionResetError."""
        self._hang_up(Lost(f"the connection was lost: {error or 'closed by the server'}"))

    def _hang_up(self, error: Exception) -> None:
        """Close the connection and raise `error` in every request that waits."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                # Take the error, because its request may have stopped waiting, and asyncio would log it.
                future.exception()
