"""The online store on a Redis Cluster: the rows of an entity are on one node, whichever views they are of.

The key of a row has the entity in braces, which Redis Cluster calls a hash tag. The script that compares times runs for
one key at a time, because a cluster refuses a script whose keys are on several nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.feature_store.online.redis import KEEP, REVISION, ROWS_PER_CALL, UPSERT, RedisOnline, ttl_ms_of
from engine.feature_store.online.redis_address import hosts_of, safe
from engine.feature_store.online.redis_cluster_wire import ClusterWire

SCHEMES = ("redis+cluster", "rediss+cluster")
FORM = "redis+cluster://host:6379,host2:6379"
PORT = 6379
_COMMANDS_PER_PIPELINE = 1_000


class RedisClusterOnline(RedisOnline):
    """Keep rows on a Redis Cluster, each as one string of bytes, all rows of an entity on one node.

    Args:
        url: redis+cluster://[user:password@]host[:port][,host[:port]…][?options], or rediss+cluster:// for TLS: some of
            the nodes, which name the others. The options are those of RedisOnline, without a database.
        namespace: as of RedisOnline.
        timeout_s: as of RedisOnline.

    Attributes:
        url, namespace: as given.

    Thread-safe, and safe across forks. Connects when first used. A read asks all nodes that it needs at the same time,
    and follows slots that move. A write that a failover interrupts may be lost by the server, as any of Redis'; the
    next `materialize` of its range brings it.

    Raises:
        ConfigError: a URL or namespace of another form, or an option of the URL that is not known.
        InputError: timeout_s is out of range.
        MissingDependencyError: redis or hiredis is not installed.
    """

    def __init__(self, url: str, *, namespace: str = "engine", timeout_s: float = 5.0) -> None:
        if not isinstance(url, str):
            raise ConfigError(f"expected a URL like {FORM}, got {url!r:.80}")
        hosts, plain = hosts_of(url, SCHEMES, FORM, PORT)
        if urlsplit(url).path.strip("/"):
            raise ConfigError(f"expected a URL like {FORM}, got {safe(url)!r}: a cluster has one database")
        super().__init__(plain, namespace=namespace, timeout_s=timeout_s)
        self.url = url
        self._seeds = [self._address.at(host, port) for host, port in hosts]

    def _connect(self) -> None:
        # redis-py's client asks the cluster for its nodes when it is made, so the first call makes it.
        self._cluster: Any = None

    @property
    def _client(self) -> Any:
        if self._cluster is None:
            cluster = self._redis.cluster
            options = {"socket_timeout": self._timeout_s, "socket_connect_timeout": self._timeout_s}
            options |= self._address.options
            if self._address.tls:
                options |= {"ssl": True, "ssl_check_hostname": self._address._checks_hostname}
            nodes = [cluster.ClusterNode(*seed.target) for seed in self._seeds]
            self._cluster = cluster.RedisCluster(startup_nodes=nodes, **options)
        return self._cluster

    def prefix(self, view: str) -> bytes:
        """The beginning of every stored key of a view: `namespace:view:{`. The server's key has a closing brace more,
        and the cluster places it by what is between the braces: the entity."""
        return f"{self.namespace}:{view}:{{".encode()

    def wire(self) -> ClusterWire:  # type: ignore[override]
        """A new reader with connections of its own, which it opens when it first reads."""
        return ClusterWire(self._seeds, f"{self.namespace}::".encode())

    def ping(self) -> None:
        """Raise StoreError if no node can be reached, or one refuses the user or password."""
        with self._mapped():
            self._client.ping()

    def close(self) -> None:
        """Close the connections that writing opened. A later call opens new ones."""
        made, self._cluster = self._cluster, None
        if made is not None:
            made.close()

    def next_revision(self) -> int:
        """A number above every earlier one, from any machine. Raises StoreError if the cluster cannot be written."""
        with self._mapped():
            return int(self._client.eval(REVISION, 1, self._own("revision")))

    def _evicted(self) -> int:
        found = self._client.info("stats", target_nodes=self._redis.cluster.RedisCluster.PRIMARIES)
        nodes = found.values() if all(isinstance(each, dict) for each in found.values()) else [found]
        return sum(int(node.get("evicted_keys", 0)) for node in nodes)

    def _keep_keys(self, keys: Sequence[bytes], ttl_ms: int) -> None:
        self._scripted(KEEP, [(key, (ttl_ms,)) for key in keys])

    def _put(self, pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int) -> tuple[list[int], bytes | None]:
        counts = [0, 0, 0]
        foreign = None
        results = self._scripted(UPSERT, [(key + b"}", (ttl_ms, row)) for key, row in pairs])
        for (key, _), result in zip(pairs, results, strict=True):
            counts = [total + more for total, more in zip(counts, result[:3], strict=True)]
            if result[3] and foreign is None:
                foreign = key
        return counts, foreign

    def _scripted(self, script: str, calls: Sequence[tuple[bytes, tuple[Any, ...]]]) -> list[Any]:
        """The script's result for each key and its arguments: a pipeline to each node, and what it could not do again
        by redis-py's client, which follows slots that move and waits for a new master."""
        client = self._client
        digest = hashlib.sha1(script.encode()).hexdigest()
        results: list[Any] = [None] * len(calls)
        by_node: dict[Any, list[int]] = {}
        for at, (key, _) in enumerate(calls):
            by_node.setdefault(client.get_node_from_key(key), []).append(at)
        again: list[int] = []
        for node, places in by_node.items():
            for first in range(0, len(places), _COMMANDS_PER_PIPELINE):
                part = places[first : first + _COMMANDS_PER_PIPELINE]
                found = self._pipelined(client, node, script, digest, [calls[at] for at in part])
                for at, result in zip(part, found, strict=True):
                    results[at] = result
                    if result is None or isinstance(result, Exception):
                        again.append(at)
        # Rows of one key stay in their order: what one of them could not do, the later ones could not either, or the
        # script compares them anyway.
        for at in sorted(again):
            key, arguments = calls[at]
            results[at] = client.eval(script, 1, key, *arguments)
        return results

    def _pipelined(
        self, client: Any, node: Any, script: str, digest: str, calls: Sequence[tuple[bytes, tuple[Any, ...]]]
    ) -> list[Any]:
        """The results of one node; an exception or None where it gave none."""
        errors = self._redis.exceptions
        try:
            connection = client.get_redis_connection(node)
            pipeline = connection.pipeline(transaction=False)
            # A node that has the script already ignores it.
            pipeline.execute_command("SCRIPT LOAD", script)
            for key, arguments in calls:
                pipeline.execute_command("EVALSHA", digest, 1, key, *arguments)
            return list(pipeline.execute(raise_on_error=False)[1:])
        except errors.AuthenticationError:
            raise
        except (errors.RedisError, errors.RedisClusterException, OSError):
            return [None] * len(calls)

    def rows(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """The stored (key, row) of every entity of a view. Reads the names of all keys of the cluster."""
        with self._mapped():
            # SCAN may name a key twice, and so may two nodes between which a slot moves.
            found = iter(set(self._client.scan_iter(match=self.prefix(view) + b"*", count=ROWS_PER_CALL)))
            while part := list(islice(found, ROWS_PER_CALL)):
                yield from (
                    (key[:-1], row)
                    for key, row in zip(part, self._client.mget_nonatomic(part), strict=True)
                    if row is not None
                )

    def erase(self, rows: Mapping[bytes, bytes | None], ttl_ns: int | None, entry: bytes) -> None:
        """As `OnlineStore.erase` says, but not in one transaction, because keys are on several nodes: the entry of the
        log comes last. If it fails before, the log has no entry: delete again."""
        ttl_ms = ttl_ms_of(ttl_ns)
        with self._mapped():
            for key, row in rows.items():
                if row is None:
                    self._client.delete(key + b"}")
                else:
                    self._client.set(key + b"}", row, px=ttl_ms or None)
            self._client.rpush(self._own("log"), entry)
