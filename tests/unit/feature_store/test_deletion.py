"""Rows deleted from the online stores, and the log of it."""

import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import InputError, StoreError
from engine.feature_store import (
    Deleted,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
END = START + timedelta(days=9)
AT = pa.timestamp("us", "UTC")


def table(**columns):
    n = len(next(iter(columns.values())))
    return pa.table({**columns, "at": pa.array([START + timedelta(hours=i) for i in range(n)], AT)})


PLANE = FeatureView(
    "plane", Entity("plane", "tailnum"), Source(table(tailnum=["N1", "N2"], x=[1.0, 2.0]), "at"), ["x"]
)
LEG = FeatureView(
    "leg",
    [Entity("plane", "tailnum"), Entity("airport", "origin")],
    Source(table(tailnum=["N1", "N1", "N2"], origin=["EWR", "N2", "EWR"], x=[1.0, 2.0, 3.0]), "at"),
    ["x"],
)
AIRPORT = FeatureView(
    "airport", Entity("airport", "origin"), Source(table(origin=["EWR"], x=[9.0]), "at"), ["x"]
)
VIEWS = (PLANE, LEG, AIRPORT)


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "lmdb":
        made = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))
    else:
        online = RedisOnline(request.getfixturevalue("redis_url"), namespace=tmp_path.name)
        made = FeatureStore(DuckDBOffline(threads=1), online)
    for view in VIEWS:
        made.materialize(view, START, END)
    return made


def value(store, view, **keys):
    [name] = view.feature_names
    program = t.FeatureProgram.fit([t.number(name)], {name: [1.0]})
    features = store.online_features(program, [view])
    out, missing = features.fetch(keys, time.monotonic_ns() + 10**10)
    stats = features.stats()
    features.close()
    assert (missing == ()) == (stats["found"] == 1)
    assert stats["found"] or stats["not_found"] == 1, "a deleted row is not found, and not of another schema"
    return out[name]


def test_a_deleted_row_is_gone_and_what_is_older_stays_out(store):
    before = time.time_ns()
    entry = store.delete(PLANE, {"tailnum": "N1"}, note="ticket 7")
    assert (entry.views, entry.rows, entry.mark, entry.note) == (("plane",), 1, True, "ticket 7")
    assert before <= entry.at_ns <= time.time_ns()
    assert entry.keys_sha256 == Deleted.digest_of({"tailnum": "N1"})
    assert (value(store, PLANE, tailnum="N1"), value(store, PLANE, tailnum="N2")) == (None, 2.0)
    # The source still has the row.
    assert store.materialize(PLANE, START, END).older == 1
    assert value(store, PLANE, tailnum="N1") is None
    # What happens after the deletion comes.
    now = datetime.now(UTC) + timedelta(minutes=1)
    store.push(PLANE, {"tailnum": "N1", "at": now, "x": 5.0})
    assert value(store, PLANE, tailnum="N1") == 5.0


def test_without_a_mark_the_next_materialisation_brings_the_row_back(store):
    assert store.delete(PLANE, [{"tailnum": "N1"}, {"tailnum": "N7"}], mark=False).rows == 1
    assert value(store, PLANE, tailnum="N1") is None
    assert store.materialize(PLANE, START, END).written == 1
    assert value(store, PLANE, tailnum="N1") == 1.0


def test_an_entity_is_deleted_everywhere(store):
    entry = store.delete_entity({"tailnum": "N1"})
    assert (set(entry.views), entry.rows) == ({"plane", "leg"}, 3)
    assert value(store, PLANE, tailnum="N1") is None
    assert value(store, LEG, tailnum="N1", origin="EWR") is None
    assert value(store, LEG, tailnum="N1", origin="N2") is None
    # The airport N2 is not the plane N2, and other entities stay.
    assert value(store, LEG, tailnum="N2", origin="EWR") == 3.0
    assert value(store, AIRPORT, origin="EWR") == 9.0
    assert store.delete_entity({"tailnum": "N1"}).rows == 0
    assert store.delete_entity({"tailnum": "N2", "origin": "EWR"}).rows == 1


def test_the_log_has_every_deletion_and_no_entity(store):
    assert store.deletions() == []
    made = [store.delete(PLANE, {"tailnum": "N1"}), store.delete_entity({"origin": "EWR"}, note="law")]
    assert store.deletions() == made
    assert store.deletions()[1].rows == 3
    raw = b"".join(store.online.log())
    assert b"N1" not in raw
    assert b"EWR" not in raw


def test_a_row_ahead_of_the_clock_is_deleted_too(store):
    later = datetime.now(UTC) + timedelta(days=2)
    store.push(PLANE, {"tailnum": "N1", "at": later, "x": 5.0})
    assert store.delete(PLANE, {"tailnum": "N1"}).rows == 1
    assert value(store, PLANE, tailnum="N1") is None
    assert store.push(PLANE, {"tailnum": "N1", "at": later, "x": 5.0}).older == 1


def test_mistakes_are_named(store):
    with pytest.raises(InputError, match="no entity key 'tailnum'"):
        store.delete(PLANE, {"plane": "N1"})
    with pytest.raises(InputError, match="expected text, got int 7"):
        store.delete(PLANE, {"tailnum": 7})
    with pytest.raises(InputError, match="entity 1 has a key that is null"):
        store.delete(PLANE, [{"tailnum": "N1"}, {"tailnum": None}])
    with pytest.raises(InputError, match="expected the keys of at least one entity"):
        store.delete(PLANE, [])
    with pytest.raises(StoreError, match=r"no view has the keys carrier; there are: airport \(origin\), leg"):
        store.delete_entity({"carrier": "UA"})
    with pytest.raises(InputError, match="expected the entity's keys by name"):
        store.delete_entity({})
    assert value(store, PLANE, tailnum="N1") == 1.0
    assert store.deletions() == []


def test_a_key_that_is_too_long_to_be_read_back_is_said(store):
    key = "x" * 600
    store.push(LEG, {"tailnum": key, "origin": "EWR", "at": START, "x": 1.0})
    with pytest.raises(StoreError, match="view 'leg': 1 of its rows have keys too long to be read back"):
        store.delete_entity({"tailnum": "N1"})
    assert store.delete(LEG, {"tailnum": key, "origin": "EWR"}).rows == 1
