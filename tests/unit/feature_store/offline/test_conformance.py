"""The stores that need no server pass the conformance suite, on tables and on files, and random definitions and data
give the rows of the plain loops."""

import itertools
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import StoreError
from engine.feature_store import DuckDBOffline, PolarsOffline
from engine.feature_store.offline import OfflineStore
from engine.feature_store.testing import offline as suite
from engine.feature_store.testing.offline import CHECKS, StoreUnderTest, check_random, random_case

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))
SEEDS = 3_000 if NIGHTLY else 20
STORES = {"duckdb": lambda: DuckDBOffline(threads=2), "polars": PolarsOffline}


class Files:
    """Tables as folders of Parquet files."""

    def __init__(self, folder):
        self.folder, self.counter = folder, itertools.count()

    def put(self, table):
        place = self.folder / f"source{next(self.counter)}"
        place.mkdir()
        self.replace(str(place), table)
        return str(place)

    def replace(self, place, table):
        half = len(table) // 2
        pq.write_table(table.slice(0, half), f"{place}/1.parquet", row_group_size=3)
        pq.write_table(table.slice(half), f"{place}/2.parquet", row_group_size=3)


@pytest.fixture(params=[(name, kind) for name in STORES for kind in ("tables", "files")], ids="-".join)
def under(request, tmp_path):
    name, kind = request.param
    store = STORES[name]()
    if kind == "tables":
        return StoreUnderTest(store)
    files = Files(tmp_path)
    return StoreUnderTest(store, put=files.put, replace=files.replace)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_store_keeps_the_promise(under, check):
    check(under)


def test_random_definitions_give_the_rows_of_the_plain_loops(under, seed):
    for place in range(SEEDS):
        check_random(under, seed + place)


def test_every_check_is_in_the_suite():
    found = {
        name
        for name, value in vars(suite).items()
        if callable(value)
        and not name.startswith("_")
        and list(getattr(value, "__annotations__", {})) == ["under", "return"]
    }
    assert found == {check.__name__ for check in CHECKS}


def test_random_cases_cover_what_a_view_may_be():
    cases = [random_case(seed) for seed in range(200)]
    assert {case.as_of for case in cases} == {"row", "request"}
    assert {case.created for case in cases} == {case.event_id and "made" for case in cases} | {None, "made"}
    assert {function for case in cases for function, *_ in case.aggregates} == set(suite.FUNCTIONS)
    assert {reason for case in cases for _, reason in case.expected()} == {
        "found", "null_key", "unknown_entity", "not_yet", "expired",
    }  # fmt: skip
    assert any(values is None for case in cases for values, _ in case.expected())


class Broken(OfflineStore):
    """A store that breaks one promise."""

    def __init__(self, **broken):
        self._store = DuckDBOffline(threads=1)
        self._broken = broken

    def __getattribute__(self, name):
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        whole = getattr(self._store, name)
        return self._broken[name](whole) if name in self._broken else whole


def forgets_expiry(join):
    def run(labels, label_ns, views):
        from dataclasses import replace

        return join(labels, label_ns, [replace(v, definition=replace(v.definition, ttl=None)) for v in views])

    return run


def looks_ahead(join):
    return lambda labels, label_ns, views: join(labels, label_ns + 1, views)


def drops_a_row(compute):
    def run(*given):
        from dataclasses import replace

        found = compute(*given)
        return replace(found, rows=max(0, found.rows - 1))

    return run


def one_digest(snapshot):
    def run(source):
        from dataclasses import replace

        return replace(snapshot(source), digest="0" * 64)

    return run


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ({"join": forgets_expiry}, suite.a_row_holds_for_its_ttl),
        ({"compute": drops_a_row}, suite.a_range_has_its_start_and_not_its_end),
        ({"snapshot": one_digest}, suite.a_digest_is_of_the_content),
    ],
    ids=lambda value: getattr(value, "__name__", None) or next(iter(value)),
)
def test_a_store_that_breaks_a_promise_fails(broken, check):
    with pytest.raises(AssertionError):
        check(StoreUnderTest(Broken(**broken)))


def test_random_cases_notice_a_nanosecond(seed):
    under = StoreUnderTest(Broken(join=looks_ahead))
    with pytest.raises(AssertionError, match="seed"):
        for place in range(200):
            check_random(under, seed + place)


def test_polars_reads_files_that_differ_and_columns_within_columns(tmp_path):
    at = suite.times([suite.START_NS])
    pq.write_table(pa.table({"k": ["a"], "t": at, "x": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"k": ["b"], "t": at, "x": [0.5], "s": [{"y": 7}]}), tmp_path / "2.parquet")
    (tmp_path / "day=3").mkdir()
    pq.write_table(pa.table({"k": ["c"], "t": at}), tmp_path / "day=3" / "3.parquet")
    from engine.feature_store import Entity, FeatureView, Source

    source = Source(tmp_path, "t")
    view = FeatureView("v", Entity("e", "k"), source, ["x", "s.y", "day"])
    polars, duckdb = (
        suite.rows_of(store.compute(view)) for store in (PolarsOffline(), DuckDBOffline(threads=1))
    )
    assert [(row["k0"], row["f0"], row["f1"], row["f2"]) for row in polars] == [
        ("a", 1.0, None, None), ("b", 0.5, 7, None), ("c", None, None, 3),
    ]  # fmt: skip
    assert polars == duckdb


def test_polars_says_which_file_cannot_be_read(tmp_path):
    (tmp_path / "1.parquet").write_bytes(b"no parquet")
    from engine.feature_store import Source

    with pytest.raises(StoreError, match=r"1\.parquet: cannot be read as Parquet"):
        PolarsOffline().columns(Source(tmp_path / "1.parquet", "t"))
