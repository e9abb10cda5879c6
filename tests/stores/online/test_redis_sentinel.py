"""RedisOnline with Sentinels: the master dies under load, and reads and writes go on at the new master."""

import asyncio
import threading
import time

import pyarrow as pa
import pytest
from tests.servers import free_port
from tests.stores.online.servers import Sentinels, stopped

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import DuckDBOffline, Entity, FeatureStore, FeatureView, RedisOnline, Source
from engine.feature_store.testing import OnlineStoreConformance

END = "2013-02-01T00:00:00Z"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with stopped(Sentinels(tmp_path_factory.mktemp("sentinels"))) as sentinels:
        yield sentinels


class TestRedisSentinel(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, shared):
        shared.flush()
        return lambda: RedisOnline(shared.url)

    @pytest.fixture
    def open_unreachable(self):
        url = f"redis+sentinel://127.0.0.1:{free_port()}/service"
        return lambda: RedisOnline(url, timeout_s=0.5)

    @pytest.fixture
    def forgets_after_s(self):
        return 2.5


def view(n=50, hour=0):
    rows = {"k": [f"e{i}" for i in range(n)], "x": [i + hour / 4 for i in range(n)]}
    rows["t"] = pa.array([1_357_000_000 + 3600 * hour] * n, pa.timestamp("s", "UTC"))
    return FeatureView("v", Entity("k"), Source(pa.table(rows), "t"), ["x"])


def features_of(store):
    program = t.FeatureProgram.fit([t.number("v__x")], {"v__x": [1.0]})
    return store.online_features(program, [view()])


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("way", ["blocking", "asyncio"])
def test_a_failover_under_load_costs_features_for_a_while_and_no_request(tmp_path, how, way):
    with stopped(Sentinels(tmp_path)) as sentinels:
        store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(sentinels.url, timeout_s=1.0))
        store.materialize(view(), None, END)
        sentinels.wait_for_replica()
        features = features_of(store)
        stop, wrong, late = threading.Event(), [], []

        def check(i, fetched, began):
            out, missing = fetched
            if out["v__x"] != (None if missing else i):
                wrong.append((i, out))
            late.append(time.monotonic() - began)

        def read():
            number = 0
            while not stop.is_set():
                began = time.monotonic()
                check(number % 50, features.fetch({"k": f"e{number % 50}"}, within(50)), began)
                number += 1

        async def read_async():
            number = 0
            while not stop.is_set():
                began = time.monotonic()
                fetched = await features.fetch_async({"k": f"e{number % 50}"}, within(50))
                check(number % 50, fetched, began)
                number += 1
                await asyncio.sleep(0)
            features.close()
            await asyncio.sleep(0)

        reader = threading.Thread(target=read if way == "blocking" else lambda: asyncio.run(read_async()))
        reader.start()
        if how == "killed":
            sentinels.master.kill()
        else:
            sentinels.master.freeze()
        sentinels.wait_for_failover()
        # Until the readers have found the new master.
        give_up, before = time.monotonic() + 60, features.stats()["found"]
        while features.stats()["found"] < before + 200 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert features.stats()["found"] >= before + 200, features.stats()
        stop.set()
        reader.join()
        assert wrong == []
        # The writer may hold a connection to the old master: a named error once, and then it asks for the new one.
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                store.materialize(view(hour=1), None, END)
                break
            except StoreError:
                time.sleep(0.05)
        assert features.fetch({"k": "e7"}, within(30_000))[0]["v__x"] == 7.25
        features.close()


def test_no_sentinel_and_no_service_are_named(shared):
    nowhere = RedisOnline(f"redis+sentinel://127.0.0.1:{free_port()}/service", timeout_s=0.5)
    with pytest.raises(StoreError, match="RedisOnline"):
        nowhere.ping()
    unknown = RedisOnline(shared.url.replace("/service", "/nothing"), timeout_s=0.5)
    with pytest.raises(StoreError, match="nothing"):
        unknown.ping()
    features = features_of(FeatureStore(DuckDBOffline(threads=1), unknown))
    out, missing = features.fetch({"k": "e1"}, within(1_000))
    assert (out["v__x"], missing) == (None, ("v__x",))
    assert "no Sentinel names a master of 'nothing'" in features.stats()["last_error"]
    features.close()


def test_one_sentinel_that_answers_is_enough(shared):
    port = shared.url.rpartition(":")[2].partition("/")[0]
    online = RedisOnline(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/service")
    online.ping()
    assert list(online.wire().read([b"none"], within(30_000))) == [None]


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://", "redis+sentinel://host", "redis+sentinel://host/service/x",
     "redis+sentinel://host:port/service", "redis+sentinel://:secret@host"],
)  # fmt: skip
def test_a_url_that_is_none_of_sentinels_is_refused(url):
    with pytest.raises(ConfigError, match=r"redis\+sentinel://host:26379") as refused:
        RedisOnline(url)
    assert "secret" not in str(refused.value)
