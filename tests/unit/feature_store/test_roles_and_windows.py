"""One entity in two roles; more aggregates, and windows that end at the request; rows that were created later. Literal
values, offline and on both online stores."""

import math
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import ConfigError, InputError
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
)

START = datetime(2013, 1, 1, tzinfo=UTC)
AT = pa.timestamp("us", "UTC")


def hours(*given):
    return pa.array([None if n is None else START + timedelta(hours=n) for n in given], AT)


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "lmdb":
        return FeatureStore(DuckDBOffline(threads=1), LMDBOnline(tmp_path / "online"))
    online = RedisOnline(request.getfixturevalue("redis_url"), namespace=tmp_path.name)
    return FeatureStore(DuckDBOffline(threads=1), online)


def trained(store, views, labels, **options):
    return store.get_training_features(DatasetConfig(Source(labels, "at"), views, **options))


def served(store, views, request, hour):
    """The features of a request at an instant, and the missing ones."""
    names = [name for view in views for name in view.feature_names]
    kinds = {"text": t.category}
    program = t.FeatureProgram.fit(
        [kinds.get(KINDS.get(name), t.number)(name).impute(0.0) if KINDS.get(name) != "text"
         else t.category(name).hash(buckets=8) for name in names],
        {name: ["a"] if KINDS.get(name) == "text" else [1.0] for name in names},
    )  # fmt: skip
    now = int((START + timedelta(hours=hour)).timestamp()) * 10**9
    features = store.online_features(program, views, now_ns=lambda: now)
    out, missing = features.fetch(request, time.monotonic_ns() + 10**10)
    features.close()
    return [out[name] for name in names], missing


KINDS = {}

WEATHER = FeatureView(
    "weather",
    Entity("airport"),
    Source(pa.table({"airport": ["EWR", "LGA"], "t": hours(0, 0), "temp": [1.0, 2.0]}), "t"),
    ["temp"],
)
ORIGIN = WEATHER.with_key_map({"airport": "origin"}, name="origin_weather")
DEST = WEATHER.with_key_map({"airport": "dest"}, name="dest_weather")


def test_one_entity_in_two_roles(store):
    labels = pa.table({"origin": ["EWR", "LGA"], "dest": ["LGA", "JFK"], "at": hours(1, 1)})
    table = trained(store, [ORIGIN, DEST], labels, reasons=True)
    assert table["origin_weather__temp"].to_pylist() == [1.0, 2.0]
    assert table["dest_weather__temp"].to_pylist() == [2.0, None]
    assert table["dest_weather__reason"].to_pylist() == ["found", "unknown_entity"]
    # Materialising one role is materialising the view: its rows are stored once.
    assert store.materialize(ORIGIN, None, START + timedelta(hours=1)).written == 2
    assert store.materialize(WEATHER, None, START + timedelta(hours=1)).same == 2
    found, missing = served(
        store, [ORIGIN, DEST, WEATHER], {"origin": "EWR", "dest": "LGA", "airport": "LGA"}, 1
    )
    assert (found, missing) == ([1.0, 2.0, 2.0], ())
    assert store.online.views() == ["weather"]
    store.delete(DEST, {"dest": "LGA"})
    assert served(store, [ORIGIN, DEST], {"origin": "EWR", "dest": "LGA"}, 1) == (
        [1.0, None],
        ("dest_weather__temp",),
    )


def test_a_role_of_one_of_several_keys():
    view = FeatureView(
        "leg", [Entity("carrier"), Entity("airport")], Source("x.parquet", "t"), ["delay"]
    ).with_key_map({"airport": "dest"}, name="leg_dest")
    assert view.keys == ("carrier", "dest")
    assert view.source_keys == ("carrier", "airport")
    again = view.with_key_map({"dest": "via", "carrier": "operator"}, name="leg_via")
    assert (again.keys, again.online_name) == (("operator", "via"), "leg")
    assert len({view.version, again.version}) == 2


def test_mistakes_of_roles_are_named():
    with pytest.raises(ConfigError, match="view 'weather' has no key 'origin' to map; its keys are: airport"):
        WEATHER.with_key_map({"origin": "airport"}, name="x")
    with pytest.raises(ConfigError, match="the name of a feature view"):
        WEATHER.with_key_map({"airport": "origin"}, name="a b")
    with pytest.raises(ConfigError, match="key_map: expected names by key"):
        WEATHER.with_key_map({"airport": ""}, name="x")
    leg = FeatureView("leg", [Entity("a"), Entity("b")], Source("x.parquet", "t"), ["delay"])
    with pytest.raises(ConfigError, match="a name stands there twice"):
        leg.with_key_map({"a": "b"}, name="x")


EVENTS = pa.table(
    {
        "k": ["a"] * 6 + ["b"],
        "t": hours(0, 1, 2, 3, 3, 5, 0),
        "x": [4.0, 1.0, None, 2.0, 1.0, 8.0, 7.0],
        "s": ["u", None, "v", "u", "w", "v", "u"],
    }
)
OVER_X = [Aggregate(f, "x", "3h") for f in ("distinct", "first", "last", "std", "quantile")]
OVER_S = [Aggregate(f, "s", "3h") for f in ("distinct", "first", "last")]
QUARTILE = Aggregate("quantile", "x", "3h", q=0.25)
BEFORE = [Aggregate(f, "x", "3h", closed="left") for f in ("count", "sum", "last")]


def test_more_aggregates(store):
    view = FeatureView("v", Entity("k"), Source(EVENTS, "t"), (), [*OVER_X, *OVER_S, QUARTILE, *BEFORE])
    assert view.columns_out == (
        "x_distinct_3h", "x_first_3h", "x_last_3h", "x_std_3h", "x_quantile_3h",
        "s_distinct_3h", "s_first_3h", "s_last_3h", "x_quantile25_3h",
        "x_count_before_3h", "x_sum_before_3h", "x_last_before_3h",
    )  # fmt: skip
    labels = pa.table({"k": ["a"] * 5 + ["b"], "at": hours(0, 2, 3, 4, 5, 9)})
    table = trained(store, [view], labels)
    found = {name: table[f"v__{name}"].to_pylist() for name in view.columns_out}
    # The windows of the rows at hours 0, 2, 3, 3, 5 hold: [4], [4, 1], [1, 2, 1] twice, [2, 1, 8]; of b [7].
    assert found["x_distinct_3h"] == [1, 2, 2, 2, 3, 1]
    assert found["x_first_3h"] == [4.0, 4.0, 1.0, 1.0, 2.0, 7.0]
    assert found["x_last_3h"] == [4.0, 1.0, 1.0, 1.0, 8.0, 7.0]
    third = math.sqrt(1 / 3)
    last = math.sqrt((3 * 69 - 121) / 6)
    assert found["x_std_3h"] == [None, math.sqrt(4.5), third, third, last, None]
    assert found["x_quantile_3h"] == [4.0, 2.5, 1.0, 1.0, 2.0, 7.0]
    assert found["x_quantile25_3h"] == [4.0, 1.75, 1.0, 1.0, 1.5, 7.0]
    assert found["s_distinct_3h"] == [1, 2, 3, 3, 3, 1]
    assert found["s_first_3h"] == ["u", "u", "v", "v", "u", "u"]
    assert found["s_last_3h"] == ["u", "v", "w", "w", "v", "u"]
    # [t - 3 h, t): the row's own instant is not in it.
    assert found["x_count_before_3h"] == [0, 2, 2, 2, 2, 0]
    assert found["x_sum_before_3h"] == [None, 5.0, 5.0, 5.0, 3.0, None]
    assert found["x_last_before_3h"] == [None, 1.0, 1.0, 1.0, 1.0, None]
    store.materialize(view, None, START + timedelta(days=1))
    KINDS.update({"v__s_first_3h": "text", "v__s_last_3h": "text"})
    values, missing = served(store, [view], {"k": "a"}, 9)
    assert values == [found[name][4] for name in view.columns_out]
    assert missing == ()


def test_windows_as_of_the_request(store):
    made = [Aggregate(f, "x", "3h") for f in ("count", "sum", "mean", "min", "max")]
    view = FeatureView(
        "r", Entity("k"), Source(EVENTS, "t"), ["x"], [*made, *OVER_X, QUARTILE, *BEFORE], as_of="request"
    )
    labels = pa.table({"k": ["a"] * 4 + ["b", "c"], "at": hours(3, 5, 7, 20, 1, 1)})
    table = trained(store, [view], labels, reasons=True)
    found = [[table[name].to_pylist()[i] for name in view.feature_names] for i in range(6)]
    assert table["r__reason"].to_pylist() == ["found"] * 5 + ["unknown_entity"]
    third = math.sqrt(1 / 3)
    # At hour 7 the events of hour 5 are left; at hour 20 none. A column is that of the newest row.
    assert found[0] == [1.0, 3, 4.0, 4.0 / 3, 1.0, 2.0, 2, 1.0, 1.0, third, 1.0, 1.0, 2, 5.0, 1.0]
    assert found[2] == [8.0, 1, 8.0, 8.0, 8.0, 8.0, 1, 8.0, 8.0, None, 8.0, 8.0, 1, 8.0, 8.0]
    assert found[3] == [8.0, 0, None, None, None, None, 0, *[None] * 5, 0, None, None]
    assert found[5] == [None] * 15
    assert store.materialize(view, None, START + timedelta(days=1)).written == 2
    for place, hour in ((1, 5), (2, 7), (3, 20)):
        values, missing = served(store, [view], {"k": "a"}, hour)
        assert values == found[place], hour
        assert missing == ()
    values, missing = served(store, [view], {"k": "c"}, 5)
    assert values == [None] * 15
    assert sorted(missing) == sorted(view.feature_names)


def test_a_late_event_reaches_windows_as_of_the_request(store):
    def view(*rows):
        table = pa.table(
            {"k": ["a"] * len(rows), "t": hours(*(r[0] for r in rows)), "x": [r[1] for r in rows]}
        )
        return FeatureView(
            "late", Entity("k"), Source(table, "t"), (), [Aggregate("sum", "x", "6h")], as_of="request"
        )

    store.materialize(view((5, 1.0)), START, START + timedelta(hours=6))
    made = view((5, 1.0), (3, 2.0))
    # The repair of the hour that came late.
    store.materialize(made, START + timedelta(hours=3), START + timedelta(hours=4))
    assert served(store, [made], {"k": "a"}, 6) == ([3.0], ())
    assert served(store, [made], {"k": "a"}, 9) == ([1.0], ())


def test_mistakes_of_aggregates_are_named():
    with pytest.raises(ConfigError, match="q is for quantile alone"):
        Aggregate("sum", "x", "1h", q=0.5)
    with pytest.raises(ConfigError, match=r"q must be a number from 0 to 1, got 1\.5"):
        Aggregate("quantile", "x", "1h", q=1.5)
    with pytest.raises(ConfigError, match="closed must be one of right, left"):
        Aggregate("sum", "x", "1h", closed="both")
    with pytest.raises(ConfigError, match="as_of must be one of row, request"):
        FeatureView("v", Entity("k"), Source(EVENTS, "t"), ["x"], as_of="now")
    with pytest.raises(ConfigError, match="as_of='request' says when windows end, so it needs an aggregate"):
        FeatureView("v", Entity("k"), Source(EVENTS, "t"), ["x"], as_of="request")
    offline = DuckDBOffline(threads=1)
    with pytest.raises(InputError, match=r"column 's' .* has type string: an aggregate is over numbers"):
        offline.view(FeatureView("v", Entity("k"), Source(EVENTS, "t"), (), [Aggregate("sum", "s", "1h")]))
    with pytest.raises(InputError, match="an aggregate is over numbers"):
        offline.view(FeatureView("v", Entity("k"), Source(EVENTS, "t"), (), OVER_S, as_of="request"))


def test_what_was_created_later_is_not_seen():
    rows = pa.table(
        {
            "k": ["a", "a", "a", "b"],
            "t": hours(1, 1, 2, 1),
            "made": hours(1, 9, 9, None),
            "x": [1.0, 10.0, 20.0, 4.0],
        }
    )
    labels = pa.table({"k": ["a", "b", "c"], "at": hours(3, 3, 3)})
    store = FeatureStore(DuckDBOffline(threads=1), None)
    for aggregates in ((), [Aggregate("sum", "x", "24h")]):
        view = FeatureView("v", Entity("k"), Source(rows, "t", "made"), ["x"], aggregates)
        now = trained(store, [view], labels)
        assert now["v__x"].to_pylist() == [20.0, 4.0, None]
        then = trained(store, [view], labels, created_end_time=START + timedelta(hours=9), reasons=True)
        assert then["v__x"].to_pylist() == [1.0, 4.0, None]
        assert then["v__reason"].to_pylist() == ["found", "found", "unknown_entity"]
        if aggregates:
            assert now["v__x_sum_24h"].to_pylist() == [30.0, 4.0, None]
            assert then["v__x_sum_24h"].to_pylist() == [1.0, 4.0, None]
    first = DatasetConfig(Source(labels, "at"), view)
    cut = DatasetConfig(Source(labels, "at"), view, created_end_time="2013-01-01T09:00:00Z")
    assert len({first.digest, cut.digest}) == 2
    with pytest.raises(
        ConfigError, match="view 'w': its source has no created_time, which created_end_time needs"
    ):
        DatasetConfig(
            Source(labels, "at"),
            FeatureView("w", Entity("k"), Source(rows, "t"), ["x"]),
            created_end_time="2013-01-01T09:00:00Z",
        )


def test_ranges_are_open_where_no_bound_is_given(store):
    view = FeatureView("v", Entity("k"), Source(EVENTS, "t"), ["x"])
    labels = pa.table({"k": ["a"] * 3, "at": hours(0, 2, 4)})
    middle = START + timedelta(hours=2)
    assert trained(store, [view], labels, start_time=middle)["at"].to_pylist() == hours(2, 4).to_pylist()
    assert trained(store, [view], labels, end_time=middle)["at"].to_pylist() == hours(0).to_pylist()
    assert store.offline.compute(view, None, middle).table["v__x"].to_pylist() == [1.0, 7.0]
    assert store.offline.compute(view, middle).table["v__x"].to_pylist() == [8.0]
    assert store.materialize(view, middle).rows == 1
