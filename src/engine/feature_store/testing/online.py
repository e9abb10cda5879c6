"""The conformance suite of online stores: a class of pytest tests, which a store of anybody's can be run through.

The tests write with FeatureStore and with the store's own methods, and read with OnlineFeatures, blocking and under
asyncio, against literal values. They need pytest, and the `store` extra for definitions and rows.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.errors import StoreError
from engine.feature_store._codec import Layout
from engine.feature_store.definitions import Aggregate, Entity, FeatureView, Source
from engine.feature_store.offline.duckdb import DuckDBOffline
from engine.feature_store.online import base
from engine.feature_store.online.base import OnlineStore, Unavailable
from engine.feature_store.online.features import OnlineFeatures
from engine.feature_store.store import FeatureStore

Open = Callable[[], OnlineStore]

START = datetime(2013, 1, 1, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
HOUR_NS = 3600 * 10**9
END = START + timedelta(days=30)
SECOND_NS = 10**9
# Text keys that a store could mangle: empty, long, with its own separators, quotes, patterns and control characters.
ODD_KEYS = (
    "", " ", "a", "A", "ä", "a\u0308", "日本", "😀", "a:b", "a::b", "{a}", "{a", "a}", "}{", "{}", "%s", "%61", "*",
    "a*", "?", "[a]", "\\", "'", '"', "';--", "\n", "\r\n", "\t", "\x00", "a\x00", "a\x00b", "\x01#", "null", "None",
    "\x01#" + "0" * 64, "0", "00", "-0", "1e3", "x" * 470, "x" * 479, "x" * 480, "x" * 481, "x" * 5000, "y" * 5000,
    "ä" * 300,
)  # fmt: skip
INTS = (0, 1, -1, 10, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))


class OnlineStoreConformance:
    """Tests that an online store keeps the promises of `OnlineStore` and `Wire`.

    Subclass it in a test file, under a name that begins with `Test`, and override the fixture `open_store`::

        class TestMyStore(OnlineStoreConformance):
            @pytest.fixture
            def open_store(self):
                place = new_empty_place()
                return lambda: MyStore(place)

    Attributes:
        deletes: False for a store without `note_key`, `rows`, `views`, `erase` and `log`. Tests that need them are
            skipped.
        text_bytes: the length of the longest text that a row must take.
        deadline_ms: the time that a test gives to a read that should come back.
    """

    deletes = True
    text_bytes = 100_000
    deadline_ms = 30_000

    # --- what a subclass says ---

    @pytest.fixture
    def open_store(self) -> Open:
        """A function that opens a store. Each call gives a new object on the same place, which is empty at first."""
        raise NotImplementedError("override the fixture open_store: it returns a function that opens a store")

    @pytest.fixture
    def open_unreachable(self) -> Open | None:
        """A function that opens a store whose server does not answer; None for a store that has no server."""
        return None

    @pytest.fixture
    def forgets_after_s(self) -> float | None:
        """How long after a row's TTL of one second the server has forgotten it; None for one that takes its time."""
        return None

    # --- reading ---

    def test_an_entity_that_was_never_written_is_missing(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 0, 1.0)])
        store.materialize(view, None, END)
        features = _features(store, [view])
        assert self._get(features, {"k": "b"}) == ([None], ("v__x",))
        assert self._get(features, {"k": None}) == ([None], ("v__x",))
        stats = features.stats()
        assert (stats["not_found"], stats["null_key"], stats["found"]) == (2, 2, 0)
        features.close()

    def test_every_kind_of_value_comes_back_with_its_bits(self, open_store: Open) -> None:
        import pyarrow as pa

        store = _store(open_store)
        at = START + timedelta(microseconds=1)
        rows = {
            "k": pa.array(["all", "nulls", "ends"]),
            "t": pa.array([START] * 3, pa.timestamp("us", "UTC")),
            "b": pa.array([True, None, False]),
            "i": pa.array([-7, None, 2**63 - 1], pa.int64()),
            "f": pa.array([0.1 + 0.2, None, -0.0], pa.float64()),
            "g": pa.array([float("nan"), None, float("-inf")], pa.float64()),
            "s": pa.array(["ä\x00😀", None, ""]),
            "u": pa.array([at, None, datetime(1, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
            "l": pa.array([[1.5, -0.0], None, []], pa.list_(pa.float64())),
        }
        view = FeatureView("v", Entity("k"), Source(pa.table(rows), "t"), ["b", "i", "f", "g", "s", "u", "l"])
        store.materialize(view, None, END)
        features = _features(store, [view])
        # NaN equals itself by its text alone.
        values = [True, -7, 0.30000000000000004, float("nan"), "ä\x00😀", at, [1.5, -0.0]]
        assert repr(self._get(features, {"k": "all"})) == repr((values, ()))
        assert self._get(features, {"k": "nulls"}) == ([None] * 7, ())
        values = [False, 2**63 - 1, -0.0, float("-inf"), "", datetime(1, 1, 1, tzinfo=UTC), []]
        assert repr(self._get(features, {"k": "ends"})) == repr((values, ()))
        features.close()

    def test_a_batch_has_each_row_in_its_place(self, open_store: Open) -> None:
        """100 keys in 3 views, with keys that are not there, and keys twice."""
        store = _store(open_store)
        views = [_view([(f"e{i}", 0, i + 0.25 * at) for i in range(100)], name=f"v{at}") for at in range(3)]
        for view in views:
            store.materialize(view, None, END)
        features = _features(store, views)
        asked = [*range(100), 7, 7, 1000, 50]
        many = features.fetch_many([{"k": f"e{i}"} for i in asked], self._deadline())
        for i, (out, missing) in zip(asked, many, strict=True):
            wanted = [None] * 3 if i == 1000 else [i + 0.25 * at for at in range(3)]
            assert [out[f"v{at}__x"] for at in range(3)] == wanted
            assert missing == (features.names if i == 1000 else ())
        assert features.fetch_many([], self._deadline()) == []
        features.close()

    def test_keys_with_odd_names_are_told_apart(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([(key, 0, float(at)) for at, key in enumerate(ODD_KEYS)])
        assert store.materialize(view, None, END).written == len(ODD_KEYS)
        features = _features(store, [view])
        many = features.fetch_many([{"k": key} for key in ODD_KEYS], self._deadline())
        assert [out["v__x"] for out, _ in many] == [float(at) for at in range(len(ODD_KEYS))]
        for at, key in enumerate(ODD_KEYS[:12]):
            assert self._get(features, {"k": key}) == ([float(at)], ())
        if self.deletes:
            prefix = store.online.prefix("v")
            found = {key[len(prefix) :] for key, _ in store.online.rows("v")}
            assert len(found) == len(ODD_KEYS)
            assert {
                key.encode() for key in ODD_KEYS if len(key) < 300 and not key.startswith("\x01")
            } <= found
        features.close()

    def test_keys_of_several_parts_numbers_and_bytes_are_told_apart(self, open_store: Open) -> None:
        import pyarrow as pa

        store = _store(open_store)
        pairs = [("1:2", "3"), ("1", "2:3"), ("", "a"), ("a", ""), ("1:", "1:"), ("{", "}")]
        times = pa.array([START] * len(pairs), pa.timestamp("us", "UTC"))
        first, second = (list(part) for part in zip(*pairs, strict=True))
        rows = pa.table({"p": first, "q": second, "t": times, "x": [float(i) for i in range(len(pairs))]})
        two = FeatureView("two", [Entity("p"), Entity("q")], Source(rows, "t"), ["x"])
        times = pa.array([START] * len(INTS), pa.timestamp("us", "UTC"))
        rows = pa.table(
            {"n": pa.array(INTS, pa.int64()), "t": times, "x": [float(i) for i in range(len(INTS))]}
        )
        numbers = FeatureView("numbers", Entity("n"), Source(rows, "t"), ["x"])
        raw = [bytes(range(256)), b"\xff", b"\x00", b"\xc3("]
        times = pa.array([START] * len(raw), pa.timestamp("us", "UTC"))
        rows = pa.table({"r": pa.array(raw), "t": times, "x": [float(i) for i in range(len(raw))]})
        plain = FeatureView("plain", Entity("r"), Source(rows, "t"), ["x"])
        for view in (two, numbers, plain):
            store.materialize(view, None, END)
        features = _features(store, [two, numbers, plain])
        for at, pair in enumerate(pairs):
            request = {"p": pair[0], "q": pair[1], "n": INTS[at], "r": raw[at % len(raw)]}
            wanted = [float(at), float(at), float(at % len(raw))]
            assert self._get(features, request) == (wanted, ())
        features.close()

    def test_no_view_reads_rows_of_another(self, open_store: Open) -> None:
        """One name begins another, and all have the same entity."""
        store = _store(open_store)
        names = ["v", "vv", "v_v", "v1", "v11", "V", "x" * 64]
        views = [_view([("a", 0, float(at))], name=name) for at, name in enumerate(names)]
        for view in views[::2]:
            store.materialize(view, None, END)
        features = _features(store, views)
        wanted = [float(at) if at % 2 == 0 else None for at in range(len(names))]
        assert self._get(features, {"k": "a"})[0] == wanted
        if self.deletes:
            for view in views:
                assert len(list(store.online.rows(view.name))) == (view in views[::2])
            assert store.online.views() == sorted(names[::2])
        features.close()

    def test_a_long_text_is_kept_whole(self, open_store: Open) -> None:
        import pyarrow as pa

        text = "".join(chr(97 + i % 26) for i in range(self.text_bytes))
        rows = pa.table({"k": ["a"], "t": pa.array([START], pa.timestamp("us", "UTC")), "x": [text]})
        store = _store(open_store)
        view = FeatureView("v", Entity("k"), Source(rows, "t"), ["x"])
        store.materialize(view, None, END)
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([text], ())
        features.close()

    # --- writing ---

    def test_nothing_older_wins_in_any_order_of_writing(self, open_store: Open) -> None:
        """By event time, then created time, then revision; and the same row is not written again."""
        store = open_store()
        # Written one after the other, the last of these is the newest.
        rows = [
            _row(0, 0, 5),
            _row(1, 0, 0),
            _row(1, 3, 0),
            _row(1, 3, 1, 2.0),
            _row(2, -1, 0),
            _row(2, 0, 0),
        ]
        for number, order in enumerate(list(itertools.permutations(range(4)))[::5]):
            key = store.prefix("v") + b"%d" % number
            newest = -1
            for at in order:
                counts = store.write([(key, rows[at])], None, {})
                assert counts == ((1, 0, 0, None) if at > newest else (0, 0, 1, None)), order
                newest = max(newest, at)
                assert self._read(store, [key]) == [rows[newest]]
                assert store.write([(key, rows[newest])], None, {}) == (0, 1, 0, None)
        # A copy of the same instants that was read later, with the same values, is the same row.
        key = store.prefix("v") + b"copy"
        for row, counts in (
            (rows[4], (1, 0, 0, None)), (rows[5], (1, 0, 0, None)), (_row(2, 0, 9), (0, 1, 0, None)),
            (_row(2, 0, 8, 7.0), (1, 0, 0, None)), (_row(2, 0, 7, 6.0), (0, 0, 1, None)), (rows[4], (0, 0, 1, None)),
        ):  # fmt: skip
            assert store.write([(key, row)], None, {}) == counts
        assert self._read(store, [key]) == [_row(2, 0, 8, 7.0)]
        # Times before 1970 sort as numbers do.
        key = store.prefix("v") + b"past"
        assert store.write([(key, _row(-400_000))], None, {}) == (1, 0, 0, None)
        assert store.write([(key, _row(-400_001))], None, {}) == (0, 0, 1, None)

    def test_one_call_may_have_a_key_twice(self, open_store: Open) -> None:
        store = open_store()
        key, other = (store.prefix("v") + name for name in (b"a", b"b"))
        pairs = [(key, _row(1)), (other, _row(5)), (key, _row(3)), (key, _row(2))]
        assert store.write(pairs, None, {}) == (3, 0, 1, None)
        assert self._read(store, [key, other]) == [_row(3), _row(5)]

    def test_an_older_range_replaces_nothing_and_a_second_run_writes_nothing(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 0, 1.0), ("a", 30, 2.0), ("b", 5, 3.0)])
        middle = START + timedelta(hours=10)
        assert store.materialize(view, middle, END).written == 1
        written = store.materialize(view, None, middle)
        assert (written.written, written.older) == (1, 1)
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([2.0], ())
        assert self._get(features, {"k": "b"}) == ([3.0], ())
        written = store.materialize(view, None, END)
        assert (written.rows, written.written, written.same) == (2, 0, 2)
        features.close()

    def test_more_rows_than_one_call_takes(self, open_store: Open) -> None:
        store = _store(open_store)
        n = 601
        view = _view([(f"e{i}", 0, float(i)) for i in range(n)])
        assert store.materialize(view, None, END).written == n
        assert store.materialize(view, None, END).same == n
        features = _features(store, [view])
        many = features.fetch_many([{"k": f"e{i}"} for i in range(n)], self._deadline())
        assert [out["v__x"] for out, _ in many] == [float(i) for i in range(n)]
        if self.deletes:
            assert len({key for key, _ in store.online.rows("v")}) == n
        features.close()

    def test_a_killed_run_goes_on_where_it_stopped(
        self, open_store: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "BATCH_ROWS", 10)
        store = _store(open_store)
        view = _view([(f"e{i:02}", 0, float(i)) for i in range(35)])

        def kill(done: int, total: int) -> None:
            if done == 20:
                raise _Killed

        with pytest.raises(_Killed):
            store.materialize(view, None, END, progress=kill)
        written = _store(open_store).materialize(view, None, END)
        assert (written.rows, written.resumed, written.written) == (35, 20, 15)
        assert store.materialize(view, None, END).resumed == 0
        features = _features(store, [view])
        many = features.fetch_many([{"k": f"e{i:02}"} for i in range(35)], self._deadline())
        assert [out["v__x"] for out, _ in many] == [float(i) for i in range(35)]
        features.close()

    def test_late_events_change_aggregates_that_are_online(self, open_store: Open) -> None:
        rows = [("a", 1, 1.0), ("a", 3, 10.0)]
        view = _view(rows, columns=[], aggregates=[Aggregate("sum", "x", "24h")])
        store = _store(open_store)
        store.materialize(view, None, END)
        view = _view([*rows, ("a", 2, 100.0)], columns=[], aggregates=[Aggregate("sum", "x", "24h")])
        hour = timedelta(hours=1)
        written = store.materialize(view, START + 2 * hour, START + 3 * hour)
        assert written.written == 1
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([111.0], ())
        features.close()

    def test_pushed_rows_follow_the_same_rule(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 0, 1.0)])
        hours = [START + timedelta(hours=hour) for hour in range(4)]
        assert store.push(view, {"k": "a", "t": hours[2], "x": 2.0}).written == 1
        assert store.push(view, {"k": "a", "t": hours[1], "x": 3.0}).older == 1
        assert store.materialize(view, None, END).older == 1
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([2.0], ())
        rows = [{"k": key, "t": hours[at], "x": float(at)} for key, at in (("a", 3), ("b", 0), ("b", 1))]
        assert store.push(view, rows).written in (2, 3)
        assert self._get(features, {"k": "b"}) == ([1.0], ())
        features.close()

    def test_concurrent_writers_leave_the_newest_row(self, open_store: Open) -> None:
        """Four stores write all versions of each row, in orders of their own. Each reader sees whole rows only."""
        store = open_store()
        keys = [store.prefix("v") + b"%d" % i for i in range(12)]
        versions = [_row(hour, 0, 1, float(hour)) for hour in range(8)]
        stop, torn = threading.Event(), []

        def read() -> None:
            wire = store.wire()
            while not stop.is_set():
                for row in wire.read(keys, self._deadline()):
                    if row is not None and row not in versions:
                        torn.append(row)
            wire.close()

        def write(seed: int) -> int:
            own, draw = open_store(), random.Random(seed)
            pairs = [(key, row) for key in keys for row in versions]
            draw.shuffle(pairs)
            total = 0
            for at in range(0, len(pairs), 16):
                *counts, foreign = own.write(pairs[at : at + 16], None, {})
                assert foreign is None
                assert sum(counts) == len(pairs[at : at + 16])
                total += counts[0]
            return total

        reader = threading.Thread(target=read)
        reader.start()
        with ThreadPoolExecutor(4) as pool:
            written = list(pool.map(write, range(4)))
        stop.set()
        reader.join()
        assert self._read(store, keys) == [versions[-1]] * len(keys)
        assert torn == []
        # Every key was written at least once, and no version of a key twice.
        assert len(keys) <= sum(written) <= len(keys) * len(versions)

    def test_revisions_rise_whoever_draws_them(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(3)]

        def draw(store: OnlineStore) -> list[int]:
            return [store.next_revision() for _ in range(10)]

        with ThreadPoolExecutor(3) as pool:
            drawn = list(pool.map(draw, stores))
        assert all(part == sorted(part) for part in drawn)
        every = [revision for part in drawn for revision in part]
        assert len(set(every)) == 30
        assert stores[0].note("revision") == b"%d" % max(every)
        assert stores[0].next_revision() > max(every)

    def test_notes_are_kept_and_deleted(self, open_store: Open) -> None:
        store, other = open_store(), open_store()
        assert store.note("mark:v") is None
        store.write([], None, {"mark:v": b"\x00\xff", "schemas:v": b"x" * 10_000})
        assert (other.note("mark:v"), other.note("schemas:v")) == (b"\x00\xff", b"x" * 10_000)
        other.write([], None, {"mark:v": None, "none": None})
        assert store.note("mark:v") is None
        key = store.note_key("schemas:v")
        if key is not None:
            assert self._read(store, [key]) == [b"x" * 10_000]

    def test_other_peoples_bytes_are_left_alone(self, open_store: Open) -> None:
        self._needs_deletes()
        store = _store(open_store)
        view = _view([("a", 0, 1.0), ("b", 0, 2.0)])
        key = store.online.prefix("v") + b"a"
        store.online.erase({key: b"somebody else's bytes, which are long enough"}, None, b"{}")
        result = store.online.write([(key, _row(9))], None, {"mark:v": b"1"})
        assert result[3] == key
        assert store.online.note("mark:v") is None
        with pytest.raises(StoreError, match="holds something that is not a row of a feature view"):
            store.materialize(view, None, END)
        assert self._read(store.online, [key]) == [b"somebody else's bytes, which are long enough"]
        store.online.erase({key: None}, None, b"{}")
        store.materialize(view, None, END)
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([1.0], ())
        features.close()

    # --- time ---

    def test_the_ttl_is_checked_when_a_row_is_read(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 2, 1.0)], ttl="3h")
        store.materialize(view, None, END)
        clock = [START_NS + 5 * HOUR_NS]
        features = _features(store, [view], lambda: clock[0])
        assert self._get(features, {"k": "a"}) == ([1.0], ()), "a row exactly as old as its TTL holds"
        clock[0] += 1
        assert self._get(features, {"k": "a"}) == ([None], ("v__x",))
        assert features.stats()["expired"] == 2
        features.close()

    def test_a_clock_that_is_behind_loses_no_row(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 2, 1.0)], ttl="3h")
        store.materialize(view, None, END)
        features = _features(store, [view], lambda: START_NS - 1000 * HOUR_NS)
        assert self._get(features, {"k": "a"}) == ([1.0], ())
        features.close()

    def test_a_ttl_that_changes_counts_for_rows_that_are_there(self, open_store: Open) -> None:
        """Longer, shorter, none and back: readers go by the definition that they have."""
        store = _store(open_store)
        rows = [("a", 2, 1.0)]
        now = START_NS + 10 * HOUR_NS
        for ttl, there in (
            ("3h", False),
            ("20h", True),
            ("1h", False),
            (None, True),
            ("8h", True),
            ("7h", False),
        ):
            view = _view(rows, ttl=ttl)
            store.materialize(view, None, END)
            features = _features(store, [view], lambda: now)
            assert self._get(features, {"k": "a"})[0] == ([1.0] if there else [None]), ttl
            features.close()

    def test_a_row_is_kept_for_its_ttl_and_for_ever_once_the_ttl_is_taken_away(
        self, open_store: Open, forgets_after_s: float | None
    ) -> None:
        """On the machine's own clock. What the server forgets, it forgets after the TTL and never before."""
        store = _store(open_store)
        at = datetime.now(UTC) - timedelta(hours=1)
        short, kept = _view([], name="short", ttl="1s"), _view([], name="kept", ttl="1s")
        for view in (short, kept):
            store.push(view, {"k": "a", "t": at, "x": 1.0})
        features = _features(store, [short, kept], lambda: int(at.timestamp() * 1e9))
        assert self._get(features, {"k": "a"}) == ([1.0, 1.0], ()), "the clock of the reader decides"
        store.push(_view([], name="kept"), {"k": "b", "t": at, "x": 2.0})
        time.sleep(forgets_after_s or 1.5)
        found = self._get(features, {"k": "a"})[0]
        assert found[1] == 1.0
        if forgets_after_s is not None:
            assert found[0] is None
        features.close()

    # --- versions of a view ---

    def test_rows_of_another_schema_are_never_read_as_rows(self, open_store: Open) -> None:
        """A column changes its type: an int is not read as a float."""
        store = _store(open_store)
        old = _view([("a", 0, 1.0)])
        store.materialize(old, None, END)
        features = _features(store, [old])
        assert self._get(features, {"k": "a"}) == ([1.0], ())
        store.materialize(_view([("a", 0, 1)]), None, END)
        assert self._get(features, {"k": "a"}) == ([None], ("v__x",))
        assert features.stats()["schema"] == 2
        features.close()

    def test_services_of_an_old_and_a_new_definition_run_side_by_side(self, open_store: Open) -> None:
        store = _store(open_store)
        if store.online.note_key("schemas:v") is None:
            pytest.skip("this store's readers cannot ask for the schemas of a view")
        old, new = _view([("a", 1, 1.0)]), _view([("a", 2, 10.0)], columns=["x", "y"])
        store.materialize(old, None, END)
        before, after = _features(store, [old]), _features(store, [new])
        assert self._get(before, {"k": "a"}) == ([1.0], ())
        assert self._get(after, {"k": "a"}) == ([1.0, None], ("v__y",))
        store.materialize(new, None, END)
        assert self._get(before, {"k": "a"}) == ([10.0], ())
        assert self._get(after, {"k": "a"}) == ([10.0, 20.0], ())
        assert [schema.features for schema in store.online.schemas("v")] == [
            (("x", "float"), ("y", "float")),
            (("x", "float"),),
        ]
        before.close()
        after.close()

    def test_a_serving_machine_needs_no_source(self, open_store: Open) -> None:
        _store(open_store).materialize(_view([("a", 0, 1.0)]), None, END)
        view = FeatureView("v", Entity("k"), Source("nowhere.parquet", "t"), ["x"])
        features = _features(_store(open_store), [view])
        assert self._get(features, {"k": "a"}) == ([1.0], ())
        features.close()

    # --- deleting ---

    def test_a_deleted_entity_stays_deleted_and_newer_rows_come(self, open_store: Open) -> None:
        self._needs_deletes()
        store = _store(open_store)
        view, other = _view([("a", 0, 1.0), ("b", 0, 2.0)]), _view([("a", 0, 5.0)], name="other")
        for each in (view, other):
            store.materialize(each, None, END)
        entry = store.delete(view, {"k": "a"}, note="by letter")
        assert (entry.views, entry.rows, entry.mark) == (("v",), 1, True)
        features = _features(store, [view, other])
        assert self._get(features, {"k": "a"}) == ([None, 5.0], ("v__x",))
        assert store.materialize(view, None, END).older == 1
        assert self._get(features, {"k": "a"})[0] == [None, 5.0]
        assert self._get(features, {"k": "b"})[0] == [2.0, None]
        # By name, wherever it is; what is deleted already is not counted.
        entry = store.delete_entity({"k": "a"})
        assert (entry.views, entry.rows) == (("other", "v"), 1)
        assert self._get(features, {"k": "a"})[0] == [None, None]
        later = datetime.now(UTC) + timedelta(hours=1)
        assert store.push(view, {"k": "a", "t": later, "x": 7.0}).written == 1
        assert self._get(features, {"k": "a"})[0] == [7.0, None]
        # Without a mark the source's rows come back.
        store.delete(view, [{"k": "a"}, {"k": "b"}, {"k": "never"}], mark=False)
        assert store.materialize(view, None, END).written == 2
        assert self._get(features, {"k": "a"})[0] == [1.0, None]
        log = store.deletions()
        assert [(each.views, each.note, each.mark) for each in log] == [
            (("v",), "by letter", True), (("other", "v"), "", True), (("v",), "", False),
        ]  # fmt: skip
        assert open_store().log() == [each.to_json() for each in log]
        features.close()

    def test_an_entity_of_a_view_of_several_is_deleted_by_its_part(self, open_store: Open) -> None:
        import pyarrow as pa

        self._needs_deletes()
        rows = {"p": ["1", "1", "2"], "q": ["a}", "{b", "a}"], "t": [START] * 3, "x": [1.0, 2.0, 3.0]}
        table = pa.table({**rows, "t": pa.array(rows["t"], pa.timestamp("us", "UTC"))})
        view = FeatureView("v", [Entity("p"), Entity("q")], Source(table, "t"), ["x"])
        store = _store(open_store)
        store.materialize(view, None, END)
        assert store.delete_entity({"q": "a}"}).rows == 2
        features = _features(store, [view])
        found = [self._get(features, {"p": p, "q": q})[0] for p, q in (("1", "a}"), ("1", "{b"), ("2", "a}"))]
        assert found == [[None], [2.0], [None]]
        features.close()

    # --- threads, tasks and deadlines ---

    def test_threads_and_tasks_get_their_own_answers(self, open_store: Open) -> None:
        store = _store(open_store)
        n = 60
        view = _view([(f"e{i}", 0, float(i)) for i in range(n)])
        store.materialize(view, None, END)
        features = _features(store, [view])

        def own(first: int) -> list[float]:
            every = range(first, n, 6)
            return [features.fetch({"k": f"e{i}"}, self._deadline())[0]["v__x"] for i in every]

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(own, range(6))) == [[float(i) for i in range(at, n, 6)] for at in range(6)]

        async def together() -> list[float]:
            tasks = [features.fetch_async({"k": f"e{i}"}, self._deadline()) for i in range(n)]
            return [out["v__x"] for out, _ in await asyncio.gather(*tasks)]

        # Two event loops, one after the other.
        for _ in range(2):
            assert asyncio.run(_closing(together(), features)) == [float(i) for i in range(n)]
        features.close()

    def test_a_deadline_that_has_passed_is_not_waited_for(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 0, 1.0)])
        store.materialize(view, None, END)
        features = _features(store, [view])
        assert self._get(features, {"k": "a"}) == ([1.0], ())
        for deadline_ns in (0, time.monotonic_ns() - 1):
            for out, missing in (
                features.fetch({"k": "a"}, deadline_ns),
                asyncio.run(_closing(features.fetch_async({"k": "a"}, deadline_ns), features)),
            ):
                # A store that waits for nobody may answer; one across a network has not been asked.
                assert (out["v__x"], missing) == ((None, ("v__x",)) if features.blocking else (1.0, ()))
        if features.blocking:
            assert features.stats()["out_of_time"] == 4
        features.close()

    def test_a_closed_reader_opens_again(self, open_store: Open) -> None:
        store = _store(open_store)
        view = _view([("a", 0, 1.0)])
        store.materialize(view, None, END)
        features = _features(store, [view])
        for _ in range(3):
            assert self._get(features, {"k": "a"}) == ([1.0], ())
            features.close()

    def test_a_server_out_of_reach_costs_features_and_no_request(
        self, open_store: Open, open_unreachable: Open | None
    ) -> None:
        if open_unreachable is None:
            pytest.skip("this store has no server")
        view = _view([("a", 0, 1.0)])
        down = open_unreachable()
        features = _features(FeatureStore(DuckDBOffline(threads=1), down), [view])
        for number in range(20):
            deadline_ns = time.monotonic_ns() + 50_000_000
            if number % 2:
                got = asyncio.run(_closing(features.fetch_async({"k": "a"}, deadline_ns), features))
            else:
                got = features.fetch({"k": "a"}, deadline_ns)
            assert (got[0]["v__x"], got[1]) == (None, ("v__x",))
        stats = features.stats()
        named = sum(stats.get(name, 0) for name in ("store_down", "timeout", "out_of_time", "refused"))
        assert (named, stats["found"], stats["not_found"]) == (20, 0, 0)
        assert stats["last_error"]
        features.close()
        with pytest.raises(StoreError):
            down.next_revision()
        with pytest.raises(StoreError):
            down.note("schema:v")
        with pytest.raises(StoreError):
            down.write([(down.prefix("v") + b"a", _row(1))], None, {})
        with pytest.raises(StoreError):
            FeatureStore(DuckDBOffline(threads=1), down).materialize(view, None, END)

    # --- the tests' own ---

    def _needs_deletes(self) -> None:
        if not self.deletes:
            pytest.skip("this store cannot delete")

    def _deadline(self) -> int:
        return time.monotonic_ns() + self.deadline_ms * 1_000_000

    def _get(self, features: OnlineFeatures, request: Mapping[str, Any]) -> tuple[list[Any], tuple[str, ...]]:
        """The values of all features and the missing names, blocking and under asyncio, which must agree."""
        out, missing = features.fetch(request, self._deadline())
        fetched = features.fetch_async(request, self._deadline())
        again, missing_again = asyncio.run(_closing(fetched, features))
        assert (repr(again), missing_again) == (repr(out), missing)
        return [out[name] for name in features.names], missing

    def _read(self, store: OnlineStore, keys: list[bytes]) -> Sequence[bytes | None]:
        """The stored bytes, by a reader of its own."""
        wire = store.wire()
        try:
            return list(wire.read(keys, self._deadline()))
        except Unavailable as error:
            raise AssertionError(f"the store did not answer: {error}") from error
        finally:
            wire.close()


class _Killed(BaseException):
    """A process that is killed runs no handler."""


class _Inputs:
    """A feature program that reads these features as they are."""

    capsule = None

    def __init__(self, names: Sequence[str]) -> None:
        self.input_names = tuple(names)


async def _closing(fetched: Any, features: OnlineFeatures) -> Any:
    """The result, with the loop's connections closed before the loop is."""
    try:
        return await fetched
    finally:
        features.close()
        await asyncio.sleep(0)


def _store(open_store: Open) -> FeatureStore:
    return FeatureStore(DuckDBOffline(threads=1), open_store())


def _features(
    store: FeatureStore,
    views: Sequence[FeatureView],
    now_ns: Callable[[], int] = lambda: START_NS + 240 * HOUR_NS,
) -> OnlineFeatures:
    names = [name for view in views for name in view.feature_names]
    return store.online_features(_Inputs(names), views, now_ns=now_ns)


def _view(
    rows: Sequence[tuple[str, int, float]],
    *,
    name: str = "v",
    columns: Sequence[str] = ("x",),
    aggregates: Sequence[Aggregate] = (),
    ttl: str | None = None,
) -> FeatureView:
    """A view of (entity, hour, value) rows; its column `y` is twice the value."""
    import pyarrow as pa

    values = [value for _, _, value in rows]
    kind = pa.int64() if values and all(type(value) is int for value in values) else pa.float64()
    table = pa.table(
        {
            "k": pa.array([key for key, _, _ in rows], pa.string()),
            "t": pa.array([START + timedelta(hours=hour) for _, hour, _ in rows], pa.timestamp("us", "UTC")),
            "x": pa.array(values, kind),
            "y": pa.array([2 * value for value in values], kind),
        }
    )
    return FeatureView(name, Entity("k"), Source(table, "t"), columns, aggregates, ttl=ttl)


_LAYOUT = Layout(b"conform!", ["float"])


def _row(event: int, created: int | None = None, revision: int = 0, value: float = 1.0) -> bytes:
    """A packed row of an event and a created hour."""
    made = None if created is None else [START_NS + created * HOUR_NS]
    [row] = _LAYOUT.pack([START_NS + event * HOUR_NS], made, revision, [[value]], [None])
    return row
