"""Materialisation, on the embedded store and on Redis: rows that are written, rows that never are, and progress."""

import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError, StoreError
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
    Written,
)
from engine.feature_store import store as store_module
from engine.feature_store._codec import keys_of
from engine.feature_store.online import base

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = START + timedelta(days=1)
UTC_US = pa.timestamp("us", "UTC")


@pytest.fixture(params=["lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "lmdb":
        kept = LMDBOnline(tmp_path / "online")
    else:
        kept = RedisOnline(request.getfixturevalue("redis_url"))
    return FeatureStore(DuckDBOffline(threads=1), kept)


def view(rows, **options):
    """Rows of (entity, hour, created hour, value)."""
    at = [[START + timedelta(hours=row[i]) for row in rows] for i in (1, 2)]
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows], pa.string()),
            "t": pa.array(at[0], UTC_US),
            "made": pa.array(at[1], UTC_US),
            "x": pa.array([row[3] for row in rows], pa.float64()),
        }
    )
    return FeatureView("v", Entity("k"), Source(table, "t", "made"), ["x"], **options)


def stored(store, view, entities="ab"):
    """The values of each entity online, None for an entity without a row."""
    kept = store.online
    wire = kept.wire()
    blobs = wire.read([kept.prefix("v") + entity.encode() for entity in entities], 2**62)
    wire.close()
    layout = store.offline.view(view).schema.layout
    return [None if blob is None else layout.unpack(blob)[3] for blob in blobs]


def test_the_newest_row_of_each_entity_in_the_range_goes_online(store):
    made = view([("a", 1, 1, 1.0), ("a", 2, 2, 2.0), ("a", 3, 3, 3.0), ("b", 2, 2, None), ("b", 1, 1, 9.0)])
    until = START + timedelta(hours=3)
    assert store.materialize(made, START, until) == Written(2, 2, 0, 0, 0)
    # The end is not in the range, and b's newest value is a null.
    assert stored(store, made) == [[2.0], [None]]
    assert store.materialize(made, until, DAY) == Written(1, 1, 0, 0, 0)
    assert stored(store, made) == [[3.0], [None]]


def test_doing_it_again_or_for_an_older_range_changes_nothing(store):
    made = view([("a", 1, 1, 1.0), ("a", 5, 5, 5.0), ("b", 1, 1, 7.0)])
    store.materialize(made, START, DAY)
    assert store.materialize(made, START, DAY) == Written(2, 0, 2, 0, 0)
    assert store.materialize(made, START, START + timedelta(hours=2)) == Written(2, 0, 1, 1, 0)
    assert stored(store, made) == [[5.0], [7.0]]


def test_rows_that_came_late_arrive_and_never_win_over_newer_ones(store):
    store.materialize(view([("a", 5, 5, 5.0)]), START, DAY)
    late = view([("a", 5, 5, 5.0), ("a", 2, 9, 2.0), ("b", 1, 9, 1.0)])
    assert store.materialize(late, START, DAY) == Written(2, 1, 1, 0, 0)
    assert stored(store, late) == [[5.0], [1.0]]


def test_a_late_row_changes_the_windows_it_lies_in(store):
    windows = {"aggregates": [Aggregate("sum", "x", "24h")]}
    store.materialize(view([("a", 5, 5, 5.0)], **windows), START, DAY)
    late = view([("a", 5, 5, 5.0), ("a", 2, 9, 2.0)], **windows)
    store.materialize(late, START, DAY)
    assert stored(store, late) == [[5.0, 7.0], None]
    # Events before the range still count in the windows of the rows in it.
    store.materialize(view([("a", 5, 5, 5.0), ("a", 2, 9, 4.0)], **windows), START + timedelta(hours=5), DAY)
    assert stored(store, late) == [[5.0, 9.0], None]


def test_a_late_row_changes_newer_rows_that_are_beyond_the_range(store):
    """The usual repair of one hour: the newest rows are not in the range, but the late event is in their windows."""
    windows = {"aggregates": [Aggregate("sum", "x", "5h"), Aggregate("count", "x", "1h")]}
    before = [("a", 10, 1, 2.0), ("b", 11, 1, 3.0), ("c", 20, 1, 4.0), ("d", 9, 1, 1.0)]
    store.materialize(view(before, **windows), START, DAY)
    # Of b the event is as old as the window is long, which is no longer in it. d is no longer in the source.
    late = [
        ("a", 6, 2, 100.0),
        ("b", 6, 2, 100.0),
        ("c", 6, 2, 100.0),
        ("d", 6, 2, 100.0),
        ("e", 6, 2, 100.0),
    ]
    after = view([*before[:3], *late], **windows)
    hour = (START + timedelta(hours=6), START + timedelta(hours=7))
    assert store.materialize(after, *hour) == Written(5, 2, 0, 3, 0)
    values = [[2.0, 102.0, 1], [3.0, 3.0, 1], [4.0, 4.0, 1], [1.0, 1.0, 1], [100.0, 100.0, 1]]
    assert stored(store, after, "abcde") == values
    assert store.materialize(after, *hour) == Written(5, 0, 1, 4, 0)
    assert stored(store, after, "abcde") == values
    # A later run of everything finds nothing to do but d, whose row at 6 is older than the one that is online.
    assert store.materialize(after, START, DAY).written == 0


@pytest.mark.parametrize(("closed", "total"), [("left", 100.0), ("right", 2.0)])
def test_a_late_row_as_old_as_the_window_is_in_it_where_it_is_closed_on_the_left(store, closed, total):
    windows = {"aggregates": [Aggregate("sum", "x", "5h", closed=closed)]}
    store.materialize(view([("a", 11, 1, 2.0)], **windows), START, DAY)
    after = view([("a", 11, 1, 2.0), ("a", 6, 2, 100.0)], **windows)
    store.materialize(after, START + timedelta(hours=6), START + timedelta(hours=7))
    assert stored(store, after, "a") == [[2.0, total]]


def test_a_late_row_changes_newer_rows_by_keys_of_any_kind(store, tmp_path):
    def rows(*hours):
        times = pa.array([START + timedelta(hours=hour) for hour in hours], UTC_US)
        return pa.table(
            {
                "t": ["x"] * len(hours),
                "n": [7] * len(hours),
                "at": times,
                "seen": times,
                "x": [1] * len(hours),
            }
        )

    made = FeatureView(
        "v", Entity("e", ["t", "n"]), Source(tmp_path / "*.parquet", "at"), ["seen"], [Aggregate("count", "x", "24h")]
    )  # fmt: skip
    pq.write_table(rows(1, 10), tmp_path / "1.parquet")
    assert store.materialize(made, START, DAY).written == 1
    pq.write_table(rows(5), tmp_path / "2.parquet")
    assert store.materialize(made, START + timedelta(hours=5), START + timedelta(hours=6)) == Written(
        1, 1, 0, 0, 0
    )
    wire = store.online.wire()
    [blob] = wire.read(keys_of(store.online.prefix("v"), [["x"], [7]]), 2**62)
    wire.close()
    assert store.offline.view(made).schema.layout.unpack(blob)[3] == [START + timedelta(hours=10), 3]


def test_of_copies_in_one_source_the_later_written_goes_online(store):
    made = view([("a", 1, 4, 4.0), ("a", 1, 3, 3.0), ("b", 1, 2, 1.0), ("b", 1, 2, 2.0)])
    assert store.materialize(made, START, DAY).rows == 2
    assert stored(store, made) == [[4.0], [2.0]]


def test_events_read_for_a_window_alone_are_no_rows(store):
    made = view(
        [("a", 1, 1, 1.0), ("b", 1, 1, 2.0), ("b", 3, 3, 4.0)], aggregates=[Aggregate("sum", "x", "24h")]
    )
    assert store.materialize(made, START + timedelta(hours=2), DAY).rows == 1
    assert stored(store, made) == [None, [4.0, 6.0]]


def test_of_one_instant_the_later_written_wins_in_any_order_of_runs(store):
    newer, older = view([("a", 1, 4, 4.0)]), view([("a", 1, 3, 3.0)])
    store.materialize(newer, START, DAY)
    assert store.materialize(older, START, DAY) == Written(1, 0, 0, 1, 0)
    assert stored(store, newer) == [[4.0], None]


def test_of_the_same_instants_the_run_that_read_the_source_later_wins(store):
    """A run that read the source first and writes last must not undo a correction."""
    before, after = view([("a", 1, 1, 1.0)]), view([("a", 1, 1, 2.0)])
    slow, revision = store._computed(before, START, DAY)
    store.materialize(after, START, DAY)
    assert store.online.upsert(slow, revision=revision) == Written(1, 0, 0, 1, 0)
    assert stored(store, after) == [[2.0], None]
    assert store.materialize(before, START, DAY).written == 1


def test_without_an_end_it_is_now_and_the_future_stays_out(store, monkeypatch):
    now = int(time.time())
    rows = pa.table(
        {"k": ["a", "b"], "t": pa.array([now - 3600, now + 3600], pa.timestamp("s", "UTC")), "x": [1.0, 2.0]}
    )
    made = FeatureView("v", Entity("k"), Source(rows, "t"), ["x"])
    assert store.materialize(made).rows == 1
    # A writer with a clock behind writes fewer rows, and undoes none.
    monkeypatch.setattr(time, "time", lambda: float(now - 7200))
    assert store.materialize(made) == Written(0, 0, 0, 0, 0)
    assert stored(store, made) == [[1.0], None]


def test_progress_counts_rows_that_are_safe(store, monkeypatch):
    monkeypatch.setattr(base, "BATCH_ROWS", 4)
    made = view([(f"k{i}", 1, 1, float(i)) for i in range(10)])
    reported = []
    assert store.materialize(made, START, DAY, progress=lambda *counts: reported.append(counts)).written == 10
    assert reported == [(4, 10), (8, 10), (10, 10)]


def test_a_run_that_was_interrupted_goes_on_and_another_range_does_not_take_its_place(store, monkeypatch):
    monkeypatch.setattr(base, "BATCH_ROWS", 4)
    made = view([(f"k{i}", 1, 1, float(i)) for i in range(10)])

    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.materialize(made, START, DAY, progress=stop)
    assert store.materialize(made, START, DAY) == Written(10, 2, 0, 0, 8)
    with pytest.raises(KeyboardInterrupt):
        store.materialize(made, START, DAY, progress=stop)
    # With another content, the run starts from the beginning.
    changed = view([(f"k{i}", 1, 1, float(i) + 0.5) for i in range(10)])
    assert store.materialize(changed, START, DAY) == Written(10, 10, 0, 0, 0)


def test_a_range_without_rows_is_no_error_and_an_empty_range_is(store):
    made = view([("a", 1, 1, 1.0)])
    assert store.materialize(made, DAY, DAY + timedelta(days=1)) == Written(0, 0, 0, 0, 0)
    assert store.materialize(view([]), START, DAY) == Written(0, 0, 0, 0, 0)
    for start, end in ((DAY, DAY), (DAY, START)):
        with pytest.raises(InputError, match="the range is empty: start_time 2013-01-02"):
            store.materialize(made, start, end)
    with pytest.raises(InputError, match=r"start_time: datetime.* has no time zone"):
        store.materialize(made, datetime(2013, 1, 1), DAY)


def test_computed_features_can_be_looked_at_and_written_by_hand(store):
    made = view([("a", 1, 1, 1.0), ("a", 2, 2, 2.0)])
    features = store.offline.compute(made, START, DAY)
    assert features.rows == 1
    assert features.table.to_pylist() == [{"k": "a", "t": START + timedelta(hours=2), "v__x": 2.0}]
    assert store.online.upsert(features) == Written(1, 1, 0, 0, 0)
    assert stored(store, made) == [[2.0], None]


def test_views_with_alike_names_and_keys_do_not_meet(store):
    one = view([("a", 1, 1, 1.0)])
    other = FeatureView("v_a", Entity("k"), view([("", 1, 1, 2.0), ("a", 1, 1, 3.0)]).source, ["x"])
    store.materialize(one, START, DAY)
    store.materialize(other, START, DAY)
    assert stored(store, one, ["a", "", "_a"]) == [[1.0], None, None]


def test_a_folder_that_grows_with_every_look_is_read_as_it_was(store, tmp_path, monkeypatch):
    pq.write_table(view([("a", 1, 1, 1.0)]).source.data, tmp_path / "0.parquet")
    made = FeatureView("v", Entity("k"), Source(tmp_path / "*.parquet", "t"), ["x"])
    snapshot, looks = store.offline.snapshot, []

    def growing(source):
        found = snapshot(source)
        looks.append(source)
        rows = view([("a", 1 + len(looks), 1, 1.0 + len(looks))]).source.data
        pq.write_table(rows, tmp_path / f"{len(looks)}.parquet")
        return found

    monkeypatch.setattr(store.offline, "snapshot", growing)
    assert store.materialize(made, START, DAY) == Written(1, 1, 0, 0, 0)
    assert stored(store, made, "a") == [[1.0]]
    labels = pa.table({"k": ["a"], "t": pa.array([DAY], UTC_US)})
    table = store.get_training_features(DatasetConfig(Source(labels, "t"), [made]))
    assert table["v__x"].to_pylist()[0] >= 3.0
    monkeypatch.undo()
    assert store.materialize(made, START, DAY).written == 1
    assert stored(store, made, "a") == [[1.0 + len(looks)]]


def test_a_file_that_was_compacted_away_is_looked_for_again(store, tmp_path, monkeypatch):
    for name in ("1", "2"):
        pq.write_table(view([("a", int(name), 1, float(name))]).source.data, tmp_path / f"{name}.parquet")
    made = FeatureView("v", Entity("k"), Source(tmp_path / "*.parquet", "t"), ["x"])
    snapshot, looks = store.offline.snapshot, []

    def compacted(source):
        found = snapshot(source)
        looks.append(source)
        if len(looks) == 1:
            (tmp_path / "2.parquet").rename(tmp_path / "3.parquet")
        return found

    monkeypatch.setattr(store.offline, "snapshot", compacted)
    assert store.materialize(made, START, DAY).written == 1
    assert stored(store, made, "a") == [[2.0]]


def test_a_source_that_never_holds_still_is_named(store, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(view([("a", 1, 1, 1.0)]).source.data, path)
    made = FeatureView("v", Entity("k"), Source(path, "t"), ["x"])
    monkeypatch.setattr(store_module, "LOOKS_MAX", 5)
    looks = []
    look = store.offline.look

    def restless(source):
        looks.append(source)
        pq.write_table(view([("a", 1, 1, float(len(looks)))]).source.data, path)
        return look(source)

    monkeypatch.setattr(store.offline, "look", restless)
    with pytest.raises(
        StoreError, match="view 'v': its source changed, or others began to materialise, 5 times"
    ):
        store.materialize(made, START, DAY)
