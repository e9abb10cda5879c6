"""The online store on a Redis server (or Valkey and other speakers of its protocol), shared by any number of machines.

Rows are written by a script that runs inside the server, where it compares the new row's times with the stored one's:
so no two writers, however late one of them is, can leave an older row behind. It needs Redis 5 or later, and takes
several keys at once, so a Redis Cluster is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from engine.errors import ConfigError, MissingDependencyError, StoreError
from engine.feature_store.online import OnlineStore
from engine.feature_store.redis_wire import RedisWire

# The rows of one call of the script: the server does nothing else meanwhile, about half a millisecond.
ROWS_PER_CALL = 250

# The 24 bytes from the 13th on are event time, created time and revision, each sorting as its time does. They are
# compared as 32-bit numbers: Lua's numbers hold those exactly, and its string comparison follows the server's locale.
# The key of an expired row is left to expire later than its TTL demands, for readers look at the event time anyway.
_UPSERT = """
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
  if order == 1 then
    redis.call('SET', KEYS[i], new)
    written = written + 1
  elseif order == 0 then
    same = same + 1
  else
    older = older + 1
  end
  if ttl > 0 and order >= 0 then redis.call('PEXPIRE', KEYS[i], ttl) end
end
return {written, same, older, 0}
"""


class RedisOnline(OnlineStore):
    """Keeps rows on a Redis server, one string of bytes a row.

    Args:
        url: redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path[?db=n].
        namespace: what every key begins with, so that several stores can share a server; letters, digits, "-" and ".".
        timeout_s: for connecting and for each call while writing. Reads have the deadlines of their requests.

    Thread-safe. Connects when first used. The server should not evict keys (maxmemory-policy noeviction): what it
    evicts is missing until it is materialised again.

    Raises:
        ConfigError: a URL that is none of these.
        MissingDependencyError: redis or hiredis is not installed.
    """

    def __init__(self, url: str, *, namespace: str = "engine", timeout_s: float = 5.0) -> None:
        try:
            import hiredis
            import redis
        except ImportError:
            raise MissingDependencyError(
                "the Redis online store needs redis and hiredis: pip install 'deadline-engine[redis]'"
            ) from None
        del hiredis
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise ConfigError(
                f"expected a URL like redis://host:6379/0, rediss://… or unix://…, got {_safe(url)!r}"
            )
        if not namespace or not all(letter.isalnum() or letter in "-._" for letter in namespace):
            raise ConfigError(f"namespace: expected letters, digits, '-', '.' and '_', got {namespace!r}")
        self._redis = redis
        self.url = url
        self.namespace = namespace
        self._client = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, decode_responses=False
        )
        self._upsert = self._client.register_script(_UPSERT)

    def __repr__(self) -> str:
        return f"RedisOnline({_safe(self.url)!r})"

    def prefix(self, view: str) -> bytes:
        return f"{self.namespace}:{view}:".encode()

    def wire(self) -> RedisWire:
        return RedisWire(self.url)

    def ping(self) -> None:
        """Raises StoreError where the server cannot be reached or refuses, wrong password and all."""
        with self._mapped():
            self._client.ping()

    def close(self) -> None:
        """Closes the connections that writing opened."""
        self._client.close()

    def next_revision(self) -> int:
        with self._mapped():
            return int(self._client.incr(self._own("revision")))

    def note(self, name: str) -> bytes | None:
        with self._mapped():
            found = self._client.get(self._own(name))
        return found if found is None or isinstance(found, bytes) else str(found).encode()

    def write(
        self, pairs: Sequence[tuple[bytes, bytes]], ttl_ns: int | None, notes: Mapping[str, bytes | None]
    ) -> tuple[int, int, int, bytes | None]:
        # At least a second beyond the TTL: the server's clock and the source's need not agree to the second.
        ttl_ms = 0 if ttl_ns is None else ttl_ns // 1_000_000 + 1000
        counts = [0, 0, 0]
        with self._mapped():
            parts = [pairs[at : at + ROWS_PER_CALL] for at in range(0, len(pairs), ROWS_PER_CALL)]
            for part, result in zip(parts, self._calls(parts, ttl_ms), strict=True):
                counts = [total + more for total, more in zip(counts, result[:3], strict=True)]
                if result[3]:
                    return (*counts, part[result[3] - 1][0])  # type: ignore[return-value]
            # Rows first, then what says that they are there: a kill between the two repeats rows, and loses none.
            for name, value in notes.items():
                if value is None:
                    self._client.delete(self._own(name))
                else:
                    self._client.set(self._own(name), value)
        return counts[0], counts[1], counts[2], None

    def _calls(self, parts: list[Sequence[tuple[bytes, bytes]]], ttl_ms: int) -> list[list[int]]:
        """The script's replies to all parts, in one round trip."""
        if not parts:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for part in parts:
            keys, rows = zip(*part, strict=True)
            self._upsert(keys=keys, args=(ttl_ms, *rows), client=pipeline)
        return pipeline.execute()

    def _own(self, name: str) -> bytes:
        # No view has an empty name, so none of these is the key of a row.
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
        except errors.RedisError as error:
            raise StoreError(f"{self}: {error or type(error).__name__}") from error


def _safe(url: str) -> str:
    """A URL without its password, for errors and logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}{port}").geturl()
