"""The address of a Redis server: its URL, its name looked up outside of requests, a socket opened in a given time.

The URL is parsed here once, in every form that redis-py takes, because readers and the writer must mean the same place.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from engine.errors import ConfigError

SCHEMES = ("redis", "rediss", "unix")
_CERT_REQS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
# The system closes a connection to a lost machine after 25 s, and no proxy sees a connection idle for more than 10 s.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


def _boolean(text: str) -> bool:
    """The words that redis-py takes. Raises ValueError for another."""
    if text.upper() in ("1", "TRUE", "T", "YES", "Y", "ON"):
        return True
    if text.upper() in ("0", "FALSE", "F", "NO", "N", "OFF", ""):
        return False
    raise ValueError("expected true or false")


def _cert_reqs(text: str) -> ssl.VerifyMode:
    return _CERT_REQS[text.lower().removeprefix("cert_")]


def _tls_version(text: str) -> ssl.TLSVersion:
    return ssl.TLSVersion(int(text))


def _flags(text: str) -> list[ssl.VerifyFlags]:
    """A list of names, with or without brackets around it."""
    return [ssl.VerifyFlags[name.strip()] for name in text.strip("[] ").split(",") if name.strip()]


def _database(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError("a database is a number from 0 on")
    return number


def _port(text: str) -> int:
    if not 0 < (number := int(text)) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return number


def _protocol(text: str) -> int:
    if (number := int(text)) not in (2, 3):
        raise ValueError("expected 2 or 3")
    return number


# The options of a URL's query, each with the function that reads its text.
_OPTIONS: dict[str, Any] = {
    "db": _database, "username": str, "password": str, "client_name": str, "protocol": _protocol,
    "host": str, "port": _port, "path": str,
}  # fmt: skip
_TLS_OPTIONS: dict[str, Any] = {
    "ssl_keyfile": str, "ssl_certfile": str, "ssl_password": str, "ssl_ca_certs": str, "ssl_ca_path": str,
    "ssl_ca_data": str, "ssl_ciphers": str, "ssl_cert_reqs": _cert_reqs, "ssl_check_hostname": _boolean,
    "ssl_min_version": _tls_version, "ssl_include_verify_flags": _flags, "ssl_exclude_verify_flags": _flags,
}  # fmt: skip
# Options of the connections that write. A read has the deadline of its request instead.
_WRITER_OPTIONS: dict[str, Any] = {
    "socket_timeout": float, "socket_connect_timeout": float, "socket_read_size": int, "socket_keepalive": _boolean,
    "retry_on_timeout": _boolean, "health_check_interval": int, "max_connections": int, "lib_name": str,
    "lib_version": str,
}  # fmt: skip


@dataclass(frozen=True)
class Address:
    """The address of a server, and the commands that each new connection begins with.

    The name is looked up by `look`, and after a failure by a thread of its own. A look-up has no deadline, so no
    request may wait for one.

    Attributes:
        family: AF_UNIX, or AF_INET for any address by name.
        target: the path of a unix socket, or (host, port).
        host: the host's name, which TLS checks.
        tls: whether connections are encrypted.
        options: the options of the URL by redis-py's names, user, password and database among them.
        places: (family, socket address) pairs that the name was last found at.
        contexts: the TLS context, made by `look`, so that no request waits until certificates are read.
        looking: held by the one thread that looks the name up.
    """

    family: int
    target: Any
    host: str
    tls: bool
    options: dict[str, Any]
    places: list[Any] = field(default_factory=list)
    contexts: list[ssl.SSLContext] = field(default_factory=list)
    looking: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, url: str) -> Address:
        """The address that a URL names, as redis-py reads it; nothing is looked up yet.

        The user and password before the host win over those of the query; the database of the query wins over that of
        the path.

        Raises:
            ConfigError: the URL is of another form, an option is not known or cannot be read, or a certificate cannot.
                The text never shows a password.
        """
        if not isinstance(url, str):
            raise _no_url(url)
        if (scheme := url.partition("://")[0]) in ("redis+cluster", "rediss+cluster"):
            raise ConfigError(f"{scheme}:// is the address of a Redis Cluster: give it to RedisClusterOnline")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _no_url(url) from None
        if parts.scheme not in SCHEMES or (parts.scheme == "unix" and port is not None):
            raise _no_url(url)
        tls = parts.scheme == "rediss"
        options = _read_options(url, parts.query, tls)
        if parts.username:
            options["username"] = unquote(parts.username)
        if parts.password:
            options["password"] = unquote(parts.password)
        host, target, path = "", options.pop("path", ""), unquote(parts.path)
        query_host, query_port = options.pop("host", "localhost"), options.pop("port", 6379)
        family = socket.AF_UNIX
        if parts.scheme == "unix":
            target = path or target
            if not target:
                raise _no_url(url)
        else:
            family, host = socket.AF_INET, unquote(parts.hostname or "") or query_host
            target = (host, port or query_port)
            if "db" not in options and (name := path.replace("/", "")):
                if not (name.isascii() and name.isdigit()):
                    raise ConfigError(
                        f"{safe(url)!r}: expected the number of a database after the port, got {name!r}"
                    )
                options["db"] = int(name)
        made = cls(family, target, host, tls, options)
        if tls:
            made.contexts.append(made.context())
        return made

    def at(self, host: str, port: int, options: dict[str, Any] | None = None) -> Address:
        """The address of another server of the same kind; with the same options unless others are given."""
        made = Address(
            self.family, (host, port), host, self.tls, self.options if options is None else options
        )
        made.contexts.extend(self.contexts)
        return made

    @property
    def place(self) -> tuple[str, int]:
        """The host and port that asyncio connects to. Raises OSError if there is none now."""
        host, port = self.target
        return host, port

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have."""
        return self.host

    @property
    def greeting(self) -> tuple[tuple[Any, ...], ...]:
        """The commands: AUTH for a user or password, CLIENT SETNAME for a name, SELECT for a database."""
        options, commands = self.options, []
        user, password = options.get("username"), options.get("password")
        if user or password:
            commands.append(("AUTH", *((user,) if user else ()), password or ""))
        if options.get("client_name"):
            commands.append(("CLIENT", "SETNAME", options["client_name"]))
        if options.get("db"):
            commands.append(("SELECT", str(options["db"])))
        return tuple(commands)

    def client(self, redis: Any, timeout_s: float) -> Any:
        """A client of the redis library for the same place, user and database.

        Args:
            redis: the library.
            timeout_s: the longest wait to connect and for each call, unless the URL's query says another.
        """
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **self.options}
        kind: Any = redis.connection.SSLConnection if self.tls else redis.connection.Connection
        if self.family == socket.AF_UNIX:
            kind = redis.connection.UnixDomainSocketConnection
            options.pop("socket_keepalive", None)
            options["path"] = self.target
        else:
            options["host"], options["port"] = self.target
        if self.tls:
            # Versions of redis-py differ in what they check by default.
            options["ssl_check_hostname"] = self._checks_hostname
        return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **options))

    @property
    def _checks_hostname(self) -> bool:
        checked = self.options.get("ssl_cert_reqs") != ssl.CERT_NONE
        return checked and self.options.get("ssl_check_hostname", True)

    def context(self) -> ssl.SSLContext:
        """A new TLS context, for which the certificates are read. Raises ConfigError if one cannot be."""
        options = self.options
        try:
            made = ssl.create_default_context()
            made.check_hostname = self._checks_hostname
            made.verify_mode = options.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
            for flag in options.get("ssl_include_verify_flags", ()):
                made.verify_flags |= flag
            for flag in options.get("ssl_exclude_verify_flags", ()):
                made.verify_flags &= ~flag
            own, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
            if key and not own:
                raise ValueError("ssl_keyfile needs ssl_certfile")
            if own:
                made.load_cert_chain(own, key, options.get("ssl_password"))
            trusted = [options.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")]
            if any(trusted):
                made.load_verify_locations(*trusted)
            if "ssl_min_version" in options:
                made.minimum_version = options["ssl_min_version"]
            if "ssl_ciphers" in options:
                made.set_ciphers(options["ssl_ciphers"])
        except (OSError, ValueError) as error:
            files = ", ".join(
                f"{name}={options[name]!r}"
                for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_ca_path", "ssl_ciphers")
                if name in options
            )
            raise ConfigError(
                f"the certificates of {self.host!r} cannot be used ({files}): {error}"
            ) from None
        return made

    def look(self) -> Address:
        """Look the name up, and read the certificates again. What is not found now stays as it was. Returns itself."""
        if self.family == socket.AF_UNIX:
            return self
        if self.tls:
            with contextlib.suppress(ConfigError):
                self.contexts[:] = [self.context()]
        host, port = self.target
        with contextlib.suppress(OSError):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.places[:] = [(family, place) for family, _, _, _, place in found]
        return self

    def look_again(self) -> None:
        """`look` on another thread, unless one does so already. Returns at once."""
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
        keep_alive(opened)
        if self.tls:
            return self.contexts[0].wrap_socket(opened, server_hostname=self.server_name)
        return opened


def keep_alive(opened: Any) -> None:
    """Let the system ask now and then whether the other end of an idle connection is still there."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, number in _KEEPALIVE:
        # Not every system has these.
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)


def safe(url: object) -> object:
    """A URL without its passwords, for errors and logs."""
    if not isinstance(url, str):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        # Nobody can tell where the password of such a text is.
        return url.partition("://")[0] + "://…"
    login, at, place = parts.netloc.rpartition("@")
    if ":" in login:
        login = f"{login.partition(':')[0]}:***"
    words = [
        f"{name}=***" if unquote(name) in ("password", "ssl_password", "sentinel_password") else word
        for word in parts.query.split("&")
        for name in [word.partition("=")[0]]
    ]
    return parts._replace(netloc=f"{login}{at}{place}", query="&".join(words)).geturl()


def _no_url(url: object) -> ConfigError:
    return ConfigError(
        f"expected a URL like redis://host:6379/0, rediss://… or unix:///path, got {safe(url)!r}"
    )


def hosts_of(url: str, schemes: tuple[str, str], form: str, port: int) -> tuple[list[tuple[str, int]], str]:
    """The hosts of a URL of several, and the URL of one with the first of them, without its path.

    Args:
        url: scheme://[user:password@]host[:port][,host[:port]…][/path][?query].
        schemes: without and with TLS.
        form: an example, for errors.
        port: of a host without one.

    Raises:
        ConfigError: the URL is of another form.
    """
    try:
        parts = urlsplit(url)
        login, at, places = parts.netloc.rpartition("@")
        hosts = []
        for place in places.split(","):
            one = urlsplit(f"//{place}")
            if not one.hostname or one.username is not None:
                raise ValueError("no host")
            hosts.append((one.hostname, one.port or port))
        if parts.scheme not in schemes:
            raise ValueError("another scheme")
    except ValueError:
        raise ConfigError(f"expected a URL like {form}, got {safe(url)!r}") from None
    first = places.split(",")[0]
    scheme = "redis" if parts.scheme == schemes[0] else "rediss"
    return hosts, f"{scheme}://{login}{at}{first}" + (f"?{parts.query}" if parts.query else "")


def _read_options(url: str, query: str, tls: bool) -> dict[str, Any]:
    """The options of a URL's query. Raises ConfigError for one that is not known, or of another form."""
    known = {**_OPTIONS, **_WRITER_OPTIONS, **(_TLS_OPTIONS if tls else {})}
    options = {}
    for name, texts in parse_qs(query).items():
        if name in _TLS_OPTIONS and not tls:
            raise ConfigError(f"{safe(url)!r}: {name} needs a URL that begins with rediss://")
        if name not in known:
            raise ConfigError(
                f"{safe(url)!r}: the query has an option {name!r}, which is none of: {', '.join(sorted(known))}"
            )
        try:
            options[name] = known[name](texts[0])
        except (ValueError, KeyError) as error:
            shown = "" if "password" in name else f", got {texts[0]!r}"
            raise ConfigError(f"{safe(url)!r}: option {name} cannot be read{shown}: {error}") from None
    return options


def _connected(family: int, place: Any, timeout_s: float) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.settimeout(timeout_s)
        opened.connect(place)
    except BaseException:
        opened.close()
        raise
    return opened
