"""The servers of the online stores' tests: installed once, started on free ports of 127.0.0.1, stopped by process id.

dynalite comes from npm, moto is of the test extra, Postgres is Debian's, Redis is what every other test uses.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import dynalite as dynalite_server
from tests.servers import free_port

STARTED_S_MAX = 60.0
STARTS_MAX = 3
INSTALLED = Path(sys.prefix) / "share" / "engine-test-servers"


class Server:
    """A child process on a free port.

    Args:
        command: called with the port; the command line.
        ready: called with the port; whether the server answers.
        options: more arguments of Popen.
    """

    def __init__(
        self, command: Callable[[int], list[str]], ready: Callable[[int], bool], **options: Any
    ) -> None:
        self._command, self._ready, self._options = command, ready, options
        for attempt in range(1, STARTS_MAX + 1):
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                # Another process may have taken the port after it was found free.
                if attempt == STARTS_MAX:
                    raise

    def start(self) -> None:
        """Start it, or start it again on its port, and wait until it answers. Raises RuntimeError if it does not."""
        with tempfile.TemporaryFile() as out:
            self.process = subprocess.Popen(
                self._command(self.port), stdout=out, stderr=subprocess.STDOUT, **self._options
            )
            give_up = time.monotonic() + STARTED_S_MAX
            while not self._ready(self.port):
                if time.monotonic() > give_up or self.process.poll() is not None:
                    self.stop()
                    out.seek(0)
                    raise RuntimeError(
                        f"{self._command(self.port)}: {out.read()[-2000:].decode(errors='replace')}"
                    )
                time.sleep(0.02)

    def freeze(self) -> None:
        """Keep it from answering while its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    stop = kill


def listens(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


def dynalite() -> Server:
    """A dynalite."""
    words = dynalite_server.command()
    return Server(lambda port: [*words, "--port", str(port)], listens)


def moto() -> Server:
    """moto's server of all AWS services."""
    return Server(
        lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], listens
    )


class Postgres:
    """A Postgres of its own: a new cluster in a folder, which a user that is not root runs.

    Attributes:
        url: of the database `postgres`, with the password.
        server: the process.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="engine-postgres-"))
        user = None
        if os.getuid() == 0:
            # Postgres refuses to run as root.
            user = next(name for name in ("postgres", "nobody") if _is_user(name))
            os.chown(self._folder, pwd.getpwnam(user).pw_uid, -1)
        name = user or getpass.getuser()
        programs = _postgres_programs()
        secret = self._folder / "secret"
        secret.write_text("sesame")
        if user is not None:
            os.chown(secret, pwd.getpwnam(user).pw_uid, -1)
        data = self._folder / "data"
        ids: dict[str, Any] = {"user": user, "cwd": self._folder} if user else {"cwd": self._folder}
        made = [programs / "initdb", "-D", data, "-U", "engine", "-A", "scram-sha-256", "--pwfile", secret]
        subprocess.run(
            [str(part) for part in [*made, "--no-sync", "-E", "UTF8", "--locale=C"]],
            check=True, stdout=subprocess.DEVNULL, **ids,
        )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._folder), "fsync": "off",
            "shared_buffers": "32MB", "max_connections": "100",
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.server = Server(
            lambda port: [str(programs / "postgres"), "-D", str(data), "-p", str(port), *words],
            self._answers,
            **ids,
        )
        del name

    @property
    def url(self) -> str:
        return f"postgres://engine:sesame@127.0.0.1:{self.server.port}/postgres"

    @staticmethod
    def _answers(port: int) -> bool:
        import psycopg

        try:
            psycopg.connect(f"postgres://engine:sesame@127.0.0.1:{port}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def signal_all(self, number: int) -> None:
        """Send a signal to the server and to the processes of its connections."""
        pid = self.server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, children)]:
            try:
                os.kill(each, number)
            except ProcessLookupError:
                pass

    def stop(self) -> None:
        """End it with all its processes, and remove its folder."""
        if self.server.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            # SIGQUIT makes Postgres disconnect everybody and end now.
            self.server.process.send_signal(signal.SIGQUIT)
            self.server.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _postgres_programs() -> Path:
    """The folder of initdb and postgres. Where there is none, Debian's package is unpacked, and not installed, because
    it would start a service; only the libraries that it needs are installed."""
    places = [Path("/usr/lib/postgresql"), INSTALLED / "postgresql" / "usr/lib/postgresql"]
    for place in places:
        for programs in sorted(place.glob("*/bin"), reverse=True):
            if (programs / "postgres").exists():
                return programs
    folder = INSTALLED / "postgresql"
    folder.mkdir(parents=True, exist_ok=True)
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    depends = subprocess.run(
        ["apt-cache", "depends", "postgresql"], check=True, capture_output=True, text=True
    ).stdout
    package = next(
        word
        for word in depends.split()
        if word.startswith("postgresql-") and word[len("postgresql-") :].isdigit()
    )
    subprocess.run(["apt-get", "download", "-qq", package], **quiet)
    [archive] = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg", "-x", archive.name, "."], **quiet)
    fields = subprocess.run(
        ["dpkg-deb", "-f", archive.name, "Depends"], check=True, capture_output=True, text=True, cwd=folder
    ).stdout
    names = [part.split("|")[0].split()[0] for part in fields.replace("\n", " ").split(",")]
    libraries = [name for name in names if name.startswith("lib")]
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *libraries], **quiet)
    return _postgres_programs()


def _redis(*options: str) -> list[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise FileNotFoundError("redis-server is not installed: apt-get install redis-server")
    return [binary, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]


def _waited(what: Callable[[], Any], why: str) -> Any:
    """The first true result of `what`, which is asked again and again. Raises RuntimeError after a minute."""
    give_up = time.monotonic() + STARTED_S_MAX
    while True:
        try:
            if found := what():
                return found
        except Exception as error:
            why = f"{why}: {error}"[:500]
        if time.monotonic() > give_up:
            raise RuntimeError(why)
        time.sleep(0.02)


class RedisCluster:
    """Three masters of a Redis Cluster, without persistence.

    Args:
        folder: of the nodes' files.
        full_coverage: whether the cluster refuses everything while a slot has no node.

    Attributes:
        nodes: the processes.
        url: of the cluster, by its first node.
    """

    def __init__(self, folder: Path, *, full_coverage: bool = True) -> None:
        self.nodes = []
        self._clients: list[Any] = []
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            bus = free_port()
            options = _redis(
                "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus),
                "--cluster-require-full-coverage", "yes" if full_coverage else "no", "--dir", str(own),
            )  # fmt: skip
            self.nodes.append(Server(lambda port, options=options: [*options, "--port", str(port)], listens))
            self._clients.append(self.client(number))
            self._clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[number].port, bus)
            first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            self._clients[number].execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        self.wait()

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def client(self, number: int) -> Any:
        """A client of one node, which the caller closes."""
        import redis

        return redis.Redis(port=self.nodes[number].port, socket_timeout=10)

    def wait(self) -> None:
        """Wait until every node sees the whole cluster."""
        for client in self._clients:
            _waited(
                lambda client=client: (
                    (info := client.cluster("INFO"))["cluster_state"] == "ok"
                    and int(info["cluster_known_nodes"]) == 3
                    and int(info["cluster_slots_ok"]) == 16384
                ),
                "the cluster did not come together",
            )

    def flush(self) -> None:
        """Delete all keys."""
        for client in self._clients:
            client.flushall()

    def slots_of(self, number: int) -> list[int]:
        """The slots of a node."""
        port = self.nodes[number].port
        return [
            slot
            for first, last, master, *_ in self._raw_slots()
            if int(master[1]) == port
            for slot in range(int(first), int(last) + 1)
        ]

    def _raw_slots(self) -> Any:
        connection = self._clients[0].connection_pool.get_connection()
        try:
            connection.send_command("CLUSTER", "SLOTS")
            return connection.read_response()
        finally:
            self._clients[0].connection_pool.release(connection)

    def move(self, slot: int, source: int, target: int, pause_s: float = 0.0) -> None:
        """Move a slot with its keys, one by one, as `redis-cli --cluster reshard` does."""
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in self._clients]
        here, there = self._clients[source], self._clients[target]
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                here.execute_command("MIGRATE", "127.0.0.1", self.nodes[target].port, key, 0, 5000)
                time.sleep(pause_s)
        for client in (there, here, *self._clients):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def give_back(self, slots: list[int], source: int, target: int) -> None:
        """Move slots back."""
        for slot in slots:
            self.move(slot, source, target)

    def stop(self) -> None:
        """End all nodes."""
        for client in self._clients:
            client.close()
        for node in self.nodes:
            node.stop()


class Sentinels:
    """A master, a replica, and a Sentinel that watches them under the name `service`.

    Attributes:
        master, replica, sentinel: the processes.
        url: of the service.
    """

    def __init__(self, folder: Path) -> None:
        quick = ["--repl-diskless-sync-delay", "0", "--dir", str(folder)]
        self.master = Server(lambda port: [*_redis(*quick), "--port", str(port)], listens)
        of = ["--replicaof", "127.0.0.1", str(self.master.port)]
        self.replica = Server(lambda port: [*_redis(*quick, *of), "--port", str(port)], listens)
        self._replica = self._client(self.replica.port)
        self._master = self._client(self.master.port)
        _waited(lambda: self._replica.info()["master_link_status"] == "up", "the replica did not connect")

        def command(port: int) -> list[str]:
            file = folder / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor service 127.0.0.1 {self.master.port} 1\n"
                "sentinel down-after-milliseconds service 500\nsentinel failover-timeout service 3000\n"
            )
            return [_redis()[0], str(file), "--sentinel"]

        self.sentinel = Server(command, listens)
        self._sentinel = self._client(self.sentinel.port)

    @staticmethod
    def _client(port: int) -> Any:
        import redis

        return redis.Redis(port=port, socket_timeout=5)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/service"

    def flush(self) -> None:
        """Delete all keys."""
        self._master.flushall()

    def wait_for_replica(self) -> None:
        """Wait until the replica has everything, and the Sentinel knows it."""
        self._master.wait(1, 10_000)
        _waited(
            lambda: "slave" in str(self._sentinel.execute_command("SENTINEL", "REPLICAS", "service")),
            "the Sentinel does not know the replica",
        )

    def wait_for_failover(self) -> None:
        """Wait until the replica is the master."""
        _waited(lambda: self._replica.info("replication")["role"] == "master", "no failover")

    def stop(self) -> None:
        """End all three."""
        for client in (self._master, self._replica, self._sentinel):
            client.close()
        for server in (self.sentinel, self.replica, self.master):
            server.stop()


class DynamoDBProxy:
    """An HTTP proxy to a DynamoDB on 127.0.0.1 that counts calls, and throttles, delays, cuts or breaks them.

    Attributes:
        port: where it listens.
        calls: (operation, began, ended) of each call, in seconds of the monotonic clock.
        delay_s: of each reply.
        throttle: how many of the next calls are refused as throttled.
        break_: how many of the next calls get a reply of the status 500.
        unprocessed: how many keys of each BatchGetItem are left unread, for the next `partly` calls.
        partly: see `unprocessed`.
    """

    def __init__(self, port: int) -> None:
        self.calls: list[tuple[str, float, float]] = []
        self.delay_s, self.throttle, self.break_, self.unprocessed, self.partly = 0.0, 0, 0, 0, 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                began = time.monotonic()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operation = self.headers["X-Amz-Target"].split(".")[1]
                status, answer = proxy._answered(port, operation, dict(self.headers), body)
                if proxy.delay_s:
                    time.sleep(proxy.delay_s)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                # Before the reply is out, so that a test that has it finds the call here.
                proxy.calls.append((operation, began, time.monotonic()))
                self.wfile.write(answer)

            def log_message(self, *words: Any) -> None:
                """Log nothing."""

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has given up is no error."""

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.port = self._listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def _answered(self, port: int, operation: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        with self._lock:
            if self.throttle > 0:
                self.throttle -= 1
                return 400, _error("ProvisionedThroughputExceededException", "too fast")
            if self.break_ > 0:
                self.break_ -= 1
                return 500, _error("InternalServerError", "broken")
            leave = self.unprocessed if operation == "BatchGetItem" and self.partly > 0 else 0
            self.partly -= leave > 0
        left: dict[str, Any] = {}
        if leave:
            asked = json.loads(body)
            for table, wanted in asked["RequestItems"].items():
                left[table] = {**wanted, "Keys": wanted["Keys"][:leave]}
                wanted["Keys"] = wanted["Keys"][leave:]
            if not any(wanted["Keys"] for wanted in asked["RequestItems"].values()):
                tables = {table: [] for table in left}
                return 200, json.dumps({"Responses": tables, "UnprocessedKeys": left}).encode()
            body = json.dumps(asked).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        passed = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        connection.request("POST", "/", body, passed)
        reply = connection.getresponse()
        answer = reply.read()
        connection.close()
        if leave and reply.status == 200:
            answer = json.dumps({**json.loads(answer), "UnprocessedKeys": left}).encode()
        return reply.status, answer

    def rounds(self) -> int:
        """The longest chain of calls in which each call began after the one before had ended."""
        longest: list[tuple[float, int]] = []
        best = 0
        for _, began, ended in sorted(self.calls, key=lambda call: call[1]):
            depth = 1 + max((each for done, each in longest if done <= began), default=0)
            longest.append((ended, depth))
            best = max(best, depth)
        return best

    def close(self) -> None:
        """Listen no more."""
        self._listener.shutdown()
        self._listener.server_close()


def _error(code: str, text: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": text}).encode()


@contextmanager
def stopped(server: Any) -> Iterator[Any]:
    """The server, stopped in the end."""
    try:
        yield server
    finally:
        server.stop()
