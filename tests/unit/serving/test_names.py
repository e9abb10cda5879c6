"""Rows with names are matched by name, whatever order each version of an engine was trained on."""

import asyncio
from collections import namedtuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.observers import Recorder

import engine
from engine import transform as t
from engine.errors import ConfigError, EngineError, InputError, InputTypeError
from engine.model import dense

FAR_MS = 60_000.0
NAMES = ["amount", "age", "hour"]


def linear(names=None, weights=(1.0, 10.0, 100.0), bias=0.0):
    """A native model: the sum of its columns in their order, times 1, 10 and 100."""
    model = dense([np.array(weights, dtype=float).reshape(-1, 1)], [np.array([bias])])
    return engine.load_model(model, feature_names=names) if names else model


def by_its_names(names, bias=0.0):
    """amount + 10 age + 100 hour, trained on columns in this order."""
    weight = {"amount": 1.0, "age": 10.0, "hour": 100.0}
    return linear(names, [weight[name] for name in names], bias)


OTHER = ["hour", "amount", "age"]


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    with engine.Engine(by_its_names(NAMES), default=-1.0, deadline_ms=FAR_MS, lane=request.param) as opened:
        yield opened


def ask_all(eng, x, **options):
    """The value by all four verbs."""

    async def asked():
        return (await eng.predict_async(x, **options)).value

    return {eng.predict(x, **options).value, asyncio.run(asked())}


def many(eng, rows):
    async def asked():
        return (await eng.predict_many_async(rows)).values.tolist()

    found = eng.predict_many(rows).values.tolist()
    assert asyncio.run(asked()) == found
    return found


# amount 1, age 2, hour 3: 1 + 20 + 300
ROWS = {
    "dict": {"amount": 1.0, "age": 2.0, "hour": 3.0},
    "dict in another order": {"hour": 3, "amount": 1, "age": 2},
    "dict with more": {"user": "x", "hour": 3.0, "amount": 1.0, "age": 2.0},
    "dict of numpy": {"hour": np.float32(3), "amount": np.int64(1), "age": np.float64(2)},
    "Series": pd.Series({"hour": 3.0, "amount": 1.0, "age": 2.0}),
    "Series of objects": pd.Series({"hour": 3, "amount": True, "age": 2.0, "user": "x"}),
    "frame of one row": pd.DataFrame({"hour": [3], "amount": [1], "age": [2]}),
    "structured scalar": np.array([(3.0, 1.0, 2.0)], [("hour", float), ("amount", float), ("age", float)]),
    "list": [1.0, 2.0, 3.0],
    "array": np.array([1.0, 2.0, 3.0]),
    "named tuple": namedtuple("Row", "hour amount age")(1.0, 2.0, 3.0),  # a sequence: by position
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_one_row(eng, row):
    assert ask_all(eng, row) == {321.0}


COLUMNS = {"hour": [3, 6], "amount": [1, 4], "age": [2, 5]}
TABLES = {
    "pandas": pd.DataFrame(COLUMNS),
    "pandas with more": pd.DataFrame(COLUMNS | {"user": ["x", "y"]}),
    "pandas nullable": pd.DataFrame(COLUMNS).astype("Int64"),
    "polars": pl.DataFrame(COLUMNS),
    "pyarrow": pa.table(COLUMNS),
    "record batch": pa.RecordBatch.from_pydict(COLUMNS),
    "columns": COLUMNS,
    "columns of arrays": {name: np.array(values) for name, values in COLUMNS.items()},
    "structured": np.array([(3, 1, 2), (6, 4, 5)], [("hour", int), ("amount", float), ("age", float)]),
    "dicts": [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)],
    "dicts of other orders": [{"hour": 3, "amount": 1, "age": 2}, {"age": 5.0, "hour": 6.0, "amount": 4.0}],
    "Series": [pd.Series({"hour": 3, "amount": 1, "age": 2}), pd.Series({"age": 5, "hour": 6, "amount": 4})],
    "mixed": [[1.0, 2.0, 3.0], {"age": 5.0, "hour": 6.0, "amount": 4.0}],
    "array": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "lists": [[1, 2, 3], (4.0, 5.0, 6.0)],
}


@pytest.mark.parametrize("rows", TABLES.values(), ids=TABLES)
def test_many_rows(eng, rows):
    assert many(eng, rows) == [321.0, 654.0]


def test_a_relation_of_duckdb(eng):
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql("SELECT * FROM (VALUES (3, 1, 2), (6, 4, 5)) AS t(hour, amount, age)")
    assert many(eng, rows) == [321.0, 654.0]


def test_empty_tables(eng):
    for rows in (
        pd.DataFrame(columns=NAMES, dtype=float),
        pa.table({name: pa.array([], "f8") for name in NAMES}),
    ):
        assert many(eng, rows) == []


def test_missing_columns_are_named(eng):
    for row in ({"amount": 1.0, "hour": 3.0}, pd.Series({"amount": 1.0, "hour": 3.0, "Age": 2.0}), {}):
        with pytest.raises(InputError, match="'age'"):
            eng.predict(row)
        with pytest.raises(InputError, match="'age'"):
            asyncio.run(eng.predict_async(row))
    with pytest.raises(InputError, match="'age'"):
        eng.predict_many(pd.DataFrame({"amount": [1.0], "hour": [3.0]}))
    with pytest.raises(InputError, match=r"row 1: .*'age'"):
        eng.predict_many([{"amount": 1.0, "age": 2.0, "hour": 3.0}, {"amount": 1.0, "hour": 3.0}])
    assert eng.predict([1.0, 2.0, 3.0]).value == 321.0


def test_values_that_are_no_numbers_are_named(eng):
    with pytest.raises(EngineError, match=r"^column 'age': expected a number, got str 'x'"):
        eng.predict({"amount": 1.0, "age": "x", "hour": 3.0})
    with pytest.raises(EngineError, match=r"^row 0: column 'age': expected a number, got str 'x'"):
        eng.predict_many([{"amount": 1.0, "age": "x", "hour": 3.0}])
    with pytest.raises(EngineError, match="row 1, column 'age'"):
        eng.predict_many(pd.DataFrame({"amount": [1.0, 1.0], "age": [2.0, "x"], "hour": [3.0, 3.0]}))
    with pytest.raises(EngineError, match="column 'age'"):
        eng.predict({"amount": 1.0, "age": 10**400, "hour": 3.0})


def test_missing_values_stay_missing():
    seen = []
    model = engine.load_model(
        lambda rows: (seen.append(rows.copy()), rows[:, 0])[1], n_features=2, feature_names=["a", "b"]
    )
    nan = pytest.approx(float("nan"), nan_ok=True)
    with engine.Engine(model, default=0.0, deadline_ms=FAR_MS) as eng:
        for row in ({"b": None, "a": True}, pd.Series({"b": pd.NA, "a": True}), {"b": float("nan"), "a": 1}):
            seen.clear()
            assert eng.predict(row).value == 1.0
            assert seen[-1].tolist() == [[1.0, nan]]


def test_extra_columns_are_refused_where_the_engine_says_so():
    with engine.Engine(by_its_names(NAMES), deadline_ms=FAR_MS, unknown_keys="raise") as eng:
        assert ask_all(eng, {"hour": 3.0, "amount": 1.0, "age": 2.0}) == {321.0}
        for row in (
            {"hour": 3.0, "amount": 1.0, "age": 2.0, "user": 1.0},
            pd.Series(dict.fromkeys([*NAMES, "user"], 1)),
        ):
            with pytest.raises(InputError, match="'user'"):
                eng.predict(row)
        with pytest.raises(InputError, match="'user'"):
            eng.predict_many(pd.DataFrame(COLUMNS | {"user": [1, 2]}))
        with pytest.raises(InputError, match=r"row 0: .*'user'"):
            eng.predict_many([{"hour": 3.0, "amount": 1.0, "age": 2.0, "user": 1.0}])
    with pytest.raises(ConfigError, match="unknown_keys must be one of ignore, raise, got 'warn'"):
        engine.Engine(by_its_names(NAMES), unknown_keys="warn")


@pytest.mark.parametrize("lane", ["inline", "batch"])
def test_every_model_of_an_engine_gets_its_own_columns(lane):
    recorder = Recorder(3)
    with engine.Engine(
        by_its_names(NAMES),
        fallback=by_its_names(OTHER, bias=0.5),
        deadline_ms=FAR_MS,
        lane=lane,
        version="1",
        monitor=recorder,
    ) as eng:
        frame = pd.DataFrame(COLUMNS)
        everywhere = [[1.0, 2.0, 3.0], {"hour": 3.0, "amount": 1.0, "age": 2.0}, frame.iloc[0]]
        for row in everywhere:
            assert ask_all(eng, row) == {321.0}
        eng.canary(by_its_names(OTHER, bias=1000.0), share=1.0, version="2")
        for row in everywhere:
            assert ask_all(eng, row) == {1321.0}
        assert many(eng, frame) == [1321.0, 1654.0]
        assert many(eng, np.array([[1.0, 2.0, 3.0]])) == [1321.0]
        eng.canary()
        eng.swap(by_its_names(["age", "hour", "amount"], bias=2000.0), version="3")
        for row in everywhere:
            assert ask_all(eng, row) == {2321.0}
        assert many(eng, frame) == [2321.0, 2654.0]
        assert eng.rollback() == "1"
        assert ask_all(eng, everywhere[1]) == {321.0}
        eng.shadow(by_its_names(OTHER), version="dark")
        for _ in range(50):
            eng.predict(everywhere[1])
        while (facts := eng.stats()["shadow"])["rows"] + facts["dropped"] < 50:
            pass
        assert (facts["failed"], facts["difference_max"]) == (0, 0.0)
    # The monitor sees one order of columns, whichever version answers.
    assert {tuple(answer["row"]) for answer in recorder.answers} == {(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)}


def test_a_fallback_in_another_order_answers_right():
    def down(rows):
        raise ValueError("down")

    primary = engine.load_model(down, n_features=3, feature_names=NAMES)
    with engine.Engine(primary, fallback=by_its_names(OTHER), deadline_ms=FAR_MS, breaker=False) as eng:
        for row in ([1.0, 2.0, 3.0], {"hour": 3.0, "amount": 1.0, "age": 2.0}):
            answer = eng.predict(row)
            assert (answer.source, answer.value) == ("fallback", 321.0)
    # A primary without names has the fallback's.
    with engine.Engine(
        engine.load_model(down, n_features=3), fallback=by_its_names(OTHER), deadline_ms=FAR_MS, breaker=False
    ) as eng:
        assert eng.predict({"amount": 1.0, "age": 2.0, "hour": 3.0}).value == 321.0
        assert eng.predict([3.0, 1.0, 2.0]).value == 321.0


def test_a_python_primary_swapped_in_with_names_in_another_order():
    def model(rows):  # hour, amount, age
        return rows[:, 1] + 10 * rows[:, 2] + 100 * rows[:, 0]

    named = engine.load_model(model, n_features=3, feature_names=OTHER)
    with engine.Engine(by_its_names(NAMES), default=-1.0, deadline_ms=FAR_MS, lane="batch") as eng:
        eng.swap(named, golden=(np.array([[3.0, 1.0, 2.0]]), [321.0]))  # an array in the model's own order
        eng.swap(named, golden=(pd.DataFrame({"amount": [1.0], "age": [2.0], "hour": [3.0]}), [321.0]))
        assert ask_all(eng, [1.0, 2.0, 3.0]) == {321.0}
        assert named.predict(np.array([[3.0, 1.0, 2.0]])).tolist() == [321.0]


def test_models_of_other_columns_are_refused():
    others = by_its_names(NAMES), linear(["amount", "age", "weekday"])
    with pytest.raises(
        ConfigError, match=r"the fallback reads other columns .*'weekday'.*'hour'.*feature_names="
    ):
        engine.Engine(others[0], fallback=others[1])
    with engine.Engine(others[0], deadline_ms=FAR_MS) as eng:
        for change in (eng.swap, lambda model: eng.canary(model, share=0.5)):
            with pytest.raises(ConfigError, match="the primary reads other columns"):
                change(others[1])
        with pytest.raises(ConfigError, match="the shadow reads other columns"):
            eng.shadow(others[1])
        # The way out that the error names.
        eng.swap(engine.load_model(others[1], feature_names=NAMES))
        assert eng.predict({"hour": 3.0, "amount": 1.0, "age": 2.0}).value == 321.0


def test_placeholders_of_libraries_are_no_names():
    with engine.Engine(linear(["f0", "f1", "f2"]), fallback=by_its_names(OTHER), deadline_ms=FAR_MS) as eng:
        assert eng.predict([1.0, 2.0, 3.0]).value == 321.0
        eng.swap(linear(["Column_0", "Column_1", "Column_2"]), fallback=engine.NOTHING)
        assert eng.predict([1.0, 2.0, 3.0]).value == 321.0
    with engine.Engine(linear(), deadline_ms=FAR_MS) as eng:
        assert many(eng, pd.DataFrame(COLUMNS)) == [213.0, 546.0]  # by position
        with pytest.raises(InputError, match="3 columns, got 4"):
            eng.predict_many(pd.DataFrame(COLUMNS | {"user": [1, 2]}))
        with pytest.raises(InputTypeError, match=r"feature_names=\[…\]"):
            eng.predict({"a": 1.0})


def test_blanks_and_underscores_are_one():
    first = linear(["amount due", "age", "hour"])
    second = linear(["age", "amount_due", "hour"], [10.0, 1.0, 100.0])
    with engine.Engine(first, fallback=second, deadline_ms=FAR_MS) as eng:
        assert eng.predict({"amount due": 1.0, "age": 2.0, "hour": 3.0}).value == 321.0
        eng.swap(second)
        assert eng.predict([1.0, 2.0, 3.0]).value == 321.0


def test_a_program_whose_outputs_stand_in_another_order():
    program = t.FeatureProgram.fit([t.number(name) for name in OTHER], {name: [0.0] for name in OTHER})
    assert list(program.output_names) == OTHER
    with engine.Engine(by_its_names(NAMES), features=program, deadline_ms=FAR_MS) as eng:
        assert eng.predict({"amount": 1.0, "age": 2.0, "hour": 3.0}).value == 321.0
        assert eng.predict([3.0, 1.0, 2.0]).value == 321.0  # in the program's order
        assert many(eng, pd.DataFrame(COLUMNS)) == [321.0, 654.0]
        eng.swap(by_its_names(OTHER), golden=([{"amount": 1.0, "age": 2.0, "hour": 3.0}], [321.0]))
        eng.swap(by_its_names(NAMES), golden=([{"amount": 1.0, "age": 2.0, "hour": 3.0}], [321.0]))
        assert eng.predict({"amount": 1.0, "age": 2.0, "hour": 3.0}).value == 321.0


def test_categories_of_the_version_that_serves():
    lightgbm = pytest.importorskip("lightgbm")
    cities = ["oslo", "rome", "bern"]

    def trained(order):
        frame = pd.DataFrame(
            {"city": pd.Categorical(cities * 200, categories=order), "size": np.arange(600.0)}
        )
        label = frame["city"].map({"oslo": 1.0, "rome": 2.0, "bern": 3.0}).astype(float)
        return lightgbm.LGBMRegressor(n_estimators=50, min_child_samples=1, verbose=-1).fit(frame, label)

    first, second = trained(cities), trained(cities[::-1])
    rows = pd.DataFrame({"size": [1.0, 1.0, 1.0], "city": pd.Categorical(cities)})
    with engine.Engine(first, deadline_ms=FAR_MS) as eng:
        np.testing.assert_allclose(eng.predict_many(rows).values, [1.0, 2.0, 3.0], atol=0.05)
        assert eng.predict({"city": "rome", "size": 1.0}).value == pytest.approx(2.0, abs=0.05)
        eng.swap(second)
        np.testing.assert_allclose(eng.predict_many(rows).values, [1.0, 2.0, 3.0], atol=0.05)
        with pytest.raises(ConfigError, match="codes for the categories"):
            eng.shadow(first)
    with pytest.raises(ConfigError, match=r"different codes .* 'city'"):
        engine.Engine(first, fallback=second)
