"""An LMDB environment that grows while others have it open: no reader is lost, and none reads a map that moves."""

import subprocess
import sys
import textwrap
import threading
import time

import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import StoreError
from engine.feature_store import DuckDBOffline, Entity, FeatureStore, FeatureView, LMDBOnline, Source
from engine.feature_store.online import lmdb
from engine.feature_store.online.lmdb import Gate

END = "2013-02-01T00:00:00Z"
SMALL, LARGE = 1 << 18, 1 << 24
WRITER = """
    import sys
    sys.path[:0] = {path!r}
    from tests.unit.feature_store.online.test_lmdb_growth import LARGE, write
    write({folder!r}, LARGE, 20_000, 2.0)
"""


def view(n, value):
    times = pa.array([1_357_000_000 + int(value)] * n, pa.timestamp("s", "UTC"))
    return FeatureView(
        "v", Entity("k"), Source(pa.table({"k": range(n), "t": times, "x": [value] * n}), "t"), ["x"]
    )


def write(folder, map_bytes, n, value):
    store = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(folder, map_bytes=map_bytes))
    return store.materialize(view(n, value), None, END).written


def grow_elsewhere(folder):
    code = textwrap.dedent(WRITER).format(path=[path for path in sys.path if path], folder=str(folder))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=str(folder.parent))


def features_of(store):
    return store.online_features(t.FeatureProgram.fit([t.number("v__x")], {"v__x": [0.0]}), [view(1, 0.0)])


def test_a_reader_follows_a_map_that_another_process_made_larger(tmp_path):
    folder = tmp_path / "online"
    write(folder, SMALL, 10, 1.0)
    store = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(folder, map_bytes=SMALL))
    reader = LMDBOnline(folder, map_bytes=SMALL, read_only=True)
    features = features_of(store)
    assert features.fetch({"k": 3}, 2**62)[0]["v__x"] == 1.0
    grow_elsewhere(folder)
    assert features.fetch({"k": 19_999}, 2**62)[0]["v__x"] == 2.0
    assert features.fetch({"k": 3}, 2**62)[0]["v__x"] == 2.0
    assert (features.stats()["found"], features.stats()["last_error"]) == (3, None)
    assert reader.note("revision") == b"2"
    # And it may write on.
    assert store.materialize(view(10, 3.0), None, END).written == 10


def test_notes_and_writes_follow_it_too(tmp_path):
    folder = tmp_path / "online"
    online = LMDBOnline(folder, map_bytes=SMALL)
    held = online.environment
    assert online.next_revision() == 1
    grow_elsewhere(folder)
    assert online.next_revision() == 3
    grown = held.info()["map_size"]
    assert grown > SMALL
    assert online.note("revision") == b"3"


def test_threads_read_on_while_the_map_grows(tmp_path):
    folder = tmp_path / "online"
    write(folder, SMALL, 10, 1.0)
    features = features_of(FeatureStore(DuckDBOffline(threads=1), LMDBOnline(folder, map_bytes=SMALL)))
    over, wrong = threading.Event(), []

    def read():
        while not over.is_set():
            value = features.fetch({"k": 5}, time.monotonic_ns() + 60 * 10**9)[0]["v__x"]
            if value not in (1.0, 2.0):
                wrong.append(value)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    grow_elsewhere(folder)
    over.set()
    for thread in threads:
        thread.join()
    assert (wrong, features.stats()["last_error"]) == ([], None)
    assert features.fetch({"k": 5}, 2**62)[0]["v__x"] == 2.0


def test_a_store_that_asks_for_more_makes_the_open_environment_grow(tmp_path):
    folder = tmp_path / "online"
    write(folder, SMALL, 10, 1.0)
    held = LMDBOnline(folder, map_bytes=SMALL).environment
    with pytest.raises(
        StoreError, match=f"full: the rows do not fit into map_bytes={SMALL}; open it with more"
    ):
        write(folder, SMALL, 20_000, 2.0)
    assert write(folder, LARGE, 20_000, 2.0) == 20_000
    assert held.info()["map_size"] == LARGE


def test_nothing_grows_while_a_transaction_is_open(tmp_path):
    online = LMDBOnline(tmp_path / "online", map_bytes=SMALL)
    environment = online.environment
    gate = lmdb._gates[environment]
    for enter, leave in ((gate.enter, gate.reading.pop), (gate.enter_writing, gate.leave_writing)):
        enter(0)
        with pytest.raises(TimeoutError, match="another thread still uses it"):
            gate.grow(LARGE, time.monotonic_ns() + 5_000_000)
        assert environment.info()["map_size"] == SMALL
        leave()
    gate.grow(LARGE, time.monotonic_ns() + 10**10)
    assert environment.info()["map_size"] == LARGE
    gate.enter(0)
    gate.reading.pop()


def test_a_closed_gate_is_waited_for_until_the_deadline(tmp_path):
    gate = Gate(LMDBOnline(tmp_path / "online", map_bytes=SMALL).environment, SMALL)
    gate.closed = True
    with pytest.raises(TimeoutError, match="the store grows"):
        gate.enter(time.monotonic_ns() + 2_000_000)
    assert not gate.reading
    threading.Timer(0.01, setattr, (gate, "closed", False)).start()
    gate.enter(2**62)
    assert len(gate.reading) == 1


def test_threads_that_open_and_close_it_in_turn_are_never_refused(tmp_path):
    """The environment closes with its last user, while another thread opens it."""
    online = LMDBOnline(tmp_path / "online")
    errors = []

    def work():
        try:
            for _ in range(150):
                online.note("revision")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
