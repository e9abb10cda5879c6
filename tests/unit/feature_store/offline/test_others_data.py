"""Data as others write it: the types, schemas and folders of other writers mean what their authors meant."""

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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
    Source,
)
from engine.feature_store._codec import keys_of

START = datetime(2013, 1, 1, tzinfo=UTC)
UTC_US, UTC_NS = pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")
OFFLINE = DuckDBOffline(threads=1)


def hours(*at):
    return pa.array([START + timedelta(hours=hour) for hour in at], UTC_US)


def trained(data, labels, columns=("v",), aggregates=(), keys="k", **source):
    """The features at hour 9 of each of these keys."""
    view = FeatureView("s", Entity("e", keys), Source(data, "t", **source), columns, aggregates)
    names = [keys] if isinstance(keys, str) else keys
    made = (
        {name: [key[i] for key in labels] for i, name in enumerate(names)}
        if len(names) > 1
        else {keys: labels}
    )
    table = pa.table({**made, "t": hours(*[9] * len(labels))})
    found = FeatureStore(OFFLINE, None).get_training_features(DatasetConfig(Source(table, "t"), [view]))
    return [found[name].to_pylist() for name in view.feature_names]


def served(tmp_path, data, key, column="v"):
    """What a request with this key finds of a column, after materialisation."""
    view = FeatureView("s", Entity("k"), Source(data, "t"), [column])
    store = FeatureStore(OFFLINE, LMDBOnline(tmp_path / "online"))
    store.materialize(view, None, START + timedelta(days=1))
    name = f"s__{column}"
    features = store.online_features(t.FeatureProgram.fit([t.number(name)], {name: [0.0]}), [view])
    return features.fetch({"k": key}, 2**62)[0][name]


def written(folder, *tables):
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    return folder / "*.parquet"


def test_numbers_and_days_of_other_types(tmp_path):
    rows = pa.table(
        {
            "k": ["a", "b"],
            "t": hours(1, 1),
            "price": [Decimal("1.50"), Decimal("-2.25")],
            "born": [date(2020, 1, 1), None],
            "word": pa.array(["x", None]).dictionary_encode(),
            "id": [uuid.UUID(int=1).bytes, None],
        }
    )
    rows = rows.set_column(5, "id", pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()))
    wanted = [
        [-2.25, 1.5],
        [None, datetime(2020, 1, 1, tzinfo=UTC)],
        [None, "x"],
        [None, "00000000-0000-0000-0000-000000000001"],
        [-2.25, 1.5],
    ]
    for data in (rows, written(tmp_path, rows)):
        names = ("price", "born", "word", "id")
        assert trained(data, ["b", "a"], names, [Aggregate("sum", "price", "1d")]) == wanted


def test_columns_that_differ_among_files(tmp_path):
    def part(key, at, **columns):
        return pa.table({"k": [key], "t": hours(at), **columns})

    data = written(
        tmp_path,
        part("a", 1, v=pa.nulls(1), n=[1], w=pa.nulls(1)),
        part("b", 1, v=["x"], n=[2.5], w=hours(3)),
        part("c", 1, v=["y"], n=pa.array([3], pa.int8()), extra=[True]),
    )
    assert trained(data, ["a", "b", "c"], ("v", "n", "w", "extra"), [Aggregate("max", "n", "1d")]) == [
        [None, "x", "y"],
        [1.0, 2.5, 3.0],
        [None, START + timedelta(hours=3), None],
        [None, None, True],
        [1.0, 2.5, 3.0],
    ]
    # Labels too may be in such files.
    config = DatasetConfig(
        Source(data, "t"), [FeatureView("s", Entity("k"), Source(part("b", 0, v=[1.5]), "t"), ["v"])]
    )
    table = FeatureStore(OFFLINE, None).get_training_features(config)
    assert table["extra"].to_pylist() == [None, None, True]
    assert table["s__v"].to_pylist() == [None, 1.5, None]


def test_a_folder_and_the_names_of_its_folders_are_columns(tmp_path):
    rows = pa.table(
        {
            "k": [1, 2, 1, None],
            "zone": ["a b", "ä/7", None, "a b"],
            "code": ["007", "7", "8", "9"],
            "t": hours(1, 1, 2, 2),
            "v": [1.0, 2.0, 3.0, 4.0],
        }
    )
    root = tmp_path / "year=1999"
    pq.write_to_dataset(rows, root, partition_cols=["k", "zone", "code"])
    for data in (root, f"{root}/**/*.parquet", f"{root}/k=*/**/*.parquet"):
        assert trained(data, [1, 2, 3], ("v", "zone", "code")) == [
            [3.0, 2.0, None],
            [None, "ä/7", None],
            ["8", "7", None],
        ]
        assert "year" not in OFFLINE.columns(Source(data, "t")).types
    (root / "_temporary").mkdir()
    (root / "_temporary" / "part.parquet").write_bytes(b"in the making")
    assert served(tmp_path, root, 2) == 2.0
    assert trained(root, ["a b"], ("v",), keys="zone") == [[4.0]]
    # A folder of labels has its columns as well.
    labels = OFFLINE.read(OFFLINE.snapshot(Source(root, "t")), ["k", "zone", "v"])
    assert sorted(labels.to_pylist(), key=lambda row: row["v"]) == [
        {"k": 1, "zone": "a b", "v": 1.0},
        {"k": 2, "zone": "ä/7", "v": 2.0},
        {"k": 1, "zone": None, "v": 3.0},
        {"k": None, "zone": "a b", "v": 4.0},
    ]
    # Other values in the names are another content.
    before = OFFLINE.snapshot(Source(root, "t")).digest
    (root / "k=2").rename(root / "k=5")
    assert OFFLINE.snapshot(Source(root, "t")).digest != before
    assert trained(root, [2, 5]) == [[None, 2.0]]


def test_lists_of_floats_are_trained_and_stored(tmp_path):
    lists = [[1.5, -0.0], [], None, [None, float("inf")]]
    rows = pa.table({"k": [1, 2, 3, 4], "t": hours(1, 1, 1, 1), "v": pa.array(lists, pa.list_(pa.float32()))})
    fixed = pa.table(
        {"k": [1, 2], "t": hours(1, 1), "v": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))}
    )
    for data in (rows, written(tmp_path, rows)):
        assert trained(data, [4, 3, 2, 1, 9]) == [[*reversed(lists), None]]
    assert trained(fixed, [2, 1]) == [[None, [1.0, 2.0]]]
    view = FeatureView("s", Entity("k"), Source(rows, "t"), ["v"], ttl="30d")
    store = FeatureStore(OFFLINE, LMDBOnline(tmp_path / "online"))
    store.materialize(view, None, START + timedelta(days=1))
    blobs = store.online.wire().read(keys_of(store.online.prefix("s"), [[1, 2, 3, 4]]), 2**62)
    layout = OFFLINE.view(view).schema.layout
    assert repr([layout.unpack(blob)[3][0] for blob in blobs]) == "[[1.5, -0.0], [], None, [nan, inf]]"
    assert layout.unpack(blobs[0][:-1]) == "foreign"
    # A program that asks for what it is given gets the list.
    program = SimpleNamespace(capsule=None, input_names=("s__v",))
    features = store.online_features(program, [view], now_ns=lambda: 0)
    assert features.fetch({"k": 1}, 2**62)[0]["s__v"] == [1.5, -0.0]
    with pytest.raises(ConfigError, match="is a number, view 's' has list there"):
        store.online_features(t.FeatureProgram.fit([t.number("s__v")], {"s__v": [0.0]}), [view])
    with pytest.raises(InputError, match="column 'v' of the source table has type list"):
        trained(rows.set_column(2, "v", pa.array([["a"]] * 4)), [1])


BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("keys", "asked", "labels"),
    [
        (pa.array([BIG, BIG - 1]), BIG, pa.array([BIG, BIG - 1])),
        (pa.array([2**64 - 1, 3], pa.uint64()), 2**64 - 1, pa.array([2**64 - 1, 3], pa.uint64())),
        (pa.array([BIG, 3], pa.uint64()), np.uint64(BIG), pa.array([BIG, 3])),
        (pa.array([BIG, 3]), BIG, pa.array([BIG, 3], pa.uint64())),
        (pa.array([b"\xff\x00", b""]), b"\xff\x00", pa.array([b"\xff\x00", b""])),
        (pa.array([b"ab", b"c"]), "ab", pa.array(["ab", "c"])),
        (pa.array([b"ab", b"cd"], pa.binary(2)), bytearray(b"ab"), pa.array([b"ab", b"cd"], pa.large_binary())),
        (
            pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes], pa.uuid()),
            uuid.UUID(int=1),
            pa.array([str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]),
        ),
        (pa.array([Decimal(BIG), Decimal(3)]), Decimal(BIG), pa.array([BIG, 3])),
        (pa.array(["a", "b"]).dictionary_encode(), "a", pa.array(["a", "b"]).dictionary_encode()),
    ],
    ids=["big", "uint64", "uint64-int64", "int64-uint64", "bytes", "bytes-text", "fixed", "uuid", "decimal", "words"],
)  # fmt: skip
def test_keys_of_any_type_are_trained_and_served(tmp_path, keys, asked, labels):
    rows = pa.table({"k": keys, "t": hours(1, 1), "v": [1.5, 2.5]})
    assert trained(rows, labels) == [[1.5, 2.5]]
    assert trained(rows, labels.take(pa.array([1, 0]))) == [[2.5, 1.5]]
    assert served(tmp_path, rows, asked) == 1.5
    assert trained(written(tmp_path, rows), labels) == [[1.5, 2.5]]


def test_a_key_is_not_taken_for_another_of_its_rounding(tmp_path):
    rows = pa.table({"k": [BIG - 1, -5], "t": hours(1, 1), "v": [1.5, 2.5]})
    assert served(tmp_path, rows, float(BIG - 1)) == 1.5
    assert served(tmp_path, rows, -5.0) == 2.5
    with pytest.raises(InputError, match=r"a float holds whole numbers up to 2\^53 exactly, got float 1"):
        served(tmp_path, rows, float(2**54))
    beyond = pa.array([2**63 + 5, 2**64 - 5], pa.uint64())
    assert trained(rows, beyond) == [[None, None]]
    with pytest.raises(InputError, match="expected a whole number, got Decimal"):
        served(tmp_path, rows, Decimal("1.5"))
    table = pa.table({"k": [b"a"], "t": hours(1), "v": [1.5]})
    with pytest.raises(InputError, match="entity key 'k': expected bytes, got int 5"):
        served(tmp_path, table, 5)


def test_instants_are_rounded_to_the_past(tmp_path):
    """A time feature has microseconds, so nanoseconds are cut off: before 1970 too, never towards the future."""
    ns = pa.array([-1, -1001, 1001], UTC_NS)
    rows = pa.table({"k": [1, 2, 3], "t": hours(1, 1, 1), "v": ns, "w": ns.cast(pa.timestamp("ns"))})
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    wanted = [epoch + timedelta(microseconds=us) for us in (-1, -2, 1)]
    for data in (rows, written(tmp_path, rows)):
        assert trained(data, [1, 2, 3], ("v", "w"), naive="utc") == [wanted, wanted]
    frame = pd.DataFrame(
        {"k": [1], "t": pd.to_datetime([START]), "v": pd.to_datetime(["2020-05-01T00:00:00Z"])}
    )
    assert trained(frame, [1]) == [[datetime(2020, 5, 1, tzinfo=UTC)]]


def test_an_end_in_nanoseconds_is_kept():
    rows = pa.table({"k": [1, 1], "t": pa.array([1000, 1001], UTC_NS), "v": [1.0, 2.0]})
    view = FeatureView("s", Entity("k"), Source(rows, "t"), ["v"])
    for end, value in (("1970-01-01T00:00:00.000001001Z", 1.0), ("1970-01-01T00:00:00.000001002+00:00", 2.0)):
        assert OFFLINE.compute(view, None, end).table["s__v"].to_pylist() == [value]
    assert OFFLINE.compute(view, "1970-01-01T00:00:00.0000010009999Z", None).rows == 1


def test_columns_that_differ_in_case_only_are_not_taken_for_each_other(tmp_path):
    rows = pa.table({"k": [1], "t": hours(1), "Delay": [1.0], "delay": [2.0], "v": [3.0]})
    for data in (rows, written(tmp_path, rows)):
        assert trained(data, [1]) == [[3.0]]
        with pytest.raises(InputError, match=r"columns 'Delay' and 'delay' of .* differ in case only"):
            trained(data, [1], ("delay",))
    parts = [pa.table({"k": [i], "t": hours(1), name: [1.0]}) for i, name in enumerate(("Temp", "temp"))]
    with pytest.raises(InputError, match=r"columns 'Temp' and 'temp' of .* differ in case only"):
        trained(written(tmp_path, *parts), [1], ("temp",))


def test_full_names_that_two_views_would_share_are_refused(tmp_path):
    rows = pa.table({"k": [1], "t": hours(1), "b": [1.0], "_b": [2.0], "reason": ["x"]})
    views = [
        FeatureView(name, Entity("k"), Source(rows, "t"), [column])
        for name, column in (("a_", "b"), ("a", "_b"))
    ]
    labels = Source(pa.table({"k": [1], "t": hours(2)}), "t")
    with pytest.raises(ConfigError, match="two features would be called 'a___b'"):
        DatasetConfig(labels, views)
    with pytest.raises(ConfigError, match="two features would be called 'a___b'"):
        program = t.FeatureProgram.fit([t.number("a___b")], {"a___b": [0.0]})
        FeatureStore(OFFLINE, LMDBOnline(tmp_path)).online_features(program, views)
    why = FeatureView("v", Entity("k"), Source(rows, "t"), ["reason"])
    with pytest.raises(ConfigError, match="'v__reason' is a feature already, so reasons=True cannot be"):
        DatasetConfig(labels, why, reasons=True)
    assert DatasetConfig(labels, why).feature_names == ("v__reason",)


def test_a_window_below_a_second_has_a_name_of_its_own():
    spans = {"1.5s": "1500ms", "0.5s": "500ms", "1s": "1s", "90s": "90s", "0.00025s": "250us"}
    for seconds, name in spans.items():
        span = timedelta(seconds=float(seconds[:-1]))
        assert Aggregate("sum", "x", span).name == f"x_sum_{name}"
