"""Sequences of what happens to a store: rows that arrive, late ones too, pushes, deletions, kills in the middle of a
materialisation, writers at the same time. After each step both online stores serve, and the offline store joins, what
plain loops over lists of dicts say.

A few sequences run each time; ENGINE_NIGHTLY=1 runs 10,000. A sequence that failed names its seed, and
ENGINE_SEQUENCE=<seed> runs it alone.
"""

import os
import random
import shutil
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.property.store_reference import row_at, view_rows, windows_at

from engine import transform as t
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
    deletion,
)
from engine.feature_store.online import base

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))
SEQUENCES = 10_000 if NIGHTLY else int(os.environ.get("ENGINE_SEQUENCES", "8"))
STEPS = 6
HOUR_NS = 3600 * 10**9
START = datetime(2013, 1, 1, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
HOURS = 48
ENTITIES = ("a", "b", "ä", "")
NS = pa.timestamp("ns", "UTC")
TYPES = {"k": pa.string(), "t": NS, "made": NS, "id": pa.int64(), "x": pa.float64(), "s": pa.string()}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "distinct", "first", "last", "std", "quantile")


class Killed(BaseException):
    """A process that is killed runs no handler."""


class Model:
    """What a sequence should leave behind.

    Attributes:
        rows: the source, in order.
        stored: the event time of each entity's row online, without those that were deleted.
        deleted: rows up to this event time stay out, by entity.
    """

    def __init__(self, draw):
        self.draw = draw
        self.rows, self.stored, self.deleted = [], {}, {}
        self.created = draw.choice([None, "made"])
        self.event_id = draw.choice([None, "id"])
        self.as_of = draw.choice(["none", "row", "request"])
        self.columns = draw.choice([["x"], ["x", "s"]])
        self.aggregates = (
            [] if self.as_of == "none" else [self.aggregate() for _ in range(draw.randint(1, 4))]
        )
        self.aggregates = list({made[:3] + made[4:]: made for made in self.aggregates}.values())
        self.ttl_hours = draw.choice([None, 5, 30])
        self.now = 0

    def aggregate(self):
        function = self.draw.choice(FUNCTIONS)
        text = self.as_of == "row" and function in ("distinct", "first", "last") and self.draw.random() < 0.5
        q = self.draw.choice([0.5, 0.25]) if function == "quantile" else 0.5
        return function, "s" if text else "x", self.draw.choice([1, 6, 30]), q, self.draw.random() < 0.2

    def view(self):
        columns = {name: pa.array([row[name] for row in self.rows], kind) for name, kind in TYPES.items()}
        made = [
            Aggregate(f, column, f"{hours}h", q if f == "quantile" else None, "left" if left else "right")
            for f, column, hours, q, left in self.aggregates
        ]
        return FeatureView(
            "v", Entity("e", "k"), Source(pa.table(columns), "t", self.created, self.event_id), self.columns,
            made, f"{self.ttl_hours}h" if self.ttl_hours else None,
            as_of="request" if self.as_of == "request" else "row",
        )  # fmt: skip

    @property
    def windows(self):
        return [(f, column, hours * HOUR_NS, q, left) for f, column, hours, q, left in self.aggregates]

    def known(self):
        windows = self.windows if self.as_of == "row" else []
        return view_rows(self.rows, ("k",), "t", self.created, self.event_id, self.columns, windows)

    def at(self, rows, entity, instant, until=None):
        """The values of an entity at an instant, and the reason. A stored row holds the events until its own."""
        ttl = None if self.ttl_hours is None else self.ttl_hours * HOUR_NS
        values, reason = row_at(rows, (entity,), instant, ttl)
        if self.as_of == "request" and reason == "found":
            events = [row for row in self.rows if until is None or row["t"] <= until]
            values = values + windows_at(
                events, ("k",), "t", self.created, self.event_id, self.windows, (entity,), instant
            )
        return values, reason

    def online(self, entity):
        """The values that are served now: None if the row is missing."""
        if entity not in self.stored:
            return None
        rows = [row for row in self.known() if row["time"] == self.stored[entity]]
        return self.at(rows, entity, self.now, self.stored[entity])[0]

    def written(self, first, end):
        """A materialisation of [first, end) has ended."""
        for row in self.known():
            (entity,) = row["entity"]
            if first <= row["time"] < end and row["time"] > self.deleted.get(entity, -1):
                self.stored[entity] = max(self.stored.get(entity, -1), row["time"])

    def new_row(self):
        draw = self.draw
        at = START_NS + draw.choice([draw.randrange(HOURS) * HOUR_NS, draw.randrange(HOURS * HOUR_NS)])
        return {
            "k": draw.choice(ENTITIES),
            "t": at,
            "made": at + draw.randrange(3) * HOUR_NS,
            "id": len(self.rows) if draw.random() < 0.8 else None,
            "x": draw.choice([None, 0.1, 0.3, 1e8, round(draw.uniform(-100, 100), 6)]),
            "s": draw.choice([None, "u", "v", "w"]),
        }


class Sequence:
    """One sequence on one online store each; `steps` runs it."""

    def __init__(self, seed, online):
        self.model = Model(random.Random(seed))
        self.draw = self.model.draw
        self.stores = [FeatureStore(OFFLINE, kept) for kept in online]

    def run(self):
        for _ in range(STEPS):
            draw = self.draw.random()
            if draw < 0.6 or not self.model.rows:
                self.arrive()
            elif draw < 0.75:
                self.delete()
            elif draw < 0.9 and self.model.as_of == "none":
                self.push()
            else:
                self.again()
            self.check()

    def arrive(self):
        """Rows arrive, and the hours that they lie in are materialised."""
        rows = [self.model.new_row() for _ in range(self.draw.randint(1, 6))]
        self.model.rows += rows
        first = min(row["t"] for row in rows) // HOUR_NS * HOUR_NS
        self.materialize(first, max(row["t"] for row in rows) // HOUR_NS * HOUR_NS + HOUR_NS)

    def again(self):
        """Any range, which may bring back rows that were deleted without a mark."""
        first = START_NS + self.draw.randrange(HOURS) * HOUR_NS
        self.materialize(first, first + self.draw.randint(1, HOURS) * HOUR_NS)

    def materialize(self, first, end):
        view, bounds = self.model.view(), (instant(first), instant(end))
        how = self.draw.random()
        batch, kill_after = self.draw.randint(1, 3), self.draw.randint(0, 3)
        for store in self.stores:
            base.BATCH_ROWS = batch
            if how < 0.3:
                self.killed(store, view, bounds, kill_after)
            if how > 0.8:
                at_once([lambda kept=store: kept.materialize(view, *bounds)] * 2)
            else:
                store.materialize(view, *bounds)
        self.model.written(first, end)

    @staticmethod
    def killed(store, view, bounds, after):
        def progress(done, total):
            nonlocal after
            after -= 1
            if after < 0:
                raise Killed

        try:
            store.materialize(view, *bounds, progress=progress)
        except Killed:
            pass

    def push(self):
        """Rows are pushed, by two writers at once, and come to the source too."""
        rows = [self.model.new_row() for _ in range(self.draw.randint(2, 4))]
        # Instants of their own: which copy of one instant is right then depends on who wrote it last.
        taken = {(row["k"], row["t"]) for row in self.model.rows}
        rows = list({(row["k"], row["t"]): row for row in rows if (row["k"], row["t"]) not in taken}.values())
        view = self.model.view()
        names = ["k", "t", *self.model.columns, *(["made"] if self.model.created else [])]
        table = pa.table(
            {name: pa.array([row[name] for row in rows], TYPES[name]) for name in dict.fromkeys(names)}
        )
        half = len(rows) // 2
        for store in self.stores:
            at_once(
                [lambda kept=store, part=part: kept.push(view, part) for part in (table[:half], table[half:])]
            )
        self.model.rows += rows
        for row in rows:
            if row["t"] > self.model.deleted.get(row["k"], -1):
                self.model.stored[row["k"]] = max(self.model.stored.get(row["k"], -1), row["t"])

    def delete(self):
        entity, mark = self.draw.choice(ENTITIES), self.draw.random() < 0.6
        everywhere, view = self.draw.random() < 0.5, self.model.view()
        clock = START_NS + self.draw.randrange(HOURS) * HOUR_NS
        for store in self.stores:
            with clock_at(clock):
                if everywhere and store.online.views():
                    store.delete_entity({"k": entity}, mark=mark)
                else:
                    store.delete(view, {"k": entity}, mark=mark)
        stored = self.model.stored.pop(entity, -1)
        if mark:
            before = self.model.deleted.get(entity, -1)
            self.model.deleted[entity] = max(clock, stored, before)
        else:
            self.model.deleted.pop(entity, None)

    def check(self):
        model = self.model
        now = START_NS + self.draw.randrange(HOURS + 40) * HOUR_NS + self.draw.choice([0, 1, -1])
        # A row ahead of the clock is served, so that a clock that is behind does no harm.
        model.now = max(now, *model.stored.values(), 0)
        view = model.view()
        wanted = [model.online(entity) for entity in ENTITIES]
        for store in self.stores:
            assert served(store, view, model.now) == [repr(values) for values in wanted], store.online
        instants = [(row["k"], row["t"] + self.draw.choice([0, -1, HOUR_NS])) for row in model.rows]
        instants += [(entity, model.now) for entity in ENTITIES]
        labels = pa.table(
            {"k": [entity for entity, _ in instants], "at": pa.array([at for _, at in instants], NS)}
        )
        OFFLINE._join_bytes_max = self.draw.choice([-1, 1 << 29])
        table = self.stores[0].get_training_features(DatasetConfig(Source(labels, "at"), view, reasons=True))
        found = list(zip(*(table[name].to_pylist() for name in view.feature_names), strict=True))
        known = model.known()
        for place, (entity, at) in enumerate(instants):
            values, reason = model.at(known, entity, at)
            assert table["v__reason"][place].as_py() == reason, (entity, at)
            assert repr(list(found[place])) == repr(values or [None] * len(view.feature_names)), (entity, at)


OFFLINE = DuckDBOffline(threads=1)


def instant(ns):
    return START + timedelta(microseconds=(ns - START_NS) // 1000)


class clock_at:
    """The clock of deletions stands."""

    def __init__(self, ns):
        self.ns = ns

    def __enter__(self):
        self.time, deletion.time = deletion.time, self

    def __exit__(self, *error):
        deletion.time = self.time

    def time_ns(self):
        return self.ns

    def monotonic(self):
        return time.monotonic()

    def monotonic_ns(self):
        return time.monotonic_ns()


def at_once(calls):
    errors = []

    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def served(store, view, now_ns):
    """The repr of each entity's features, "None" if they are missing."""
    texts = [kind == "text" for kind in store.offline.view(view).kinds_out]
    names = view.feature_names
    program = t.FeatureProgram.fit(
        [t.category(name).hash(buckets=8) if text else t.number(name) for name, text in zip(names, texts, strict=True)],
        {name: ["u"] if text else [1.0] for name, text in zip(names, texts, strict=True)},
    )  # fmt: skip
    features = store.online_features(program, [view], now_ns=lambda: now_ns)
    fetched = features.fetch_many([{"k": entity} for entity in ENTITIES], time.monotonic_ns() + 60 * 10**9)
    features.close()
    return [repr(None if missing else [out[name] for name in names]) for out, missing in fetched]


def run(seed, redis_url):
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    batch = base.BATCH_ROWS
    redis = RedisOnline(redis_url, namespace=f"sequence.{seed}")
    try:
        Sequence(seed, [LMDBOnline(folder, map_bytes=1 << 24), redis]).run()
    except BaseException:
        print(f"replay with ENGINE_SEQUENCE={seed}")
        raise
    finally:
        base.BATCH_ROWS = batch
        OFFLINE._join_bytes_max = 1 << 29
        for key in redis._client.scan_iter(match=f"sequence.{seed}:*"):
            redis._client.delete(key)
        redis.close()
        shutil.rmtree(folder)


@pytest.mark.timeout(0 if NIGHTLY else 300)
def test_sequences_leave_what_the_plain_loops_say(redis_url, seed):
    if only := os.environ.get("ENGINE_SEQUENCE"):
        run(int(only), redis_url)
        return
    for number in range(SEQUENCES):
        run(seed + number, redis_url)
