"""Tables of every kind give the same columns. Any other object is refused by name."""

import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import InputError, InputTypeError

COLUMNS = {"x": [1.5, None, -3.0], "n": [1, 2, 3], "flag": [True, False, True], "c": ["a", None, "Zürich"]}
ROWS = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
SPEC = [
    t.number("x").impute("mean"),
    t.number("n"),
    t.number("flag"),
    t.category("c").ordinal(),
    t.category("c").hash(buckets=97).named("h"),
]


def pandas_categories():
    frame = pd.DataFrame(COLUMNS)
    frame["c"] = frame["c"].astype("category")
    return frame


TABLES = {
    "rows": ROWS,
    "pandas": pd.DataFrame(COLUMNS),
    "pandas objects": pd.DataFrame(COLUMNS, dtype=object),
    "pandas nullable": pd.DataFrame(COLUMNS).convert_dtypes(),
    "pandas categories": pandas_categories(),
    "pandas arrow": pd.DataFrame(COLUMNS).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.DataFrame(COLUMNS),
    "polars categories": pl.DataFrame(COLUMNS).with_columns(pl.col("c").cast(pl.Categorical)),
    "polars float32": pl.DataFrame(COLUMNS).with_columns(pl.col("x").cast(pl.Float32)),
    "pyarrow": pa.table(COLUMNS),
    "pyarrow batch": pa.record_batch(COLUMNS),
    "pyarrow chunks": pa.concat_tables([pa.table(COLUMNS).slice(0, 1), pa.table(COLUMNS).slice(1)]),
    "pyarrow dictionary": pa.table({**COLUMNS, "c": pa.array(COLUMNS["c"]).dictionary_encode()}),
    "pyarrow large": pa.table({**COLUMNS, "c": pa.array(COLUMNS["c"], pa.large_string())}),
    "pyarrow view": pa.table({**COLUMNS, "c": pa.array(COLUMNS["c"], pa.string_view())}),
    "pyarrow columns": {name: pa.array(values) for name, values in COLUMNS.items()},
    "numpy": {
        "x": np.array([1.5, np.nan, -3.0], dtype=np.float32),
        "n": np.array([1, 2, 3], dtype=np.uint8)[::1],
        "flag": np.array([True, False, True]),
        "c": np.array(["a", None, "Zürich"], dtype=object),
    },
    "strided": {
        "x": np.array([1.5, 0, np.nan, 0, -3.0, 0])[::2],
        "n": np.array([3, 2, 1])[::-1],
        "flag": np.array([1, 0, 1], dtype=np.int8),
        "c": ("a", None, "Zürich"),
    },
    "structured": np.array(
        [(1.5, 1, True, "a"), (np.nan, 2, False, None), (-3.0, 3, True, "Zürich")],
        dtype=[("x", "f8"), ("n", "i4"), ("flag", "?"), ("c", object)],
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_the_same_bits(kind):
    program = t.FeatureProgram.fit(SPEC, COLUMNS)
    assert t.FeatureProgram.fit(SPEC, TABLES[kind]).digest == program.digest
    got = program.batch(TABLES[kind])
    assert got.dtype == np.float32
    assert got.tobytes() == b"".join(program.row(row).tobytes() for row in ROWS)


@pytest.mark.parametrize(
    "empty", [{"x": []}, [], pd.DataFrame({"x": []}), pl.DataFrame({"x": []}), pa.table({"x": []})]
)
def test_no_rows_give_no_rows_and_cannot_be_fitted(empty):
    program = t.FeatureProgram.fit([t.number("x"), t.number("x").log1p().named("y")], {"x": [1.0]})
    assert program.batch(empty).shape == (0, 2)
    with pytest.raises(InputError, match="at least one row"):
        t.FeatureProgram.fit([t.number("x")], empty)


BIG = 2**60 + 1  # float64 would round it


@pytest.mark.parametrize(
    "column",
    [
        [BIG, None],
        pd.array([BIG, None], dtype="Int64"),
        pd.Series([BIG, None], dtype="Int64"),
        pl.Series([BIG, None]),
        pa.array([BIG, None]),
        pa.chunked_array([[BIG], [None]]),
    ],
)
def test_large_whole_numbers_stay_the_category_they_are(column):
    program = t.FeatureProgram.fit([t.category("c").ordinal([str(BIG)], missing=7)], {"c": ["x"]})
    assert program.batch({"c": column}).tolist() == [[0], [7]]
    assert program.row({"c": BIG}).tolist() == [0]


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_an_absent_column_is_named(make):
    program = t.FeatureProgram.fit([t.number("x"), t.number("y")], {"x": [1.0], "y": [1.0]})
    with pytest.raises(InputError, match="no column 'y'; it has: x, z"):
        program.batch(make({"x": [1.0], "z": [2.0]}))


def test_a_ragged_column_is_named():
    program = t.FeatureProgram.fit([t.number("x"), t.number("y")], {"x": [1.0], "y": [1.0]})
    with pytest.raises(InputError, match="column 'y' has 1 rows where column 'x' has 2"):
        program.batch({"x": [1.0, 2.0], "y": [1.0]})


def test_a_column_given_twice_is_named():
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    with pytest.raises(InputError, match="two columns named 'x'"):
        program.batch(pd.DataFrame([[1, 2]], columns=["x", "x"]))


@pytest.mark.parametrize("column", [np.zeros((2, 2)), "text", 5, None])
def test_a_column_that_is_none_is_refused(column):
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    with pytest.raises(InputTypeError, match="column 'x': expected a one-dimensional column"):
        program.batch({"x": column})


@pytest.mark.parametrize(
    "column",
    [
        np.array([0], dtype="datetime64[ns]"),
        np.array([0], dtype="timedelta64[ns]"),
        np.array([1j]),
        np.array([b"x"]),
        pd.Series(pd.to_datetime(["2020-01-01"])),
        pl.Series([1]).cast(pl.Datetime),
        pa.array([1], pa.timestamp("ns")),
    ],
)
@pytest.mark.parametrize("feature", [t.number("x"), t.category("x").hash(buckets=4)])
def test_dates_and_other_dtypes_are_refused(column, feature):
    program = t.FeatureProgram.fit([feature], {"x": [1]})
    with pytest.raises(InputTypeError, match="'x': expected"):
        program.batch({"x": column})


@pytest.mark.parametrize("table", [5, "text", None, [1, 2], np.zeros((2, 2))])
def test_what_is_no_table_is_refused(table):
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    with pytest.raises(InputTypeError, match="expected a table"):
        program.batch(table)


def test_no_table_library_is_imported_unless_given():
    code = (
        "import sys; from engine import transform as t; p = t.FeatureProgram.fit([t.number('x')],"
        "{'x': [1.0]}); p.row({'x': 1});"
        "print([m for m in ('pandas', 'polars', 'pyarrow', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_are_written_where_the_caller_says():
    program = t.FeatureProgram.fit([t.number("x"), t.category("c").ordinal()], {"x": [1.0], "c": ["a"]})
    rows = [{"x": 2.0, "c": "a"}, {"x": None, "c": "b"}]
    for table in (rows, {"x": [2.0, None], "c": ["a", "b"]}):
        out = np.full((2, 2), 7.0, dtype=np.float32)
        assert program.batch(table, out=out) is out
        np.testing.assert_array_equal(out, [[2.0, 0.0], [np.nan, -1.0]])


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.empty((2, 1)), InputTypeError, "float32, got dtype float64"),
        ([0.0], InputTypeError, "got list"),
        (np.empty((1, 1), np.float32), InputError, r"shape \[2, 1\], got shape \[1, 1\]"),
        (np.empty((2, 2), np.float32)[:, :1], InputError, "contiguous: False"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(out, error, words):
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    for table in ([{"x": 1}, {"x": 2}], {"x": [1, 2]}):
        with pytest.raises(error, match=words):
            program.batch(table, out=out)


def test_columns_that_are_not_dense_are_read_in_place_or_copied():
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    base = np.arange(600, dtype=np.int16)
    for column in (base[::3], base[::-1], base.astype(">i2"), base.astype(np.float16), base.view("i1")[1::2]):
        np.testing.assert_array_equal(program.batch({"x": column})[:, 0], column.astype(np.float32))


def test_arrow_columns_of_every_type_of_number():
    program = t.FeatureProgram.fit([t.number("x")], {"x": [1.0]})
    values = [1, None, 0, 1, *[None, 1] * 150]
    expected = np.array([np.nan if v is None else v for v in values], np.float32)
    kinds = [pa.bool_(), pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64()]
    for kind in [*kinds, pa.uint64(), pa.float16(), pa.float32(), pa.float64()]:
        plain = [None if v is None else bool(v) for v in values] if kind == pa.bool_() else values
        array = pa.array(plain, kind)
        np.testing.assert_array_equal(program.batch({"x": array})[:, 0], expected)
        np.testing.assert_array_equal(program.batch({"x": array.slice(3)})[:, 0], expected[3:])
        chunked = pa.chunked_array([array[:5], array[5:5], array[5:]])
        np.testing.assert_array_equal(program.batch({"x": chunked})[:, 0], expected)


NUMBER_COLUMNS = {
    "bool": pd.Series([True, False, True]),
    "boolean": pd.Series([True, False, None], dtype="boolean"),
    "Int64": pd.Series([1, 0, None], dtype="Int64"),
    "Float64": pd.Series([1.0, 0.0, None], dtype="Float64"),
    "objects": pd.Series([True, 0, pd.NA], dtype=object),
    "categories of numbers": pd.Series([1, 0, None], dtype="category"),
    "categories of bools": pd.Series([True, False, True], dtype="category"),
    "sparse": pd.Series(pd.arrays.SparseArray([1.0, 0.0, np.nan])),
    "pandas arrow bools": pd.Series([True, False, None], dtype="bool[pyarrow]"),
    "an extension array": pd.array([1, 0, None], dtype="Int64"),
    "masked": np.ma.masked_array([1.0, 0.0, 9.0], [0, 0, 1]),
    "masked ints": np.ma.masked_array([1, 0, 9], [0, 0, 1]),
    "dictionary of ints": pa.array([1, 0, None]).dictionary_encode(),
    "polars bools": pl.Series([True, False, None]),
}


@pytest.mark.parametrize("name", NUMBER_COLUMNS)
def test_numbers_of_every_dtype_are_read(name):
    column = NUMBER_COLUMNS[name]
    spec = [t.number("x").impute(7.0), t.number("x").impute("most_frequent").named("learned")]
    program = t.FeatureProgram.fit(spec, {"x": column})
    third = [1.0, 1.0] if name in ("bool", "categories of bools") else [7.0, 0.0]
    assert program.batch({"x": column}).tolist() == [[1.0, 1.0], [0.0, 0.0], third]


TEXT_COLUMNS = {
    "string": pd.Series(["a", "b", None], dtype="string"),
    "python string": pd.Series(["a", "b", None], dtype="string[python]"),
    "objects": pd.Series(["a", "b", np.nan], dtype=object),
    "categories": pd.Series(["a", "b", None], dtype="category"),
    "categories of strings": pd.Series(["a", "b", None], dtype="string").astype("category"),
    "a Categorical": pd.Categorical(["a", "b", None]),
    "pandas arrow": pd.Series(["a", "b", None], dtype=pd.ArrowDtype(pa.string())),
    "pandas dictionary": pd.Series(
        ["a", "b", None], dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    ),
    "enum": pl.Series(["a", "b", None], dtype=pl.Enum(["b", "a"])),
}


@pytest.mark.parametrize("name", TEXT_COLUMNS)
def test_texts_of_every_dtype_are_read(name):
    program = t.FeatureProgram.fit([t.category("x").ordinal(missing=-2)], {"x": TEXT_COLUMNS[name]})
    assert program.batch({"x": TEXT_COLUMNS[name]}).ravel().tolist() == [0.0, 1.0, -2.0]


def test_masked_values_are_missing():
    spec = [
        t.number("x"),
        t.category("c").missing(),
        t.vector("v", 2),
        t.timestamp("d", zone="UTC").part("day"),
    ]
    program = t.FeatureProgram.fit(spec, {"x": [0.0], "c": ["a"], "v": [[0.0, 0.0]], "d": [None]})
    mask = [False, True]
    table = {
        "x": np.ma.masked_array([1.0, 2.0], mask),
        "c": np.ma.masked_array([7, 8], mask),
        "v": np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], [[False, True], [False, False]]),
        "d": np.ma.masked_array(np.array(["2024-05-06", "2024-05-07"], "M8[ns]"), mask),
    }
    with pytest.raises(InputError, match="no time zone"):
        program.batch(table)
    table["d"] = [None, None]
    got = program.batch(table)
    np.testing.assert_array_equal(got[:, :4], [[1.0, 0.0, 1.0, np.nan], [np.nan, 1.0, 3.0, 4.0]])
    row = {"x": np.ma.masked, "c": np.ma.masked, "v": table["v"][0], "d": np.ma.masked}
    np.testing.assert_array_equal(program.row(row)[:4], [np.nan, 1.0, 1.0, np.nan])
    utc = t.FeatureProgram.fit([t.timestamp("d", zone="UTC", naive="utc").part("day")], {"d": [None]})
    days = np.ma.masked_array(np.array(["2024-05-06", "2024-05-07"], "M8[ns]"), mask)
    np.testing.assert_array_equal(utc.batch({"d": days}).ravel(), [6.0, np.nan])
