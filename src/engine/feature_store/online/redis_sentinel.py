"""The address of a Redis that Sentinels watch: they say which server is the master now, and are asked again when it
fails."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from engine.errors import ConfigError
from engine.feature_store.online.redis_address import Address, hosts_of, safe
from engine.feature_store.online.redis_wire import Connection

SCHEMES = ("redis+sentinel", "rediss+sentinel")
FORM = "redis+sentinel://host:26379,host2:26379/service/0"
PORT = 26379
# A Sentinel that is alive answers in a moment.
ASK_S_MAX = 0.5


@dataclass(frozen=True)
class SentinelAddress(Address):
    """The address of the master of a service.

    Attributes:
        sentinels: the addresses of the Sentinels; one that answers is enough.
        service: the name that they know the master by.
        named: the master's host, as a Sentinel named it last.
    """

    sentinels: tuple[Address, ...] = ()
    service: str = ""
    named: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, url: str) -> SentinelAddress:
        """The address that a URL names: redis+sentinel://[user:password@]host[:port][,host…]/service[/db][?options].

        User, password and options are those of the master; `sentinel_username` and `sentinel_password` in the query are
        those of the Sentinels. With rediss+sentinel:// both are reached by TLS.

        Raises:
            ConfigError: the URL is of another form, or an option is not known or cannot be read.
        """
        hosts, plain = hosts_of(url, SCHEMES, FORM, PORT)
        service, _, database = unquote(urlsplit(url).path).strip("/").partition("/")
        if not service or (database and not (database.isascii() and database.isdigit())):
            raise ConfigError(
                f"expected a service, and the number of a database if any, as in {FORM}, got {safe(url)!r}"
            )
        head, _, query = plain.partition("?")
        asked = parse_qs(query)
        theirs = {
            name: asked.pop(f"sentinel_{name}")[0]
            for name in ("username", "password")
            if f"sentinel_{name}" in asked
        }
        one = Address.of(f"{head}/{database}" + (f"?{urlencode(asked, doseq=True)}" if asked else ""))
        tls = {name: value for name, value in one.options.items() if name.startswith("ssl_")}
        sentinels = tuple(one.at(host, port, {**tls, **theirs}) for host, port in hosts)
        fields = {each.name: getattr(one, each.name) for each in dataclasses.fields(one)}
        return cls(**fields, sentinels=sentinels, service=service)

    @property
    def place(self) -> tuple[str, int]:
        """The host and port of the master. Raises OSError if no Sentinel has named one."""
        for _, place in self.places:
            return place[0], place[1]
        raise self._unknown()

    def opened(self, timeout_s: float) -> socket.socket:
        """A socket connected to the master. Raises OSError if no Sentinel has named one, or it does not answer."""
        if not self.places:
            raise self._unknown()
        return super().opened(timeout_s)

    def _unknown(self) -> OSError:
        return OSError(f"no Sentinel names a master of {self.service!r}")

    @property
    def server_name(self) -> str:
        """The name that the master's certificate must have: as the Sentinels call it."""
        return self.named[0] if self.named else self.host

    def look(self) -> SentinelAddress:
        """Ask the Sentinels for the master. Where none answers, it stays as it was. Returns itself."""
        for sentinel in self.sentinels:
            with contextlib.suppress(Exception):
                host, port = self._asked(sentinel)
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self.named[:] = [host]
                self.places[:] = [(family, place) for family, _, _, _, place in found]
                break
        return self

    def _asked(self, sentinel: Address) -> tuple[str, int]:
        deadline_ns = time.monotonic_ns() + int(ASK_S_MAX * 1e9)
        connection = Connection(sentinel.look(), deadline_ns)
        try:
            found = connection.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service), deadline_ns)
        finally:
            connection.close()
        host, port = found
        return host.decode(), int(port)

    def client(self, redis: Any, timeout_s: float) -> Any:
        """A client of the redis library for the master, which asks the Sentinels whenever it connects."""
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **self.options}
        if self.tls:
            options |= {"ssl": True, "ssl_check_hostname": self._checks_hostname}
        asking = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            **self.sentinels[0].options,
        }
        if self.tls:
            asking |= {"ssl": True, "ssl_check_hostname": self._checks_hostname}
        found = redis.sentinel.Sentinel([each.target for each in self.sentinels], sentinel_kwargs=asking)
        return found.master_for(self.service, **options)
