"""What callers pass by mistake, and what looks odd and is right: every error is the engine's, and names the place."""

import decimal
import math

import numpy as np
import polars as pl
import pytest

import engine
from engine.errors import ClosedError, ConfigError, EngineError, InputError, InputTypeError
from engine.model import dense

FAR_MS = 60_000.0


def linear():
    return dense([np.array([[1.0], [10.0]])], [np.zeros(1)])


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    model = engine.load_model(linear(), feature_names=["a", "b"])
    with engine.Engine(model, default=-1.0, deadline_ms=FAR_MS, lane=request.param) as opened:
        yield opened


class Refuses:
    def __float__(self):
        raise RuntimeError("not today")

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    "row",
    [
        np.array([1.0, 2], dtype=object),
        [decimal.Decimal(1), 2],
        range(1, 3),
        np.array([(1.0, 2.0)], [("a", float), ("b", float)])[0],
        np.rec.array([(2.0, 1.0)], [("b", float), ("a", float)]),
    ],
    ids=["objects", "Decimal", "range", "record", "record array"],
)
def test_rows_that_look_odd_and_are_right(eng, row):
    assert eng.predict(row).value == 21.0
    rows = row if getattr(row, "dtype", None) is not None and row.dtype.names else [row]
    assert eng.predict_many(rows).values.tolist() == [21.0]


def test_tables_of_objects_are_read(eng):
    rows = np.array([[1.0, 2], [3, True]], dtype=object)
    assert eng.predict_many(rows).values.tolist() == [21.0, 13.0]
    masked = np.ma.array([[1, 2], [3, 4]], mask=[[0, 0], [0, 1]], dtype=object)
    assert eng.predict_many(masked).sources.tolist() == ["primary", "default"]  # NaN gives NaN


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({1.0, 2.0}, "expected a row of 2 features .*got set"),
        ((value for value in (1.0, 2.0)), "got generator"),
        (bytearray(b"ab"), "got bytearray"),
        ([1j, 2.0], "feature 0: expected a number, got complex"),
        (np.array([1j, 2.0]), "got dtype complex128$"),
        (np.array(["2020", "2021"], "M8[D]"), "pass times as numbers"),
        (np.array([1.0, "x"], dtype=object), "feature 1: expected a number, got str 'x'"),
        ([Refuses(), 1.0], "feature 0: .*Refuses, which raised RuntimeError: not today"),
        (Refuses(), "got Refuses: RuntimeError: not today"),
        ({0: 1.0, 1: 2.0}, "the row lacks 2 of the model's 2 features: 'a', 'b'; it has: '0', '1'"),
        ({}, "the row lacks 2 of the model's 2 features: 'a', 'b'; it has: none"),
        (
            pl.LazyFrame({"a": [1.0], "b": [2.0]}),
            r"LazyFrame has no rows before it is collected: pass rows\.collect\(\)",
        ),
    ],
)
def test_rows_that_are_none(eng, row, text):
    with pytest.raises(EngineError, match=text):
        eng.predict(row)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ({1.0, 2.0}, r"expected rows of shape \[rows, 2\], got set"),
        ((row for row in [[1.0, 2.0]]), r"got generator: pass list\(rows\)"),
        ([[1.0, 2.0], {1.0, 2.0}], "row 1: .*got set"),
        (
            np.array([[1.0, 2.0], [3.0, "x"]], dtype=object),
            "row 1: feature 1: expected a number, got str 'x'",
        ),
        ({"a": [1.0], "b": [1.0, 2.0]}, "the columns differ in length: 'a' has 1, 'b' has 2"),
        ({}, "the row lacks 2"),
        (
            pl.LazyFrame({"a": [1.0], "b": [2.0]}),
            r"LazyFrame has no rows before it is collected: pass rows\.collect\(\)",
        ),
    ],
)
def test_tables_that_are_none(eng, rows, text):
    with pytest.raises(EngineError, match=text):
        eng.predict_many(rows)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"deadline_ms": ["soon", 1.0]}, "deadline_ms must be numbers of milliseconds, got 'soon' for row 0"),
        ({"deadline_ms": [1.0, None]}, "got None for row 1"),
        ({"deadline_ms": [[1.0], [1.0, 2.0]]}, "one for each of 2 rows, got ragged lists"),
        ({"deadline_ns": [1.5, 2.5]}, "must be integers"),
        ({"deadline_ns": ["x", "y"]}, "must be integers"),
    ],
)
def test_deadlines_of_many_rows(eng, given, text):
    with pytest.raises((InputError, InputTypeError), match=text):
        eng.predict_many(np.ones((2, 2)), **given)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"version": 5}, "version must be a str, got int 5"),
        ({"cpus": 5}, "cpus must be several ints, got int 5"),
        ({"cpus": "01"}, "cpus must be several ints, got str '01'"),
        ({"warmup": "x"}, "warmup: expected rows, got str 'x'"),
        ({"warmup": [["x", 1]]}, "warmup: row 0, column 0: expected a number, got str 'x'"),
    ],
)
def test_options(options, text):
    with pytest.raises(ConfigError, match=text):
        engine.Engine(linear(), **options)


def test_parts_of_a_swap(eng):
    for given, text in (
        ({"golden": 5}, r"golden must be \(rows, values\), got int 5"),
        ({"golden": ([[1, 2]],)}, r"golden must be \(rows, values\)"),
        ({"golden": ([[1, "x"]], [1.0])}, "golden rows: row 0, column .*: expected a number, got str 'x'"),
        ({"version": 7}, "version must be a str, got int 7"),
    ):
        with pytest.raises(ConfigError, match=text):
            eng.swap(linear(), **given)
    for wrong in ("x", -1.0, math.nan):
        with pytest.raises(ConfigError, match="timeout_s"):
            eng.close(wrong)
    assert eng.predict([1.0, 2.0]).value == 21.0


def test_an_engine_that_was_never_opened_says_so():
    made = engine.Engine.__new__(engine.Engine)
    assert repr(made) == "Engine(never opened)"
    made.close()
    for ask in (
        lambda: made.predict([1.0]),
        lambda: made.predict_many([[1.0]]),
        made.stats,
        lambda: made.version,
        lambda: made.primary,
        lambda: made.swap(linear()),
        made.rollback,
    ):
        with pytest.raises(ClosedError, match="never opened"):
            ask()


def test_an_engine_is_opened_once(eng):
    with pytest.raises(ConfigError, match="opened before"):
        eng.__init__(linear())
    assert eng.predict([1.0, 2.0]).value == 21.0


def test_an_engine_in_a_finalizer():
    class Late:
        def __init__(self, eng):
            self.eng = eng

        def __del__(self):
            seen.append(self.eng.predict([1.0, 2.0]).value)

    seen = []
    with engine.Engine(linear(), deadline_ms=FAR_MS, lane="batch") as eng:
        Late(eng)
    assert seen == [21.0]
