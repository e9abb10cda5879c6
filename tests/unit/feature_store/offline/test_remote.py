"""Sources with a URL: an S3 server of moto's on the loopback, and fsspec's own memory, which stands for others."""

import gc
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.servers import free_port

from engine.errors import ConfigError, MissingDependencyError, StoreError
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    Source,
)

fsspec = pytest.importorskip("fsspec")
START = datetime(2013, 1, 1, tzinfo=UTC)
END = START + timedelta(days=9)


@pytest.fixture(scope="module")
def s3():
    """A bucket's URL and the options of its driver."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "k", "secret": "s", "client_kwargs": {"region_name": "us-east-1"},
        "endpoint_url": f"http://{host}:{port}",
    }  # fmt: skip
    fsspec.filesystem("s3", **options).call_s3("create_bucket", Bucket="rows")
    yield "s3://rows", options
    # Sessions that the garbage collector closes later would log in the middle of other tests.
    for each in list(type(fsspec.filesystem("s3", **options))._cache.values()):
        if each._s3 is not None:
            each.close_session(each.loop, each._s3)
    type(fsspec.filesystem("s3", **options)).clear_instance_cache()
    gc.collect()
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def place(request):
    """The URL of a folder that nothing else uses, and the driver's options."""
    name = f"t{time.monotonic_ns()}"
    if request.param == "memory":
        return f"memory://{name}", {}
    url, options = request.getfixturevalue("s3")
    return f"{url}/{name}", options


def write(place, name, hour, *values):
    url, options = place
    at = [START + timedelta(hours=hour + i) for i in range(len(values))]
    table = pa.table({"k": ["a"] * len(values), "t": pa.array(at, pa.timestamp("us", "UTC")), "x": values})
    with fsspec.filesystem(url.split(":")[0], **options).open(f"{url}/{name}", "wb") as opened:
        pq.write_table(table, opened)


def view(place, path="", **options):
    source = Source(f"{place[0]}{path}", "t", storage_options=place[1])
    return FeatureView("v", Entity("k"), source, ["x"], **options)


def store(tmp_path):
    return FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))


def newest(made, view):
    labels = pa.table({"k": ["a"], "at": [END]})
    table = made.get_training_features(DatasetConfig(Source(labels, "at"), [view]))
    return [table[name].to_pylist()[0] for name in view.feature_names]


@pytest.mark.parametrize("path", ["", "/", "/*/*.parquet", "/day=*/*"])
def test_folders_and_patterns(place, path, tmp_path):
    write(place, "day=1/a.parquet", 0, 1.0)
    write(place, "day=2/b.parquet", 1, 2.0, 4.0)
    source = Source(f"{place[0]}{path}", "t", storage_options=place[1])
    made = FeatureView("v", Entity("k"), source, ["x", "day"], [Aggregate("sum", "x", "7d")])
    assert newest(store(tmp_path), made) == [4.0, 2, 7.0]


def test_a_file_is_materialised_and_a_change_is_seen(place, tmp_path):
    made, named = store(tmp_path), view(place, "/a.parquet")
    write(place, "a.parquet", 0, 1.0)
    assert made.materialize(named, START, END).written == 1
    assert made.materialize(named, START, END).same == 1
    before = made.offline.snapshot(named.source).digest
    assert made.offline.snapshot(named.source).digest == before
    write(place, "a.parquet", 0, 5.0)
    assert made.offline.snapshot(named.source).digest != before
    assert made.materialize(named, START, END).written == 1
    assert newest(made, named) == [5.0]


def test_labels_lie_there_too(place, tmp_path):
    write(place, "labels/l.parquet", 5, 1.0, 2.0)
    write(place, "rows/r.parquet", 0, 7.0)
    labels = Source(f"{place[0]}/labels", "t", storage_options=place[1])
    rows = FeatureView("v", Entity("k"), view(place, "/rows").source, ["x"])
    table = store(tmp_path).get_training_features(DatasetConfig(labels, [rows]))
    assert table["v__x"].to_pylist() == [7.0, 7.0]
    assert table["x"].to_pylist() == [1.0, 2.0]


def test_hidden_files_and_those_in_the_making_are_left_out(place, tmp_path):
    write(place, "a.parquet", 0, 1.0)
    write(place, "_temporary/b.parquet", 1, 2.0)
    write(place, ".c.parquet", 2, 3.0)
    assert newest(store(tmp_path), view(place)) == [1.0]


def test_what_is_not_there_is_named(place, tmp_path):
    with pytest.raises(StoreError, match=f"{place[0]}/none: no such Parquet file"):
        newest(store(tmp_path), view(place, "/none"))
    url, options = place
    with fsspec.filesystem(url.split(":")[0], **options).open(f"{url}/b.parquet", "wb") as opened:
        opened.write(b"no Parquet")
    with pytest.raises(StoreError, match=r"b\.parquet: cannot be read"):
        newest(store(tmp_path), view(place, "/b.parquet"))


def test_a_server_that_is_not_there_is_a_store_error(s3, tmp_path):
    options = {
        **s3[1],
        "endpoint_url": f"http://127.0.0.1:{free_port()}",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(StoreError, match=r"s3://rows/a\.parquet: cannot be read"):
        newest(store(tmp_path), view(("s3://rows", options), "/a.parquet"))


def test_protocols_without_a_driver_are_named(tmp_path):
    with pytest.raises((MissingDependencyError, StoreError), match="nowhere://x"):
        newest(store(tmp_path), view(("nowhere://x", {})))


def test_one_store_reads_a_protocol_with_one_set_of_options(tmp_path):
    place = (f"memory://t{time.monotonic_ns()}", {})
    write(place, "a.parquet", 0, 1.0)
    made = store(tmp_path)
    assert newest(made, view(place)) == [1.0]
    other = Source(place[0], "t", storage_options={"skip_instance_cache": True})
    with pytest.raises(
        ConfigError, match="another source of this store reads memory:// with other storage_options"
    ):
        newest(made, FeatureView("v", Entity("k"), other, ["x"]))


def test_a_file_url_is_a_path(tmp_path):
    table = pa.table({"k": ["a"], "t": pa.array([START], pa.timestamp("us", "UTC")), "x": [3.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = Source(f"file://{tmp_path}/a.parquet", "t")
    assert newest(store(tmp_path), FeatureView("v", Entity("k"), source, ["x"])) == [3.0]
