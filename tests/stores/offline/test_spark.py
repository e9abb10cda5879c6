"""SparkOffline on a real Spark of this machine: the conformance suite on tables in memory, DataFrames, Spark's tables
and Parquet files, random definitions, the training frame, and executors that write to the online store."""

import itertools
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError, StoreError
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
    SparkOffline,
)
from engine.feature_store.testing.offline import CHECKS, START_NS, StoreUnderTest, check_random, times

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))
SEEDS = 300 if NIGHTLY else 3
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        # A zone that is not UTC must change nothing.
        .config("spark.sql.session.timeZone", "America/New_York")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def offline(spark):
    return SparkOffline(spark)


class Kinds:
    """Where a table may lie: in memory, in a DataFrame, in a table of Spark's catalogue, in Parquet files."""

    def __init__(self, spark, folder):
        self.spark, self.folder, self.counter = spark, folder, itertools.count()

    def put_dataframe(self, table):
        return self.spark.createDataFrame(table)

    def put_table(self, table):
        name = f"source{next(self.counter)}"
        self.replace_table(name, table)
        return name

    def replace_table(self, name, table):
        self.spark.createDataFrame(table).createOrReplaceTempView(name)

    def put_files(self, table):
        place = self.folder / f"files{next(self.counter)}"
        place.mkdir()
        self.replace_files(str(place), table)
        return str(place)

    def replace_files(self, place, table):
        half = len(table) // 2
        pq.write_table(table.slice(0, half), f"{place}/1.parquet", row_group_size=3)
        pq.write_table(table.slice(half), f"{place}/2.parquet", row_group_size=3)


@pytest.fixture
def under(request, spark, offline, tmp_path):
    kinds = Kinds(spark, tmp_path)
    # Spark's own tables have microseconds, and no unsigned numbers.
    own = {"unit": "us", "ordered": False, "key_kinds": ("int", "text", "bytes")}
    return {
        "memory": lambda: StoreUnderTest(offline),
        "dataframe": lambda: StoreUnderTest(offline, put=kinds.put_dataframe, **own),
        "table": lambda: StoreUnderTest(offline, put=kinds.put_table, replace=kinds.replace_table, **own),
        "files": lambda: StoreUnderTest(offline, put=kinds.put_files, replace=kinds.replace_files),
    }[request.param]()


# The kinds of sources differ in reading alone, so each check runs on two of them.
@pytest.mark.parametrize("under", ["dataframe", "files"], indirect=True)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_spark_keeps_the_promise(under, check):
    check(under)


@pytest.mark.parametrize("under", ["memory", "dataframe", "table", "files"], indirect=True)
def test_random_definitions_give_the_rows_of_the_plain_loops(under, seed):
    for place in range(SEEDS):
        check_random(under, seed + place)


def views(offline_data):
    rows = pa.table(
        {
            "k": ["a", "b", "a", "b", "a"],
            "t": times([START_NS + n * 1_000_000_000 for n in (0, 10, 20, 30, 40)]),
            "x": [0.1, None, 0.2, 4.0, 0.3],
        }
    )
    source = Source(offline_data(rows), "t")
    plain = FeatureView("plain", Entity("e", "k"), source, ["x"], ttl="15s")
    summed = FeatureView("summed", Entity("e", "k"), source, ["x"], [Aggregate("sum", "x", "30s")])
    late = FeatureView(
        "late", Entity("e", "k"), source, (), [Aggregate("count", "x", "15s")], as_of="request"
    )
    return [plain, summed, late]


def test_the_training_frame_has_the_rows_of_the_training_table(spark, offline, tmp_path):
    from pyspark.sql import DataFrame

    made = views(lambda table: spark.createDataFrame(table))
    labels = pa.table(
        {
            "i": pa.array(range(6), pa.int64()),
            "k": ["a", "b", "a", "c", None, "b"],
            "at": times([START_NS + n * 1_000_000_000 for n in (40, 30, 39, 40, 40, 5)]),
            "y": [1, 0, 1, 0, 1, 0],
        }
    )
    config = DatasetConfig(Source(labels, "at"), made, label="y", reasons=True)
    frame = offline.training_frame(config)
    assert isinstance(frame, DataFrame)
    store = FeatureStore(offline, LMDBOnline(tmp_path))
    table = store.get_training_features(config)
    assert frame.columns == table.column_names
    found = frame.toArrow().sort_by("i")
    assert found.to_pylist() == table.to_pylist()
    assert table["summed__x_sum_30s"].to_pylist() == [0.5, 4.0, 0.30000000000000004, None, None, None]
    assert table["plain__reason"].to_pylist() == [
        "found", "found", "expired", "unknown_entity", "null_key", "not_yet",
    ]  # fmt: skip
    duckdb = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path))
    same = DatasetConfig(Source(labels, "at"), views(lambda rows: rows), label="y", reasons=True)
    assert duckdb.get_training_features(same).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_executors_write_and_nothing_older_overwrites(spark, offline, kind, tmp_path, request):
    online = (
        LMDBOnline(tmp_path / "online")
        if kind == "lmdb"
        else RedisOnline(request.getfixturevalue("redis_url"), namespace="spark")
    )
    made = views(lambda table: spark.createDataFrame(table))
    store = FeatureStore(offline, online)
    begin = EPOCH + timedelta(seconds=START_NS // 10**9)
    for view in made:
        seen = []
        first = store.materialize(
            view, begin, begin + timedelta(seconds=35), progress=lambda *at, seen=seen: seen.append(at)
        )
        assert (first.rows, first.written, first.older) == (2, 2, 0)
        assert seen[-1] == (2, 2)
        again = store.materialize(view, begin, begin + timedelta(seconds=35))
        assert (again.rows, again.written, again.same) == (2, 0, 2)
        later = store.materialize(view, begin, begin + timedelta(seconds=60))
        assert (later.written, later.same) == (1, 1)
        # An older range replaces nothing newer.
        older = store.materialize(view, begin, begin + timedelta(seconds=5))
        assert (older.rows, older.written, older.older) == (1, 0, 1)
    # The rows are those that DuckDB would have written.
    other = LMDBOnline(tmp_path / "other")
    from engine import transform as t

    names = [name for view in made for name in view.feature_names]
    program = t.FeatureProgram.fit([t.number(name) for name in names], {name: [0.0] for name in names})
    duckdb = FeatureStore(DuckDBOffline(threads=1), other)
    same = views(lambda rows: rows)
    for view in same:
        duckdb.materialize(view, begin, begin + timedelta(seconds=60))
    clock = START_NS + 41 * 10**9
    fetched = []
    for each, of_views in ((store, made), (duckdb, same)):
        features = each.online_features(program, of_views, now_ns=lambda: clock)
        fetched.append(features.fetch_many([{"k": "a"}, {"k": "b"}, {"k": "c"}], 2**62))
        features.close()
    assert repr(fetched[0]) == repr(fetched[1])
    assert fetched[0][0][0]["summed__x_sum_30s"] == 0.5


def test_rows_that_executors_cannot_write_come_through_the_driver(spark, offline, tmp_path):
    class Odd(LMDBOnline):
        """An online store that cannot be opened in another process, as its class is local."""

    view = views(lambda table: spark.createDataFrame(table))[1]
    features = offline.compute(view)
    assert features.write(Odd(tmp_path), None, 1) is None
    written = FeatureStore(offline, Odd(tmp_path)).materialize(view)
    assert (written.rows, written.written) == (2, 2)


def test_a_late_event_changes_what_is_online(spark, offline, tmp_path):
    rows = pa.table(
        {"k": ["a", "a"], "t": times([START_NS, START_NS + 10**10]), "x": [1.0, 2.0], "id": [1, 2]}
    )
    store = FeatureStore(offline, LMDBOnline(tmp_path))
    begin = EPOCH + timedelta(seconds=START_NS // 10**9)

    def view(table):
        return FeatureView(
            "v", Entity("e", "k"), Source(spark.createDataFrame(table), "t", event_id="id"), (),
            [Aggregate("sum", "x", "1h")],
        )  # fmt: skip

    store.materialize(view(rows), begin, begin + timedelta(minutes=1))
    late = pa.table({"k": ["a"], "t": times([START_NS + 10**9]), "x": [4.0], "id": [3]})
    grown = pa.concat_tables([rows, late])
    written = store.materialize(view(grown), begin, begin + timedelta(seconds=5))
    assert (written.written, written.older) == (1, 0)


def test_many_entities_come_in_whole_chunks(spark, offline, monkeypatch):
    from engine.feature_store.offline import spark_executor

    n = 5_000
    rows = pa.table(
        {
            "k": pa.array([i % 700 for i in range(n)], pa.int64()),
            "t": times([START_NS + i * 10**9 for i in range(n)]),
            "x": [float(i % 13) for i in range(n)],
        }
    )
    batches = rows.sort_by("k").to_batches(max_chunksize=64)
    monkeypatch.setattr(spark_executor, "CHUNK_ROWS", 100)
    chunks = list(spark_executor.whole_entities(batches, ["k"]))
    assert len(chunks) > 10
    assert sum(map(len, chunks)) == n
    keys = [set(chunk["k"].to_pylist()) for chunk in chunks]
    assert sum(map(len, keys)) == 700, "an entity lies in two chunks"
    view = FeatureView(
        "v", Entity("e", "k"), Source(spark.createDataFrame(rows), "t"), (), [Aggregate("sum", "x", "2h")]
    )
    memory = FeatureView("v", Entity("e", "k"), Source(rows, "t"), (), [Aggregate("sum", "x", "2h")])
    found, wanted = (
        store.compute(each).table.sort_by("k")
        for store, each in ((offline, view), (DuckDBOffline(threads=1), memory))
    )
    assert found.equals(wanted)


def test_mistakes_of_spark_are_the_packages_errors(offline, spark):
    with pytest.raises(StoreError, match="no_such_table: Spark's catalogue has no such table"):
        offline.columns(Source("no_such_table", "t"))
    naive = spark.sql("SELECT 'a' AS k, TIMESTAMP_NTZ'2024-01-01 00:00:00' AS t, 1.0D AS x")
    view = FeatureView("v", Entity("e", "k"), Source(naive, "t"), ["x"])
    with pytest.raises(InputError, match="without a time zone"):
        offline.compute(view)
    declared = FeatureView("v", Entity("e", "k"), Source(naive, "t", naive="utc"), ["x"])
    (row,) = (row for batch in offline.compute(declared).batches() for row in batch.to_pylist())
    assert row == {"k0": "a", "t": 1_704_067_200_000_000_000, "c": None, "f0": 1.0}


def test_a_session_of_its_own_runs_this_python():
    """In a new process, as a user would start: workers must run this Python, and not the first of the path."""
    code = (
        "import sys, pyarrow as pa\n"
        "from datetime import datetime, timezone\n"
        "from engine.feature_store import *\n"
        "at = [datetime(2024, 1, 1, tzinfo=timezone.utc)]\n"
        "table = pa.table({'k': ['a'], 't': at, 'x': [2.0]})\n"
        "view = FeatureView('v', Entity('e', 'k'), Source(table, 't'), (), [Aggregate('sum', 'x', '1h')])\n"
        "print(SparkOffline().compute(view).table.to_pylist()[0]['v__x_sum_1h'])\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK_", "SPARK_"))
    }
    environment["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2.0"]
