"""Redis killed, frozen, slow, locked and full of foreign bytes: features are missing, named and counted. No fetch
raises, and none waits beyond its deadline."""

import asyncio
import socket
import threading
import time

import pyarrow as pa
import pytest
from tests.servers import RedisServer, SlowProxy

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import (
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    RedisOnline,
    Source,
)
from engine.feature_store.online import base, redis_wire

NAMES = ("plane__x", "plane__s")
ROW = {"plane__x": 7.0, "plane__s": "seven"}
END = "2013-02-01T00:00:00Z"


def view(ttl=None, **columns):
    made = {"plane": ["N1", "N2"], "x": [7.0, 8.0], "s": ["seven", "eight"], **columns}
    made["t"] = pa.array([1_357_000_000, 1_357_000_001], pa.timestamp("s", "UTC"))
    return FeatureView("plane", Entity("plane"), Source(pa.table(made), "t"), ["x", "s"], ttl=ttl)


def program():
    spec = [t.number("plane__x").impute(0.0), t.category("plane__s").hash(buckets=8), t.number("own")]
    return t.FeatureProgram.fit(spec, {"plane__x": [1.0], "plane__s": ["a"], "own": [1.0]})


@pytest.fixture
def server(tmp_path):
    own = RedisServer(tmp_path)
    yield own
    own.stop()


@pytest.fixture
def proxy(server):
    slow = SlowProxy(server.port)
    yield slow
    slow.close()


def filled(url, **options):
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(url, **options))
    store.materialize(view(), None, END)
    return store


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


def found(fetched):
    out, missing = fetched
    return missing == () and {name: out[name] for name in NAMES} == ROW


def absent(fetched):
    out, missing = fetched
    return missing == NAMES and all(out[name] is None for name in NAMES) and out["own"] == 1.0


REQUEST = {"plane": "N1", "own": 1.0}


@pytest.fixture(params=["blocking", "asyncio"])
def fetch(request):
    """Fetch REQUEST, blocking, or awaited on an event loop of the test's own."""
    if request.param == "blocking":
        yield lambda features, deadline_ns: features.fetch(REQUEST, deadline_ns)
        return
    with asyncio.Runner() as runner:
        opened = []

        async def one(features, deadline_ns):
            opened.append(features)
            return await features.fetch_async(REQUEST, deadline_ns)

        async def closed():
            for features in opened:
                features.close()
            await asyncio.sleep(0)

        yield lambda features, deadline_ns: runner.run(one(features, deadline_ns))
        runner.run(closed())


def test_a_killed_server_costs_features_and_comes_back(server, fetch):
    features = filled(server.url).online_features(program(), [view()])
    assert features.blocking
    assert found(fetch(features, within(1000)))
    server.kill()
    for _ in range(200):
        assert absent(fetch(features, within(1000)))
    stats = features.stats()
    assert stats["store_down"] == 200
    assert stats["found"] == 1
    assert "cannot be reached" in stats["last_error"] or "left alone" in stats["last_error"]
    server.start()
    # The server has no persistence, so the rows are gone until they are materialised again.
    give_up = time.monotonic() + 20
    while features.stats()["not_found"] == 0 and time.monotonic() < give_up:
        assert absent(fetch(features, within(1000)))
        time.sleep(0.02)
    filled(server.url)
    assert found(fetch(features, within(1000)))
    features.close()


def test_a_dead_server_is_left_alone_between_attempts(server, monkeypatch):
    features = filled(server.url).online_features(program(), [view()])
    server.kill()
    attempts = []
    opened = redis_wire.Address.opened
    monkeypatch.setattr(
        redis_wire.Address, "opened", lambda self, s: (attempts.append(s), opened(self, s))[1]
    )
    for _ in range(1000):
        assert absent(features.fetch(REQUEST, within(1000)))
    # The first failure opens the breaker. For 37 ms at least no fetch costs a system call, and the pauses double.
    assert len(attempts) < 30
    features.close()


def test_a_frozen_server_is_waited_for_no_longer_than_the_deadline(server, fetch):
    features = filled(server.url).online_features(program(), [view()])
    assert found(fetch(features, within(1000)))
    server.freeze()
    for _ in range(100):
        assert absent(fetch(features, within(5)))
    stats = features.stats()
    # Three timeouts in a row open the breaker. After that, one request at a time tries.
    assert 3 <= stats["timeout"] < 20
    # On a busy machine a deadline of 5 ms may pass before the fetch begins.
    assert stats["timeout"] + stats["store_down"] + stats.get("out_of_time", 0) == 100
    server.thaw()
    give_up = time.monotonic() + 20
    while not found(fetch(features, within(1000))) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert found(fetch(features, within(1000)))
    features.close()


def test_a_slow_server_keeps_its_connection_and_its_replies_apart(server, proxy):
    """A reply that comes too late must never be taken for the next request's."""
    store = filled(server.url)
    reader = FeatureStore(store.offline, RedisOnline(proxy.url))
    features = reader.online_features(program(), [view()])
    other = {"plane": "N2", "own": 1.0}
    assert found(features.fetch(REQUEST, within(1000)))
    connected = proxy.connections
    for _ in range(5):
        proxy.delay_s = 0.02
        assert absent(features.fetch(REQUEST, within(5)))
        proxy.delay_s = 0.0
        out, missing = features.fetch(other, within(2000))
        assert missing == ()
        assert (out["plane__x"], out["plane__s"]) == (8.0, "eight")
    assert proxy.connections == connected
    features.close()


def test_late_replies_are_kept_apart_under_asyncio_too(server, proxy):
    filled(server.url)
    features = FeatureStore(DuckDBOffline(threads=1), RedisOnline(proxy.url)).online_features(
        program(), [view()]
    )

    async def run():
        assert found(await features.fetch_async(REQUEST, within(1000)))
        proxy.delay_s = 0.02
        early = [features.fetch_async(REQUEST, within(5)) for _ in range(2)]
        late = [features.fetch_async({"plane": "N2", "own": 1.0}, within(5000)) for _ in range(3)]
        *gone, a, b, c = await asyncio.gather(*early, *late)
        assert all(absent(one) for one in gone)
        assert all(out["plane__x"] == 8.0 and missing == () for out, missing in (a, b, c))
        features.close()
        await asyncio.sleep(0)

    asyncio.run(run())


def test_a_deadline_that_has_passed_sends_nothing(server, fetch):
    features = filled(server.url).online_features(program(), [view()])
    assert absent(fetch(features, time.monotonic_ns() - 1))
    assert absent(fetch(features, 0))
    assert features.stats()["out_of_time"] == 2


def test_a_wrong_password_is_named_and_serving_goes_on(tmp_path, fetch):
    server = RedisServer(tmp_path, password="secret")
    try:
        store = filled(server.url)
        wrong = server.url.replace("secret", "guess")
        with pytest.raises(StoreError, match="refused the user or password") as refused:
            filled(wrong)
        assert "guess" not in str(refused.value)
        with pytest.raises(StoreError):
            RedisOnline(wrong).ping()
        # The types come from the source, so the service starts, without features.
        features = FeatureStore(store.offline, RedisOnline(wrong)).online_features(program(), [view()])
        assert absent(fetch(features, within(1000)))
        assert features.stats()["refused"] == 1
        assert "WRONGPASS" in features.stats()["last_error"]
        features = store.online_features(program(), [view()])
        assert found(fetch(features, within(1000)))
        features.close()
    finally:
        server.stop()


def test_foreign_bytes_are_refused_named_and_left_alone(server, fetch):
    store = filled(server.url)
    features = store.online_features(program(), [view()])
    client = server.client()
    client.set(b"engine:plane:N1", b"somebody else's")
    assert absent(fetch(features, within(1000)))
    with pytest.raises(StoreError, match=r"b'engine:plane:N1' of the online store holds something"):
        store.materialize(view(), None, END)
    assert client.get(b"engine:plane:N1") == b"somebody else's"
    client.delete(b"engine:plane:N1")
    client.hset(b"engine:plane:N1", "x", "1")
    assert absent(fetch(features, within(1000)))
    with pytest.raises(StoreError, match="holds something that is not a row"):
        store.materialize(view(), None, END)
    assert client.type(b"engine:plane:N1") == b"hash"
    client.delete(b"engine:plane:N1")
    store.materialize(view(), None, END)
    assert found(fetch(features, within(1000)))
    assert features.stats()["foreign"] + features.stats()["not_found"] == 2
    features.close()
    client.close()


def test_rows_of_another_version_of_the_view_are_refused(server, fetch):
    store = filled(server.url)
    features = store.online_features(program(), [view()])
    # The column's type changed: an int must not be read as a float.
    store.materialize(view(x=[1, 2]), None, END)
    assert absent(fetch(features, within(1000)))
    assert features.stats()["schema"] == 1
    features.close()


def test_the_server_forgets_rows_some_time_after_their_ttl_and_never_before(server):
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(server.url))
    client = server.client()
    store.materialize(view(ttl="100s"), None, END)
    left_ms = client.pttl(b"engine:plane:N1")
    assert 90_000 < left_ms <= 101_000
    store.materialize(view(), None, END)
    client.close()


def test_a_server_killed_while_it_is_written_is_named_and_written_again(server, monkeypatch):
    monkeypatch.setattr(base, "BATCH_ROWS", 100)
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(server.url, timeout_s=1.0))
    many = pa.table(
        {
            "plane": [f"N{i}" for i in range(1_000)],
            "t": pa.array([1_357_000_000] * 1_000, pa.timestamp("s", "UTC")),
            "x": [float(i) for i in range(1_000)],
            "s": ["text"] * 1_000,
        }
    )
    made = FeatureView("plane", Entity("plane"), Source(many, "t"), ["x", "s"])

    def kill(done, total):
        if done == 500:
            server.kill()

    with pytest.raises(StoreError, match=r"RedisOnline\('redis://127\.0\.0\.1:\d+/0'\): "):
        store.materialize(made, None, END, progress=kill)
    server.start()
    # Rows and mark are gone with the server, so the next run writes everything.
    written = store.materialize(made, None, END)
    assert (written.written, written.resumed) == (1_000, 0)
    store.online.close()


def test_a_full_server_is_named(tmp_path):
    server = RedisServer(tmp_path, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    try:
        store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(server.url))
        many = pa.table(
            {
                "plane": [f"N{i}" for i in range(50_000)],
                "t": pa.array([1_357_000_000] * 50_000, pa.timestamp("s", "UTC")),
                "x": [1.0] * 50_000,
                "s": ["a longer text"] * 50_000,
            }
        )
        with pytest.raises(StoreError, match=r"maxmemory"):
            store.materialize(FeatureView("plane", Entity("plane"), Source(many, "t"), ["x", "s"]), None, END)
    finally:
        server.stop()


def test_a_server_that_speaks_something_else_is_a_store_that_is_down(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def babble():
        while True:
            try:
                near, _ = listener.accept()
                near.recv(100)
                near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                near.close()
            except OSError:
                return

    threading.Thread(target=babble, daemon=True).start()
    url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    store = FeatureStore(DuckDBOffline(threads=1), RedisOnline(url))
    features = store.online_features(program(), [view()])
    for _ in range(10):
        assert absent(features.fetch(REQUEST, within(500)))
    assert features.stats()["store_down"] == 10
    with pytest.raises(StoreError):
        store.materialize(view(), None, END)
    listener.close()
    features.close()


def test_a_name_that_is_not_found_is_looked_up_again_and_no_request_waits(server, monkeypatch):
    filled(server.url)
    here = socket.getaddrinfo
    there = threading.Event()

    def looked_up(host, *arguments, **options):
        if host != "store.invalid":
            return here(host, *arguments, **options)
        if not there.is_set():
            raise socket.gaierror("no such name")
        return here("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    named = FeatureStore(
        DuckDBOffline(threads=1), RedisOnline(server.url.replace("127.0.0.1", "store.invalid"))
    )
    features = named.online_features(program(), [view()])
    assert absent(features.fetch(REQUEST, within(1000)))
    assert "the name 'store.invalid' was not found" in features.stats()["last_error"]
    there.set()
    give_up = time.monotonic() + 20
    while not found_now(features) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert found_now(features)
    features.close()


def found_now(features):
    return found(features.fetch(REQUEST, within(1000)))


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "localhost:6379", "", "redis://localhost:port", "redis://:secret@localhost:99999"],
)
def test_a_url_that_is_none_of_redis_is_refused(url):
    with pytest.raises(ConfigError, match="expected a URL like redis://") as refused:
        RedisOnline(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("namespace", ["", "a:b", "../x", "a b"])
def test_a_namespace_is_plain(namespace):
    with pytest.raises(ConfigError, match="namespace"):
        RedisOnline("redis://localhost", namespace=namespace)


def test_a_forked_child_opens_connections_of_its_own(server):
    import multiprocessing

    features = filled(server.url).online_features(program(), [view()])
    assert found(features.fetch(REQUEST, within(1000)))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child():
        theirs.send([found(features.fetch(REQUEST, within(5000))) for _ in range(100)])

    process = context.Process(target=child)
    process.start()
    mine = [found(features.fetch(REQUEST, within(5000))) for _ in range(100)]
    assert all(ours.recv())
    assert all(mine)
    process.join()
    features.close()
