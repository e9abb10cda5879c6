"""RedisClusterOnline on three real nodes: slots that move under load, a node that dies, keys that stay together."""

import asyncio
import threading
import time

import pyarrow as pa
import pytest
from tests.servers import free_port
from tests.stores.online.servers import RedisCluster, stopped

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import (
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    RedisClusterOnline,
    RedisOnline,
    Source,
)
from engine.feature_store.online.redis_cluster_wire import slot_of
from engine.feature_store.testing import OnlineStoreConformance

END = "2013-02-01T00:00:00Z"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with stopped(RedisCluster(tmp_path_factory.mktemp("cluster"))) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared):
    """The cluster, emptied."""
    shared.flush()
    return shared


class TestRedisCluster(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, cluster):
        return lambda: RedisClusterOnline(cluster.url)

    @pytest.fixture
    def open_unreachable(self):
        url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
        return lambda: RedisClusterOnline(url, timeout_s=0.5)

    @pytest.fixture
    def forgets_after_s(self):
        return 2.5


def view(name="v", n=300, hour=0):
    rows = {"k": [f"e{i}" for i in range(n)], "x": [i + hour / 4 for i in range(n)]}
    rows["t"] = pa.array([1_357_000_000 + 3600 * hour] * n, pa.timestamp("s", "UTC"))
    return FeatureView(name, Entity("k"), Source(pa.table(rows), "t"), ["x"])


def features_of(store, views):
    names = [name for each in views for name in each.feature_names]
    program = t.FeatureProgram.fit([t.number(name) for name in names], {name: [1.0] for name in names})
    return store.online_features(program, views)


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


def test_the_slot_of_a_key_is_that_of_the_server(cluster):
    client = cluster.client(0)
    for key in (
        b"foo",
        b"{user1000}.following",
        b"foo{}{bar}",
        b"foo{{bar}}zap",
        b"foo{bar}{zap}",
        b"{",
        b"}{",
        b"",
    ):
        assert slot_of(key) == client.execute_command("CLUSTER KEYSLOT", key), key
    # The specification's rule: the tag is between the first brace and the next closing one.
    assert slot_of(b"123456789") == 0x31C3
    client.close()


def test_the_rows_of_an_entity_are_on_one_node_whatever_the_view(cluster):
    store = FeatureStore(DuckDBOffline(threads=1), RedisClusterOnline(cluster.url))
    for name in ("v", "other", "third"):
        store.materialize(view(name, n=50), None, END)
    slots = {}
    for number in range(3):
        client = cluster.client(number)
        for key in client.scan_iter(match=b"engine:*:{*"):
            entity = key.partition(b"{")[2]
            slots.setdefault(entity, set()).add((number, slot_of(key)))
        client.close()
    assert len(slots) == 50
    assert all(len(places) == 1 for places in slots.values())
    assert len({number for places in slots.values() for number, _ in places}) == 3, "all nodes have some"


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
def test_slots_move_under_load_and_nothing_is_lost(cluster, way):
    """Readers and a writer go on while the slots of a third of all rows move to another node, key by key."""
    store = FeatureStore(DuckDBOffline(threads=1), RedisClusterOnline(cluster.url))
    views = [view("v"), view("w")]
    for each in views:
        store.materialize(each, None, END)
    features = features_of(store, views)
    requests = [{"k": f"e{i}"} for i in range(300)]
    stop, wrong, done, errors = threading.Event(), [], [], []

    def check(fetched):
        for i, (out, missing) in enumerate(fetched):
            if missing or out["w__x"] != i or out["v__x"] - i not in (0.0, 0.25, 0.5, 0.75):
                wrong.append((i, out, missing))

    def read():
        while not stop.is_set():
            check(features.fetch_many(requests, within(30_000)))
            done.append(1)

    async def read_async():
        while not stop.is_set():
            check(await asyncio.gather(*(features.fetch_async(each, within(30_000)) for each in requests)))
            done.append(1)
        features.close()
        await asyncio.sleep(0)

    def write():
        hour = 1
        while not stop.is_set():
            try:
                store.materialize(view("v", hour=hour % 4), None, END)
            except Exception as error:
                errors.append(error)
            hour += 1

    threads = [threading.Thread(target=read if way == "blocking" else lambda: asyncio.run(read_async()))]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    owned = cluster.slots_of(0)
    used = sorted({slot_of(b"{e%d}" % i) for i in range(300)} & set(owned))
    for slot in used[:60]:
        cluster.move(slot, 0, 1, pause_s=0.002)
    stop.set()
    for thread in threads:
        thread.join()
    cluster.give_back(used[:60], 1, 0)
    assert errors == []
    assert wrong == [], features.stats()
    assert len(done) >= 2
    assert {name: count for name, count in features.stats().items() if count and name != "found"} == {}
    features.close()


def test_the_entities_of_a_dead_node_are_missing_and_the_others_are_served(tmp_path):
    with stopped(RedisCluster(tmp_path, full_coverage=False)) as cluster:
        store = FeatureStore(DuckDBOffline(threads=1), RedisClusterOnline(cluster.url, timeout_s=1.0))
        store.materialize(view(), None, END)
        features = features_of(store, [view()])
        dead = set(cluster.slots_of(2))
        there = [i for i in range(300) if slot_of(b"{e%d}" % i) not in dead]
        gone = [i for i in range(300) if i not in set(there)]
        assert there
        assert gone
        cluster.nodes[2].kill()
        for i in there[:50]:
            assert features.fetch({"k": f"e{i}"}, within(5_000))[0]["v__x"] == i
        for i in gone[:50]:
            assert features.fetch({"k": f"e{i}"}, within(5_000))[1] == ("v__x",)
        stats = features.stats()
        assert (stats["found"], stats["store_down"]) == (50, 50)
        with pytest.raises(StoreError):
            store.materialize(view(hour=1), None, END)
        # Without persistence its rows are gone when it comes back, until they are materialised again.
        cluster.nodes[2].start()
        cluster.wait()
        store.materialize(view(hour=1), None, END)
        give_up = time.monotonic() + 30
        while features.fetch({"k": f"e{gone[0]}"}, within(5_000))[1] and time.monotonic() < give_up:
            time.sleep(0.02)
        found = features.fetch_many([{"k": f"e{i}"} for i in range(300)], within(30_000))
        assert [out["v__x"] for out, _ in found] == [i + 0.25 for i in range(300)]
        features.close()


@pytest.mark.parametrize(
    "url",
    ["redis+cluster://", "redis+cluster://host/1", "redis://host", "redis+cluster://host:port", "", None,
     "redis+cluster://user:secret@:1"],
)  # fmt: skip
def test_a_url_that_is_none_of_a_cluster_is_refused(url):
    with pytest.raises(ConfigError, match="expected a URL like redis\\+cluster://") as refused:
        RedisClusterOnline(url)
    assert "secret" not in str(refused.value)


def test_a_cluster_is_no_single_server():
    with pytest.raises(ConfigError, match="give it to RedisClusterOnline"):
        RedisOnline("redis+cluster://host:6379")
