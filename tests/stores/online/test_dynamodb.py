"""DynamoDBOnline on dynalite and on moto: each refuses what the other lets pass. Throttled, slow, broken and cut off by
a proxy of the tests."""

import asyncio
import multiprocessing
import time
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa
import pytest
from tests.servers import free_port
from tests.stores.online.servers import DynamoDBProxy

from engine import transform as t
from engine.errors import ConfigError, StoreError
from engine.feature_store import DuckDBOffline, DynamoDBOnline, Entity, FeatureStore, FeatureView, Source
from engine.feature_store.online import dynamodb_wire
from engine.feature_store.testing import OnlineStoreConformance

END = "2013-02-01T00:00:00Z"
REGION = "eu-west-1"


@pytest.fixture(params=["dynalite", "moto"])
def endpoint(request):
    return f"http://127.0.0.1:{request.getfixturevalue(request.param).port}"


@pytest.fixture
def table(endpoint):
    """A new table."""
    name = f"t-{uuid4().hex}"
    assert DynamoDBOnline(name, region=REGION, endpoint_url=endpoint).create_table() is True
    return name


@pytest.fixture
def proxy(endpoint):
    made = DynamoDBProxy(int(endpoint.rpartition(":")[2]))
    yield made
    made.close()


class TestDynamoDB(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, endpoint, table):
        return lambda: DynamoDBOnline(table, region=REGION, endpoint_url=endpoint)

    @pytest.fixture
    def open_unreachable(self):
        url = f"http://127.0.0.1:{free_port()}"
        return lambda: DynamoDBOnline("unreachable", region=REGION, endpoint_url=url, timeout_s=0.5)


def view(name="v", n=3, ttl=None):
    rows = {"k": [f"e{i}" for i in range(n)], "x": [float(i) for i in range(n)]}
    rows["t"] = pa.array([1_357_000_000] * n, pa.timestamp("s", "UTC"))
    return FeatureView(name, Entity("k"), Source(pa.table(rows), "t"), ["x"], ttl=ttl)


def opened(url, table, **options):
    online = DynamoDBOnline(table, region=REGION, endpoint_url=url, **options)
    return FeatureStore(DuckDBOffline(threads=1), online)


def features_of(store, views):
    names = [name for each in views for name in each.feature_names]
    program = t.FeatureProgram.fit([t.number(name) for name in names], {name: [1.0] for name in names})
    return store.online_features(program, views)


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


@pytest.fixture(params=["blocking", "asyncio"])
def fetch(request):
    if request.param == "blocking":
        return lambda features, request_, deadline_ns: features.fetch(request_, deadline_ns)
    return lambda features, request_, deadline_ns: asyncio.run(features.fetch_async(request_, deadline_ns))


def test_a_hundred_keys_of_three_views_take_one_round_trip(endpoint, table, proxy):
    views = [view(f"v{i}", n=100) for i in range(3)]
    store = opened(endpoint, table)
    for each in views:
        store.materialize(each, None, END)
    features = features_of(opened(proxy.url, table), views)
    proxy.calls.clear()
    # So that calls at the same time overlap, however busy the machine is.
    proxy.delay_s = 0.3
    requests = [{"k": f"e{i}"} for i in range(100)]
    found = features.fetch_many(requests, within(60_000))
    assert [out["v2__x"] for out, _ in found] == [float(i) for i in range(100)]
    assert [operation for operation, _, _ in proxy.calls] == ["BatchGetItem"] * 3
    assert proxy.rounds() == 1
    # Where the table leaves keys unread, they take a second one.
    proxy.calls.clear()
    proxy.unprocessed, proxy.partly = 40, 3
    found = features.fetch_many(requests, within(60_000))
    assert [out["v2__x"] for out, _ in found] == [float(i) for i in range(100)]
    assert len(proxy.calls) == 6
    assert proxy.rounds() == 2
    features.close()


def test_what_is_throttled_is_asked_for_again_inside_the_deadline(endpoint, table, proxy, fetch):
    opened(endpoint, table).materialize(view(), None, END)
    features = features_of(opened(proxy.url, table), [view()])
    proxy.calls.clear()
    proxy.throttle = 2
    out, missing = fetch(features, {"k": "e1"}, within(30_000))
    assert (out["v__x"], missing) == (1.0, ())
    assert len(proxy.calls) == 3
    proxy.break_ = 1
    out, missing = fetch(features, {"k": "e2"}, within(30_000))
    assert (out["v__x"], missing) == (2.0, ())
    features.close()


def test_a_table_that_stays_throttled_is_named_and_not_asked_for_ever(endpoint, table, proxy, fetch):
    opened(endpoint, table).materialize(view(), None, END)
    features = features_of(opened(proxy.url, table), [view()])
    proxy.calls.clear()
    proxy.throttle = 1_000_000
    for _ in range(30):
        out, missing = fetch(features, {"k": "e1"}, within(5_000))
        assert (out["v__x"], missing) == (None, ("v__x",))
    stats = features.stats()
    assert stats["throttled"] >= 1
    assert stats["throttled"] + stats.get("timeout", 0) + stats.get("store_down", 0) == 30
    # 20 repeats at most are paid for, whatever the requests.
    assert len(proxy.calls) <= 30 + dynamodb_wire.TOKENS_MAX / dynamodb_wire.REPEAT_COST
    proxy.throttle = 0
    give_up = time.monotonic() + 30
    while fetch(features, {"k": "e1"}, within(5_000))[1] and time.monotonic() < give_up:
        time.sleep(0.05)
    assert fetch(features, {"k": "e1"}, within(5_000))[0]["v__x"] == 1.0
    features.close()


def test_a_slow_table_is_waited_for_no_longer_than_the_deadline(endpoint, table, proxy, fetch):
    opened(endpoint, table).materialize(view(), None, END)
    features = features_of(opened(proxy.url, table), [view()])
    proxy.delay_s = 1.0
    began = time.monotonic()
    for _ in range(20):
        out, missing = fetch(features, {"k": "e1"}, within(30))
        assert (out["v__x"], missing) == (None, ("v__x",))
    # Twenty waits of a second would be twenty.
    assert time.monotonic() - began < 15
    stats = features.stats()
    assert stats["timeout"] >= 3
    assert stats["timeout"] + stats.get("store_down", 0) + stats.get("out_of_time", 0) == 20
    proxy.delay_s = 0.0
    give_up = time.monotonic() + 30
    while fetch(features, {"k": "e1"}, within(5_000))[1] and time.monotonic() < give_up:
        time.sleep(0.05)
    assert fetch(features, {"k": "e1"}, within(5_000))[0]["v__x"] == 1.0
    features.close()


def test_a_throttled_write_goes_on(endpoint, table, proxy):
    store = opened(proxy.url, table)
    proxy.throttle = 3
    assert store.materialize(view(n=40), None, END).written == 40
    proxy.unprocessed, proxy.partly = 10, 2
    assert store.materialize(view(n=40), None, END).same == 40


def test_a_missing_table_is_named(endpoint, fetch):
    name = f"not-there-{uuid4().hex}"
    store = opened(endpoint, name)
    with pytest.raises(StoreError, match=rf"there is no table '{name}' there: create_table\(\) makes it"):
        store.materialize(view(), None, END)
    with pytest.raises(StoreError, match=f"there is no table '{name}'"):
        store.online.ping()
    features = features_of(store, [view()])
    out, missing = fetch(features, {"k": "e1"}, within(5_000))
    assert (out["v__x"], missing) == (None, ("v__x",))
    assert features.stats()["refused"] == 1
    assert "ResourceNotFoundException" in features.stats()["last_error"]
    features.close()
    assert store.online.create_table() is True
    assert store.online.create_table() is False
    assert store.materialize(view(), None, END).written == 3


def test_a_table_is_billed_on_demand_and_forgets_rows_after_their_ttl(moto, dynalite):
    for server in (moto, dynalite):
        online = DynamoDBOnline(
            f"t-{uuid4().hex}", region=REGION, endpoint_url=f"http://127.0.0.1:{server.port}"
        )
        online.create_table()
        client = online._writer()
        described = client.describe_table(TableName=online.table)["Table"]
        assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        assert described["KeySchema"] == [{"AttributeName": "k", "KeyType": "HASH"}]
        store = FeatureStore(DuckDBOffline(threads=1), online)
        store.materialize(view(ttl="10d"), None, END)
        item = client.get_item(TableName=online.table, Key={"k": {"B": b"engine:v:e1"}})["Item"]
        # Ten days from now on, and a day more for clocks that differ.
        assert abs(int(item["ttl"]["N"]) - (time.time() + 11 * 86_400)) < 600
        store.materialize(view(ttl="20d"), None, END)
        item = client.get_item(TableName=online.table, Key={"k": {"B": b"engine:v:e1"}})["Item"]
        assert abs(int(item["ttl"]["N"]) - (time.time() + 21 * 86_400)) < 600
        store.materialize(view(ttl="5d"), None, END)
        item = client.get_item(TableName=online.table, Key={"k": {"B": b"engine:v:e1"}})["Item"]
        assert int(item["ttl"]["N"]) > time.time() + 20 * 86_400, "no call shortens the life of a row"
        store.materialize(view(), None, END)
        assert set(client.get_item(TableName=online.table, Key={"k": {"B": b"engine:v:e1"}})["Item"]) == {
            "k",
            "r",
            "w",
        }


def test_missing_and_wrong_credentials_are_named(endpoint, table, monkeypatch, fetch):
    store = opened(endpoint, table)
    store.materialize(view(), None, END)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    bare = opened(endpoint, table)
    with pytest.raises(StoreError, match="refused: no credentials"):
        bare.materialize(view(), None, END)
    features = features_of(bare, [view()])
    out, missing = fetch(features, {"k": "e1"}, within(5_000))
    assert (out["v__x"], missing) == (None, ("v__x",))
    assert features.stats()["refused"] == 1
    assert "no credentials" in features.stats()["last_error"]
    features.close()


class Refusing:
    """A client that the service refuses, as AWS refuses a signature: with the error of the real client."""

    def __init__(self, client, code):
        self._client, self._code = client, code

    def __getattr__(self, name):
        from botocore.exceptions import ClientError

        def refused(**_):
            answer = {
                "Error": {"Code": self._code, "Message": "not you"},
                "ResponseMetadata": {"HTTPStatusCode": 400},
            }
            raise ClientError(answer, name)

        return refused


@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "AccessDeniedException", "ExpiredTokenException"]
)
def test_a_refused_client_is_named(code, dynalite, fetch):
    url = f"http://127.0.0.1:{dynalite.port}"
    online = DynamoDBOnline(
        "table", client=Refusing(DynamoDBOnline("table", region=REGION, endpoint_url=url), code)
    )
    store = FeatureStore(DuckDBOffline(threads=1), online)
    with pytest.raises(StoreError, match=f"refused: .*{code}"):
        store.materialize(view(), None, END)
    features = features_of(store, [view()])
    out, missing = fetch(features, {"k": "e1"}, within(5_000))
    assert (out["v__x"], missing) == (None, ("v__x",))
    assert (features.stats()["refused"], code in features.stats()["last_error"]) == (1, True)
    features.close()


def test_a_client_of_the_callers_is_used_for_everything(endpoint, table):
    """As DAX's would be: the same methods, and nothing of boto3 around it."""
    import boto3

    client = boto3.session.Session().client("dynamodb", region_name=REGION, endpoint_url=endpoint)
    calls = []

    class Counting:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(client, name)

    store = FeatureStore(DuckDBOffline(threads=1), DynamoDBOnline(table, client=Counting()))
    store.materialize(view(), None, END)
    features = features_of(store, [view()])
    assert features.fetch({"k": "e1"}, within(30_000))[0]["v__x"] == 1.0
    assert {"get_item", "put_item", "batch_get_item", "update_item"} <= set(calls)
    features.close()
    with pytest.raises(ConfigError, match="has no get_item"):
        DynamoDBOnline(table, client=object())


def test_consistent_reads_are_asked_for(endpoint, table):
    import boto3

    client = boto3.session.Session().client("dynamodb", region_name=REGION, endpoint_url=endpoint)
    asked = []
    client.meta.events.register(
        "provide-client-params.dynamodb.GetItem", lambda params, **_: asked.append(params)
    )
    for consistent in (False, True):
        online = DynamoDBOnline(table, client=client, consistent=consistent)
        FeatureStore(DuckDBOffline(threads=1), online).materialize(view(), None, END)
        asked.clear()
        wire = online.wire()
        assert len(wire.read([b"engine:v:e1"], within(30_000))) == 1
        wire.close()
        assert [params["ConsistentRead"] for params in asked] == [consistent]


def test_a_row_beyond_an_items_size_is_named(endpoint, table):
    rows = pa.table({"k": ["a"], "t": pa.array([0], pa.timestamp("s", "UTC")), "x": ["y" * 500_000]})
    big = FeatureView("big", Entity("k"), Source(rows, "t"), ["x"])
    with pytest.raises(StoreError, match="a row is larger than the 400 KB of an item"):
        opened(endpoint, table).materialize(big, None, END)


def test_many_rows_are_deleted_in_parts(endpoint, table):
    store = opened(endpoint, table)
    many = view(n=230)
    store.materialize(many, None, END)
    entry = store.delete(many, [{"k": f"e{i}"} for i in range(220)])
    assert entry.rows == 220
    features = features_of(store, [many])
    found = features.fetch_many([{"k": f"e{i}"} for i in range(230)], within(60_000))
    assert [out["v__x"] for out, _ in found] == [None] * 220 + [float(i) for i in range(220, 230)]
    assert len(store.deletions()) == 1
    features.close()


def test_a_forked_child_opens_connections_of_its_own(endpoint, table):
    store = opened(endpoint, table)
    store.materialize(view(), None, END)
    features = features_of(store, [view()])
    assert features.fetch({"k": "e1"}, within(30_000))[0]["v__x"] == 1.0
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child():
        found = [features.fetch({"k": "e1"}, within(30_000))[0]["v__x"] for _ in range(10)]
        at = datetime(2013, 6, 1, tzinfo=UTC)
        theirs.send((found, store.push(view(), {"k": "e2", "t": at, "x": 5.0}).written))

    process = context.Process(target=child)
    process.start()
    mine = [features.fetch({"k": "e1"}, within(30_000))[0]["v__x"] for _ in range(10)]
    assert ours.poll(60)
    assert ours.recv() == ([1.0] * 10, 1)
    assert mine == [1.0] * 10
    process.join()
    assert features.fetch({"k": "e2"}, within(30_000))[0]["v__x"] == 5.0
    features.close()


@pytest.mark.parametrize("name", ["ab", "a b", "a/b", "", None, "x" * 256])
def test_names_that_dynamodb_refuses_are_refused(name):
    with pytest.raises(ConfigError, match="table: expected 3 to 255 letters"):
        DynamoDBOnline(name, region=REGION)


def test_no_region_is_named(monkeypatch):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="region: none was given and boto3 finds none"):
        DynamoDBOnline("table")
