"""Snapshots of sources: files, types and digests, and an error by name for every column that cannot be used."""

import os
import subprocess
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError, InputTypeError, MissingDependencyError, StoreError
from engine.feature_store import (
    Aggregate,
    DuckDBOffline,
    Entity,
    FeatureView,
    LMDBOnline,
    RedisOnline,
    Source,
)
from engine.feature_store.offline import sources
from engine.feature_store.offline.sources import take

UTC_US = pa.timestamp("us", "UTC")


def table(**columns):
    made = {"k": ["a", "b"], "t": pa.array([0, 1], UTC_US), "x": [1.0, 2.0]}
    return pa.table(made | columns)


def view(data, columns=("x",), aggregates=(), keys="k", **source):
    return FeatureView("v", Entity("e", keys), Source(data, "t", **source), columns, aggregates)


def refused(match, data, *arguments, **options):
    with pytest.raises(InputError, match=match):
        DuckDBOffline(threads=1).view(view(data, *arguments, **options))


def test_a_glob_is_its_files_by_name(tmp_path):
    for name in ("b", "a", "c"):
        pq.write_table(table(), tmp_path / f"{name}.parquet")
    (tmp_path / "note.txt").write_text("not one of them")
    files = take(Source(tmp_path / "*.parquet", "t")).files
    assert [os.path.basename(file) for file in files] == ["a.parquet", "b.parquet", "c.parquet"]
    assert take(Source("*.parquet", "t"), tmp_path).files == files
    listed = take(Source([tmp_path / "c.parquet", tmp_path / "a.parquet"], "t"))
    assert [os.path.basename(file) for file in listed.files] == ["c.parquet", "a.parquet"]


def test_a_digest_is_of_the_content(tmp_path, monkeypatch):
    # Every digest is kept at once, so that an unnoticed change would show.
    monkeypatch.setattr(sources, "SETTLED_NS", -(10**18))
    path = tmp_path / "rows.parquet"
    pq.write_table(table(), path)
    source = Source(path, "t")
    first = take(source).digest
    before = path.stat()
    # Another content of the same size and modification time, as a copy tool may leave it.
    pq.write_table(table(x=[1.0, 3.0]), path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = path.stat()
    assert changed.st_mtime_ns == before.st_mtime_ns
    assert changed.st_ctime_ns != before.st_ctime_ns, "the file system's clock did not tick between the two"
    assert take(source).digest != first
    pq.write_table(table(), tmp_path / "copy.parquet")
    assert take(Source(tmp_path / "copy.parquet", "t")).digest == first


def test_tables_of_every_kind_are_read():
    frame = table().to_pandas()
    assert take(Source(frame, "t")).types["x"] == pa.float64()
    assert take(Source(pl.from_arrow(table()), "t")).types["x"] == pa.float64()
    assert take(Source(table(), "t")).digest == take(Source(table(), "t")).digest
    assert take(Source(table(), "t")).digest != take(Source(table(x=[1.0, 2.5]), "t")).digest
    with pytest.raises(InputTypeError, match="expected a path of Parquet files or a table"):
        take(Source(5, "t"))
    assert pd.api.types.is_float_dtype(frame["x"])


def test_files_that_are_not_there_or_not_parquet_are_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\*\.parquet: no such Parquet file"):
        take(Source(tmp_path / "none*.parquet", "t"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"bad\.parquet: cannot be read as Parquet"):
        take(Source(tmp_path / "bad.parquet", "t"))
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"empty\.parquet: cannot be read as Parquet"):
        take(Source(tmp_path / "empty.parquet", "t"))
    with pytest.raises(StoreError, match="the source names no file"):
        take(Source([], "t"))


def test_a_type_that_changed_between_files_is_named(tmp_path):
    pq.write_table(table(), tmp_path / "1.parquet")
    pq.write_table(table(x=["one", "two"]), tmp_path / "2.parquet")
    with pytest.raises(
        StoreError, match=r"column 'x' has type double in .*1\.parquet and string in .*2\.parquet"
    ):
        take(Source(tmp_path / "*.parquet", "t"))
    pq.write_table(table(t=pa.array([0, 1], pa.timestamp("us"))), tmp_path / "2.parquet")
    with pytest.raises(StoreError, match="column 't' has type timestamp"):
        take(Source(tmp_path / "*.parquet", "t"))


def test_whole_numbers_of_two_widths_are_read_as_the_wider(tmp_path):
    pq.write_table(table(x=pa.array([1, 2], pa.int32())), tmp_path / "1.parquet")
    pq.write_table(table(x=pa.array([2**40, 4], pa.int64())), tmp_path / "2.parquet")
    features = DuckDBOffline(threads=1).compute(view(tmp_path / "*.parquet"))
    assert sorted(features.table["v__x"].to_pylist()) == [4, 2**40]


def test_a_column_that_one_file_lacks_is_null_there_unless_it_is_a_key_or_the_event_time(tmp_path):
    pq.write_table(table(y=[1, 2], k2=["a", "b"]), tmp_path / "1.parquet")
    pq.write_table(table(k=["c", "d"]), tmp_path / "2.parquet")
    features = DuckDBOffline(threads=1).compute(view(tmp_path / "*.parquet", columns=["y"]))
    assert features.table["v__y"].to_pylist() == [1, 2, None, None]
    refused("2.parquet has no column 'k2', which other files have", tmp_path / "*.parquet", keys="k2")
    (tmp_path / "1.parquet").rename(tmp_path / "3.parquet")
    assert DuckDBOffline(threads=1).compute(view(tmp_path / "*.parquet", columns=["y"])).rows == 4
    refused("2.parquet has no column 'k2', which other files have", tmp_path / "*.parquet", keys="k2")


def test_columns_that_cannot_be_used_are_named():
    refused("view 'v': the source table has no column 'z'; it has: k, t, x", table(), columns=["z"])
    refused("has no column 'q'", table(), keys="q")
    refused("column 'x' of the source table has type list", table(x=[["a"], ["b"]]), columns=["x"])
    refused("column 'k' .* a key is whole numbers or text", table(k=[1.5, 2.5]))
    refused("an aggregate is over numbers", table(), (), [Aggregate("sum", "k", "1h")])
    refused("column 't' .* expected timestamps, got int64", table(t=[1, 2]))
    refused("column 't' .* expected timestamps, got string", table(t=["2013-01-01", "2013-01-02"]))
    refused("has no column 'made'", table(), created_time="made")
    refused("has no column 'id'", table(), event_id="id")


def test_a_timestamp_without_a_zone_is_refused_unless_declared_utc():
    naive = table(t=pa.array([0, 1], pa.timestamp("us")))
    refused("has type timestamp.us., without a time zone; give it one, or declare", naive)
    assert DuckDBOffline(threads=1).view(view(naive, naive="utc")).kinds_out == ("float",)
    feature = table(x=pa.array([0, 1], pa.timestamp("us")))
    refused("column 'x' .* without a time zone", feature)
    days = table(t=pa.array([0, 1], pa.date32()))
    refused("has type date32.day., without a time zone", days)
    assert DuckDBOffline(threads=1).compute(view(days, naive="utc")).rows == 2


def test_two_columns_of_one_name_are_refused():
    double = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(StoreError, match="two columns named 'x'"):
        take(Source(double, "t"))


@pytest.mark.parametrize("name", ["a[1]", "it's", "a*", "a?", 'a"b', "ä b"])
def test_a_file_is_read_whatever_its_name(tmp_path, name):
    pq.write_table(table(x=[5.0, 6.0]), tmp_path / f"{name}.parquet")
    # Taken as a pattern, the name would match this other file.
    pq.write_table(table(), tmp_path / "a1.parquet")
    features = DuckDBOffline(threads=1).compute(view(tmp_path / f"{name}.parquet"))
    assert sorted(features.table["v__x"].to_pylist()) == [5.0, 6.0]


def test_a_column_is_read_whatever_its_name():
    odd = 'x"; DROP TABLE computed; --'
    data = table().rename_columns({"x": odd, "k": "k'\""})
    features = DuckDBOffline(threads=1).compute(view(data, columns=[odd], keys="k'\""))
    assert sorted(features.table[f"v__{odd}"].to_pylist()) == [1.0, 2.0]


def test_nothing_optional_is_imported_before_it_is_used():
    code = (
        "import sys, engine.feature_store, engine.cli\n"
        "print(*sorted({'duckdb', 'pyarrow', 'lmdb', 'redis', 'hiredis', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("duckdb", lambda: DuckDBOffline(), "store"),
        ("pyarrow.parquet", lambda: take(Source("rows.parquet", "t")), "store"),
        ("lmdb", lambda: LMDBOnline("online"), "store"),
        ("redis", lambda: RedisOnline("redis://localhost"), "redis"),
        ("hiredis", lambda: RedisOnline("redis://localhost"), "redis"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"deadline-engine\[{extra}\]"):
        make()
