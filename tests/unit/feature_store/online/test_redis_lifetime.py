"""Rows on a Redis server that closes idle connections, forgets keys and evicts them: none is stale or gone early."""

import asyncio
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from tests.servers import RedisServer

from engine import transform as t
from engine.feature_store import DuckDBOffline, Entity, FeatureStore, FeatureView, RedisOnline, Source

NOW = datetime.now(UTC)


def view(value=1.0, ttl=None, keys=(1,)):
    table = pa.table({"k": list(keys), "t": [NOW] * len(keys), "v": [value] * len(keys)})
    return FeatureView("s", Entity("k"), Source(table, "t"), ["v"], ttl=ttl)


def store_of(url):
    return FeatureStore(DuckDBOffline(threads=1), RedisOnline(url))


def features_of(url):
    program = t.FeatureProgram.fit([t.number("s__v")], {"s__v": [0.0]})
    return store_of(url).online_features(program, [view()])


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


def fetch(features):
    return features.fetch({"k": 1}, within(5000))[0]["s__v"]


def drop_connections(client):
    """As a server's `timeout`, a proxy or a NAT would."""
    for connection in client.client_list():
        if connection["id"] != str(client.client_id()):
            client.client_kill_filter(_id=connection["id"])


@pytest.fixture
def client(redis_server, redis_url):
    made = redis_server.client()
    yield made
    made.close()


def test_a_connection_that_the_server_closed_is_opened_again_at_once(redis_url, client):
    store_of(redis_url).materialize(view(), None, None)
    features = features_of(redis_url)
    for _ in range(20):
        assert fetch(features) == 1.0
        drop_connections(client)
    assert fetch(features) == 1.0
    stats = features.stats()
    assert (stats["found"], stats["last_error"]) == (21, None)
    features.close()


def test_under_asyncio_too_however_many_requests_wait(redis_url, client):
    store_of(redis_url).materialize(view(), None, None)
    features = features_of(redis_url)

    async def run():
        for _ in range(20):
            many = [features.fetch_async({"k": 1}, within(5000)) for _ in range(5)]
            assert [out["s__v"] for out, _ in await asyncio.gather(*many)] == [1.0] * 5
            # Blocks the loop, so that it has not heard of it when the next requests come.
            drop_connections(client)
        features.close()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert features.stats()["last_error"] is None


def test_a_server_that_closes_each_connection_is_asked_once_more_and_no_more(redis_url):
    listener, accepted = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            accepted.append(near)
            near.recv(1000)
            if len(accepted) == 1:
                near.sendall(b"*1\r\n$-1\r\n")
            near.close()

    threading.Thread(target=serve, daemon=True).start()
    features = features_of(redis_url)
    features._wire = RedisOnline(f"redis://127.0.0.1:{listener.getsockname()[1]}").wire()
    assert fetch(features) is None
    assert features.stats()["not_found"] == 1
    assert fetch(features) is None
    assert (features.stats()["store_down"], len(accepted)) == (1, 2)
    listener.close()
    features.close()


def test_a_ttl_that_was_taken_away_takes_its_deadline_from_every_row(redis_url, client):
    store = store_of(redis_url)
    keys = range(1, 1001)
    store.materialize(view(ttl="1s", keys=keys), None, None)
    assert 0 < client.pttl("engine:s:1") <= 2_000
    # The same rows again, and a run that writes other rows only.
    store.materialize(view(keys=[1001]), None, None)
    assert [client.pttl(f"engine:s:{key}") for key in (1, 500, 1000, 1001)] == [-1] * 4
    time.sleep(2.2)
    assert fetch(features_of(redis_url)) == 1.0


def test_the_same_rows_without_a_ttl_stay(redis_url, client):
    store = store_of(redis_url)
    store.materialize(view(ttl="5s"), None, None)
    # Somebody else's definition may come back meanwhile.
    client.delete("engine::ttl:s")
    assert store.materialize(view(), None, None).same == 1
    assert client.pttl("engine:s:1") == -1


def test_a_ttl_grows_for_rows_that_are_there_and_none_is_cut_short(redis_url, client):
    store = store_of(redis_url)
    store.materialize(view(ttl="10s"), None, None)
    store.materialize(view(ttl="100s", keys=[2]), None, None)
    assert 95_000 < client.pttl("engine:s:1") <= 101_000
    store.materialize(view(value=2.0, ttl="10s"), None, None)
    assert client.pttl("engine:s:1") > 90_000
    # An older row changes nothing but the time to live of the newer.
    store.materialize(view(), None, None)
    assert client.pttl("engine:s:1") == -1


def test_a_correction_arrives_though_the_counter_of_runs_was_evicted(redis_url, client):
    store = store_of(redis_url)
    for value in (1.0, 2.0, 3.0):
        store.materialize(view(value), None, None)
    client.delete("engine::revision", "engine::schema:s", "engine::ttl:s")
    assert store.materialize(view(4.0), None, None).written == 1
    assert fetch(features_of(redis_url)) == 4.0


def test_revisions_ascend_though_the_server_clock_is_behind(redis_url, client):
    online = RedisOnline(redis_url)
    first = online.next_revision()
    client.set("engine::revision", str(first + 10**15))
    assert online.next_revision() == first + 10**15 + 1
    assert online.note("revision") == b"%d" % (first + 10**15 + 1)


def test_an_older_row_does_not_stand_in_for_one_that_was_evicted(tmp_path):
    server = RedisServer(tmp_path)
    try:
        rows = pa.table(
            {"k": [1, 1, 2], "t": [NOW - timedelta(hours=h) for h in (5, 1, 1)], "v": [1.0, 2.0, 3.0]}
        )
        made = FeatureView("s", Entity("k"), Source(rows, "t"), ["v"])
        store, client = store_of(server.url), server.client()
        store.materialize(made, None, NOW)
        features = features_of(server.url)
        client.config_set("maxmemory-policy", "volatile-lru")
        client.set("other", b"x" * 4_000_000, ex=1000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 2_000_000)
        client.get("other")
        client.config_set("maxmemory", 0)
        assert client.info("stats")["evicted_keys"] == 1
        client.delete("engine:s:1", "engine:s:2")
        # The repair of an old hour.
        old = (NOW - timedelta(hours=6), NOW - timedelta(hours=4))
        assert store.materialize(made, *old).written == 1
        assert fetch(features) == 2.0
        assert store.materialize(made, *old).older == 1
        features.close()
        client.close()
    finally:
        server.stop()


def test_under_eviction_a_row_is_right_or_missing(tmp_path):
    server = RedisServer(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random")
    try:
        keys = range(1, 20_001)
        store = store_of(server.url)
        for value in (1.0, 2.0, 3.0):
            store.materialize(view(value, keys=keys), None, None)
        client = server.client()
        assert client.info("stats")["evicted_keys"] > 0
        client.close()
        features = features_of(server.url)
        found = features.fetch_many([{"k": key} for key in keys], within(30_000))
        assert {out["s__v"] for out, _ in found} == {3.0, None}
        features.close()
    finally:
        server.stop()
