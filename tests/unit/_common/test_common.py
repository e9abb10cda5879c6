"""Shared helpers: argument checks, canonical JSON, durable files, optional imports, tables, vocabularies."""

import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from engine._common import arguments, canonical, durable, optional, vocabulary
from engine._common import tables as tables_module
from engine._common.tables import Columns
from engine.errors import ConfigError, InputError, InputTypeError, MissingDependencyError


def test_a_number_in_range_is_a_float():
    assert arguments.number("share", 1, 0.0, 1.0) == 1.0
    assert isinstance(arguments.number("share", 1, 0.0, 1.0), float)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "from 0 to 1, got 1.5"), (math.nan, "got nan"), (True, "got bool True"), ("1", "got str '1'")],
)
def test_a_number_out_of_range_names_the_argument(value, text):
    with pytest.raises(ConfigError, match=f"share must be a number.*{text}"):
        arguments.number("share", value, 0.0, 1.0, error=ConfigError)


def test_above_leaves_out_the_lower_end():
    with pytest.raises(InputError, match="above 0 and at most 1"):
        arguments.number("share", 0.0, 0.0, 1.0, above=True)


@pytest.mark.parametrize("value", ["late", None, math.nan, math.inf, [1], 10**400])
def test_a_finite_number_is_of_anything_that_float_takes(value):
    assert [arguments.finite("label", each) for each in (True, np.float32(0.5), "2")] == [1.0, 0.5, 2.0]
    with pytest.raises(ConfigError, match="label must be"):
        arguments.finite("label", value, error=ConfigError)


def test_below_leaves_out_the_upper_end():
    assert arguments.number("share", 0.5, 0.0, 1.0, above=True, below=True) == 0.5
    with pytest.raises(InputError, match="share must be a number above 0 and below 1, got 1"):
        arguments.number("share", 1, 0.0, 1.0, above=True, below=True)
    with pytest.raises(InputError, match="at least 0 and below 1"):
        arguments.number("share", 1.0, 0.0, 1.0, below=True)


def test_a_type_may_have_an_error_of_its_own():
    with pytest.raises(InputTypeError, match=r"rows must be an int, got float 2\.0"):
        arguments.whole("rows", 2.0, 1, 9, type_error=InputTypeError)
    with pytest.raises(InputError, match="rows must be an int from 1 to 9, got 10"):
        arguments.whole("rows", 10, 1, 9, type_error=InputTypeError)


def test_numbers_of_numpy_are_numbers():
    assert arguments.whole("rows", np.int64(3), 1, 9) == 3
    assert type(arguments.whole("rows", np.uint8(3), 1, 9)) is int
    assert type(arguments.number("share", np.float32(0.5), 0, 1)) is float
    assert arguments.number("share", np.int16(1), 0, 1) == 1.0
    assert arguments.finite_number("share", np.float64(0.5)) == 0.5
    for value in (np.float64(2.0), np.True_, np.array([2]), np.array(2.0), "2"):
        with pytest.raises(InputError, match="rows must be an int"):
            arguments.whole("rows", value, 1, 9)
    with pytest.raises(InputError, match="share must be a number, got bool"):
        arguments.number("share", np.True_, 0, 1)


def test_a_choice_lists_the_others():
    assert arguments.one_of("lane", "auto", ("auto", "batch")) == "auto"
    with pytest.raises(InputError, match="lane must be one of auto, batch, got 'inlin'"):
        arguments.one_of("lane", "inlin", ("auto", "batch"))


@pytest.mark.parametrize("value", [math.nan, -math.inf, 10**400])
def test_a_number_without_bounds_is_finite(value):
    assert arguments.finite_number("mean", 2**60) == 2.0**60
    with pytest.raises(ConfigError, match="mean must be a finite number, got"):
        arguments.finite_number("mean", value, error=ConfigError)
    with pytest.raises(InputError, match="mean must be a number, got bool True"):
        arguments.finite_number("mean", True)


def test_a_shown_value_is_short():
    assert arguments.shown("x") == "str 'x'"
    assert arguments.shown("x" * 100) == "str '" + "x" * 56 + "..."


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical.to_bytes({"b": 1, "a": [0.1]}) == b'{"a":[0.1],"b":1}'
    assert canonical.digest({"a": 1, "b": 2}) == canonical.digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.to_bytes({"a": math.nan})


def test_a_durable_file_is_whole_or_as_it_was(tmp_path):
    target = tmp_path / "file"
    durable.write(target, b"first")
    with pytest.raises(KeyError), durable.replacing(target) as out:
        out.write(b"half of the sec")
        raise KeyError
    assert target.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_an_optional_library_that_is_missing_names_its_extra():
    assert optional.need("json", "nothing") is not None
    with pytest.raises(
        MissingDependencyError, match=r"the store needs nowhere: pip install 'deadline-engine\[store\]'"
    ):
        optional.need("nowhere.at.all", "the store", "store")
    with pytest.raises(MissingDependencyError, match="reading a file needs no-such: pip install no-such"):
        optional.need("no_such", "reading a file")


def test_words_are_compared_with_those_of_a_compiled_module():
    vocabulary.require_same("sources", vocabulary.SOURCES, list(vocabulary.SOURCES))
    with pytest.raises(
        ImportError, match=r"sources differ: Python has a, b; the compiled module has b, a\. Build"
    ):
        vocabulary.require_same("sources", ("a", "b"), ("b", "a"))


def tables():
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    duckdb = pytest.importorskip("duckdb")
    columns = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    frame = pandas.DataFrame(columns)
    return {
        "mapping": columns,
        "pandas": frame,
        "polars": polars.DataFrame(columns),
        "arrow": arrow.table(columns),
        "batch": arrow.RecordBatch.from_pydict(columns),
        "structured": np.array([(1.0, 3.0), (2.0, 4.0)], dtype=[("a", "f8"), ("b", "f8")]),
        "duckdb": duckdb.sql("select * from (values (1.0::double, 3.0::double), (2.0, 4.0)) t(a, b)"),
        "rows": [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 4.0}],
    }


@pytest.mark.parametrize(
    "kind", ["mapping", "pandas", "polars", "arrow", "batch", "structured", "duckdb", "rows"]
)
def test_every_kind_of_table_gives_its_columns(kind):
    found = Columns(tables()[kind])
    assert list(found.names) == ["a", "b"]
    column = found["b"]
    assert list(column.to_pylist() if hasattr(column, "to_pylist") else column) == [3.0, 4.0]
    with pytest.raises(InputError, match="the table has no column 'c'; it has: a, b"):
        found["c"]


def test_a_row_without_a_key_has_none_there():
    assert Columns([{"a": 1}, {"b": 2}])["a"] == [1, None]


@pytest.mark.parametrize("source", [3, "text", b"bytes", [1, 2], None])
def test_what_is_no_table_is_refused(source):
    with pytest.raises(InputTypeError, match="expected a table"):
        Columns(source)


def test_two_columns_of_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="two columns named 'a'"):
        Columns(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_an_arrow_table_may_repeat_a_name_that_is_not_read():
    arrow = pytest.importorskip("pyarrow")
    found = Columns(
        arrow.Table.from_arrays([arrow.array([1]), arrow.array([2]), arrow.array([3])], ["a", "b", "b"])
    )
    assert found["a"].to_pylist() == [1]
    with pytest.raises(InputError, match="two columns named 'b'"):
        found["b"]


def test_a_projection_of_a_relation_keeps_the_order_of_names():
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.sql('select 1 as a, 2 as "b ""c"""')
    assert tables_module.is_relation(relation)
    assert tables_module.project(relation, ['b "c"', "a"]).fetchall() == [(2, 1)]
    with pytest.raises(InputError, match="the table has no column 'd'; it has: a, b"):
        tables_module.project(relation, ["d"])


def test_a_device_or_a_pipe_is_written_to_and_never_replaced(tmp_path):
    before = os.stat("/dev/null").st_rdev
    durable.write(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_rdev == before
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        durable.write(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
