"""Where a Redis server is: its URL, its name looked up away from requests, and a socket opened in a given time."""

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
    """Where the server is and what it wants to hear first.

    The name is looked up when this is made, and again after a failure by a thread of its own: a look-up knows no
    deadline, so no request may wait for one.
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
        """Looks the name up; a name that is not found now keeps the places it had."""
        host, port = self.target
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return
        self.places[:] = [(family, place) for family, _, _, _, place in found]

    def look_again(self) -> None:
        if self.family == socket.AF_UNIX or not self.looking.acquire(blocking=False):
            return

        def look() -> None:
            try:
                self.look()
            finally:
                self.looking.release()

        threading.Thread(target=look, name="engine-redis-name", daemon=True).start()

    def opened(self, timeout_s: float) -> socket.socket:
        """A connected socket, within timeout_s seconds however many places the name has."""
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
