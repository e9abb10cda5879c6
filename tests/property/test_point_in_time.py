"""The point-in-time join against a slow, obvious reference, for generated sources, copies, nulls, TTLs and labels."""

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.store_reference import row_at, view_rows

from engine.feature_store import (
    Aggregate,
    DatasetConfig,
    DuckDBOffline,
    Entity,
    FeatureStore,
    FeatureView,
    Source,
)

START_NS = 1_700_000_000_000_000_000
HOUR_NS = 3600 * 10**9
AGGREGATES = [
    ("count", "x", "1h"),
    ("sum", "x", "24h"),
    ("mean", "x", "7d"),
    ("min", "x", "24h"),
    ("max", "x", "1h"),
    ("distinct", "x", "24h"),
    ("distinct", "s", "7d"),
    ("first", "s", "24h"),
    ("last", "x", "7d"),
    ("last", "flag", "24h"),
    ("quantile", "x", "24h"),
    ("quantile", "x", "7d", 0.9),
    ("sum", "x", "24h", None, "left"),
    ("first", "x", "1h", None, "left"),
    ("std", "y", "7d"),
]

# Few entities and instants make copies, equal times and edges of windows likely; odd nanoseconds test rounding.
instants = st.one_of(
    st.sampled_from([START_NS, START_NS + HOUR_NS]),
    st.integers(0, 12).map(lambda half: START_NS + half * HOUR_NS // 2),
    st.integers(-3, 3).map(lambda ns: START_NS + HOUR_NS + ns),
    st.integers(0, 400).map(lambda hours: START_NS + hours * HOUR_NS),
)
numbers = st.one_of(
    st.none(), st.just(0.1), st.just(1e16), st.just(-1e16), st.floats(-1e6, 1e6), st.just(5e-324)
)
names = st.sampled_from(["a", "b", "ä", ""])
maybe_names = st.one_of(st.none(), names)
source_rows = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.one_of(st.just("a"), maybe_names),
            "n": st.one_of(st.none(), st.integers(0, 1)),
            "t": instants,
            "made": st.one_of(st.none(), st.sampled_from([START_NS, START_NS + 1]), instants),
            "id": st.one_of(st.none(), st.integers(0, 2)),
            "x": numbers,
            "s": maybe_names,
            "flag": st.one_of(st.none(), st.booleans()),
            # No square of these is too small or too large for a float.
            "y": st.one_of(
                st.none(), st.sampled_from([0.1, 0.3, 1e8]), st.floats(-1e3, 1e3).map(lambda y: round(y, 6))
            ),
        }
    ),
    max_size=25,
)
label_rows = st.lists(
    st.fixed_dictionaries({"k": maybe_names, "n": st.one_of(st.none(), st.integers(0, 1)), "t": instants}),
    max_size=12,
)
NS = pa.timestamp("ns", "UTC")
SOURCE = pa.schema(
    [("k", pa.string()), ("n", pa.int32()), ("t", NS), ("made", NS), ("id", pa.int64()), ("x", pa.float64()),
     ("s", pa.string()), ("flag", pa.bool_()), ("y", pa.float64())]
)  # fmt: skip
LABELS = pa.schema([("k", pa.string()), ("n", pa.int64()), ("t", NS)])
OFFLINE = DuckDBOffline(threads=2)


def table_of(rows, schema):
    return pa.table({field.name: pa.array([row[field.name] for row in rows], field.type) for field in schema})


def expected(rows, labels, keys, created, event_id, columns, aggregates, ttl):
    windows = {"1h": HOUR_NS, "24h": 24 * HOUR_NS, "7d": 168 * HOUR_NS}
    made = [
        (a[0], a[1], windows[a[2]], a[3] if a[3:] and a[3] is not None else 0.5, a[4:] == ("left",))
        for a in aggregates
    ]
    known = view_rows(rows, keys, "t", created, event_id, columns, made)
    return [row_at(known, tuple(label[key] for key in keys), label["t"], ttl) for label in labels]


def check(data, rows, labels, keys, created, event_id, columns, aggregates, ttl_hours):
    # A label at each row's own instant, so that every row is seen.
    labels = [*labels, *({name: row[name] for name in ("k", "n", "t")} for row in rows)]
    view = FeatureView(
        "v",
        Entity("e", keys),
        Source(data, "t", created, event_id),
        columns,
        [Aggregate(*a) for a in aggregates],
        None if ttl_hours is None else f"{ttl_hours}h",
    )
    config = DatasetConfig(Source(table_of(labels, LABELS), "t"), [view], reasons=True)
    table = FeatureStore(OFFLINE, None).get_training_features(config)
    assert table.select(["k", "n", "t"]).equals(table_of(labels, LABELS))
    found = zip(
        zip(*(table[name].to_pylist() for name in view.feature_names), strict=True),
        table["v__reason"].to_pylist(),
        strict=True,
    )
    wanted = expected(
        rows,
        labels,
        keys,
        created,
        event_id,
        columns,
        aggregates,
        None if ttl_hours is None else ttl_hours * HOUR_NS,
    )
    for i, ((values, reason), (right, why)) in enumerate(zip(found, wanted, strict=True)):
        assert reason == why, (i, labels[i])
        # repr tells 0.0 from -0.0 and every last bit.
        assert repr(list(values)) == repr(right or [None] * len(values)), (i, labels[i])
    counts = {}
    for _, why in wanted:
        counts[why] = counts.get(why, 0) + 1
    counts.pop("found", None)
    assert json.loads(table.schema.metadata[b"engine.dataset"])["missing"]["v"] == counts


options = {
    "keys": st.sampled_from([("k",), ("n",), ("k", "n"), ("n", "k")]),
    "created": st.sampled_from([None, "made"]),
    "ttl_hours": st.sampled_from([None, 1, 24]),
}


@given(rows=source_rows, labels=label_rows, **options)
@settings(max_examples=120, deadline=None)
def test_the_join_is_that_of_the_plain_loops(rows, labels, keys, created, ttl_hours):
    check(table_of(rows, SOURCE), rows, labels, keys, created, None, ("x", "s", "flag"), (), ttl_hours)


@given(rows=source_rows, labels=label_rows, event_id=st.sampled_from([None, "id"]), **options)
@settings(max_examples=120, deadline=None)
def test_windows_are_those_of_the_plain_loops_to_the_last_bit(
    rows, labels, event_id, keys, created, ttl_hours
):
    check(table_of(rows, SOURCE), rows, labels, keys, created, event_id, ("x", "s"), AGGREGATES, ttl_hours)


@given(rows=source_rows, labels=label_rows, **options)
@settings(max_examples=60, deadline=None)
def test_a_join_that_spills_is_that_of_the_plain_loops(rows, labels, keys, created, ttl_hours):
    """DuckDB joins what does not fit into memory."""
    fits, OFFLINE._join_bytes_max = OFFLINE._join_bytes_max, -1
    try:
        check(table_of(rows, SOURCE), rows, labels, keys, created, None, ("x", "s", "flag"), (), ttl_hours)
    finally:
        OFFLINE._join_bytes_max = fits


@given(rows=source_rows, labels=label_rows, cut=st.integers(0, 25), **options)
@settings(max_examples=40, deadline=None)
def test_rows_in_files_are_those_of_one_table(rows, labels, cut, keys, created, ttl_hours):
    with tempfile.TemporaryDirectory() as folder:
        # The files' names sort as their rows do, and the row groups are small.
        for name, part in (("1.parquet", rows[:cut]), ("2.parquet", rows[cut:])):
            pq.write_table(table_of(part, SOURCE), Path(folder) / name, row_group_size=3)
        data = Path(folder) / "*.parquet"
        check(data, rows, labels, keys, created, None, ("x", "s", "flag"), (), ttl_hours)


@pytest.mark.slow
def test_many_rows_come_out_once_and_in_their_order(seed):
    """A parallel join of more rows than one of DuckDB's batches holds, against NumPy's searchsorted."""
    import numpy as np

    draw = np.random.default_rng(seed)
    n_rows, n_labels = 50_000, 120_000
    key, time = draw.integers(0, 300, n_rows), draw.integers(0, 10**6, n_rows)
    x = draw.normal(size=n_rows)
    x[draw.random(n_rows) < 0.1] = np.nan
    source = pa.table(
        {"k": key, "t": pa.array(time, pa.timestamp("us", "UTC")), "x": pa.array(x, from_pandas=True)}
    )
    label_key, label_time = draw.integers(0, 310, n_labels), draw.integers(0, 10**6, n_labels)
    labels = pa.table(
        {"k": label_key, "t": pa.array(label_time, pa.timestamp("us", "UTC")), "row": np.arange(n_labels)}
    )
    view = FeatureView("v", Entity("k"), Source(source, "t"), ["x"])
    table = FeatureStore(OFFLINE, None).get_training_features(DatasetConfig(Source(labels, "t"), [view]))
    assert table["row"].to_pylist() == list(range(n_labels))
    # In rows sorted by key, time and place, a label's row is the last one at or before it.
    order = np.lexsort((np.arange(n_rows), time, key))
    joint = key[order] * 10**7 + time[order]
    at = np.searchsorted(joint, label_key * 10**7 + label_time, side="right") - 1
    found = (at >= 0) & (key[order][at] == label_key)
    right = np.where(found, x[order][at], np.nan)
    got = table["v__x"].to_numpy()
    assert np.array_equal(got, right, equal_nan=True)
