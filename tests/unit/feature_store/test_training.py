"""Training tables and datasets: literal rows worked out by hand, digests, and labels that cannot be used."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import ConfigError, InputError, StoreError
from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    Source,
)

UTC_US = pa.timestamp("us", "UTC")
STORE = FeatureStore(DuckDBOffline(threads=2), None)


def at(hour, minute=0):
    return datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=hour, minutes=minute)


def times(*hours):
    return pa.array([at(hour) for hour in hours], UTC_US)


def weather(**options):
    table = pa.table(
        {
            "origin": ["EWR", "EWR", "EWR", "LGA", "EWR"],
            "time": times(1, 2, 2, 3, 5),
            "made": times(1, 4, 3, 3, 5),
            "temp": [10.0, 21.0, 20.0, 30.0, None],
            "sky": ["clear", "fog", "rain", None, "snow"],
        }
    )
    given = {"columns": ["temp", "sky"], **options}
    return FeatureView("weather", Entity("origin"), Source(table, "time", "made"), **given)


def labels(origins, hours):
    return pa.table(
        {"late": range(len(origins)), "origin": pa.array(origins, pa.string()), "at": times(*hours)}
    )


def joined(view, origins, hours, **options):
    return STORE.get_training_features(DatasetConfig(Source(labels(origins, hours), "at"), view, **options))


def test_each_label_gets_what_was_known_at_its_instant():
    table = joined(weather(), ["EWR", "EWR", "EWR", "EWR", "LGA"], [0, 1, 2, 6, 3], reasons=True)
    assert table.column_names == ["late", "origin", "at", "weather__temp", "weather__sky", "weather__reason"]
    # Of the two copies of 2 o'clock the later written wins. The null of 5 o'clock is still null at 6.
    assert table["weather__temp"].to_pylist() == [None, 10.0, 21.0, None, 30.0]
    assert table["weather__sky"].to_pylist() == [None, "clear", "fog", "snow", None]
    assert table["weather__reason"].to_pylist() == ["not_yet", "found", "found", "found", "found"]


def test_label_rows_are_neither_dropped_nor_doubled_nor_reordered():
    table = joined(weather(), ["LGA", None, "JFK", "EWR", "EWR", "LGA"], [2, 2, 2, 2, 2, 9])
    assert table["late"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert table["weather__temp"].to_pylist() == [None, None, None, 21.0, 21.0, 30.0]
    about = json.loads(table.schema.metadata[b"engine.dataset"])
    assert about["missing"] == {"weather": {"null_key": 1, "unknown_entity": 1, "not_yet": 1}}
    assert about["views"] == {"weather": weather().version}
    assert joined(weather(), [], []).num_rows == 0


def test_a_row_as_old_as_its_ttl_holds_and_an_older_one_does_not():
    table = joined(weather(ttl="2h"), ["LGA", "LGA", "EWR"], [5, 6, 4], reasons=True)
    assert table["weather__temp"].to_pylist() == [30.0, None, 21.0]
    assert table["weather__reason"].to_pylist() == ["found", "expired", "found"]


def test_windows_end_at_the_row_and_are_open_at_their_beginning():
    view = weather(
        columns=(),
        aggregates=[
            Aggregate("count", "temp", "1h"),
            Aggregate("sum", "temp", "24h"),
            Aggregate("mean", "temp", "24h"),
            Aggregate("min", "temp", "1h"),
            Aggregate("max", "temp", "24h"),
        ],
    )
    table = joined(view, ["EWR", "EWR", "EWR"], [1, 2, 7])
    rows = zip(*(table[name].to_pylist() for name in view.feature_names), strict=True)
    # At 5 o'clock the hour holds a null, and the day holds 10 and 21, the copy that won.
    assert list(rows) == [
        (1, 10.0, 10.0, 10.0, 10.0),
        (1, 31.0, 15.5, 21.0, 21.0),
        (0, 31.0, 15.5, None, 21.0),
    ]


def test_an_event_id_keeps_events_of_one_instant_apart():
    flights = pa.table(
        {"carrier": ["UA"] * 4, "t": times(1, 1, 1, 2), "flight": [7, 8, 8, 9], "delay": [1.0, 2.0, 4.0, 8.0]}
    )

    def counted(event_id):
        view = FeatureView(
            "c",
            Entity("carrier"),
            Source(flights, "t", event_id=event_id),
            ["delay"],
            [Aggregate("count", "delay", "7d"), Aggregate("sum", "delay", "7d")],
        )
        config = DatasetConfig(Source(pa.table({"carrier": ["UA", "UA"], "t": times(1, 2)}), "t"), view)
        table = STORE.get_training_features(config)
        return [table[name].to_pylist() for name in view.feature_names]

    # Of the two copies of flight 8 the later in the source counts: 4.0, which is also the row of 1 o'clock.
    assert counted("flight") == [[4.0, 8.0], [2, 3], [5.0, 13.0]]
    # Without an id every row is an event.
    assert counted(None) == [[4.0, 8.0], [3, 4], [7.0, 15.0]]


def test_without_an_event_id_every_row_that_was_written_last_counts():
    """149 flights of one hour are 149 events; a later write of an instant replaces an earlier one."""
    hour = pa.table(
        {"carrier": ["UA"] * 149, "t": times(*[1] * 149), "made": times(*[2] * 149), "delay": range(149)}
    )
    late = pa.table({"carrier": ["UA"] * 2, "t": times(1, 1), "made": times(3, 3), "delay": [7, 8]})
    null = pa.table({"carrier": ["UA"] * 2, "t": times(1, 1), "flight": pa.array([None, None], pa.int64())})

    def counted(rows, *names):
        column = "delay" if "delay" in rows.column_names else "one"
        rows = rows if "delay" in rows.column_names else rows.append_column("one", pa.array([1] * len(rows)))
        view = FeatureView(
            "c", Entity("carrier"), Source(rows, "t", *names), [], [Aggregate("count", column, "1h")]
        )
        config = DatasetConfig(Source(pa.table({"carrier": ["UA"], "t": times(1)}), "t"), view)
        return STORE.get_training_features(config)[view.feature_names[0]].to_pylist()

    assert counted(hour) == [149]
    assert counted(hour, "made") == [149]
    assert counted(pa.concat_tables([hour, late]), "made") == [2]
    assert counted(pa.concat_tables([hour, late])) == [151]
    assert counted(null, None, "flight") == [2]


def test_of_events_of_one_instant_the_later_written_is_the_row():
    flights = pa.table(
        {"carrier": ["UA"] * 2, "t": times(1, 1), "made": times(5, 3), "flight": [7, 8], "delay": [1.0, 2.0]}
    )
    view = FeatureView(
        "c",
        Entity("carrier"),
        Source(flights, "t", "made", event_id="flight"),
        ["delay"],
        [Aggregate("sum", "delay", "1h")],
    )
    config = DatasetConfig(Source(pa.table({"carrier": ["UA"], "t": times(1)}), "t"), view)
    table = STORE.get_training_features(config)
    assert [table[name].to_pylist() for name in view.feature_names] == [[1.0], [3.0]]


def test_several_views_and_only_the_features_and_labels_asked_for():
    plane = pa.table({"tail": [5, 6], "t": times(0, 0), "seats": [100, 200], "built": times(0, 1)})
    view = FeatureView("plane", Entity("plane", keys="tail"), Source(plane, "t"), ["seats", "built"])
    rows = labels(["LGA", "LGA"], [4, 4]).append_column("tail", pa.array([6, None], pa.int32()))
    config = DatasetConfig(
        Source(rows, "at"),
        [view, weather()],
        features=["weather__sky", "plane__seats", "plane__built"],
        columns=["late"],
    )
    table = STORE.get_training_features(config)
    assert table.column_names == ["late", "at", "plane__seats", "plane__built", "weather__sky"]
    assert table["plane__seats"].to_pylist() == [200, None]
    assert table["plane__built"].to_pylist() == [at(1), None]
    assert table.schema.field("plane__built").type == UTC_US


def test_labels_are_cut_to_the_range():
    table = joined(weather(), ["LGA"] * 4, [1, 2, 3, 4], start_time=at(2), end_time="2013-01-01T04:00:00Z")
    assert table["late"].to_pylist() == [1, 2]


def test_labels_that_cannot_be_used_are_named():
    with pytest.raises(InputError, match="labels row 1: column 'at' of the source table is null"):
        joined(weather(), ["LGA", "LGA"], [1, 1]) and STORE.get_training_features(
            DatasetConfig(
                Source(pa.table({"origin": ["LGA"] * 2, "at": pa.array([at(0), None], UTC_US)}), "at"),
                weather(),
            )
        )
    naive = pa.table({"origin": ["LGA"], "at": pa.array([0], pa.timestamp("us"))})
    with pytest.raises(InputError, match=r"labels: column 'at' .* without a time zone"):
        STORE.get_training_features(DatasetConfig(Source(naive, "at"), weather()))
    config = DatasetConfig(Source(naive, "at", naive="utc"), weather())
    assert STORE.get_training_features(config).num_rows == 1
    without = labels(["LGA"], [1]).drop_columns("origin")
    with pytest.raises(
        InputError, match="view 'weather' needs key column 'origin' in the labels, which have"
    ):
        STORE.get_training_features(DatasetConfig(Source(without, "at"), weather()))
    numbers = pa.table({"origin": [1], "at": times(1)})
    with pytest.raises(
        InputError, match="key column 'origin': view 'weather' has text, the labels have int64"
    ):
        STORE.get_training_features(DatasetConfig(Source(numbers, "at"), weather()))
    taken = labels(["LGA"], [1]).append_column("weather__temp", pa.array([1.0]))
    with pytest.raises(
        ConfigError, match="the labels have a column 'weather__temp', which is the name of a feature"
    ):
        STORE.get_training_features(DatasetConfig(Source(taken, "at"), weather()))
    with pytest.raises(InputError, match="labels: the source table has no column 'cost'"):
        joined(weather(), ["LGA"], [1], label="cost")


def test_a_source_row_without_an_event_time_is_named():
    rows = pa.table({"k": ["a", "b"], "t": pa.array([at(0), None], UTC_US), "x": [1, 2]})
    view = FeatureView("v", Entity("k"), Source(rows, "t"), ["x"])
    config = DatasetConfig(Source(pa.table({"k": ["a"], "t": times(1)}), "t"), view)
    with pytest.raises(InputError, match="view 'v': column 't' of the source table is null in 1 of 2 rows"):
        STORE.get_training_features(config)
    with pytest.raises(InputError, match="is null in 1 of 2 rows"):
        STORE.offline.compute(view)


def test_times_beyond_the_clock_hold_never_or_always_and_labels_have_none():
    far = pa.array([datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), at(5)], UTC_US)
    rows = pa.table({"k": ["a", "b", "a"], "t": far, "made": far, "x": [1, 2, 3]})
    view = FeatureView("v", Entity("k"), Source(rows, "t", "made"), ["x"], [Aggregate("sum", "x", "1d")])
    times = pa.array(
        [at(6), at(4), datetime(1678, 1, 1, tzinfo=UTC), datetime(2261, 12, 31, tzinfo=UTC)], UTC_US
    )
    config = DatasetConfig(Source(pa.table({"k": ["a", "a", "b", "a"], "t": times}), "t"), view)
    table = STORE.get_training_features(config)
    assert table["v__x"].to_pylist() == [3, None, 2, 3]
    assert table["v__x_sum_1d"].to_pylist() == [3.0, None, 2.0, 3.0]
    assert STORE.offline.compute(view).table["v__x"].to_pylist() == [3, 2]
    far = far.slice(0, 1)
    config = DatasetConfig(Source(pa.table({"origin": ["a"], "at": far}), "at"), weather())
    with pytest.raises(InputError, match="labels, column 'at': expected times from 1678 to 2261"):
        STORE.get_training_features(config)


def test_the_same_digest_means_the_same_rows(tmp_path):
    """The digest covers definition and content: a change of the rows changes it."""
    pq.write_table(weather().source.data, tmp_path / "weather.parquet")
    pq.write_table(labels(["EWR", "LGA"], [2, 3]), tmp_path / "labels.parquet")

    def config(**options):
        view = FeatureView("weather", Entity("origin"), Source("weather.parquet", "time", "made"), ["temp"])
        return DatasetConfig(Source("labels.parquet", "at"), view, **options)

    store = FeatureStore(DuckDBOffline(tmp_path, threads=2), None)
    digest = store.dataset_digest(config())
    first = store.get_training_features(config(), digest=digest)
    assert json.loads(first.schema.metadata[b"engine.dataset"])["digest"] == digest
    assert store.get_training_features(config(), digest=digest).equals(first)
    assert (
        FeatureStore(DuckDBOffline(tmp_path, threads=1), None).get_training_features(config()).equals(first)
    )
    others = {
        store.dataset_digest(config(label="late")),
        store.dataset_digest(config(features=["weather__temp"], columns=["late"])),
        store.dataset_digest(config(start_time=at(0))),
        digest,
    }
    assert len(others) == 4
    # A row that came late makes another dataset, and the old digest is refused.
    late = pa.concat_tables([weather().source.data, weather().source.data.slice(0, 1)])
    pq.write_table(late, tmp_path / "weather.parquet")
    assert store.dataset_digest(config()) != digest
    with pytest.raises(StoreError, match="no longer the one asked for: its sources changed; expected digest"):
        store.get_training_features(config(), digest=digest)


def test_a_config_digests_what_it_refers_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(weather().source.data, "weather.parquet")
    view = FeatureView("weather", Entity("origin"), Source("weather.parquet", "time", "made"), ["temp"])
    config = DatasetConfig(Source(labels(["EWR"], [2]), "at"), view)
    assert config.digest == FeatureStore(DuckDBOffline(), None).dataset_digest(config)
    assert len(config.digest) == 64
