"""Delta and Iceberg tables as sources, on this machine and on S3: the conformance suite, random definitions, and one
digest for the same rows for ever."""

import itertools
import json
import os

import pyarrow as pa
import pytest

from engine.errors import ConfigError, StoreError
from engine.feature_store import (
    DatasetConfig,
    Delta,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    Iceberg,
    LMDBOnline,
    PolarsOffline,
    Source,
)
from engine.feature_store.testing.offline import CHECKS, START_NS, StoreUnderTest, check_random, times

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))
SEEDS = 300 if NIGHTLY else 5
BUCKET = "lake"
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


@pytest.fixture(scope="module")
def s3():
    """An S3 of moto's on a free port of loopback, with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **KEYS).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


class DeltaTables:
    def __init__(self, root, options=None):
        self.root, self.options, self.counter = root, options, itertools.count()

    def put(self, table):
        path = f"{self.root}/table{next(self.counter)}"
        data = Delta(path, storage_options=self.options)
        self.replace(data, table)
        return data

    def replace(self, data, table, mode="overwrite"):
        from deltalake import write_deltalake

        write_deltalake(data.path, table, mode=mode, storage_options=self.options)

    def append(self, data, table):
        self.replace(data, table, mode="append")


class IcebergTables:
    def __init__(self, catalog):
        self.properties, self.counter = catalog, itertools.count()
        from pyiceberg.catalog import load_catalog

        self.catalog = load_catalog(**catalog)
        self.catalog.create_namespace_if_not_exists("flights")

    def put(self, table):
        name = f"flights.table{next(self.counter)}"
        made = self.catalog.create_table(name, schema=table.schema)
        if len(table):
            made.append(table)
        return Iceberg(self.properties, name)

    def replace(self, data, table):
        self.catalog.load_table(data.table).overwrite(table)

    def append(self, data, table):
        self.catalog.load_table(data.table).append(table)


def tables_of(kind, place, tmp_path, request):
    if place == "local":
        if kind == "delta":
            return DeltaTables(tmp_path)
        return IcebergTables(
            {
                "name": "lake",
                "type": "sql",
                "uri": f"sqlite:///{tmp_path}/catalog.db",
                "warehouse": f"file://{tmp_path}",
            }
        )
    url = request.getfixturevalue("s3")
    root = f"s3://{BUCKET}/{tmp_path.name}"
    if kind == "delta":
        options = {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        return DeltaTables(root, options)
    return IcebergTables(
        {"name": "lake", "type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": root,
         "s3.endpoint": url, "s3.access-key-id": "testing", "s3.secret-access-key": "testing", "s3.region": "us-east-1"}
    )  # fmt: skip


@pytest.fixture(params=["delta", "iceberg"])
def kind(request):
    return request.param


@pytest.fixture(params=["local", "s3"])
def tables(kind, request, tmp_path):
    return tables_of(kind, request.param, tmp_path, request)


@pytest.fixture
def local(kind, tmp_path, request):
    return tables_of(kind, "local", tmp_path, request)


def under_test(tables, store):
    # Lakes keep microseconds, and no unsigned numbers.
    return StoreUnderTest(
        store, put=tables.put, replace=tables.replace, unit="us", key_kinds=("int", "text", "bytes")
    )


@pytest.mark.parametrize("make", [lambda: DuckDBOffline(threads=2), PolarsOffline], ids=["duckdb", "polars"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_lake_keeps_the_promise(local, make, check):
    check(under_test(local, make()))


@pytest.mark.parametrize("make", [lambda: DuckDBOffline(threads=2), PolarsOffline], ids=["duckdb", "polars"])
def test_random_definitions_give_the_rows_of_the_plain_loops(tables, make, seed):
    for place in range(SEEDS):
        check_random(under_test(tables, make()), seed + place)


def rows(keys, values, first=0):
    at = times([START_NS + (first + n) * 10**9 for n in range(len(keys))])
    return pa.table({"k": keys, "t": at, "x": pa.array(values, pa.float64())})


def test_the_same_digest_is_the_same_rows_for_ever(tables, tmp_path):
    data = tables.put(rows(["a", "b"], [1.0, 2.0]))
    labels = pa.table({"k": ["a", "b"], "at": times([START_NS + 60 * 10**9] * 2)})
    offline = DuckDBOffline(threads=1)
    store = FeatureStore(offline, LMDBOnline(tmp_path / "online"))

    def config(data):
        return DatasetConfig(
            Source(labels, "at"), FeatureView("v", Entity("e", "k"), Source(data, "t"), ["x"])
        )

    first = store.get_training_features(config(data))
    digest = json.loads(first.schema.metadata[b"engine.dataset"])["digest"]
    assert store.dataset_digest(config(data)) == digest == config(data).digest
    pinned = offline.snapshot(Source(data, "t")).pinned.data
    tables.append(data, rows(["a"], [3.0], first=5))
    assert store.dataset_digest(config(data)) != digest
    with pytest.raises(StoreError, match="no longer the one asked for"):
        store.get_training_features(config(data), digest=digest)
    assert store.get_training_features(config(data))["v__x"].to_pylist() == [3.0, 2.0]
    # The version that was looked at is still there, by its number, and has its digest.
    again = store.get_training_features(config(pinned), digest=digest)
    assert again.equals(first)
    assert again["v__x"].to_pylist() == [1.0, 2.0]
    tables.replace(data, rows(["c"], [9.0]))
    assert store.get_training_features(config(pinned), digest=digest).equals(first)


def test_a_lake_is_materialized_by_its_range(local, tmp_path):
    data = local.put(rows(["a", "b", "a"], [1.0, 2.0, 3.0]))
    view = FeatureView("v", Entity("e", "k"), Source(data, "t"), ["x"])
    for offline in (DuckDBOffline(threads=1), PolarsOffline()):
        store = FeatureStore(offline, LMDBOnline(tmp_path / type(offline).__name__))
        written = store.materialize(view, "2023-11-14T22:13:20Z", "2023-11-14T22:13:22Z")
        assert (written.rows, written.written) == (2, 2)
        assert store.materialize(view).written == 1
        assert store.materialize(view).written == 0


def test_the_later_file_wins_where_copies_have_one_time(local):
    data = local.put(rows(["a"], [1.0]))
    for value in (2.0, 3.0):
        local.append(data, rows(["a"], [value]))
    view = FeatureView("v", Entity("e", "k"), Source(data, "t"), ["x"])
    for offline in (DuckDBOffline(threads=1), PolarsOffline()):
        (row,) = (row for batch in offline.compute(view).batches() for row in batch.to_pylist())
        assert row["f0"] == 3.0


def test_mistakes_are_named(tmp_path, kind):
    if kind == "delta":
        with pytest.raises(StoreError, match=r"nothing: cannot be read: TableNotFoundError"):
            DuckDBOffline().columns(Source(Delta(tmp_path / "nothing"), "t"))
        with pytest.raises(ConfigError, match="expected a whole number as version, got 'one'"):
            Delta("table", "one")
        tables = DeltaTables(tmp_path)
        data = tables.put(rows(["a"], [1.0]))
        with pytest.raises(StoreError, match="cannot be read"):
            DuckDBOffline().columns(Source(Delta(data.path, 7), "t"))
    else:
        with pytest.raises(ConfigError, match=r"expected a table as 'namespace\.name', got str 'flights'"):
            Iceberg("default", "flights")
        tables = tables_of("iceberg", "local", tmp_path, None)
        with pytest.raises(
            StoreError, match=r"Iceberg table flights\.none: cannot be read: NoSuchTableError"
        ):
            DuckDBOffline().columns(Source(Iceberg(tables.properties, "flights.none"), "t"))
        data = tables.put(rows(["a"], [1.0]))
        with pytest.raises(StoreError, match="has no snapshot 7"):
            DuckDBOffline().columns(Source(Iceberg(tables.properties, data.table, 7), "t"))


def test_a_delta_version_that_was_vacuumed_is_an_error(tmp_path):
    from deltalake import DeltaTable

    tables = DeltaTables(tmp_path)
    data = tables.put(rows(["a"], [1.0]))
    offline = DuckDBOffline(threads=1)
    pinned = offline.snapshot(Source(data, "t")).pinned
    tables.replace(data, rows(["b"], [2.0]))
    table = DeltaTable(data.path)
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(StoreError, match="at version 0: cannot be read"):
        offline.compute(FeatureView("v", Entity("e", "k"), pinned, ["x"]))
