"""The conformance suite of offline stores: what `OfflineStore` promises, checked against literal rows and plain loops.

A store of your own passes it like this, with pytest or without:

    from engine.feature_store.testing.offline import CHECKS, StoreUnderTest, check_random

    under_test = StoreUnderTest(MyStore(), put=upload)
    for check in CHECKS:
        check(under_test)
    check_random(under_test, seed=1)

A check raises AssertionError where the store breaks a promise, and lets the store's own errors pass.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, InputError, StoreError
from engine.feature_store.dataset import METADATA, DatasetConfig, training_table
from engine.feature_store.definitions import FUNCTIONS, Aggregate, Entity, FeatureView, Source
from engine.feature_store.offline.base import Features, OfflineStore, batch_schema
from engine.feature_store.testing.reference import Row, key_of, row_at, view_rows, windows_at

if TYPE_CHECKING:
    import pyarrow as pa

HOUR_NS = 3600 * 10**9
START_NS = 1_700_000_000_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS = ("bool", "int", "float", "text", "time", "list")
KEY_KINDS = ("int", "text", "bytes", "uint64")


def _as_it_is(table: pa.Table) -> Any:
    return table


@dataclass(frozen=True)
class StoreUnderTest:
    """An offline store, and what its sources can hold.

    Args:
        store: the store.
        put: brings a pyarrow Table to where the store reads and returns the `data` of a Source that names it. Called
            again for other rows. Without it, the store reads tables in memory.
        ordered: whether a source keeps the order of its rows, so that the later of two copies wins.
        unit: the smallest unit of time that a source keeps: "ns" or "us".
        kinds: the kinds of features that a source can hold.
        key_kinds: the kinds of keys.
        replace: brings other rows to the place that `put` returned; None where a source never changes.
    """

    store: OfflineStore
    put: Callable[[pa.Table], Any] = _as_it_is
    ordered: bool = True
    unit: str = "ns"
    kinds: tuple[str, ...] = KINDS
    key_kinds: tuple[str, ...] = KEY_KINDS
    replace: Callable[[Any, pa.Table], None] | None = None

    def source(self, table: pa.Table, event_time: str = "t", **options: Any) -> Source:
        """A source of these rows."""
        return Source(self.put(table), event_time, **options)

    def train(self, labels: pa.Table, view: FeatureView | Sequence[FeatureView], **options: Any) -> pa.Table:
        """The training table with reasons, in the order of the labels, whose column `i` counts them."""
        config = DatasetConfig(self.source(labels), view, reasons=True, **options)
        return training_table(self.store, config, None).sort_by("i")


def times(ns: Sequence[int | None], unit: str = "us") -> pa.Array:
    """Instants in nanoseconds since 1970 as an Arrow array of timestamps in UTC."""
    import pyarrow as pa

    whole = ns if unit == "ns" else [None if each is None else each // 1000 for each in ns]
    return pa.array(whole, pa.int64()).cast(pa.timestamp(unit, "UTC"))


def _labels(keys: Sequence[Any], hours: Sequence[float], kind: Any = None) -> pa.Table:
    import pyarrow as pa

    at = [START_NS + int(hour * HOUR_NS) for hour in hours]
    columns = {
        "i": pa.array(range(len(hours)), pa.int64()),
        "k": pa.array(keys, kind or pa.string()),
        "t": times(at),
    }
    return pa.table(columns)


def _source(keys: Sequence[Any], hours: Sequence[float], **columns: Any) -> pa.Table:
    import pyarrow as pa

    at = [START_NS + int(hour * HOUR_NS) for hour in hours]
    return pa.table({"k": pa.array(keys, pa.string()), "t": times(at), **columns})


def _view(
    source: Source, columns: Sequence[str] = ("x",), *aggregates: Aggregate, **options: Any
) -> FeatureView:
    return FeatureView("v", Entity("e", "k"), source, columns, aggregates, **options)


def _equal(found: Any, wanted: Any, what: str) -> None:
    # repr tells 0.0 from -0.0 and every last bit, and one NaN is as good as another.
    assert repr(found) == repr(wanted), f"{what}: expected {wanted!r}, got {found!r}"


def _raises(kind: type[Exception], words: str, call: Callable[[], Any], what: str) -> None:
    raised = None
    try:
        call()
    except kind as error:
        raised = error
    assert raised is not None, f"{what}: expected {kind.__name__}, and none was raised"
    assert words in str(raised), f"{what}: expected an error with {words!r}, got {raised}"


def rows_of(features: Features) -> list[Row]:
    """The rows of a computation, sorted by their keys."""
    batches = list(features.batches())
    schema = batch_schema(features.view)
    for batch in batches:
        assert batch.schema == schema, f"batches: expected the schema {schema}, got {batch.schema}"
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert len(rows) == features.rows, f"rows says {features.rows}, and the batches have {len(rows)}"
    return sorted(rows, key=lambda row: repr([row[f"k{i}"] for i in range(len(features.view.key_kinds))]))


# The checks. Each takes a StoreUnderTest.


def columns_have_types(under: StoreUnderTest) -> None:
    """`columns` names each column with an Arrow type of its kind, and a view on a missing column is refused."""
    source = under.source(_source(["a"], [0], x=[1.0]))
    found = under.store.columns(source)
    assert set(found.types) >= {"k", "t", "x"}, f"columns: expected k, t and x, got {sorted(found.types)}"
    _equal(str(found.types["x"]), "double", "the type of x")
    _raises(
        InputError, "'nothing'", lambda: under.store.compute(_view(source, ["nothing"])), "a missing column"
    )


def a_digest_is_of_the_content(under: StoreUnderTest) -> None:
    """Equal rows have equal digests, and other rows another one."""
    one = _source(["a", "b"], [0, 1], x=[1.0, None])
    data = under.put(one)
    first = under.store.snapshot(Source(data, "t")).digest
    _equal(under.store.snapshot(Source(data, "t")).digest, first, "the digest of the same rows")
    other = _source(["a", "b"], [0, 1], x=[None, 1.0])
    if under.replace is not None:
        under.replace(data, other)
    else:
        data = under.put(other)
    assert under.store.snapshot(Source(data, "t")).digest != first, "other rows have the same digest"


def labels_come_out_once_and_in_order(under: StoreUnderTest) -> None:
    """No label row is dropped or doubled, and each keeps its own columns."""
    labels = _labels(["b", "a", "b", None, "b"], [5, 1, 5, 2, 0])
    view = _view(under.source(_source(["a", "b", "b"], [0, 1, 5], x=[1.0, 2.0, 3.0])))
    found = under.train(labels, view)
    _equal(found["k"].to_pylist(), ["b", "a", "b", None, "b"], "the keys of the labels")
    _equal(found["v__x"].to_pylist(), [3.0, 1.0, 3.0, None, None], "the features")
    none = under.train(labels.slice(0, 0), view)
    assert len(none) == 0
    assert "v__x" in none.column_names, "a table of no labels has no features"


def a_label_has_the_newest_row_of_its_instant(under: StoreUnderTest) -> None:
    """A row at exactly the label's instant counts, the newest row decides where its value is null, and reasons are
    told apart."""
    import pyarrow as pa

    rows = _source(
        ["a", "a", "a", "b", None],
        [0, 2, 4, 10, 0],
        x=pa.array([1.0, None, 3.0, 4.0, 9.0]),
        s=["p", "q", "r", "s", "t"],
    )
    labels = _labels(["a", "a", "a", "a", "a", "b", "c", None], [-1, 0, 1.99, 2, 4, 9, 9, 9])
    found = under.train(labels, _view(under.source(rows), ["x", "s"]))
    _equal(found["v__x"].to_pylist(), [None, 1.0, 1.0, None, 3.0, None, None, None], "x")
    _equal(found["v__s"].to_pylist(), [None, "p", "p", "q", "r", None, None, None], "s")
    reasons = ["not_yet", "found", "found", "found", "found", "not_yet", "unknown_entity", "null_key"]
    _equal(found["v__reason"].to_pylist(), reasons, "the reasons")
    counts = json.loads(found.schema.metadata[METADATA])["missing"]["v"]
    _equal(counts, {"null_key": 1, "unknown_entity": 1, "not_yet": 2}, "the counts of missing rows")


def a_row_holds_for_its_ttl(under: StoreUnderTest) -> None:
    """A row exactly as old as the ttl holds, and no older row takes the place of one that has expired."""
    rows = _source(["a", "a"], [0, 1], x=[1.0, 2.0])
    labels = _labels(["a", "a", "a"], [3, 3.0001, 0.5])
    found = under.train(labels, _view(under.source(rows), ttl="2h"))
    _equal(found["v__x"].to_pylist(), [2.0, None, 1.0], "x")
    _equal(found["v__reason"].to_pylist(), ["found", "expired", "found"], "the reasons")


def the_copy_written_last_wins(under: StoreUnderTest) -> None:
    """The copy with the newest created time wins, and null is older than any."""
    made = times([START_NS + hour * HOUR_NS if hour is not None else None for hour in (5, 9, None, 7)])
    rows = _source(["a", "a", "a", "b"], [0, 0, 0, 0], made=made, x=[1.0, 2.0, 3.0, 4.0])
    source = under.source(rows, created_time="made")
    found = under.train(_labels(["a", "b"], [1, 1]), _view(source))
    _equal(found["v__x"].to_pylist(), [2.0, 4.0], "x")
    early = under.train(
        _labels(["a", "b"], [1, 1]),
        _view(source),
        created_end_time=EPOCH + timedelta(microseconds=(START_NS + 7 * HOUR_NS) // 1000),
    )
    _equal(early["v__x"].to_pylist(), [1.0, None], "x as it was before the third hour")
    _equal(early["v__reason"].to_pylist(), ["found", "unknown_entity"], "the reasons before that")
    _equal([row["f0"] for row in rows_of(under.store.compute(_view(source)))], [2.0, 4.0], "computed x")


def the_later_copy_of_a_source_wins(under: StoreUnderTest) -> None:
    """Where no created time tells copies apart, the later in the source wins."""
    if not under.ordered:
        return
    rows = _source(["a", "b", "a", "a"], [0, 0, 0, 0], x=[1.0, 2.0, 3.0, 4.0])
    found = under.train(_labels(["a", "b"], [0, 0]), _view(under.source(rows)))
    _equal(found["v__x"].to_pylist(), [4.0, 2.0], "x")


def a_range_has_its_start_and_not_its_end(under: StoreUnderTest) -> None:
    """`compute` takes the newest row of each entity with start <= event time < end."""
    rows = _source(["a", "a", "a", "b", None], [0, 1, 2, 1, 1], x=[0.5, 1.5, 2.5, None, 7.5])
    view = _view(under.source(rows))
    hour = [EPOCH + timedelta(microseconds=(START_NS + n * HOUR_NS) // 1000) for n in range(4)]

    def computed(start: Any, end: Any) -> list[Any]:
        return [(row["k0"], row["t"], row["f0"]) for row in rows_of(under.store.compute(view, start, end))]

    second, last = ("a", START_NS + HOUR_NS, 1.5), ("a", START_NS + 2 * HOUR_NS, 2.5)
    other = ("b", START_NS + HOUR_NS, None)
    _equal(computed(hour[0], hour[2]), [second, other], "[0, 2)")
    _equal(computed(hour[1], hour[2]), [second, other], "[1, 2)")
    _equal(computed(None, hour[1]), [("a", START_NS, 0.5)], "up to 1")
    _equal(computed(hour[2], None), [last], "from 2 on")
    _equal(computed(hour[3], None), [], "from 3 on")
    _raises(InputError, "empty", lambda: under.store.compute(view, hour[2], hour[2]), "an empty range")
    features = under.store.compute(view)
    whole = [row for batch in features.batches() for row in batch.to_pylist()]
    rest = [row for batch in features.batches(skip=1, rows_max=1) for row in batch.to_pylist()]
    _equal(rest, whole[1:], "the rows after the first")
    _equal(features.table.num_rows, 2, "the rows of the table")


def every_kind_of_feature_and_key(under: StoreUnderTest) -> None:
    """Numbers, booleans, text, times and lists come out as they went in, nulls too, and so do keys of each kind."""
    import pyarrow as pa

    features: dict[str, tuple[str, Any, list[Any]]] = {
        "bool": ("b", pa.array([True, None]), [True, None]),
        "int": ("n", pa.array([2**62 + 1, None], pa.int64()), [2**62 + 1, None]),
        "float": ("x", pa.array([float("nan"), None]), [float("nan"), None]),
        "text": ("s", pa.array(["ä\n'\"\\", None]), ["ä\n'\"\\", None]),
        "time": ("w", times([-1500, None]), [-2, None]),
        "list": ("l", pa.array([[0.1, 2.0], None], pa.list_(pa.float64())), [[0.1, 2.0], None]),
    }
    taken = [features[kind] for kind in under.kinds]
    rows = _source(["a", "b"], [0, 0], **{name: column for name, column, _ in taken})
    found = under.train(
        _labels(["a", "b", "c"], [1, 1, 1]), _view(under.source(rows), [name for name, *_ in taken])
    )
    for name, _, values in taken:
        _equal(_plain_values(found[f"v__{name}"]), [*values, None], name)
    keys = {
        "int": pa.array([-1, 2**53 + 1], pa.int64()),
        "text": pa.array(["", "ä"]),
        "bytes": pa.array([b"", b"\x00\xff"], pa.binary()),
        "uint64": pa.array([1, 2**64 - 1], pa.uint64()),
    }
    for kind in under.key_kinds:
        table = pa.table({"k": keys[kind], "t": times([START_NS] * 2), "x": [1.0, 2.0]})
        view = _view(under.source(table))
        labels = pa.table({"i": [0, 1], "k": keys[kind], "t": times([START_NS] * 2)})
        _equal(under.train(labels, view)["v__x"].to_pylist(), [1.0, 2.0], f"x by keys of {kind}")
        computed = [row["k0"] for row in rows_of(under.store.compute(view))]
        _equal(sorted(computed), sorted(keys[kind].to_pylist()), f"computed keys of {kind}")


def several_keys_are_one_entity(under: StoreUnderTest) -> None:
    """Both keys together name an entity, and a row with a null in either belongs to none."""
    import pyarrow as pa

    rows = pa.table(
        {
            "k": ["a", "a", "b", "a"], "n": pa.array([1, 2, 1, None], pa.int64()),
            "t": times([START_NS] * 4), "x": [1.0, 2.0, 3.0, 4.0],
        }
    )  # fmt: skip
    labels = pa.table(
        {
            "i": pa.array(range(5), pa.int64()), "k": ["b", "a", "a", "b", "a"],
            "n": pa.array([1, 2, 1, 2, None], pa.int64()), "t": times([START_NS] * 5),
        }
    )  # fmt: skip
    view = FeatureView("v", Entity("e", ["k", "n"]), under.source(rows), ["x"])
    found = under.train(labels, view)
    _equal(found["v__x"].to_pylist(), [3.0, 2.0, 1.0, None, None], "x")
    reasons = ["found", "found", "found", "unknown_entity", "null_key"]
    _equal(found["v__reason"].to_pylist(), reasons, "the reasons")


def windows_are_exact(under: StoreUnderTest) -> None:
    """Windows are (t - window, t], or [t - window, t); a sum is rounded once; nulls and NaN do not count."""
    import pyarrow as pa

    x = pa.array([1e16, 1.0, 1.0, None, float("nan")])
    rows = _source(["a", "a", "a", "a", "a"], [0, 1, 2, 2.5, 3], x=x)
    aggregates = [
        Aggregate("sum", "x", "3h"), Aggregate("count", "x", "2h"), Aggregate("mean", "x", "1h"),
        Aggregate("max", "x", "24h", closed="left"), Aggregate("quantile", "x", "24h", 0.5),
        Aggregate("std", "x", "2h"), Aggregate("distinct", "x", "24h"), Aggregate("first", "x", "2h"),
        Aggregate("last", "x", "24h"), Aggregate("min", "x", "24h"),
    ]  # fmt: skip
    labels = _labels(["a", "a", "b"], [2, 3, 3])
    source = under.source(rows)
    table = under.train(labels, _view(source, (), *aggregates))
    found = [table[f"v__{aggregate.name}"].to_pylist() for aggregate in aggregates]
    wanted: list[list[Any]] = [
        [1.0000000000000002e16, 2.0, None], [2, 1, None], [1.0, None, None], [1e16, 1e16, None], [1.0, 1.0, None],
        [0.0, None, None], [2, 2, None], [1.0, 1.0, None], [1.0, 1.0, None], [1.0, 1.0, None],
    ]  # fmt: skip
    for aggregate, values, right in zip(aggregates, found, wanted, strict=True):
        _equal(values, right, aggregate.name)
    at_request = _view(source, (), Aggregate("count", "x", "2h"), as_of="request")
    later = under.train(_labels(["a", "a", "a"], [2, 3.5, 9]), at_request)
    _equal(later["v__x_count_2h"].to_pylist(), [2, 1, 0], "counts as of the request")
    _equal(rows_of(under.store.compute(at_request))[0]["f1"][-1:], [float("nan")], "the newest stored event")


def events_of_one_instant_count(under: StoreUnderTest) -> None:
    """Events of one instant all count, unless an event id says that they are copies of one."""
    made = times([START_NS, START_NS, START_NS, START_NS + 1000])
    rows = _source(["a"] * 4, [0, 0, 0, 0], made=made, id=[1, 2, None, 2], x=[1.0, 2.0, 4.0, 8.0])
    count, total = Aggregate("count", "x", "1h"), Aggregate("sum", "x", "1h")
    for options, wanted in (
        ({"created_time": "made", "event_id": "id"}, [3, 13.0]),
        ({"created_time": "made"}, [1, 8.0]),
        ({}, [4, 15.0]),
    ):
        found = under.train(_labels(["a"], [0]), _view(under.source(rows, **options), (), count, total))
        _equal([found[f"v__{a.name}"][0].as_py() for a in (count, total)], wanted, f"windows with {options}")


def a_source_may_be_empty(under: StoreUnderTest) -> None:
    """A source without rows knows no entity."""
    import pyarrow as pa

    rows = _source(["a"], [0], x=pa.array([1.0])).slice(0, 0)
    for aggregates in ((), (Aggregate("sum", "x", "1h"),)):
        view = _view(under.source(rows), ["x"], *aggregates)
        found = under.train(_labels(["a"], [0]), view)
        _equal(found["v__reason"].to_pylist(), ["unknown_entity"], "the reasons")
        _equal(found["v__x"].to_pylist(), [None], "x")
        _equal(under.store.compute(view).rows, 0, "the number of computed rows")


def rows_of_the_year_9999_hold_at_no_instant(under: StoreUnderTest) -> None:
    """A row for ever in the future is left out, and its entity is known all the same."""
    import pyarrow as pa

    never = pa.array([253_402_214_400_000_000, START_NS // 1000, -(10**16)], pa.int64()).cast(
        pa.timestamp("us", "UTC")
    )
    rows = pa.table({"k": ["a", "b", "c"], "t": never, "x": [1.0, 2.0, 3.0]})
    view = _view(under.source(rows))
    found = under.train(_labels(["a", "b", "c"], [0, 0, 0]), view)
    _equal(found["v__reason"].to_pylist(), ["not_yet", "found", "found"], "the reasons")
    _equal([row["k0"] for row in rows_of(under.store.compute(view))], ["b", "c"], "the computed entities")


def mistakes_are_named(under: StoreUnderTest) -> None:
    """A row without event time, labels without a key or with one of another type, and no view are refused by name."""
    import pyarrow as pa

    rows = pa.table({"k": ["a", "a"], "t": times([START_NS, None]), "x": [1.0, 2.0]})
    view = _view(under.source(rows))
    _raises(
        InputError, "event time", lambda: under.train(_labels(["a"], [0]), view), "a row without event time"
    )
    _raises(
        InputError, "event time", lambda: under.store.compute(view).rows, "computing a row without event time"
    )
    right = _view(under.source(_source(["a"], [0], x=[1.0])))
    whole = pa.table({"i": [0], "k": pa.array([1], pa.int64()), "t": times([START_NS])})
    _raises(InputError, "'k'", lambda: under.train(whole, right), "a key of another type")
    _raises(InputError, "'k'", lambda: under.train(whole.drop_columns("k"), right), "labels without the key")
    no_view: Any = "v"
    _raises(ConfigError, "FeatureView", lambda: under.store.compute(no_view), "a text in place of a view")


def calls_may_run_at_once(under: StoreUnderTest) -> None:
    """Several threads get what one gets."""
    rows = _source(["a", "b"] * 20, range(40), x=[float(n) for n in range(40)])
    view = _view(under.source(rows), ["x"], Aggregate("sum", "x", "24h"))
    labels = _labels(["a", "b"] * 10, range(20, 40))
    config = DatasetConfig(under.source(labels), view)
    alone = training_table(under.store, config, None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: training_table(under.store, config, None), range(4)))
    assert all(table.equals(alone) for table in found), "two threads got other rows than one"


def a_digest_stands_for_its_rows(under: StoreUnderTest) -> None:
    """A dataset with the digest of an earlier one is made, and refused once a source has changed."""
    data = under.put(_source(["a"], [0], x=[1.0]))
    config = DatasetConfig(under.source(_labels(["a"], [1])), _view(Source(data, "t")))
    first = training_table(under.store, config, None)
    digest = json.loads(first.schema.metadata[METADATA])["digest"]
    assert training_table(under.store, config, digest).equals(first), "the same digest gave other rows"
    if under.replace is not None:
        under.replace(data, _source(["a"], [0], x=[2.0]))
        _raises(StoreError, digest, lambda: training_table(under.store, config, digest), "a changed source")


Check = Callable[[StoreUnderTest], None]
CHECKS: tuple[Check, ...] = (
    columns_have_types,
    a_digest_is_of_the_content,
    labels_come_out_once_and_in_order,
    a_label_has_the_newest_row_of_its_instant,
    a_row_holds_for_its_ttl,
    the_copy_written_last_wins,
    the_later_copy_of_a_source_wins,
    a_range_has_its_start_and_not_its_end,
    every_kind_of_feature_and_key,
    several_keys_are_one_entity,
    windows_are_exact,
    events_of_one_instant_count,
    a_source_may_be_empty,
    rows_of_the_year_9999_hold_at_no_instant,
    mistakes_are_named,
    calls_may_run_at_once,
    a_digest_stands_for_its_rows,
)


# Random definitions and data, against the plain loops.


@dataclass(frozen=True)
class RandomCase:
    """A definition with its rows and labels, drawn from a seed.

    Attributes:
        rows: dicts with times as whole nanoseconds, in source order.
        labels: dicts with the keys and `t`.
        keys, created, event_id, columns, ttl_hours, as_of: of the view.
        aggregates: function, column, hours of the window, quantile, and whether it is closed on the left.
        first, end: a range of event times, in nanoseconds.
    """

    rows: list[Row]
    labels: list[Row]
    keys: tuple[str, ...]
    created: str | None
    event_id: str | None
    columns: tuple[str, ...]
    aggregates: tuple[tuple[str, str, int, float, bool], ...]
    ttl_hours: int | None
    as_of: str
    first: int
    end: int
    unit: str = field(default="ns")

    def view(self, source: Source) -> FeatureView:
        """The view on this source."""
        made = [
            Aggregate(f, column, f"{hours}h", q if f == "quantile" else None, "left" if left else "right")
            for f, column, hours, q, left in self.aggregates
        ]
        ttl = None if self.ttl_hours is None else f"{self.ttl_hours}h"
        return FeatureView("v", Entity("e", self.keys), source, self.columns, made, ttl, self.as_of)

    def table(self) -> pa.Table:
        """The source."""
        return self._table(self.rows, ("k", "n", "t", "made", "id", "x", "s", "flag", "y", "w", "l"))

    def label_table(self) -> pa.Table:
        """The labels, counted by `i`."""
        import pyarrow as pa

        table = self._table(self.labels, ("k", "n", "t"))
        return table.append_column("i", pa.array(range(len(self.labels)), pa.int64()))

    def _table(self, rows: list[Row], names: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        types = {
            "k": pa.string(), "n": pa.int64(), "id": pa.int64(), "x": pa.float64(), "s": pa.string(),
            "flag": pa.bool_(), "y": pa.float64(), "l": pa.list_(pa.float64()),
        }  # fmt: skip
        columns = {name: [row[name] for row in rows] for name in names}
        return pa.table(
            {
                name: pa.array(values, types[name]) if name in types else times(values, self.unit)
                for name, values in columns.items()
            }
        )

    @property
    def windows(self) -> list[Any]:
        """The aggregates as the reference takes them."""
        return [(f, column, hours * HOUR_NS, q, left) for f, column, hours, q, left in self.aggregates]

    def expected(self) -> list[tuple[list[Any] | None, str]]:
        """The values and the reason of each label."""
        at_request = self.as_of == "request"
        known = self._known([] if at_request else self.windows)
        ttl = None if self.ttl_hours is None else self.ttl_hours * HOUR_NS
        found: list[tuple[list[Any] | None, str]] = []
        for label in self.labels:
            entity = key_of(label, self.keys)
            values, reason = row_at(known, entity, label["t"], ttl)
            if at_request and values is not None:
                made = windows_at(
                    self.rows, self.keys, "t", self.created, self.event_id, self.windows, entity, label["t"]
                )
                # Windows that end at the request are over floats.
                values = values + [float(value) if isinstance(value, bool) else value for value in made]
            found.append((values, reason))
        return found

    def expected_newest(self) -> list[tuple[tuple[Any, ...], int, list[Any]]]:
        """The entity, time and columns of each row that `compute` gives for [first, end)."""
        newest: dict[tuple[Any, ...], Row] = {}
        for row in sorted(
            self._known([] if self.as_of == "request" else self.windows), key=lambda row: row["time"]
        ):
            if self.first <= row["time"] < self.end:
                newest[row["entity"]] = row
        return [(entity, row["time"], row["values"]) for entity, row in newest.items()]

    def _known(self, windows: Sequence[Any]) -> list[Row]:
        return view_rows(self.rows, self.keys, "t", self.created, self.event_id, self.columns, windows)


def random_case(
    seed: int, *, ordered: bool = True, unit: str = "ns", rows_max: int = 25, lists: bool = True
) -> RandomCase:
    """The case of a seed: few entities and instants, so that copies, equal times and edges of windows are likely.

    Args:
        ordered: False leaves out copies that only their place in the source tells apart.
        unit: the unit of all times: "ns" or "us".
        rows_max: the most rows of the source.
        lists: False leaves out lists.
    """
    draw = random.Random(seed)
    keys = draw.choice([("k",), ("n",), ("k", "n"), ("n", "k")])
    created, event_id = draw.choice([None, "made"]), draw.choice([None, "id"])
    rows = [_random_row(draw, unit) for _ in range(draw.randint(0, rows_max))]
    if not ordered:
        seen = {(*key_of(row, keys), row["t"], row[created] if created else None): row for row in rows}
        rows = list(seen.values())
    as_of = draw.choice(["row", "row", "request"])
    columns = tuple(name for name in ("x", "s", "flag", "n", "w", "l") if draw.random() < 0.5)
    columns = columns if lists else tuple(name for name in columns if name != "l")
    made = {}
    for _ in range(draw.choice([0, 0, 1, 4, 8])):
        aggregate = _random_aggregate(draw, as_of)
        made[aggregate[:3] + aggregate[4:]] = aggregate
    if not made:
        as_of, columns = "row", columns or ("x",)
    # A label at each row's own instant, so that every row is seen.
    labels = [{name: row[name] for name in ("k", "n", "t")} for row in rows]
    for _ in range(draw.randint(0, 12)):
        labels.append({"k": _name(draw), "n": _number(draw), "t": _instant(draw, unit)})
    draw.shuffle(labels)
    first, end = sorted(draw.sample(range(50), 2))
    return RandomCase(
        rows, labels, keys, created, event_id, columns, tuple(made.values()), draw.choice([None, 1, 24]), as_of,
        START_NS + first * HOUR_NS, START_NS + end * HOUR_NS, unit,
    )  # fmt: skip


def _instant(draw: random.Random, unit: str) -> int:
    odd = draw.randint(-3, 3) * (1 if unit == "ns" else 1000)
    return draw.choice(
        [START_NS, START_NS + HOUR_NS, START_NS + draw.randint(0, 12) * HOUR_NS // 2, START_NS + HOUR_NS + odd,
         START_NS + draw.randint(0, 400) * HOUR_NS]
    )  # fmt: skip


def _name(draw: random.Random) -> str | None:
    return draw.choice(["a", "a", "a", "b", "ä", "", None])


def _number(draw: random.Random) -> int | None:
    return draw.choice([0, 1, 0, 1, None])


def _random_row(draw: random.Random, unit: str) -> Row:
    at = _instant(draw, unit)
    return {
        "k": _name(draw),
        "n": _number(draw),
        "t": at,
        "made": draw.choice([None, START_NS, START_NS + 1000, _instant(draw, unit)]),
        "id": draw.choice([None, 0, 1, 2]),
        "x": draw.choice([None, 0.1, 1e16, -1e16, 0.0, 5e-324, draw.uniform(-1e6, 1e6)]),
        "s": draw.choice([None, "u", "v", "", "ä"]),
        "flag": draw.choice([None, True, False]),
        # No square of these is too small or too large for a float.
        "y": draw.choice([None, 0.1, 0.3, 1e8, round(draw.uniform(-1e3, 1e3), 6)]),
        "w": draw.choice([None, -1 if unit == "ns" else -1000, at]),
        "l": draw.choice([None, [], [0.1], [1.0, -0.0, 3.0]]),
    }


def _random_aggregate(draw: random.Random, as_of: str) -> tuple[str, str, int, float, bool]:
    function = draw.choice(FUNCTIONS)
    column = draw.choice(["x", "x", "flag", "n"])
    if function == "std":
        column = "y"
    elif function in ("distinct", "first", "last") and as_of == "row":
        column = draw.choice(["x", "s", "flag"])
    elif function in ("first", "last"):
        column = draw.choice(["x", "flag"])
    q = draw.choice([0.5, 0.9]) if function == "quantile" else 0.5
    return function, column, draw.choice([1, 6, 24, 168]), q, draw.random() < 0.25


def check_random(under: StoreUnderTest, seed: int, *, rows_max: int = 25) -> None:
    """Check that the store joins and computes what the plain loops say, for the case of a seed."""
    lists = "list" in under.kinds
    case = random_case(seed, ordered=under.ordered, unit=under.unit, rows_max=rows_max, lists=lists)
    view = case.view(under.source(case.table(), created_time=case.created, event_id=case.event_id))
    table = under.train(case.label_table(), view)
    assert table["i"].to_pylist() == list(range(len(case.labels))), (
        f"seed {seed}: label rows were lost or doubled"
    )
    columns = [_plain_values(table[name]) for name in view.feature_names]
    for i, (values, reason) in enumerate(case.expected()):
        found = [column[i] for column in columns]
        where = f"seed {seed}, label {i} {case.labels[i]}"
        _equal(table["v__reason"][i].as_py(), reason, where)
        right = [None] * len(columns) if values is None else _converted(case, values)
        _equal(found, right, where)
    span = [EPOCH + timedelta(microseconds=each // 1000) for each in (case.first, case.end)]
    features = under.store.compute(view, *span)
    computed = {tuple(row[f"k{i}"] for i in range(len(case.keys))): row for row in rows_of(features)}
    newest = case.expected_newest()
    assert computed.keys() == {entity for entity, *_ in newest}, (
        f"seed {seed}: computed entities {computed.keys()}"
    )
    for entity, at, values in newest:
        row = computed[entity]
        _equal(row["t"], at, f"seed {seed}, the time of {entity}")
        found = [row[f"f{i}"] for i in range(len(values))]
        _equal(found, _converted(case, values), f"seed {seed}, the computed row of {entity}")


def _converted(case: RandomCase, values: Sequence[Any]) -> list[Any]:
    """Values of the reference as they come out: times in microseconds."""
    times_at = {place for place, name in enumerate(case.columns) if name == "w"}
    return [
        value // 1000 if place in times_at and value is not None else value
        for place, value in enumerate(values)
    ]


def _plain_values(column: Any) -> list[Any]:
    import pyarrow as pa

    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
