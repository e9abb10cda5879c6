"""Rows as people have them: by name where the model knows names, missing values as NaN, everything else refused."""

import pickle
import threading
import time
import warnings

import numpy as np
import pytest

from engine.errors import ConfigError, InputError, InputTypeError
from engine.model import dense, load_model
from engine.model.rows import known, matched, matched_row

NAMES = ("a", "b", "c")
NAN = float("nan")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

COLUMNS = {"c": [True, False], "x": [9, 9], "a": [1.5, 2.5], "b": [3, None]}
WANTED = [[1.5, 3.0, 1.0], [2.5, NAN, 0.0]]
FRAME = pandas.DataFrame(COLUMNS)


def same(found, wanted):
    np.testing.assert_array_equal(np.asarray(found), np.array(wanted))


@pytest.mark.parametrize(
    "rows",
    [
        FRAME,
        FRAME.astype({"b": "Int64", "c": "boolean", "a": "Float64"}),
        FRAME.astype({"b": object, "c": object}),
        FRAME.astype({"b": "int64[pyarrow]"}),
        polars.DataFrame(COLUMNS),
        pyarrow.table(COLUMNS),
        pyarrow.record_batch(COLUMNS),
        COLUMNS,
        [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)],
        [FRAME.iloc[0], FRAME.iloc[1]],
        np.array([(1, 9, 1.5, 3), (0, 9, 2.5, NAN)], [("c", "f8"), ("x", "f4"), ("a", "f8"), ("b", "f8")]),
    ],
    ids=str,
)
def test_rows_with_names_go_by_name(rows):
    same(matched(rows, NAMES), WANTED)
    with pytest.raises(InputError, match="columns that the model does not know: 'x'"):
        matched(rows, NAMES, strict=True)


@pytest.mark.parametrize(
    "row", [{"c": True, "a": 1.5, "b": None, "x": "text"}, pandas.Series({"c": 1, "b": NAN, "a": 1.5})]
)
def test_one_row(row):
    same(matched(row, NAMES), [[1.5, NAN, 1.0]])
    same(matched_row(row, NAMES), [1.5, NAN, 1.0])


def test_missing_columns_are_named():
    with pytest.raises(InputError, match=r"lack 2 of the model's 3 features: 'b', 'c'; they have: 'a', 'z'"):
        matched({"a": [1], "z": [2]}, NAMES)
    with pytest.raises(InputError, match="row 1 lacks the feature 'b'"):
        matched([{"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}], NAMES)


def test_plain_rows_go_by_position():
    rows = np.ones((2, 3))
    assert matched(rows, NAMES) is rows
    same(matched([[1, None, True]], NAMES), [[1.0, NAN, 1.0]])
    same(matched(np.ma.array([[1, 2, 3]], mask=[[0, 1, 0]]), NAMES), [[1.0, NAN, 3.0]])
    same(matched([np.ma.array([1, 2, 3], mask=[0, 1, 0])], NAMES), [[1.0, NAN, 3.0]])
    same(matched(pandas.DataFrame([[1, 2, 3]]), NAMES), [[1.0, 2.0, 3.0]])  # its columns are 0, 1 and 2


def test_placeholders_are_no_names():
    assert known(["a"])
    assert known(["f0", "f2"])
    for prefix, first in (("Column_", 0), ("f", 0), ("x", 0), ("x", 1), ("feature_", 0), ("", 0)):
        names = [f"{prefix}{at + first}" for at in range(3)]
        assert not known(names)
        same(matched(pandas.DataFrame({"u": [1], "v": [2], "w": [3]}), names), [[1, 2, 3]])
        same(matched({names[2]: [3], names[0]: [1], names[1]: [2]}, names), [[1, 2, 3]])
        with pytest.raises(InputError, match="expected rows of 3 columns, got 2"):
            matched(pandas.DataFrame({"u": [1], "v": [2]}), names)
        with pytest.raises(InputError, match="feature_names="):
            matched({"u": 1, "v": 2, "w": 3}, names)
    with pytest.raises(InputError, match="expected rows of 3 columns, got 2"):
        matched(pandas.DataFrame({"u": [1], "v": [2]}), None, n_features=3)


def test_categories_become_the_models_codes():
    values = {"a": ["x", "z", "y", None], "b": [1] * 4, "c": [2] * 4}
    frame = pandas.DataFrame(values).astype({"a": "category"})
    for rows in (frame, polars.DataFrame(values), pyarrow.table(values), values):
        same(matched(rows, NAMES, categories={"a": ["y", "x"]})[:, 0], [1, NAN, 0, NAN])
    with pytest.raises(InputError, match=r"'a' is categorical.*frame\['a'\]\.cat\.codes"):
        matched(frame, NAMES)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1, 2, 3], [1, 2]], "row 1 has 2 values and row 0 has 3 values"),
        ([[1, "q", 3]], "row 0, column 'b': expected a number, got str 'q'"),
        ({"a": ["q"], "b": [1], "c": [1]}, "row 0, column 'a': expected a number, got str 'q'"),
        (pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01"]), "b": 1, "c": 1}), "'a' holds times"),
        ({"a": [1, 2], "b": [1], "c": [1]}, "differ in length: 'a' has 2, 'b' has 1, 'c' has 1"),
        (None, "expected rows, got NoneType None"),
        ("abc", "expected rows, got str 'abc'"),
        ([{"a": 1, "b": 2, "c": 3}, 4], "row 1: expected a mapping"),
        (np.array([["2020-01-01"]], "M8[s]"), "expected numbers, got dtype datetime64"),
    ],
)
def test_what_cannot_be_read_says_where(rows, text):
    with pytest.raises(InputError, match=text):
        matched(rows, NAMES)


def test_sparse_rows_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InputError, match=r"toarray\(\)"):
        matched(sparse.csr_matrix(np.eye(3)), NAMES)


def test_a_model_uses_its_names():
    model = dense([np.array([[1.0], [10.0], [100.0]])], [np.zeros(1)], feature_names=NAMES)
    assert model.predict(pandas.DataFrame({"c": [3], "b": [2], "a": [1], "z": [7]})).tolist() == [321.0]
    assert model.predict({"c": 3, "b": 2, "a": 1}).tolist() == [321.0]
    assert model.predict([[1, 2, 3]]).tolist() == [321.0]
    with pytest.raises(InputError, match="'z'"):
        model.predict({"c": 3, "b": 2, "a": 1, "z": 7}, strict=True)
    with pytest.raises(InputTypeError, match="cannot be pickled"):
        pickle.dumps(model)


def test_names_given_to_a_model_that_has_none():
    model = dense([np.array([[1.0], [10.0]])], [np.zeros(1)])
    with pytest.raises(InputError, match="feature_names="):
        model.predict({"a": 1, "b": 2})
    other = load_model(model, feature_names=["b", "a"])
    assert (other.predict({"a": 1, "b": 2}).tolist(), model.feature_names) == ([12.0], None)
    assert load_model(lambda rows: rows[:, 1], n_features=2, feature_names=["a", "b"]).predict(
        {"b": 5, "a": 6}
    ) == [5.0]
    for names in (["a"], ["a", "a"], "ab", [1, 2]):
        with pytest.raises(ConfigError, match="feature_names must be"):
            load_model(model, feature_names=names)


def test_the_very_frame_that_lightgbm_and_xgboost_were_trained_on():
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "amount": rng.normal(size=300),
            "new": rng.random(300) > 0.5,
            "kind": pandas.Categorical(rng.choice(list("xyz"), 300)),
        }
    )
    target = frame["amount"] + frame["new"] + (frame["kind"] == "y") * 3
    turned = frame[["kind", "new", "amount"]].assign(kind=frame["kind"].cat.reorder_categories(list("zyx")))
    booster = lightgbm.LGBMRegressor(n_estimators=10, min_child_samples=2, verbose=-1).fit(frame, target)
    assert load_model(booster).categories == {"kind": ("x", "y", "z")}
    np.testing.assert_allclose(load_model(booster).predict(turned), booster.predict(frame), rtol=1e-12)
    other = xgboost.XGBRegressor(n_estimators=10, enable_categorical=True).fit(frame, target)
    assert load_model(other).categories == {"kind": ("x", "y", "z")}
    np.testing.assert_allclose(load_model(other).predict(turned), other.predict(frame), rtol=1e-5)


def test_a_float32_model_warns_once_of_a_lost_whole_number():
    model = dense([np.ones((2, 1), np.float32)], [np.zeros(1, np.float32)], feature_names=["id", "x"])
    wide = dense([np.ones((2, 1))], [np.zeros(1)])
    assert (model.computes_float32, wide.computes_float32) == (True, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict([[16777216.0, 0.1], [2.0**53, 1e300], [NAN, 33554436.0]])
        model.predict(np.array([[16777217, 0]], np.float32))
        wide.predict([[16777217, 0]])
    for rows in ([[1, 0], [16777217, 0]], np.array([[1.0, 0.0], [16777217.0, 0.0]])):
        model._float64_plain = False
        with pytest.warns(UserWarning, match=r"column 'id': 16777217 \(row 1\) becomes 16777216"):
            model.predict(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.predict(rows)


def test_a_callable_gets_doubles_where_asked_to():
    seen = []

    def keep(rows):
        seen.append((rows.dtype, rows.flags.c_contiguous))
        return rows[:, 0]

    model = load_model(keep, n_features=2, dtype="float64")
    assert model.predict([[16777217, 0], [0.1, 0]]).tolist() == [16777217.0, 0.1]
    assert model.predict(np.array([[1.5, 0, 9], [2.5, 0, 9]], np.float32)[:, :2]).tolist() == [1.5, 2.5]
    assert model.predict(np.array([[1.5, 0, 9], [2.5, 0, 9]])[:, :2]).tolist() == [1.5, 2.5]
    assert seen == [(np.float64, True)] * 3
    assert (model.describe()["dtype"], model.computes_float32) == ("float64", False)
    with pytest.raises(ConfigError, match="dtype must be float32 or float64, got 'int8'"):
        load_model(keep, n_features=2, dtype="int8")
    with pytest.raises(ConfigError, match="dtype= is for a Python callable's rows"):
        load_model(model, dtype="float64")


def test_masked_answers_are_missing():
    model = load_model(lambda rows: np.ma.array(rows[:, 0], mask=[False, True]), n_features=1)
    same(model.predict([[1.0], [2.0]]), [1.0, NAN])


def test_an_executor_keeps_what_a_callable_keeps_for_its_thread():
    from engine import Engine

    kept, made = threading.local(), []

    def model(rows):
        if not hasattr(kept, "session"):
            kept.session = made.append(threading.get_native_id()) or object()
        return rows[:, 0]

    with Engine(load_model(model, n_features=1), default=-1.0, deadline_ms=2_000) as engine:
        made.clear()
        for value in range(30):
            assert engine.predict([float(value)]).value == value
            time.sleep(0.001)
    assert len(made) == len(set(made)) <= 1


def test_what_a_thread_keeps_goes_with_the_thread():
    import gc
    import weakref

    from engine import Engine

    class Session:
        pass

    kept, made = threading.local(), []

    def model(rows):
        if not hasattr(kept, "session"):
            kept.session = Session()
            made.append(weakref.ref(kept.session))
        return rows[:, 0]

    engine = Engine(load_model(model, n_features=1), default=-1.0, deadline_ms=2_000)
    assert engine.predict([1.0]).value == 1.0
    assert made
    assert made[-1]() is not None
    engine.close()
    until = time.monotonic() + 5
    while time.monotonic() < until and any(session() is not None for session in made[1:]):
        gc.collect()
        time.sleep(0.01)
    assert all(
        session() is None for session in made[1:]
    )  # the first may be the calling thread's, which goes on
