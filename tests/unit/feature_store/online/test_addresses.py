"""Online stores by address: one line for each store, and the error for another address."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError, MissingDependencyError
from engine.feature_store import (
    DuckDBOffline,
    DynamoDBOnline,
    FeatureStore,
    LMDBOnline,
    PostgresOnline,
    RedisClusterOnline,
    RedisOnline,
    open_online,
)


@pytest.mark.parametrize(
    ("address", "kind", "attributes"),
    [
        ("online", LMDBOnline, {"folder": Path("online")}),
        (Path("/a/b"), LMDBOnline, {"folder": Path("/a/b")}),
        ("lmdb:///a/b%20c?map_bytes=4096&read_only=true", LMDBOnline,
         {"folder": Path("/a/b c"), "map_bytes": 4096, "read_only": True}),
        ("lmdb://a/b", LMDBOnline, {"folder": Path("a/b")}),
        ("redis://host:6380/2", RedisOnline, {"url": "redis://host:6380/2"}),
        ("rediss://host", RedisOnline, {}),
        ("unix:///run/redis.sock", RedisOnline, {}),
        ("redis+sentinel://a:1,b:2/service/3", RedisOnline, {}),
        ("rediss+sentinel://a/service", RedisOnline, {}),
        ("redis+cluster://a:1,b:2", RedisClusterOnline, {"url": "redis+cluster://a:1,b:2"}),
        ("rediss+cluster://:password@a", RedisClusterOnline, {}),
    ],
)  # fmt: skip
def test_an_address_names_the_store_and_its_options(address, kind, attributes):
    store = open_online(address)
    assert type(store) is kind
    assert {name: getattr(store, name) for name in attributes} == attributes
    assert "password" not in repr(store)


def test_addresses_of_stores_whose_clients_are_extras():
    pytest.importorskip("boto3")
    store = open_online(
        "dynamodb://my-table?region=eu-west-1&consistent=true&namespace=shop&endpoint_url=http://h:1"
    )
    assert type(store) is DynamoDBOnline
    assert (store.table, store.region, store.consistent, store.namespace, store.endpoint_url) == (
        "my-table", "eu-west-1", True, "shop", "http://h:1",
    )  # fmt: skip
    pytest.importorskip("psycopg")
    assert type(open_online("postgres://user:secret@host/db")) is PostgresOnline
    assert type(open_online("postgresql://host/db?sslmode=require")) is PostgresOnline


@pytest.mark.parametrize(
    "address",
    ["redis://host:1/2", "redis+sentinel://a:1/service", "redis+cluster://a:1,b:2",
     "dynamodb://table?region=eu-west-1&consistent=true&namespace=shop", "postgres://user:secret@host:1/db"],
)  # fmt: skip
def test_a_store_can_be_sent_to_another_process(address):
    """To executors of Spark, say, which write a partition each."""
    pytest.importorskip("boto3" if address.startswith("dynamodb") else "redis")
    pytest.importorskip("psycopg" if address.startswith("postgres") else "redis")
    store = open_online(address)
    again = pickle.loads(pickle.dumps(store))
    assert type(again) is type(store)
    assert repr(again) == repr(store)
    assert again.prefix("v") == store.prefix("v")
    assert pickle.loads(pickle.dumps(again))._timeout_s == store._timeout_s


def test_a_feature_store_takes_an_address(tmp_path):
    store = FeatureStore(DuckDBOffline(), str(tmp_path / "online"))
    assert type(store.online) is LMDBOnline
    assert type(FeatureStore(DuckDBOffline(), tmp_path).online) is LMDBOnline


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://host", "expected the address of an online store, one of: lmdb:///folder, redis://"),
        ("mysql://user:secret@host", "expected the address of an online store"),
        ("", "expected the address of an online store"),
        (7, "expected the address of an online store, one of: .*; got 7"),
        ("lmdb:///a?size=1", "an option 'size', which is none of: map_bytes, read_only"),
        ("lmdb:///a?map_bytes=many", "option map_bytes cannot be read, got 'many'"),
        ("dynamodb://table/more", "expected an address like dynamodb://table"),
        ("dynamodb://key:secret@table", "credentials are found as boto3 finds them"),
        ("dynamodb://table?zone=a", "an option 'zone', which is none of: region"),
        ("dynamodb://table?consistent=maybe", "option consistent cannot be read"),
    ],
)
def test_another_address_is_refused(address, message):
    with pytest.raises(ConfigError, match=message) as refused:
        open_online(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("boto3", lambda: DynamoDBOnline("table", region="r"), "dynamodb"),
        ("psycopg", lambda: PostgresOnline("postgres://h/d"), "postgres"),
        ("redis", lambda: RedisClusterOnline("redis+cluster://h"), "redis"),
    ],
)
def test_without_the_extra_the_error_names_it(monkeypatch, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"deadline-engine\[{extra}\]"):
        make()


def test_importing_the_room_imports_no_client():
    code = (
        "import sys, engine.feature_store\n"
        "found = {'boto3', 'botocore', 'psycopg', 'redis', 'hiredis', 'lmdb', 'pytest'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
