"""The embedded store full, read-only, damaged and forked: a StoreError that names the cause, and no batch in part."""

import multiprocessing
import os
import time

import lmdb
import pyarrow as pa
import pytest
from tests.fault import store_worker as worker

from engine import transform as t
from engine.errors import StoreError
from engine.feature_store import DuckDBOffline, FeatureStore, LMDBOnline

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


def program():
    spec = [t.number("plane__x").impute(0.0), t.category("plane__s").hash(buckets=8)]
    return t.FeatureProgram.fit(spec, {"plane__x": [1.0], "plane__s": ["a"]})


def within(ms):
    return time.monotonic_ns() + ms * 1_000_000


def in_child(function, *arguments, context=SPAWN):
    """The value that a function sends from a new process, because a process cannot lift its own limits."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


@pytest.mark.slow
def test_a_full_disk_is_named_and_loses_nothing(tmp_path):
    """A limit on file sizes stands for a full disk, because the write fails in the same place."""
    where = str(tmp_path / "online")
    worker.store(where).materialize(worker.view(worker.source()), worker.START, worker.END)
    before = worker.rows(where)
    size = os.path.getsize(tmp_path / "online" / "data.mdb")
    kind, text = in_child(worker.squeezed, where, size + 64 * 1024, None)
    assert kind == "StoreError"
    assert text.startswith(f"{where}: cannot be written: ")
    after = worker.rows(where)
    assert after == before
    made = worker.store(where).materialize(worker.view(worker.source(20_000)), worker.START, worker.END)
    assert made.rows == 20_000
    assert None not in worker.rows(where, 20_000)


def test_a_full_map_is_named_and_loses_nothing(tmp_path):
    where = str(tmp_path / "online")
    small = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(where, map_bytes=1 << 20))
    small.materialize(worker.view(worker.source(500)), worker.START, worker.END)
    before = worker.rows(where, 500)
    with pytest.raises(
        StoreError, match=r"full: the rows do not fit into map_bytes=1048576; open it with more"
    ):
        small.materialize(worker.view(worker.source(20_000)), worker.START, worker.END)
    assert worker.rows(where, 500) == before


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    where = str(tmp_path / "online")
    worker.store(where).materialize(worker.view(worker.source(10)), worker.START, worker.END)
    kind, text = in_child(worker.squeezed, where, None, 65534)
    assert kind == "StoreError"
    assert text.startswith(f"{where}: cannot be opened as an LMDB environment: ")
    kind, text = in_child(worker.squeezed, f"{where}/below/it", None, 65534)
    assert (kind, text) == ("StoreError", f"{where}/below/it: cannot be made: Permission denied")


def test_a_store_opened_read_only_serves_and_refuses_to_be_written(tmp_path):
    where = tmp_path / "online"
    worker.store(str(where)).materialize(worker.view(worker.source(10)), worker.START, worker.END)

    def child(pipe):
        store = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(where, read_only=True))
        features = store.online_features(program(), [worker.view(worker.source(10))])
        fetched = features.fetch({"plane": "N00003"}, within(1000))
        try:
            store.materialize(worker.view(worker.source(10)), worker.START, worker.END)
        except StoreError as error:
            pipe.send((fetched, str(error)))

    (out, missing), text = in_child(child, context=FORK)
    assert (out["plane__x"], missing) == (3.0, ())
    assert "was opened with read_only=True" in text


def test_children_forked_before_the_first_fetch_read_and_write(tmp_path):
    where = str(tmp_path / "online")
    store = worker.store(where)
    store.materialize(worker.view(worker.source(10)), worker.START, worker.END)
    features = store.online_features(program(), [worker.view(worker.source(10))])
    for _ in range(3):
        out, missing = in_child(
            lambda pipe: pipe.send(features.fetch({"plane": "N00002"}, within(1000))), context=FORK
        )
        assert (out["plane__x"], missing) == (2.0, ())
    assert features.fetch({"plane": "N00001"}, within(1000))[1] == ()
    assert store.materialize(worker.view(worker.source(20)), worker.START, worker.END).written == 10


def test_a_child_forked_later_misses_features_and_harms_nobody(tmp_path):
    """LMDB forbids the use of an environment that another process opened, so features are missing."""
    where = str(tmp_path / "online")
    store = worker.store(where)
    store.materialize(worker.view(worker.source(10)), worker.START, worker.END)
    features = store.online_features(program(), [worker.view(worker.source(10))])
    assert features.fetch({"plane": "N00001"}, within(1000))[1] == ()

    def child(pipe):
        pipe.send((features.fetch({"plane": "N00002"}, within(1000)), features.stats()))

    for _ in range(3):
        (_, missing), stats = in_child(child, context=FORK)
        assert missing == ("plane__x", "plane__s")
        assert "forked from one that has fetched" in stats["last_error"]
        assert features.fetch({"plane": "N00001"}, within(1000))[1] == ()


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = worker.store(str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"file: cannot be made: File exists"):
        store.materialize(worker.view(worker.source(10)), worker.START, worker.END)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.mdb").write_bytes(b"not an environment" * 1000)
    with pytest.raises(StoreError, match=r"data: cannot be opened as an LMDB environment"):
        worker.store(str(tmp_path / "data")).materialize(
            worker.view(worker.source(10)), worker.START, worker.END
        )


def test_foreign_bytes_are_refused_named_and_left_alone(tmp_path):
    where = str(tmp_path / "online")
    store = worker.store(where)
    store.materialize(worker.view(worker.source(10)), worker.START, worker.END)
    features = store.online_features(program(), [worker.view(worker.source(10))])
    environment = store.online.environment
    with environment.begin(write=True) as transaction:
        transaction.put(b"plane\x00N00005", b"somebody else's")
    out, missing = features.fetch({"plane": "N00005"}, within(1000))
    assert missing == ("plane__x", "plane__s")
    assert out["plane__x"] is None
    assert features.stats()["foreign"] == 1
    with pytest.raises(StoreError, match=r"key b'plane\\x00N00005' of the online store holds something"):
        store.materialize(worker.view(worker.source(10, hours=1)), worker.START, worker.END)
    with environment.begin() as transaction:
        assert transaction.get(b"plane\x00N00005") == b"somebody else's"
    # No row of the batch with that key was written.
    assert features.fetch({"plane": "N00004"}, within(1000))[0]["plane__s"] == "text of 4 and of 0"


def test_a_store_that_cannot_be_opened_costs_features_not_answers(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = worker.store(str(tmp_path / "file"))
    features = store.online_features(program(), [worker.view(worker.source(10))])
    assert not features.blocking
    assert features.fetch({"plane": "N00005"}, within(1000))[1] == ("plane__x", "plane__s")
    assert features.stats()["store_down"] == 1
    assert "cannot be made" in features.stats()["last_error"]


def test_rows_of_another_version_of_the_view_are_refused(tmp_path):
    store = worker.store(str(tmp_path / "online"))
    table = worker.source(10)
    store.materialize(worker.view(table), worker.START, worker.END)
    features = store.online_features(program(), [worker.view(table)])
    whole = table.set_column(table.column_names.index("x"), "x", table["x"].cast(pa.int64()))
    assert store.materialize(worker.view(whole), worker.START, worker.END).written == 10
    assert features.fetch({"plane": "N00005"}, within(1000))[1] == ("plane__x", "plane__s")
    assert features.stats()["schema"] == 1


def test_two_stores_of_one_process_share_a_folder(tmp_path):
    where = str(tmp_path / "online")
    one, two = worker.store(where), worker.store(where)
    one.materialize(worker.view(worker.source(10)), worker.START, worker.END)
    assert two.materialize(worker.view(worker.source(10)), worker.START, worker.END).same == 10
    # LMDB itself refuses to open the folder twice.
    held = one.online.environment
    assert held is two.online.environment
    with pytest.raises(lmdb.Error):
        lmdb.open(where)
