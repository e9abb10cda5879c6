"""Requests with online features on the embedded store: merged, missing and refused, against literal values."""

import asyncio
import time
from collections import ChainMap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import ConfigError, InputError, StoreError
from engine.feature_store import (
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
NOW = START + timedelta(hours=10)
FOREVER = 2**62


def stamps(*hours):
    return pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us", "UTC"))


WEATHER = pa.table(
    {
        "origin": ["EWR", "LGA", "JFK"],
        "t": stamps(8, 1, 12),
        "temp": [1.5, 2.5, 3.5],
        "sky": ["fog", "sun", None],
    }
)
PLANES = pa.table({"tail": [5, 6], "t": stamps(0, 0), "seats": [100, None], "built": stamps(-5, -6)})


def views(ttl="3h"):
    return [
        FeatureView("weather", Entity("origin"), Source(WEATHER, "t"), ["temp", "sky"], ttl=ttl),
        FeatureView("plane", Entity("plane", keys="tail"), Source(PLANES, "t"), ["seats", "built"]),
    ]


SPEC = [
    t.number("weather__temp").impute(-1.0),
    t.category("weather__sky").hash(buckets=8, missing=-1.0),
    t.number("plane__seats").impute(-2.0),
    t.number("hour"),
]
FITTED = {
    "weather__temp": [1.0],
    "weather__sky": ["sun"],
    "plane__seats": [1.0],
    "hour": [1.0],
}


def program(missing="impute"):
    return t.FeatureProgram.fit(SPEC, FITTED, missing=missing)


@pytest.fixture
def store(tmp_path):
    made = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))
    for view in views():
        made.materialize(view, None, START + timedelta(days=1))
    return made


@pytest.fixture
def features(store):
    return store.online_features(program(), views(), now_ns=lambda: int(NOW.timestamp()) * 10**9)


def test_a_request_gets_its_features_and_keeps_its_own(features):
    request = {"origin": "EWR", "tail": 5, "hour": 7.0, "other": "kept"}
    out, missing = features.fetch(request, FOREVER)
    assert out == {**request, "weather__temp": 1.5, "weather__sky": "fog", "plane__seats": 100}
    assert missing == ()
    assert request == {"origin": "EWR", "tail": 5, "hour": 7.0, "other": "kept"}
    assert features.program.row(out)[[0, 2, 3]].tolist() == [1.5, 100.0, 7.0]
    assert features.names == ("weather__temp", "weather__sky", "plane__seats")
    assert features.capsule is features.program.capsule
    assert features.blocking is False


def test_a_feature_that_the_request_brings_wins(features):
    out, missing = features.fetch({"origin": "EWR", "tail": 5, "weather__temp": 9.0}, FOREVER)
    assert (out["weather__temp"], out["weather__sky"], missing) == (9.0, "fog", ())
    out, missing = features.fetch({"origin": "nowhere", "tail": 5, "weather__temp": None}, FOREVER)
    assert (out["weather__temp"], out["weather__sky"], missing) == (None, None, ("weather__sky",))
    # A request that brings all features of a view needs no key for it.
    out, missing = features.fetch({"weather__temp": 1, "weather__sky": "x", "tail": 5}, FOREVER)
    assert (out["weather__temp"], missing) == (1, ())


def test_a_missing_feature_is_named_counted_and_none(features):
    # LGA's row is nine hours old. A stored null is a value. A missing key is an unknown entity.
    out, missing = features.fetch({"origin": "LGA", "tail": 6}, FOREVER)
    assert (out["weather__temp"], out["plane__seats"]) == (None, None)
    assert missing == ("weather__temp", "weather__sky")
    out, missing = features.fetch({"origin": None, "tail": float("nan")}, FOREVER)
    assert missing == ("weather__temp", "weather__sky", "plane__seats")
    assert features.fetch({"origin": "SFO", "tail": pd.NA}, FOREVER)[1] == missing
    stats = features.stats()
    assert {name: count for name, count in stats.items() if count} == {
        "found": 1,
        "expired": 1,
        "not_found": 1,
        "null_key": 3,
    }
    # A program that refuses absent keys takes a None.
    assert program(missing="error").row({**out, "hour": 1.0})[0] == -1.0


def test_a_row_ahead_of_the_clock_is_served(features):
    """A reader whose clock is behind must not lose the freshest rows."""
    out, missing = features.fetch({"origin": "JFK", "tail": 5}, FOREVER)
    assert (out["weather__temp"], missing) == (3.5, ())


def test_a_row_as_old_as_its_ttl_holds(store):
    clock = [int(START.timestamp() + 11 * 3600) * 10**9]
    features = store.online_features(program(), views(), now_ns=lambda: clock[0])
    assert features.fetch({"origin": "EWR", "tail": 5}, FOREVER)[1] == ()
    clock[0] += 1
    assert features.fetch({"origin": "EWR", "tail": 5}, FOREVER)[1] == ("weather__temp", "weather__sky")


def test_many_requests_are_one_round_trip(features):
    many = features.fetch_many([{"origin": "EWR", "tail": 5}, {"origin": "SFO", "tail": 6}], FOREVER)
    assert [(out["weather__temp"], out["plane__seats"], missing) for out, missing in many] == [
        (1.5, 100, ()),
        (None, None, ("weather__temp", "weather__sky")),
    ]
    assert features.fetch_many([], FOREVER) == []


def test_any_mapping_and_any_whole_number_will_do(features):
    for tail in (5, np.int32(5), np.uint64(5), 5.0):
        out, _ = features.fetch(ChainMap({"origin": "EWR"}, {"tail": tail}), FOREVER)
        assert out["plane__seats"] == 100
    out, missing = asyncio.run(features.fetch_async({"origin": "EWR", "tail": 5}, FOREVER))
    assert (out["weather__temp"], missing) == (1.5, ())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"tail": 5},
            "the request has no entity key 'origin', which features weather__temp, weather__sky are looked",
        ),
        ({"origin": 7, "tail": 5}, "entity key 'origin': expected text, got int 7"),
        ({"origin": b"EWR", "tail": 5}, "entity key 'origin': expected text, got bytes"),
        ({"origin": "\ud800", "tail": 5}, "entity key 'origin': expected text that UTF-8 can encode"),
        ({"origin": "EWR", "tail": "5"}, "entity key 'tail': expected a whole number, got str '5'"),
        ({"origin": "EWR", "tail": 5.5}, "entity key 'tail': expected a whole number, got float 5.5"),
        ({"origin": "EWR", "tail": True}, "entity key 'tail': expected a whole number, got bool True"),
        ({"origin": "EWR", "tail": [5]}, "entity key 'tail': expected a whole number, got list"),
        ([1, 2], "with online features a request is a mapping, got list"),
    ],
)
def test_mistakes_of_the_caller_raise(features, request_, message):
    with pytest.raises(InputError, match=message):
        features.fetch(request_, FOREVER)
    with pytest.raises(InputError, match=message):
        features.fetch_many([{"origin": "EWR", "tail": 5}, request_], FOREVER)
    with pytest.raises(InputError, match=message):
        asyncio.run(features.fetch_async(request_, FOREVER))


def test_views_and_programs_that_do_not_fit_are_refused(store):
    with pytest.raises(
        ConfigError, match="the program reads no feature of view 'plane', which has: plane__seats"
    ):
        store.online_features(t.FeatureProgram.fit(SPEC[:1], FITTED), views())
    wrong = t.FeatureProgram.fit([t.category("weather__temp").ordinal()], {"weather__temp": ["a"]})
    with pytest.raises(
        ConfigError, match=r"input 'weather__temp' of the program is a category, view .* has float"
    ):
        store.online_features(wrong, views()[:1])


def test_a_serving_machine_needs_no_source_files(store, tmp_path):
    """The types are kept beside the rows. Without them and without a source, the error says what is missing."""
    elsewhere = [
        FeatureView(v.name, v.entities, Source("gone.parquet", "t"), v.columns, ttl=v.ttl) for v in views()
    ]
    features = store.online_features(program(), elsewhere, now_ns=lambda: int(NOW.timestamp()) * 10**9)
    assert features.fetch({"origin": "EWR", "tail": 5}, FOREVER)[1] == ()
    empty = FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "empty"))
    with pytest.raises(
        StoreError, match=r"view 'weather': its types are neither in the online store \(not material"
    ):
        empty.online_features(program(), elsewhere)


def test_times_come_back_as_datetimes(store):
    program = t.FeatureProgram.fit(
        [t.timestamp("plane__built", zone="UTC").part("hour")], {"plane__built": [START]}
    )
    features = store.online_features(program, views()[1:])
    out, _ = features.fetch({"tail": 5}, time.monotonic_ns() + 10**9)
    assert out["plane__built"] == START - timedelta(hours=5)
    assert features.program.row(out).tolist() == [19.0]


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_threads_and_tasks_get_their_own_answers(kind, tmp_path, request):
    n = 200
    table = pa.table(
        {"k": [f"k{i}" for i in range(n)], "t": stamps(*[1] * n), "x": [float(i) for i in range(n)]}
    )
    view = FeatureView("v", Entity("k"), Source(table, "t"), ["x"])
    online = (
        LMDBOnline(tmp_path / "o") if kind == "lmdb" else RedisOnline(request.getfixturevalue("redis_url"))
    )
    store = FeatureStore(DuckDBOffline(threads=1), online)
    store.materialize(view, None, START + timedelta(days=1))
    features = store.online_features(t.FeatureProgram.fit([t.number("v__x")], {"v__x": [1.0]}), [view])

    def own(number):
        return all(features.fetch({"k": f"k{i}"}, FOREVER)[0]["v__x"] == i for i in range(number, n, 8))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own, range(8)))

    async def together():
        rows = [features.fetch_async({"k": f"k{i}"}, time.monotonic_ns() + 60 * 10**9) for i in range(n)]
        found = [out["v__x"] for out, _ in await asyncio.gather(*rows)]
        features.close()
        await asyncio.sleep(0)
        return found

    assert asyncio.run(together()) == [float(i) for i in range(n)]
