"""Stored rows: a packed row comes back, and keys tell entities apart. After materialisations in any order, the online
store holds the row that the offline store calls the newest."""

import math
import tempfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from engine.feature_store._codec import REASONS, Layout, Reader, keys_of, merge, request_keys, supersedes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
whole = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = {
    "bool": st.booleans(),
    "int": whole,
    "float": st.floats(),
    "text": texts,
    "time": st.integers(-(2**50), 2**50),
}


@st.composite
def rows(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=20))
    n = draw(st.integers(0, 4))
    columns = [[draw(st.one_of(st.none(), VALUES[kind])) for _ in range(n)] for kind in kinds]
    instants = st.integers(-(2**63) + 1, 2**63 - 1)
    events = draw(st.lists(instants, min_size=n, max_size=n))
    created = draw(st.one_of(st.none(), st.lists(instants, min_size=n, max_size=n)))
    return kinds, columns, events, created, draw(st.integers(0, 2**64 - 1))


def pack(layout, columns, events, created, revision):
    blank = {"text": "", "float": 0.0}
    filled = [
        [blank.get(kind, 0) if value is None else value for value in column]
        for kind, column in zip(layout.kinds, columns, strict=True)
    ]
    nulls = [[value is None for value in column] for column in columns]
    return layout.pack(
        np.array(events, dtype=np.int64),
        None if created is None else np.array(created, dtype=np.int64),
        revision,
        [c if k == "text" else np.array(c) for k, c in zip(layout.kinds, filled, strict=True)],
        [np.array(mask, dtype=np.uint8) for mask in nulls],
    )


def same(kind, given, read):
    if given is None or read is None:
        return given is read
    if kind == "float":
        return given == read or (math.isnan(given) and math.isnan(read))
    if kind == "time":
        return EPOCH + timedelta(microseconds=given) == read
    return type(given) is type(read) and given == read


@given(rows())
@settings(max_examples=300)
def test_a_packed_row_comes_back(made):
    kinds, columns, events, created, revision = made
    layout = Layout(b"schema-1", kinds)
    for i, blob in enumerate(pack(layout, columns, events, created, revision)):
        event, written, number, values = layout.unpack(blob)
        assert (event, written, number) == (events[i], created and created[i], revision)
        assert all(
            same(kind, column[i], value) for kind, column, value in zip(kinds, columns, values, strict=True)
        )
        # A request gets the same values under the wanted names.
        names = [(f"v__{j}", j) for j in range(len(kinds))]
        reader = Reader(b"v\0", [("k", "text")], layout, names, None)
        counts = [0] * len(REASONS)
        request = {"k": "a"}
        keys = request_keys((reader,), (request,))
        [(out, missing)] = merge((reader,), (request,), keys, [blob], 0, counts)
        assert missing == ()
        assert all(
            same(kind, column[i], out[f"v__{j}"])
            for j, (kind, column) in enumerate(zip(kinds, columns, strict=True))
        )


@given(rows(), st.data())
@settings(max_examples=300)
def test_damaged_rows_are_refused_or_read_within_their_bounds(made, data):
    kinds, columns, events, created, revision = made
    layout = Layout(b"schema-1", kinds)
    for blob in pack(layout, columns, events, created, revision):
        cut = data.draw(st.integers(0, len(blob) - 1))
        found = layout.unpack(blob[:cut])
        if "text" not in kinds:
            assert found == "foreign"
        assert Layout(b"schema-2", kinds).unpack(blob) == "schema"
        at = data.draw(st.integers(0, len(blob) - 1))
        damaged = blob[:at] + bytes([blob[at] ^ data.draw(st.integers(1, 255))]) + blob[at + 1 :]
        found = layout.unpack(damaged)
        assert found in ("foreign", "schema") or len(found[3]) == len(kinds)
        if at < 4:
            assert found == "foreign"
        elif at < 12:
            assert found == "schema"


@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 3), st.integers(0, 2)),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=300)
def test_a_row_supersedes_by_event_then_created_then_revision(made):
    layout = Layout(b"schema-1", ["int"])
    blobs = [
        pack(layout, [[value]], [event], [created], revision)[0] for event, created, revision, value in made
    ]
    for (e, c, r, v), new in zip(made, blobs, strict=True):
        for (oe, oc, orr, ov), old in zip(made, blobs, strict=True):
            if (e, c) != (oe, oc):
                wanted = 1 if (e, c) > (oe, oc) else -1
            elif v == ov:
                wanted = 0
            else:
                wanted = 1 if r >= orr else -1
            assert supersedes(new, old) == wanted
            assert supersedes(new, old[:30]) == -2
            assert supersedes(new, b"x" * 50) == -2


part = st.one_of(st.text(st.sampled_from("ab:1\x00\x01#é"), max_size=6), st.integers(-20, 200))


@given(st.lists(st.tuples(part, part, part), min_size=2, max_size=6, unique_by=lambda t: tuple(map(str, t))))
@settings(max_examples=300)
def test_different_entities_have_different_keys(entities):
    for width in (1, 2, 3):
        own = list(dict.fromkeys(tuple(map(str, entity[:width])) for entity in entities))
        keys = keys_of(b"v\0", list(zip(*own, strict=True)))
        assert len(set(keys)) == len(own)


@given(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=10), st.sampled_from(["x" * 490, "é" * 600, "\x01#a"])
    )
)
def test_a_request_finds_the_key_that_was_written(text):
    reader = Reader(b"v\0", [("k", "text")], Layout(b"schema-1", ["int"]), [("v__a", 0)], None)
    [written] = keys_of(b"v\0", [[text]])
    assert request_keys((reader,), ({"k": text},)) == [written]
    assert len(written) <= 511


HOURS = 40
START = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["lmdb", "redis"])
def make_online(request):
    if request.param == "lmdb":
        return lambda folder, name: LMDBOnline(f"{folder}/{name}")
    url = request.getfixturevalue("redis_url")
    # All examples share one Redis, so each has a namespace of its own.
    return lambda folder, name: RedisOnline(url, namespace=f"{folder.split('/')[-1]}.{name}")


events = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, HOURS - 1),
        st.integers(0, 3),
        st.one_of(st.none(), st.floats(-10, 10)),
    ),
    max_size=20,
)


@given(
    first=events,
    late=events,
    windowed=st.booleans(),
    ranges=st.lists(st.tuples(st.integers(0, HOURS - 1), st.integers(1, HOURS), st.booleans()), max_size=5),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_runs_in_any_order_online_holds_the_newest_row_of_offline(
    make_online, first, late, windowed, ranges
):
    """Ranges in any order, late rows and copies with equal times: at the end online equals offline as of now."""

    def view_of(rows):
        table = pa.table(
            {
                "k": pa.array([row[0] for row in rows], pa.string()),
                "t": pa.array([START + timedelta(hours=row[1]) for row in rows], pa.timestamp("us", "UTC")),
                "made": pa.array(
                    [START + timedelta(hours=row[2]) for row in rows], pa.timestamp("us", "UTC")
                ),
                "x": pa.array([row[3] for row in rows], pa.float64()),
            }
        )
        windows = [Aggregate("sum", "x", "24h"), Aggregate("count", "x", "7d")]
        return FeatureView("v", Entity("k"), Source(table, "t", "made"), ["x"], windows if windowed else ())

    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(DuckDBOffline(threads=1), make_online(folder, "o"))
        seen = {}
        for begin, length, with_late in ranges:
            rows = [*first, *late] if with_late else first
            begin_at = START + timedelta(hours=begin)
            written = store.materialize(view_of(rows), begin_at, begin_at + timedelta(hours=length))
            assert written.rows == written.written + written.same + written.older
            now = newest_online(store, view_of(rows))
            for entity, order in seen.items():
                assert now[entity][:2] >= order[:2], "an older row won"
            seen = now
        view = view_of([*first, *late])
        everything = (START, START + timedelta(hours=HOURS))
        store.materialize(view, *everything)
        assert store.materialize(view, *everything).written == 0
        labels = pa.table({"k": list("abcd"), "t": [everything[1]] * 4})
        offline = store.get_training_features(DatasetConfig(Source(labels, "t"), [view]))
        values = zip(*(offline[name].to_pylist() for name in view.feature_names), strict=True)
        online = newest_online(store, view)
        for entity, wanted in zip("abcd", values, strict=True):
            found = online.get(entity)
            assert repr(list(wanted)) == repr(found[3] if found else [None] * len(view.columns_out))


repairs = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, HOURS - 1), st.one_of(st.none(), st.floats(-10, 10))
        ),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=5,
)


@given(arrivals=repairs, with_id=st.booleans(), ttl=st.sampled_from([None, "30d", "300d"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_repair_of_the_hours_that_got_late_rows_is_enough(make_online, arrivals, with_id, ttl):
    """Rows arrive in any order, and only the hours that they lie in are materialised: online equals offline at once."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(DuckDBOffline(threads=1), make_online(folder, "o"))
        rows = []
        for arrived in arrivals:
            rows += [(*row, len(rows) + i) for i, row in enumerate(arrived)]
            table = pa.table(
                {
                    "k": [row[0] for row in rows],
                    "t": pa.array(
                        [START + timedelta(hours=row[1]) for row in rows], pa.timestamp("us", "UTC")
                    ),
                    "x": pa.array([row[2] for row in rows], pa.float64()),
                    "id": [row[3] for row in rows],
                }
            )
            windows = [
                Aggregate("sum", "x", "5h"),
                Aggregate("count", "x", "24h"),
                Aggregate("max", "x", "1h"),
            ]
            source = Source(table, "t", event_id="id" if with_id else None)
            view = FeatureView("v", Entity("k"), source, ["x"], windows, ttl)
            first, last = min(row[1] for row in arrived), max(row[1] for row in arrived)
            store.materialize(view, START + timedelta(hours=first), START + timedelta(hours=last + 1))
            labels = pa.table({"k": list("abcd"), "t": [START + timedelta(hours=HOURS)] * 4})
            offline = store.get_training_features(DatasetConfig(Source(labels, "t"), [view]))
            values = zip(*(offline[name].to_pylist() for name in view.feature_names), strict=True)
            online = newest_online(store, view)
            for entity, wanted in zip("abcd", values, strict=True):
                found = online.get(entity)
                assert repr(list(wanted)) == repr(found[3] if found else [None] * len(view.columns_out))


def newest_online(store, view):
    """Entity -> (event, created, revision, values) of every stored row."""
    schema = store.offline.view(view).schema
    keys = keys_of(store.online.prefix("v"), [list("abcd")])
    blobs = store.online.wire().read(keys, 2**62)
    return {
        entity: schema.layout.unpack(blob)
        for entity, blob in zip("abcd", blobs, strict=True)
        if blob is not None
    }
