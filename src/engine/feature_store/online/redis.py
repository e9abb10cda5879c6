"""The online store on a Redis server, or on Valkey and other servers of its protocol, shared by any number of machines.

A script inside the server writes the rows: it compares the times of the new row with those of the stored one, so two
writers never leave an older row behind, however late one of them is. It needs Redis 5 or later. It takes several keys
at once, which a Redis Cluster refuses: RedisClusterOnline calls it for each key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from engine._common import arguments, optional
from engine.errors import ConfigError, InputTypeError, StoreError
from engine.feature_store.online.base import OnlineStore, is_plain, remade
from engine.feature_store.online.redis_address import Address, safe
from engine.feature_store.online.redis_sentinel import SCHEMES as SENTINEL_SCHEMES
from engine.feature_store.online.redis_sentinel import SentinelAddress
from engine.feature_store.online.redis_wire import RedisWire

# The server does nothing else while one call of the script writes this many rows: about half a millisecond.
ROWS_PER_CALL = 250
TIMEOUT_S_MAX = 3600.0

# csrc/feature_store/codec.hpp describes a row. The 24 bytes from the 13th on are event time, created time and revision,
# and each sorts as its value does. They are compared as 32-bit numbers, because Lua's numbers hold those exactly and
# its string comparison follows the server's locale. A key expires later than its row's TTL demands, because readers
# look at the event time anyway. The script never shortens a key's time to live. For a view without a TTL it removes the
# time to live, from a newer row too.
UPSERT = """
local written, same, older = 0, 0, 0
local ttl = tonumber(ARGV[1])
for i = 1, #KEYS do
  local new = ARGV[i + 1]
  local order = 1
  local old = redis.pcall('GET', KEYS[i])
  if type(old) == 'table' or (old and (#old < 36 or string.sub(old, 1, 4) ~= string.sub(new, 1, 4))) then
    return {written, same, older, i}
  end
  if old then
    local a = {struct.unpack('>I4I4I4I4I4I4', new, 13)}
    local b = {struct.unpack('>I4I4I4I4I4I4', old, 13)}
    order = 0
    for j = 1, 4 do
      if order == 0 and a[j] ~= b[j] then order = a[j] > b[j] and 1 or -1 end
    end
    local alike = string.sub(new, 37) == string.sub(old, 37) and string.sub(new, 5, 12) == string.sub(old, 5, 12)
    if order == 0 and not alike then
      order = 1
      if a[5] < b[5] or (a[5] == b[5] and a[6] < b[6]) then order = -1 end
    end
  end
  local left = 0
  if order == 1 then
    if old and ttl > 0 then left = redis.call('PTTL', KEYS[i]) end
    redis.call('SET', KEYS[i], new)
    written = written + 1
  elseif order == 0 then
    same = same + 1
  else
    older = older + 1
  end
  if ttl == 0 then
    redis.call('PERSIST', KEYS[i])
  elseif order == 1 then
    redis.call('PEXPIRE', KEYS[i], math.max(ttl, left))
  elseif redis.call('PTTL', KEYS[i]) < ttl then
    redis.call('PEXPIRE', KEYS[i], ttl)
  end
end
return {written, same, older, 0}
"""

# The counter plus one, or the server's own clock in microseconds if that is greater. So a counter that was evicted goes
# on above every revision that it has given.
REVISION = """
local now = redis.call('TIME')
local next = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
local text = string.format('%.0f', next)
redis.call('SET', KEYS[1], text)
return text
"""

# Keys that were written with a shorter time to live get ARGV[1] milliseconds; 0 is for ever.
KEEP = """
local ttl = tonumber(ARGV[1])
for i = 1, #KEYS do
  local left = redis.call('PTTL', KEYS[i])
  if ttl == 0 then
    redis.call('PERSIST', KEYS[i])
  elseif left >= 0 and left < ttl then
    redis.call('PEXPIRE', KEYS[i], ttl)
  end
end
"""


class RedisOnline(OnlineStore):
    """Keep rows on a Redis server, each as one string of bytes.

    Args:
        url: redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path[?db=n]. The query takes
            redis-py's options, for reading and writing alike: db, username, password, client_name, and for TLS
            ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs and the like. With Sentinels it is
            redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db], or rediss+sentinel://, with
            sentinel_username and sentinel_password in the query where they need them.
        namespace: the beginning of every key, so that several stores can share a server: letters, digits, "-", "." and
            "_".
        timeout_s: the longest wait to connect, and for each call while writing; above 0, at most 3,600. A read waits
            until its request's deadline.

    Attributes:
        url, namespace: as given.

    Thread-safe, and safe across forks. Connects when first used. Set maxmemory-policy to noeviction, because an evicted
    row is missing until it is materialised again.

    Raises:
        ConfigError: a URL or namespace of another form, an option of the URL that is not known, or a certificate that
            cannot be read.
        InputError: timeout_s is out of range.
        MissingDependencyError: redis or hiredis is not installed.
    """

    def __init__(self, url: str, *, namespace: str = "engine", timeout_s: float = 5.0) -> None:
        redis = optional.need("redis", "the Redis online store", "redis")
        optional.need("hiredis", "the Redis online store", "redis")
        self._address = _address_of(url)
        if not is_plain(namespace):
            raise ConfigError(f"namespace: expected letters, digits, '-', '.' and '_', got {namespace!r}")
        arguments.number("timeout_s", timeout_s, 0.0, TIMEOUT_S_MAX, above=True, type_error=InputTypeError)
        self._redis = redis
        self.url = url
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._connect()

    def _connect(self) -> None:
        """Make the client, which connects when it is first used."""
        self._client = self._address.client(self._redis, self._timeout_s)
        self._upsert = self._client.register_script(UPSERT)
        self._revision = self._client.register_script(REVISION)
        self._keep = self._client.register_script(KEEP)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({safe(self.url)!r})"

    def __reduce__(self) -> Any:
        return remade, (type(self), self.url, {"namespace": self.namespace, "timeout_s": self._timeout_s})

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view: `namespace:view:`. No name has a colon."""
        return f"{self.namespace}:{view}:".encode()

    def wire(self) -> RedisWire:
        """A new reader with connections of its own, which it opens when it first reads."""
        return RedisWire(self._address)

    def ping(self) -> None:
        """Raise StoreError if the server cannot be reached, or refuses the user or password."""
        with self._mapped():
            self._client.ping()

    def close(self) -> None:
        """Close the connections that writing opened. A later call opens new ones."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def next_revision(self) -> int:
        """A number above every earlier one, from any machine. Raises StoreError if the server cannot be written."""
        with self._mapped():
            return int(self._revision(keys=[self._own("revision")]))

    def keep(self, view: str, ttl_ns: int | None) -> None:
        """Let the server keep rows that are there already for this TTL, where it grew or was taken away.

        Reads the names of all keys of the server when the TTL has changed, and then only. Raises StoreError.
        """
        name, before = f"ttl:{view}", self.note(f"ttl:{view}")
        now = b"none" if ttl_ns is None else b"%d" % ttl_ns
        if before == now:
            return
        # An earlier version kept no record of a TTL.
        written = before is not None or self.note(f"schema:{view}") is not None
        grew = before != b"none" and (ttl_ns is None or before is None or int(before) < ttl_ns)
        with self._mapped():
            if written and grew:
                found = self._client.scan_iter(match=self.prefix(view) + b"*", count=ROWS_PER_CALL)
                while part := list(islice(found, ROWS_PER_CALL)):
                    self._keep_keys(part, ttl_ms_of(ttl_ns))
            self._client.set(self._own(name), now)

    def materialized(self, view: str, end_ns: int) -> int | None:
        """As `OnlineStore.materialized` says, for a server that has evicted keys. Raises StoreError."""
        name, end_us = f"until:{view}", end_ns // 1000
        until_us = int(self.note(name) or end_us)
        with self._mapped():
            if end_us >= until_us:
                self._client.set(self._own(name), end_us)
                return None
            try:
                evicted = self._evicted()
            except self._redis.exceptions.ResponseError:
                # The user may not ask for this.
                evicted = 0
        return until_us * 1000 if evicted else None

    def _evicted(self) -> int:
        """The number of keys that the server has evicted."""
        return int(self._client.info("stats").get("evicted_keys", 0))

    def _keep_keys(self, keys: Sequence[bytes], ttl_ms: int) -> None:
        self._keep(keys=keys, args=[ttl_ms])

    def note(self, name: str) -> bytes | None:
        """A small record beside the rows, None if there is none. Raises StoreError if the server cannot be read."""
        with self._mapped():
            found = self._client.get(self._own(name))
        return found if found is None or isinstance(found, bytes) else str(found).encode()

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        """Write rows, then notes, as `OnlineStore.write` says. A kill between the two repeats rows and loses none."""
        with self._mapped():
            counts, foreign = self._put(pairs, ttl_ms_of(ttl_ns))
            if foreign is not None:
                return counts[0], counts[1], counts[2], foreign
            for name, value in notes.items():
                if value is None:
                    self._client.delete(self._own(name))
                else:
                    self._client.set(self._own(name), value)
        return counts[0], counts[1], counts[2], None

    def _put(self, pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int) -> tuple[list[int], bytes | None]:
        """Put the newer rows. Returns the numbers of rows written, stored already and older, and a foreign key."""
        counts = [0, 0, 0]
        parts = [pairs[at : at + ROWS_PER_CALL] for at in range(0, len(pairs), ROWS_PER_CALL)]
        for part, result in zip(parts, self._calls(parts, ttl_ms), strict=True):
            counts = [total + more for total, more in zip(counts, result[:3], strict=True)]
            if result[3]:
                return counts, part[result[3] - 1][0]
        return counts, None

    def note_key(self, name: str) -> bytes:
        """The key that a note is read by."""
        return self._own(name)

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view. Reads the names of all keys of the server."""
        with self._mapped():
            # SCAN may name a key twice.
            found = iter(set(self._client.scan_iter(match=self.prefix(view) + b"*", count=ROWS_PER_CALL)))
            while part := list(islice(found, ROWS_PER_CALL)):
                yield from (
                    (key, row)
                    for key, row in zip(part, self._client.mget(part), strict=True)
                    if row is not None
                )

    def views(self) -> list[str]:
        """The names of the views that were ever written, sorted. Reads the names of all keys of the server."""
        begin = self._own("schema:")
        with self._mapped():
            found = set(self._client.scan_iter(match=begin + b"*", count=ROWS_PER_CALL))
        return sorted(key[len(begin) :].decode() for key in found)

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """As `OnlineStore.erase` says, in one transaction of the server."""
        ttl_ms = ttl_ms_of(ttl_ns)
        with self._mapped():
            pipeline = self._client.pipeline(transaction=True)
            for key, row in rows.items():
                if row is None:
                    pipeline.delete(key)
                else:
                    pipeline.set(key, row, px=ttl_ms or None)
            pipeline.rpush(self._own("log"), entry)
            pipeline.execute()

    def log(self) -> list[bytes]:
        """The entries that `erase` added, oldest first. Raises StoreError if the server cannot be read."""
        with self._mapped():
            return [
                entry if isinstance(entry, bytes) else str(entry).encode()
                for entry in self._client.lrange(self._own("log"), 0, -1)
            ]

    def _calls(self, parts: list[Sequence[tuple[bytes, bytes]]], ttl_ms: int) -> list[list[int]]:
        """The script's reply to each part, in one round trip."""
        if not parts:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for part in parts:
            keys, rows = zip(*part, strict=True)
            self._upsert(keys=keys, args=(ttl_ms, *rows), client=pipeline)
        return pipeline.execute()

    def _own(self, name: str) -> bytes:
        """The key of a note. It is no row's key, because no view has an empty name."""
        return f"{self.namespace}::{name}".encode()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        errors = self._redis.exceptions
        try:
            yield
        except errors.AuthenticationError as error:
            raise StoreError(f"{self}: refused the user or password: {error}") from error
        except errors.OutOfMemoryError as error:
            raise StoreError(f"{self}: full: {error}; raise its maxmemory") from error
        except (errors.RedisError, errors.RedisClusterException) as error:
            raise StoreError(f"{self}: {error or type(error).__name__}") from error


def _address_of(url: str) -> Address:
    sentinel = isinstance(url, str) and url.partition("://")[0] in SENTINEL_SCHEMES
    return SentinelAddress.of(url) if sentinel else Address.of(url)


def ttl_ms_of(ttl_ns: int | None) -> int:
    """The time to live of a key; 0 is for ever. A second beyond the TTL, because clocks differ between machines."""
    return 0 if ttl_ns is None else ttl_ns // 1_000_000 + 1000
