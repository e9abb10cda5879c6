"""The address of a Redis server: its URL, its name looked up outside of requests, a socket opened in a given time."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Address:
    """The address of a server, and the commands that each new connection begins with.

    The name is looked up by the constructor, and after a failure by a thread of its own. A look-up has no deadline, so
    no request may wait for one.

    Attributes:
        family: AF_UNIX, or AF_INET for any address by name.
        target: the path of a unix socket, or (host, port).
        host: the host's name, which TLS checks.
        tls: whether connections are encrypted.
        greeting: the commands: AUTH for a password, SELECT for a database.
        places: (family, socket address) pairs that the name was last found at.
        looking: held by the one thread that looks the name up.
    """

    family: int
    target: Any
    host: str
    tls: bool
    greeting: tuple[tuple[Any, ...], ...]
    places: list[Any] = field(default_factory=list)
    looking: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, url: str) -> Address:
        """The address that a URL names, looked up. A name that is not found has no places yet."""
        parts = urlsplit(url)
        database = (
            parts.path.strip("/") if parts.scheme != "unix" else parse_qs(parts.query).get("db", ["0"])[0]
        )
        greeting: list[tuple[Any, ...]] = []
        if parts.password is not None:
            user = (unquote(parts.username),) if parts.username else ()
            greeting.append(("AUTH", *user, unquote(parts.password)))
        if database not in ("", "0"):
            greeting.append(("SELECT", database))
        if parts.scheme == "unix":
            return cls(socket.AF_UNIX, unquote(parts.path), "", False, tuple(greeting))
        host = parts.hostname or "localhost"
        made = cls(
            socket.AF_INET, (host, parts.port or 6379), host, parts.scheme == "rediss", tuple(greeting)
        )
        made.look()
        return made

    def look(self) -> None:
        """Look the name up. A name that is not found now keeps the places it had."""
        host, port = self.target
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return
        self.places[:] = [(family, place) for family, _, _, _, place in found]

    def look_again(self) -> None:
        """Look the name up on another thread, unless one does so already. Returns at once."""
        if self.family == socket.AF_UNIX or not self.looking.acquire(blocking=False):
            return

        def look() -> None:
            try:
                self.look()
            finally:
                self.looking.release()

        threading.Thread(target=look, name="engine-redis-name", daemon=True).start()

    def opened(self, timeout_s: float) -> socket.socket:
        """A connected socket, within timeout_s seconds for all places together. Raises OSError if none answers."""
        if self.family == socket.AF_UNIX:
            return _connected(socket.AF_UNIX, self.target, timeout_s)
        if not self.places:
            raise OSError(f"the name {self.host!r} was not found")
        give_up = time.monotonic() + timeout_s
        for number, (family, place) in enumerate(list(self.places), start=1):
            try:
                opened = _connected(family, place, max(give_up - time.monotonic(), 1e-6))
                break
            except OSError:
                if number == len(self.places) or time.monotonic() >= give_up:
                    raise
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.tls:
            return ssl.create_default_context().wrap_socket(opened, server_hostname=self.host)
        return opened


def _connected(family: int, place: Any, timeout_s: float) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.settimeout(timeout_s)
        opened.connect(place)
    except BaseException:
        opened.close()
        raise
    return opened
