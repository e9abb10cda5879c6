"""Reading from Redis inside a deadline: sockets of our own with hiredis, because a client library's timeout is one for
all calls and a request's deadline is its own.

Three rules keep a bad server cheap. No wait is longer than the deadline. A reply that comes too late is owed to the
connection, which reads it off before the next one, so that being slow does not mean connecting anew. And after failures
in a row the server is left alone for a while, in which a read costs microseconds; then one request tries again.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from engine.feature_store._descriptor import readable_by
from engine.feature_store.online import Unavailable
from engine.feature_store.redis_address import Address

# Less than this is not worth sending for: a look-up on a quiet machine takes about as long.
WORTH_WAITING_NS = 50_000
# A read that had this long and got nothing speaks against the server; one that had less, against its deadline.
PATIENCE_NS = 1_000_000
FAILURES_MAX = 3
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
# A connection that owes more replies than this is cheaper to replace.
OWED_MAX = 64
CONNECT_S_MAX = 1.0
IDLE_CONNECTIONS_MAX = 64
READ_BYTES = 1 << 16
OUTSTANDING_MAX = 4096
# A reply is watched for this long before its thread sleeps. After so many that took longer, one in so many is.
WATCH_NS = 100_000
WATCHED_IN_VAIN_MAX = 8
WATCH_AGAIN_EVERY = 64


def _hiredis() -> Any:
    # Checked by RedisOnline, which says what to install.
    import hiredis

    return hiredis


class Breaker:
    """Whether the server may be asked. Closed while it answers; after failures in a row open for a pause that doubles,
    with some chance in it so that many processes do not come back at once; then one caller at a time may try."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        return self._failures >= FAILURES_MAX

    # Hot: once per request.
    def admits(self) -> bool:
        if self._failures < FAILURES_MAX:
            return True
        now = time.monotonic()
        with self._lock:
            if now < self._retry_at:
                return False
            # Whoever comes next waits until this one has found out, or for another pause.
            self._retry_at = now + PAUSE_S_MAX
            return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, certain: bool) -> None:
        """`certain`: the connection itself failed, which is enough; a single timeout is not."""
        with self._lock:
            self._failures = max(self._failures + 1, FAILURES_MAX if certain else 0)
            beyond = min(self._failures - FAILURES_MAX, 10)
            if beyond >= 0:
                pause = min(PAUSE_S_MIN * 2**beyond, PAUSE_S_MAX)
                self._retry_at = time.monotonic() + pause * random.uniform(0.75, 1.25)


class Connection:
    """One socket, used by one thread at a time."""

    def __init__(self, address: Address, deadline_ns: int) -> None:
        hiredis = _hiredis()
        self._pack = hiredis.pack_command
        self._reader = hiredis.Reader()
        self._error = hiredis.HiredisError
        self.owed = 0
        self._watches = not address.tls  # what TLS has read already nobody can see at the socket
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
        """The reply. Raises TimeoutError, after which the reply is owed; OSError; or Unavailable for a refusal."""
        connection, reader = self._socket, self._reader
        self._wait_at_most(deadline_ns)
        self._send(self._pack(command))
        self.owed += 1
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
            self.owed -= 1
            if self.owed == 0:
                break
        if isinstance(reply, self._error):
            raise Unavailable("refused", str(reply))
        return reply

    def _send(self, packed: bytes) -> None:
        try:
            self._socket.sendall(packed)
        except TimeoutError as error:
            # Part of a command may be under way, and nothing can take it back.
            raise ConnectionResetError("the server takes nothing in") from error

    def _watch(self, deadline_ns: int) -> None:
        """Waits awake for a server that answers soon: on a virtual machine waking up takes longer than its answer."""
        if not self._watches:
            return
        if self._in_vain >= WATCHED_IN_VAIN_MAX and self._in_vain % WATCH_AGAIN_EVERY:
            self._in_vain += 1
            return
        until_ns = min(time.monotonic_ns() + WATCH_NS, deadline_ns)
        self._in_vain = 0 if readable_by(self._socket.fileno(), until_ns) else self._in_vain + 1

    def _wait_at_most(self, deadline_ns: int) -> None:
        left_ns = deadline_ns - time.monotonic_ns()
        if left_ns <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(left_ns * 1e-9)

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        # One that a request could not give back is closed with it. The constructor may have failed before the socket.
        opened = getattr(self, "_socket", None)
        if opened is not None:
            opened.close()


class RedisWire:
    """Reads rows by MGET on pooled connections; from asyncio on one connection for each loop, pipelined."""

    blocking = True

    def __init__(self, url: str) -> None:
        self._address = Address.of(url)
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._breaker = Breaker()
        self._broken = (OSError, ValueError, _hiredis().HiredisError)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopConnection] = (
            weakref.WeakKeyDictionary()
        )

    # Hot: once per request.
    def read(self, keys: list[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        began_ns = time.monotonic_ns()
        self._admit(began_ns, deadline_ns)
        connection = self._idle_connection()
        try:
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
            self._keep_or_drop(connection)
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
            raise Unavailable("timeout", "the store did not answer in time") from None
        except self._broken as error:
            self._breaker.failed(certain=True)
            raise Unavailable("store_down", f"the store cannot be reached: {error}") from None
        self._breaker.succeeded()
        return rows

    def close(self) -> None:
        """Closes the connections; a later read opens new ones."""
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
            # A child must not speak on its parent's sockets.
            self._idle, self._pid, self._breaker = [], os.getpid(), Breaker()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _keep_or_drop(self, connection: Connection | None) -> None:
        """After a timeout: a server that is but slow keeps its connection, one that is given up loses it."""
        keep = not self._breaker.open and len(self._idle) < IDLE_CONNECTIONS_MAX
        if keep and connection is not None and connection.owed <= OWED_MAX:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection | None) -> None:
        """Closes a connection that failed, and the idle ones with it, which lead to the same server."""
        if connection is not None:
            connection.close()
        idle, self._idle = self._idle, []
        for other in idle:
            other.close()


class LoopConnection(asyncio.Protocol):
    """One connection for all requests of an event loop: commands go out as they come, replies come back in order."""

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
        """The reply; whoever gives up waiting leaves its reply to be dropped."""
        if self._transport is None or self._transport.is_closing():
            await self._connected()
        return await self._asked(command)

    def _asked(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the server closed the connection")
        if len(self._waiting) >= OUTSTANDING_MAX:
            self.close()
            raise ConnectionResetError(
                f"{OUTSTANDING_MAX} replies are outstanding: the server takes nothing in"
            )
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        transport.write(self._pack(command))
        return future

    def close(self) -> None:
        self._hang_up(ConnectionResetError("closed"))

    async def _connected(self) -> None:
        """Opens the connection once for all that wait for it; it goes on opening when one of them gives up."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open())
            # An error that nobody waits for any more is no news: the next request finds out for itself.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        loop, address = asyncio.get_running_loop(), self._address
        async with asyncio.timeout(CONNECT_S_MAX):
            if address.family == socket.AF_UNIX:
                await loop.create_unix_connection(lambda: self, address.target)
            else:
                tls = ssl.create_default_context() if address.tls else None
                await loop.create_connection(lambda: self, *address.target, ssl=tls)
            try:
                for command in address.greeting:
                    await self._asked(command)
            except BaseException:
                self._hang_up(ConnectionResetError("the greeting failed"))
                raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._reader = self._make_reader()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not False:
                self._answered(reply)
                reply = self._reader.gets()
        except (self._error, IndexError) as error:
            self._hang_up(ConnectionResetError(f"what the server sent is no reply: {error}"))

    def _answered(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, self._error):
            future.set_exception(Unavailable("refused", str(reply)))
        else:
            future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._hang_up(ConnectionResetError(f"the connection was lost: {error or 'closed by the server'}"))

    def _hang_up(self, error: Exception) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                # Who waited may have given up since; the error is then nobody's.
                future.exception()
