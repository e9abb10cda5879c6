"""Rows pushed into the online stores: nothing older overwrites, and every mistake is named with its column and row."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import ConfigError, InputError, InputTypeError, StoreError
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

START = datetime(2013, 1, 1, tzinfo=UTC)
EMPTY = pa.schema(
    [("plane", pa.string()), ("at", pa.timestamp("us", "UTC")), ("delay", pa.float64()), ("seats", pa.int64()),
     ("name", pa.string()), ("seen", pa.timestamp("us", "UTC")), ("made", pa.timestamp("us", "UTC")),
     ("late", pa.bool_()), ("route", pa.list_(pa.float64()))]
).empty_table()  # fmt: skip
COLUMNS = ["delay", "seats", "name", "seen", "late", "route"]


def hour(n):
    return START + timedelta(hours=n)


def view(columns=("delay",), **options):
    created = options.pop("created", None)
    return FeatureView("plane", Entity("plane"), Source(EMPTY, "at", created), columns, **options)


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "lmdb":
        return FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))
    online = RedisOnline(request.getfixturevalue("redis_url"), namespace=tmp_path.name)
    return FeatureStore(DuckDBOffline(threads=1), online)


def fetched(store, made, key="N1"):
    names = made.feature_names
    program = t.FeatureProgram.fit([t.number(names[0])], {names[0]: [1.0]})
    features = store.online_features(program, [made], now_ns=lambda: int(hour(100).timestamp()) * 10**9)
    out, missing = features.fetch({"plane": key}, time.monotonic_ns() + 10**10)
    features.close()
    return None if missing else out[names[0]]


def test_nothing_older_overwrites(store):
    made = view()
    first = store.push(made, {"plane": "N1", "at": hour(2), "delay": 2.0})
    assert (first.rows, first.written, first.same, first.older) == (1, 1, 0, 0)
    rows = [{"plane": "N1", "at": hour(1), "delay": 1.0}, {"plane": "N2", "at": hour(1), "delay": 7.0}]
    again = store.push(made, rows)
    assert (again.rows, again.written, again.same, again.older) == (2, 1, 0, 1)
    assert (fetched(store, made), fetched(store, made, "N2")) == (2.0, 7.0)
    assert store.push(made, rows[1:]).same == 1
    # A correction of the same instant counts, because it was written later.
    assert store.push(made, {"plane": "N1", "at": hour(2), "delay": 3.0}).written == 1
    assert fetched(store, made) == 3.0


def test_of_several_rows_of_one_entity_the_newest_is_kept(store):
    made = view()
    rows = [{"plane": "N1", "at": hour(n), "delay": float(n)} for n in (3, 9, 5)]
    assert store.push(made, rows).written == 2
    assert fetched(store, made) == 9.0


def test_a_created_time_decides_between_rows_of_one_instant(store):
    made = view(created="made")
    store.push(made, {"plane": "N1", "at": hour(1), "made": hour(5), "delay": 5.0})
    store.push(made, {"plane": "N1", "at": hour(1), "made": hour(4), "delay": 4.0})
    store.push(made, {"plane": "N1", "at": hour(1), "made": None, "delay": 0.0})
    assert fetched(store, made) == 5.0


def test_materialised_and_pushed_rows_are_of_one_order(store):
    rows = pa.table({"plane": ["N1"], "at": pa.array([hour(3)], EMPTY["at"].type), "delay": [3.0]})
    made = FeatureView("plane", Entity("plane"), Source(rows, "at"), ["delay"])
    store.push(made, {"plane": "N1", "at": hour(5), "delay": 5.0})
    assert store.materialize(made, None, hour(10)).older == 1
    assert fetched(store, made) == 5.0
    store.push(made, {"plane": "N1", "at": hour(2), "delay": 2.0})
    assert fetched(store, made) == 5.0


ROW = {
    "plane": "N1",
    "at": "2013-01-01T02:00:00+00:00",
    "delay": 1,
    "seats": 150,
    "name": "Anna",
    "seen": hour(1) + timedelta(microseconds=7),
    "late": True,
    "route": [1.0, 2.5],
}


def stored(store, made, key=b"N1"):
    [blob] = store.online.wire().read([store.online.prefix(made.online_name) + key], 2**62)
    return store.offline.view(made).schema.layout.unpack(blob)


@pytest.mark.parametrize("form", ["mapping", "list", "pyarrow", "pandas", "polars"])
def test_rows_are_mappings_or_tables_by_name(store, form):
    made = view(COLUMNS)
    row = {**ROW, "at": hour(2), "delay": 1.5}
    given = {
        "mapping": lambda: row,
        "list": lambda: [row],
        "pyarrow": lambda: pa.table({name: [row[name]] for name in reversed(row)}),
        "pandas": lambda: pd.DataFrame([row], index=[17]),
        "polars": lambda: pl.DataFrame([row]),
    }[form]()
    store.push(made, given)
    event, _, _, values = stored(store, made)
    assert event == int(hour(2).timestamp()) * 10**9
    assert values == [1.5, 150, "Anna", ROW["seen"], True, [1.0, 2.5]]


def test_nulls_are_values_and_whole_numbers_are_floats(store):
    made = view(COLUMNS)
    store.push(made, ROW)
    assert stored(store, made)[3] == [1.0, 150, "Anna", ROW["seen"], True, [1.0, 2.5]]
    store.push(made, {**dict.fromkeys(ROW), "plane": "N1", "at": hour(3)})
    assert stored(store, made)[3] == [None] * 6


def test_aggregates_come_by_their_own_names(store):
    made = view((), aggregates=[Aggregate("mean", "delay", "24h"), Aggregate("count", "delay", "7d")])
    store.push(made, {"plane": "N1", "at": hour(1), "delay_mean_24h": 2.5, "delay_count_7d": 4})
    assert stored(store, made)[3] == [2.5, 4]
    with pytest.raises(
        InputError, match="row 0 has no 'delay_count_7d'; a row has: plane, at, delay_mean_24h"
    ):
        store.push(made, {"plane": "N1", "at": hour(1), "delay_mean_24h": 2.5})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"delai": 1.0}, "unknown column 'delai'; a row has: plane, at, delay, seats, name, seen, late, route"),
        ({"delay": "x"}, "row 1, 'delay': expected a number, got str 'x'"),
        ({"seats": 1.5}, "row 1, 'seats': expected a whole number, got float 1.5"),
        ({"name": 7}, "row 1, 'name': expected text, got int 7"),
        ({"late": 2}, "row 1, 'late': expected a boolean, got int 2"),
        ({"route": 2.0}, "row 1, 'route': expected a list of floats, got float 2.0"),
        ({"at": datetime(2013, 1, 1)}, "row 1, 'at': datetime.* has no time zone"),
        ({"at": None}, "row 1, 'at': expected a datetime or ISO 8601 text, got NoneType"),
        ({"seen": "soon"}, "row 1, 'seen': expected ISO 8601 text, got 'soon'"),
        ({"plane": None}, "row 1: a key is null"),
        ({"plane": 7}, "row 1: entity key 'plane': expected text, got int 7"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_row_and_nothing_is_written(store, change, match):
    made = view(COLUMNS)
    with (
        pytest.raises(InputError, match=match)
        if "at" not in change or change["at"]
        else pytest.raises(InputTypeError, match=match)
    ):
        store.push(made, [ROW, {**ROW, "plane": "N2", **change}])
    assert store.online.wire().read([store.online.prefix("plane") + b"N1"], 2**62) == [None]


def test_a_row_that_lacks_a_name_is_named(store):
    short = {name: value for name, value in ROW.items() if name != "late"}
    with pytest.raises(InputError, match="row 1 has no 'late'"):
        store.push(view(COLUMNS), [ROW, short])


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (pa.table({"plane": ["a"], "at": [hour(1)]}), "the table with columns plane, at has no 'delay'"),
        (pa.table({"plane": ["a"], "at": [hour(1)], "delay": ["x"]}), "column 'delay': expected a number, got string"),
        (pa.table({"plane": ["a"], "at": [datetime(2013, 1, 1)], "delay": [1.0]}), "column 'at' has type .* zone"),
        (pa.table({"plane": ["a", "b"], "at": [hour(1), None], "delay": [1.0, 2.0]}), "row 1, 'at': expected a time"),
        (pa.table({"plane": ["a"], "at": [7], "delay": [1.0]}), "column 'at': expected timestamps, got int64"),
        (pa.table({"plane": ["a", None], "at": [hour(1)] * 2, "delay": [1.0, 2.0]}), "row 1: a key is null"),
    ],
)  # fmt: skip
def test_mistakes_of_tables_are_named(store, table, match):
    with pytest.raises(InputError, match=match):
        store.push(view(), table)


def test_what_is_no_row_is_refused(store):
    with pytest.raises(InputTypeError, match="row 0: expected a mapping, got int 5"):
        store.push(view(), [5])
    with pytest.raises(InputTypeError, match="expected a path of Parquet files or a table"):
        store.push(view(), 5)
    with pytest.raises(ConfigError, match="expected a FeatureView"):
        store.push("plane", [])
    assert store.push(view(), []).rows == 0


def test_keys_are_those_that_requests_look_up(store):
    rows = pa.table({"k": pa.array([2**64 - 1], pa.uint64()), "u": ["x"], "at": [hour(1)], "x": [1.0]})
    made = FeatureView("v", Entity("e", ["k", "u"]), Source(rows, "at"), ["x"])
    key = uuid.UUID(int=5)
    store.push(made, {"k": np.uint64(2**64 - 1), "u": key, "at": hour(1), "x": 4.0})
    store.push(made, rows.set_column(1, "u", pa.array(["y"])))
    program = t.FeatureProgram.fit([t.number("v__x")], {"v__x": [1.0]})
    features = store.online_features(program, [made])
    requests = [{"k": 2**64 - 1, "u": key}, {"k": 2**64 - 1, "u": "y"}]
    assert [out["v__x"] for out, _ in features.fetch_many(requests, 2**62)] == [4.0, 1.0]
    features.close()


def test_a_view_that_is_known_nowhere_is_refused(store, tmp_path):
    made = FeatureView("v", Entity("e"), Source(tmp_path / "none.parquet", "at"), ["x"])
    with pytest.raises(StoreError, match="its types are neither in the online store"):
        store.push(made, {"e": "a", "at": hour(1), "x": 1.0})
