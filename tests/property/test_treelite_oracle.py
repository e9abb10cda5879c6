"""Treelite checkpoints: our `predict` is treelite's `gtil.predict`, and that of the library that trained the model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import load_model

treelite = pytest.importorskip("treelite")

N_ROWS, N_FEATURES = 240, 5


def table(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    rows[:, 2] = rng.integers(0, 7, N_ROWS)
    y = rows[:, 0] + rows[:, 1] * rows[:, 2]
    return rows, y, rng


def probes(rows, rng):
    extra = rng.choice(np.array([np.nan, np.inf, -np.inf, 0, -0.0, -0.5, 3.5, 99], np.float32), rows.shape)
    return np.concatenate([rows, np.where(rng.random(rows.shape) < 0.3, extra, rows)])


def assert_same(model, rows, path, trained=None):
    model.serialize(path)
    ours = load_model(path)
    assert ours.format == "treelite"
    got = ours.predict(rows)
    expected = treelite.gtil.predict(model, rows).reshape(got.shape)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
    if trained is not None:
        np.testing.assert_allclose(got, trained.reshape(got.shape), rtol=2e-5, atol=2e-6)
    assert load_model(model).predict(rows).tobytes() == got.tobytes()
    return ours


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    objective=st.sampled_from(
        ["regression", "binary", "poisson", "multiclass", "multiclassova", "cross_entropy_lambda"]
    ),
    categorical=st.booleans(),
)
def test_from_lightgbm(tmp_path_factory, seed, objective, categorical):
    lgb = pytest.importorskip("lightgbm")
    rows, y, rng = table(seed)
    target = {"poisson": np.abs(y), "regression": y}.get(objective, (y > 0) * 1.0)
    parameters = {"objective": objective, "verbose": -1, "num_leaves": 6, "num_threads": 1}
    if objective.startswith("multiclass"):
        target, parameters["num_class"] = np.digitize(y, [-1, 1]), 3
    data = lgb.Dataset(rows, target, categorical_feature=[2] if categorical else [])
    booster = lgb.train({**parameters, "min_data_per_group": 3}, data, 5)
    path = tmp_path_factory.mktemp("treelite") / "model"
    booster.save_model(path)
    # A negative fraction is no category to treelite and category 0 to LightGBM: a checkpoint answers as treelite.
    seen = rows if categorical else probes(rows, rng)
    model = treelite.frontend.load_lightgbm_model(path)
    assert_same(model, probes(rows, rng).astype(np.float64), path)
    assert_same(model, seen.astype(np.float64), path, booster.predict(seen))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    objective=st.sampled_from(["reg:squarederror", "binary:logistic", "count:poisson", "multi:softprob"]),
)
def test_from_xgboost(tmp_path_factory, seed, objective):
    xgb = pytest.importorskip("xgboost")
    rows, y, rng = table(seed)
    target = {"reg:squarederror": y, "count:poisson": np.abs(y)}.get(objective, (y > 0) * 1)
    parameters = {"objective": objective, "max_depth": 4, "nthread": 1}
    if objective == "multi:softprob":
        target, parameters["num_class"] = np.digitize(y, [-1, 1]), 3
    booster = xgb.train(parameters, xgb.DMatrix(rows, target), 4)
    path = tmp_path_factory.mktemp("treelite") / "model"
    given_rows = probes(rows, rng)
    given_rows[np.isinf(given_rows)] = 9.0  # inplace_predict refuses infinities
    assert_same(
        treelite.frontend.from_xgboost(booster), given_rows, path, booster.inplace_predict(given_rows)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_from_scikit_learn(tmp_path, seed):
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows, y, _ = table(seed)
    classes = np.digitize(y, [-1, 1])
    for estimator, target, answer in [
        (ensemble.RandomForestRegressor(7, max_depth=4, random_state=0), y, "predict"),
        (ensemble.RandomForestRegressor(7, max_depth=4, random_state=0), np.c_[y, -y], "predict"),
        (ensemble.ExtraTreesClassifier(7, max_depth=4, random_state=0), classes, "predict_proba"),
        (ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0), classes, "predict_proba"),
        (ensemble.HistGradientBoostingRegressor(max_iter=5), y, "predict"),
    ]:
        estimator.fit(rows, target)
        expected = getattr(estimator, answer)(rows)
        assert_same(
            treelite.sklearn.import_model(estimator), rows.astype(np.float64), tmp_path / "model", expected
        )
    isolation = ensemble.IsolationForest(n_estimators=9, random_state=0).fit(rows)
    model = treelite.sklearn.import_model(isolation)
    assert_same(model, rows.astype(np.float64), tmp_path / "model", -isolation.score_samples(rows))


def test_refusals(tmp_path):
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows, y, _ = table(0)
    content = treelite.sklearn.import_model(
        ensemble.RandomForestRegressor(2, max_depth=2, random_state=0).fit(rows, y)
    ).serialize_bytes()
    path = tmp_path / "model"
    for damaged, error, message in [
        (b"\x03" + content[1:], UnsupportedModelError, "a checkpoint of treelite 3"),
        (content[:12] + b"\x01\x01" + content[14:], UnsupportedModelError, "one type, float32 or float64"),
        (
            content[:14] + b"\xff" * 8 + content[22:],
            ModelFormatError,
            "expected num_tree from 1 to 16,777,216",
        ),
        (content[:-1], ModelFormatError, "truncated or damaged: expected 4 more bytes"),
        (content + b"x", ModelFormatError, "1 bytes follow the last tree"),
        (
            content.replace(b"identity", b"identitx"),
            UnsupportedModelError,
            "postprocessor 'identitx' is not known",
        ),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(error, match=message):
            load_model(path)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFormatError):
            load_model(path)
