"""Real servers for tests: a Redis of their own on a free loopback port, and a proxy that makes it slow.

Nothing here touches a Redis that runs already: a server is started as a child process, known by its process id, and
stopped by it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STARTED_S_MAX = 10.0
STARTS_MAX = 5


class RedisServer:
    """A redis-server without persistence: a child process on a free port of 127.0.0.1, stopped by its process id.

    Args:
        folder: its working directory.
        options: more options of redis-server.
        password: what clients must send; None for nothing.

    Attributes:
        port: the port, which stays when it is started again.
        url: of database 0, with the password.
    """

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise FileNotFoundError("redis-server is not installed: apt-get install redis-server")
        self.password = password
        self.folder = folder
        self._command = [
            binary, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder), *options,
        ]  # fmt: skip
        if password is not None:
            self._command += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in range(1, STARTS_MAX + 1):
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                # Another process may have taken the port after free_port() found it.
                if attempt == STARTS_MAX:
                    raise

    @property
    def url(self) -> str:
        login = "" if self.password is None else f":{self.password}@"
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """A client of the redis library, which the caller closes."""
        import redis

        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers. Raises RuntimeError if it does not."""
        assert self._process is None or self._process.poll() is not None
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        give_up = time.monotonic() + STARTED_S_MAX
        while not self._answers():
            if time.monotonic() > give_up or self._process.poll() is not None:
                self.kill()
                raise RuntimeError(f"redis-server did not start on port {self.port}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process id of the server that this started last."""
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        """Whether this very process answers on the port, and not another server that took it."""
        import redis

        client = redis.Redis.from_url(self.url, socket_timeout=0.5)
        try:
            return client.info("server")["process_id"] == self.pid
        except redis.RedisError:
            return False
        finally:
            client.close()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Keep it from answering while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, frozen or not."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
        self.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlowProxy:
    """A TCP proxy to a port of 127.0.0.1 that delays every reply by `delay_s` seconds."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.connections = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self.connections += 1
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if replies and self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()
        for end in self._sockets:
            end.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the whole session. A test that needs it empty takes `redis_url`; one that stops it starts its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """The session's Redis, emptied."""
    client = redis_server.client()
    client.flushall()
    yield redis_server.url
    client.close()
