"""A refused call has touched nothing: no row read, no file digested, no byte written. Every touch is counted."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import transform as t
from engine.cli import main
from engine.errors import ConfigError, InputError, InputTypeError, StoreError
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
from engine.feature_store.offline import sources

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = START + timedelta(days=1)


@pytest.fixture
def touched(monkeypatch):
    """How often a file's content, a store or a query was touched, by name."""
    counts = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*arguments, **options):
            counts[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    for name in ("_digest_of_file", "_digest_of_table", "read"):
        count(sources, name)
    for name in ("next_revision", "note", "write", "wire"):
        count(LMDBOnline, name)
    count(DuckDBOffline, "_cursor")
    return counts


@pytest.fixture
def store(tmp_path):
    rows = pa.table(
        {
            "k": ["a", "b"],
            "t": pa.array([START, START], pa.timestamp("us", "UTC")),
            "x": [1.0, 2.0],
            "late": [0, 1],
            "number": [1, 2],
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    return FeatureStore(DuckDBOffline(tmp_path, threads=1), LMDBOnline(tmp_path / "online"))


def view(name="v", columns=("x",), key="k", **options):
    return FeatureView(name, Entity("e", key), Source("rows.parquet", "t"), columns, **options)


def untouched(store, touched, tmp_path):
    return not touched and not (tmp_path / "online").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((view(), DAY, START), InputError, "the range is empty"),
        ((view(), START, START), InputError, "the range is empty"),
        ((view(), "2013-01-01", DAY), InputError, "start_time: .* has no time zone"),
        ((view(), "yesterday", DAY), InputError, "start_time: expected ISO 8601 text"),
        ((view(), START, 5), InputTypeError, "end_time: expected a datetime or ISO 8601 text, got int 5"),
        ((view(), datetime(9999, 1, 1, tzinfo=UTC)), InputError, "start_time: expected a year from 1678"),
        (("v", START, DAY), ConfigError, "feature_definition: expected a FeatureView, got str 'v'"),
        ((None, START, DAY), ConfigError, "feature_definition: expected a FeatureView, got NoneType"),
        ((view(columns=["y"]), START, DAY), InputError, "has no column 'y'"),
        ((view(key="x"), START, DAY), InputError, "a key is whole numbers or text"),
        ((view(aggregates=[Aggregate("sum", "k", "1h")]),), InputError, "an aggregate is over numbers"),
    ],
)
def test_materialize_checks_before_it_touches_anything(store, touched, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        store.materialize(*arguments)
    assert untouched(store, touched, tmp_path), touched


def test_a_progress_that_cannot_be_called_is_refused_before_the_first_batch(store, touched, tmp_path):
    with pytest.raises(InputTypeError, match="progress: expected a callable, got int"):
        store.materialize(view(), START, DAY, progress=5)
    assert untouched(store, touched, tmp_path), touched


def test_a_source_that_is_not_there_is_refused_before_the_store_is_written(store, touched, tmp_path):
    gone = FeatureView("v", Entity("k"), Source("gone.parquet", "t"), ["x"])
    with pytest.raises(StoreError, match=r"gone\.parquet: no such Parquet file"):
        store.materialize(gone, START, DAY)
    assert untouched(store, touched, tmp_path), touched


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((view(), DAY, START), InputError, "the range is empty"),
        ((5, START, DAY), ConfigError, "expected a FeatureView, got int 5"),
        ((view(columns=["y"]), START, DAY), InputError, "has no column 'y'"),
    ],
)
def test_compute_checks_before_it_reads(store, touched, arguments, error, message):
    with pytest.raises(error, match=message):
        store.offline.compute(*arguments)
    assert not touched


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"revision": -1}, InputError, "revision must be an int from 0"),
        ({"revision": 2**64}, InputError, "revision must be an int from 0"),
        ({"revision": 1.5}, InputTypeError, "revision must be an int, got float"),
        ({"progress": "yes"}, InputTypeError, "progress: expected a callable, got str"),
    ],
)
def test_upsert_checks_before_it_writes(store, touched, tmp_path, options, error, message):
    features = store.offline.compute(view(), START, DAY)
    touched.clear()
    with pytest.raises(error, match=message):
        store.online.upsert(features, **options)
    with pytest.raises(ConfigError, match="features: expected a Features, got Table"):
        store.online.upsert(pa.table({"k": ["a"]}))
    assert untouched(store, touched, tmp_path), touched


def labels(**options):
    return Source("rows.parquet", options.pop("event_time", "t"), **options)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (5, ConfigError, "dataset_config: expected a DatasetConfig, got int 5"),
        (DatasetConfig(labels(event_time="gone"), view()), InputError, "labels: .* has no column 'gone'"),
        (
            DatasetConfig(labels(event_time="x"), view()),
            InputError,
            "labels: column 'x' .* expected timestamps",
        ),
        (DatasetConfig(labels(), view(), label="cost"), InputError, "labels: .* has no column 'cost'"),
        (DatasetConfig(labels(), view(), columns=["cost"]), InputError, "labels: .* has no column 'cost'"),
        (DatasetConfig(labels(), view(columns=["y"])), InputError, "view 'v': .* has no column 'y'"),
        (DatasetConfig(labels(), [view(), view("w", ["y"])]), InputError, "view 'w': .* has no column 'y'"),
    ],
)
def test_training_features_are_checked_before_anything_is_read(store, touched, config, error, message):
    with pytest.raises(error, match=message):
        store.get_training_features(config)
    assert not touched


def test_labels_are_checked_against_every_view_before_anything_is_read(store, touched):
    other = pa.table({"k": [1], "t": pa.array([START], pa.timestamp("us", "UTC"))})
    with pytest.raises(InputError, match="key column 'k': view 'v' has text, the labels have int64"):
        store.get_training_features(DatasetConfig(Source(other, "t"), view()))
    lacking = DatasetConfig(Source(other, "t"), view(key="number"))
    with pytest.raises(
        InputError, match="view 'v' needs key column 'number' in the labels, which have: k, t"
    ):
        store.get_training_features(lacking)
    taken = pa.table({"k": ["a"], "t": pa.array([START], pa.timestamp("us", "UTC")), "v__x": [1.0]})
    with pytest.raises(ConfigError, match="'v__x', which is the name of a feature"):
        store.get_training_features(DatasetConfig(Source(taken, "t"), view()))
    with pytest.raises(InputTypeError, match="digest: expected text, got int 5"):
        store.get_training_features(DatasetConfig(labels(), view()), digest=5)
    with pytest.raises(ConfigError, match="dataset_config: expected a DatasetConfig, got NoneType"):
        store.dataset_digest(None)
    assert not touched


def test_a_dataset_that_changed_is_refused_before_a_row_is_read(store, touched):
    with pytest.raises(StoreError, match="no longer the one asked for"):
        store.get_training_features(DatasetConfig(labels(), view()), digest="0" * 64)
    assert set(touched) == {"_digest_of_file"}


def program(*names):
    return t.FeatureProgram.fit(
        [t.number(name).impute(0.0) for name in names], {name: [1.0] for name in names}
    )


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((5, [view()]), {}, ConfigError, "program: expected a FeatureProgram, got int"),
        ((program("v__x"), []), {}, ConfigError, "views: expected at least one FeatureView, got none"),
        ((program("v__x"), ["v"]), {}, ConfigError, "views: expected FeatureViews, got"),
        ((program("v__x"), [view(), view("w")]), {}, ConfigError, "reads no feature of view 'w'"),
        ((program("v__x"), [view()]), {"now_ns": 5}, InputTypeError, "now_ns: expected a callable, got int"),
    ],
)
def test_online_features_are_checked_before_the_store_is_asked(
    store, touched, tmp_path, arguments, options, error, message
):
    with pytest.raises(error, match=message):
        store.online_features(*arguments, **options)
    assert untouched(store, touched, tmp_path), touched


def test_the_types_of_a_view_that_is_not_online_are_found_without_its_content(store, touched):
    store.online_features(program("v__x"), [view()])
    assert set(touched) == {"note", "wire"}


def test_a_request_that_cannot_be_used_asks_the_store_for_nothing(store, monkeypatch):
    store.materialize(view(), START, DAY)
    features = store.online_features(program("v__x"), [view()])
    monkeypatch.setattr(features._wire, "read", lambda *arguments: pytest.fail("the store was read"))
    with pytest.raises(InputError, match="has no entity key 'k'"):
        features.fetch_many([{"k": "a"}, {"other": 1}], 2**62)


def test_stores_check_their_options_when_they_are_made(tmp_path):
    for map_bytes, error in ((0, InputError), (-1, InputError), (1e9, InputTypeError)):
        with pytest.raises(error, match="map_bytes must be an int"):
            LMDBOnline(tmp_path / "online", map_bytes=map_bytes)
    assert not (tmp_path / "online").exists()
    for timeout_s, error in ((0, InputError), (float("nan"), InputError), ("5", InputTypeError)):
        with pytest.raises(error, match="timeout_s must be a number"):
            RedisOnline("redis://localhost", timeout_s=timeout_s)
    with pytest.raises(ConfigError, match="expected a URL like redis://"):
        RedisOnline(5)
    with pytest.raises(TypeError):
        DuckDBOffline(5)
    with pytest.raises(StoreError, match="opening DuckDB"):
        DuckDBOffline(threads=-1)


DEFINITIONS = """
from engine.feature_store import *
store = FeatureStore(DuckDBOffline({folder!r}, threads=1), LMDBOnline({folder!r} + "/online"))
good = FeatureView("good", Entity("k"), Source("rows.parquet", "t"), ["x"])
bad = FeatureView("bad", Entity("k"), Source("rows.parquet", "t"), ["y"])
"""


def test_the_command_checks_every_view_before_it_writes_the_first(store, touched, tmp_path, capsys):
    (tmp_path / "definitions.py").write_text(DEFINITIONS.format(folder=str(tmp_path)))
    assert main(["materialize", str(tmp_path / "definitions.py")]) == 1
    assert "view 'bad'" in capsys.readouterr().err
    assert untouched(store, touched, tmp_path), touched
    assert main(["materialize", str(tmp_path / "none.py"), "--start", "2013-01-01"]) == 1
    assert "has no time zone" in capsys.readouterr().err, "the range is checked before the file is imported"
