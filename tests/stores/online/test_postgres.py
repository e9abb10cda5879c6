"""PostgresOnline on a Postgres of the tests' own: restarted, frozen, refused, and written by many at once."""

import asyncio
import multiprocessing
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pyarrow as pa
import pytest
from tests.servers import free_port
from tests.stores.online.servers import Postgres

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import DuckDBOffline, Entity, FeatureStore, FeatureView, PostgresOnline, Source
from engine.feature_store.testing import OnlineStoreConformance

END = "2013-02-01T00:00:00Z"


class TestPostgres(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, postgres):
        table = f"t{uuid4().hex}"
        return lambda: PostgresOnline(postgres.url, table=table)

    @pytest.fixture
    def open_unreachable(self):
        return lambda: PostgresOnline(f"postgres://engine@127.0.0.1:{free_port()}/postgres")


@pytest.fixture
def own():
    """A server that the test may kill."""
    server = Postgres()
    yield server
    server.stop()


def view(n=3):
    rows = {"k": [f"e{i}" for i in range(n)], "x": [float(i) for i in range(n)]}
    rows["t"] = pa.array([1_357_000_000] * n, pa.timestamp("s", "UTC"))
    return FeatureView("v", Entity("k"), Source(pa.table(rows), "t"), ["x"])


def opened(url, **options):
    return FeatureStore(DuckDBOffline(threads=1), PostgresOnline(url, **options))


def features_of(store):
    program = t.FeatureProgram.fit([t.number("v__x")], {"v__x": [1.0]})
    return store.online_features(program, [view()])


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


@pytest.fixture(params=["blocking", "asyncio"])
def fetch(request):
    if request.param == "blocking":
        return lambda features, deadline_ns: features.fetch({"k": "e1"}, deadline_ns)
    return lambda features, deadline_ns: asyncio.run(features.fetch_async({"k": "e1"}, deadline_ns))


def found(fetched):
    return (fetched[0]["v__x"], fetched[1]) == (1.0, ())


def absent(fetched):
    return (fetched[0]["v__x"], fetched[1]) == (None, ("v__x",))


def test_a_restarted_server_costs_features_and_comes_back_with_its_rows(own, fetch):
    store = opened(own.url)
    store.materialize(view(), None, END)
    features = features_of(store)
    assert found(fetch(features, within(30_000)))
    own.server.process.send_signal(signal.SIGQUIT)
    own.server.process.wait()
    for _ in range(50):
        assert absent(fetch(features, within(1_000)))
    stats = features.stats()
    assert stats["store_down"] + stats.get("timeout", 0) == 50
    with pytest.raises(StoreError, match=r"PostgresOnline\('host=127\.0\.0\.1 port=\d+ dbname=postgres'"):
        store.materialize(view(), None, END)
    own.server.start()
    give_up = time.monotonic() + 30
    while not found(fetch(features, within(1_000))) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert found(fetch(features, within(30_000)))
    assert store.materialize(view(), None, END).same == 3
    features.close()


def test_a_connection_that_the_server_closed_is_opened_again_inside_the_deadline(own, fetch):
    import psycopg

    store = opened(own.url)
    store.materialize(view(), None, END)
    features = features_of(store)
    assert found(fetch(features, within(30_000)))
    with psycopg.connect(own.url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'engine'"
        )
    assert found(fetch(features, within(30_000)))
    assert store.materialize(view(), None, END).same == 3
    features.close()


def test_a_frozen_server_is_waited_for_no_longer_than_the_deadline(own, fetch):
    store = opened(own.url)
    store.materialize(view(), None, END)
    features = features_of(store)
    assert found(fetch(features, within(30_000)))
    own.signal_all(signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(50):
        assert absent(fetch(features, within(5)))
    assert time.monotonic() - began < 15
    stats = features.stats()
    assert stats["timeout"] >= 3
    assert stats["timeout"] + stats.get("store_down", 0) + stats.get("out_of_time", 0) == 50
    own.signal_all(signal.SIGCONT)
    give_up = time.monotonic() + 30
    while not found(fetch(features, within(1_000))) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert found(fetch(features, within(30_000)))
    features.close()


def test_a_late_reply_is_never_taken_for_the_next_requests(own):
    store = opened(own.url)
    store.materialize(view(), None, END)
    features = features_of(store)
    assert found(features.fetch({"k": "e1"}, within(30_000)))
    for _ in range(2):
        own.signal_all(signal.SIGSTOP)
        assert absent(features.fetch({"k": "e2"}, within(5)))
        own.signal_all(signal.SIGCONT)
        assert found(features.fetch({"k": "e1"}, within(30_000)))
    features.close()


def test_a_wrong_password_a_missing_database_and_table_are_named(postgres, fetch):
    wrong = postgres.url.replace("sesame", "guess")
    with pytest.raises(StoreError, match="password authentication failed") as refused:
        opened(wrong).materialize(view(), None, END)
    assert "guess" not in str(refused.value)
    for url, words in ((wrong, "password authentication failed"), (f"{postgres.url}x", "does not exist")):
        with pytest.raises(StoreError, match=words):
            PostgresOnline(url).ping()
        features = features_of(opened(url))
        assert absent(fetch(features, within(30_000)))
        assert features.stats()["refused"] == 1
        assert words in features.stats()["last_error"]
        features.close()
    # Nothing was written yet: the first write makes the table.
    store = opened(postgres.url, table=f"t{uuid4().hex}")
    features = features_of(store)
    assert absent(fetch(features, within(30_000)))
    assert "does not exist" in features.stats()["last_error"]
    store.materialize(view(), None, END)
    give_up = time.monotonic() + 30
    while not found(fetch(features, within(1_000))) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert found(fetch(features, within(30_000)))
    features.close()


def test_writers_that_meet_wait_for_each_other_and_lose_nothing(postgres):
    """Every row in an order of its own: without one order of locks this would be a deadlock."""
    table = f"t{uuid4().hex}"
    stores = [PostgresOnline(postgres.url, table=table) for _ in range(4)]
    packed = FeatureStore(DuckDBOffline(threads=1), stores[0])
    packed.materialize(view(200), None, END)
    rows = list(stores[0].rows("v"))

    def write(number):
        pairs = rows[::-1] if number % 2 else rows
        return [stores[number].write(pairs, None, {}) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        done = [counts for part in pool.map(write, range(4)) for counts in part]
    assert done == [(0, 200, 0, None)] * 20


def test_the_first_writers_make_the_table_together(postgres):
    table = f"t{uuid4().hex}"

    def draw(_):
        return PostgresOnline(postgres.url, table=table).next_revision()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(draw, range(8))) == list(range(1, 9))


def test_a_forked_child_opens_connections_of_its_own(postgres):
    store = opened(postgres.url, table=f"t{uuid4().hex}")
    store.materialize(view(), None, END)
    features = features_of(store)
    assert found(features.fetch({"k": "e1"}, within(30_000)))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child():
        theirs.send([found(features.fetch({"k": "e1"}, within(30_000))) for _ in range(20)])

    process = context.Process(target=child)
    process.start()
    mine = [found(features.fetch({"k": "e1"}, within(30_000))) for _ in range(20)]
    assert ours.poll(60)
    assert ours.recv() == [True] * 20
    assert mine == [True] * 20
    process.join()
    assert found(features.fetch({"k": "e1"}, within(30_000)))
    features.close()


@pytest.mark.parametrize(
    "url", ["http://host", "postgres://host:port/x", "", None, "postgres://host?nothing=1"]
)
def test_a_url_that_is_none_of_postgres_is_refused(url):
    with pytest.raises(ConfigError, match="expected a URL like postgres://"):
        PostgresOnline(url)


def test_a_password_is_never_shown():
    online = PostgresOnline("postgres://user:hidden@127.0.0.1:1/db", timeout_s=1.0)
    assert "hidden" not in repr(online)
    with pytest.raises(ConfigError) as refused:
        PostgresOnline("postgres://user:hidden@host:port/db")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("table", ["", "A", "a b", 'a"b', "a;", "a.b.c", None])
def test_a_table_is_plain(table):
    with pytest.raises(ConfigError, match="table: expected lower case letters"):
        PostgresOnline("postgres://host/db", table=table)
