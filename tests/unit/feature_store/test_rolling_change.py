"""A column is added to a view while services of the old and of the new definition run side by side, on both stores."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import StoreError
from engine.feature_store import (
    Aggregate,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)
from engine.feature_store.online import features as features_module

START = datetime(2013, 1, 1, tzinfo=UTC)
TYPES = {"k": pa.string(), "t": pa.timestamp("us", "UTC"), "a": pa.float64(), "b": pa.float64()}


def view(hour, columns, values=(1.0, 2.0), **options):
    rows = {
        "k": ["e", "f"],
        "t": [START + timedelta(hours=hour)] * 2,
        "a": [values[0]] * 2,
        "b": [values[1]] * 2,
    }
    table = pa.table({name: pa.array(rows[name], TYPES[name]) for name in rows})
    return FeatureView("v", Entity("k"), Source(table, "t"), columns, **options)


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "lmdb":
        return FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))
    online = RedisOnline(request.getfixturevalue("redis_url"), namespace=tmp_path.name)
    return FeatureStore(DuckDBOffline(threads=1), online)


def service(store, made):
    names = made.feature_names
    program = t.FeatureProgram.fit([t.number(name) for name in names], {name: [1.0] for name in names})
    return store.online_features(program, [made], now_ns=lambda: int(START.timestamp() + 86400) * 10**9)


def fetch(features, key="e"):
    out, missing = features.fetch({"k": key}, time.monotonic_ns() + 10**10)
    return [out[name] for name in features.names], missing


def fetch_async(features, key="e"):
    out, missing = asyncio.run(features.fetch_async({"k": key}, time.monotonic_ns() + 10**10))
    return [out[name] for name in features.names], missing


@pytest.mark.parametrize("get", [fetch, fetch_async])
def test_old_and_new_services_run_side_by_side(store, get, monkeypatch):
    old, new = view(1, ["a"], (1.0, 2.0)), view(2, ["b", "a"], (10.0, 20.0))
    end = START + timedelta(days=1)
    store.materialize(old, None, end)
    before = service(store, old)
    after = service(store, new)
    assert get(before) == ([1.0], ())
    # The new service reads the rows that the old definition left, without the column that they lack.
    assert get(after) == ([None, 1.0], ("v__b",))
    assert after.stats()["found"] == 1
    store.materialize(new, None, end)
    # The old service was started before the view changed: it learns the schema by the row that it meets.
    assert get(before) == ([10.0], ())
    assert get(after) == ([20.0, 10.0], ())
    assert (before.stats()["found"], before.stats()["schema"]) == (2, 0)
    # One that is started again does not need the source, nor that its own definition was the last.
    monkeypatch.setattr(store.offline, "columns", None)
    again = service(store, old)
    assert get(again) == ([10.0], ())
    assert again.stats()["schema"] == 0
    for each in (before, after, again):
        each.close()


def test_both_definitions_may_be_materialised_in_turn(store):
    end = START + timedelta(days=1)
    store.materialize(view(1, ["a"]), None, end)
    store.materialize(view(2, ["a", "b"], (10.0, 20.0)), None, end)
    assert store.materialize(view(3, ["a"], (100.0, 200.0)), None, end).written == 2
    new = service(store, view(3, ["a", "b"]))
    assert fetch(new) == ([100.0, None], ("v__b",))
    assert store.materialize(view(3, ["a", "b"], (100.0, 200.0)), None, end).written == 2
    assert fetch(new) == ([100.0, 200.0], ())
    new.close()


def test_a_feature_that_the_request_brings_is_not_missing(store):
    store.materialize(view(1, ["a"]), None, START + timedelta(days=1))
    new = service(store, view(1, ["a", "b"]))
    out, missing = new.fetch({"k": "e", "v__b": 7.0, "v__a": 8.0}, time.monotonic_ns() + 10**10)
    assert ((out["v__a"], out["v__b"]), missing) == ((8.0, 7.0), ())
    new.close()


def test_another_window_under_the_same_name_is_missing_and_never_mistaken(store):
    end = START + timedelta(days=1)
    hour, day = timedelta(hours=1), timedelta(days=1)
    store.materialize(view(1, ["a"], aggregates=[Aggregate("sum", "b", "24h")]), None, end)
    same = service(
        store, view(1, ["a"], aggregates=[Aggregate("sum", "b", "24h"), Aggregate("sum", "b", hour)])
    )
    assert fetch(same) == ([1.0, 2.0, None], ("v__b_sum_3600s",))
    # A column of the source may be called as the aggregate is.
    other = pa.table(
        {**{n: view(1, ["a"]).source.data[n] for n in "kt"}, "a": [1.0] * 2, "b_sum_24h": [5.0] * 2}
    )
    plain = FeatureView("v", Entity("k"), Source(other, "t"), ["a", "b_sum_24h"])
    aggregated = service(store, view(1, ["a"], aggregates=[Aggregate("sum", "b", "24h")]))
    store.materialize(plain, None, end)
    assert fetch(aggregated) == ([None, None], ("v__a", "v__b_sum_24h"))
    assert day > hour
    same.close()
    aggregated.close()


def test_schemas_that_nobody_knows_are_asked_for_once_a_second(store, monkeypatch):
    end = START + timedelta(days=1)
    store.materialize(view(1, ["a"]), None, end)
    old = service(store, view(1, ["a"]))
    other = FeatureView("v", Entity("k"), view(1, ["b"]).source, ["b"])
    store.materialize(other, None, end)
    for name in ("schema:v", "schemas:v"):
        store.online.write((), None, {name: None})
    assert fetch(old) == ([None], ("v__a",))
    reads = []
    read = old._wire.read
    monkeypatch.setattr(old._wire, "read", lambda keys, deadline: reads.append(keys) or read(keys, deadline))
    assert fetch(old) == ([None], ("v__a",))
    assert len(reads) == 1
    monkeypatch.setattr(features_module, "LOOK_AGAIN_NS", 0)
    assert fetch(old) == ([None], ("v__a",))
    assert len(reads) == 3
    assert old.stats()["schema"] == 3
    old.close()


def test_a_definition_that_no_row_has_is_known_from_the_source_alone(store, monkeypatch):
    store.materialize(view(1, ["a"]), None, START + timedelta(days=1))
    monkeypatch.setattr(store.offline, "columns", DuckDBOffline(folder="/nonexistent").columns)
    made = FeatureView("v", Entity("k"), Source("none.parquet", "t"), ["a", "b"])
    with pytest.raises(StoreError, match="not materialised there as it is defined now"):
        service(store, made)
