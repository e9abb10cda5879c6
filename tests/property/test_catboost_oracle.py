"""Random small CatBoost models: our `predict` is CatBoost's own. Skipped where CatBoost is not installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import load_model

catboost = pytest.importorskip("catboost")

N_ROWS, N_FEATURES = 200, 4
KINDS = {
    "RMSE": "RawFormulaVal",
    "MAE": "RawFormulaVal",
    "Quantile:alpha=0.3": "RawFormulaVal",
    "Poisson": "Exponent",
    "Logloss": "Probability",
    "CrossEntropy": "Probability",
    "MultiClass": "Probability",
    "MultiClassOneVsAll": "Probability",
    "MultiRMSE": "RawFormulaVal",
}


def table(rng):
    rows = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    rows[:, 2] = rng.integers(0, 6, N_ROWS)
    rows[rng.random(rows.shape) < 0.1] = 0
    y = rows[:, 0] + rows[:, 1] * rows[:, 2] + np.sin(3 * rows[:, 3])
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows, y.astype(np.float64)


def target_for(loss, y):
    if loss.startswith("MultiClass"):
        return np.digitize(y, [-1, 1])
    if loss in ("Logloss", "CrossEntropy"):
        return (y > 0) * 1
    return np.c_[y, -y] if loss == "MultiRMSE" else np.abs(y) if loss == "Poisson" else y


def train(seed, loss, policy, nan_mode, depth, **more):
    rng = np.random.default_rng(seed)
    rows, y = table(rng)
    options = {
        "iterations": 5,
        "depth": depth,
        "loss_function": loss,
        "grow_policy": policy,
        "nan_mode": nan_mode,
    }
    options |= {"allow_writing_files": False, "verbose": 0, "thread_count": 1, "random_seed": seed % 1000}
    return catboost.CatBoost({**options, **more}).fit(rows, target_for(loss, y)), rows, rng


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from(sorted(KINDS)),
    policy=st.sampled_from(["SymmetricTree", "Depthwise", "Lossguide"]),
    nan_mode=st.sampled_from(["Min", "Max"]),
    depth=st.integers(1, 5),
)
def test_catboost(seed, loss, policy, nan_mode, depth):
    if loss == "MultiRMSE":
        policy = "SymmetricTree"  # the other policies have no such loss
    fitted, rows, rng = train(seed, loss, policy, nan_mode, depth)
    borders = np.array(
        [value for column in fitted.get_borders().values() for value in column] + [0.5], np.float32
    )
    near = [np.nextafter(borders, np.float32(9e9)), np.nextafter(borders, np.float32(-9e9)), borders]
    pool = np.concatenate([*near, np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40], np.float32)])
    hard = np.vstack([rows[:40], rng.choice(pool, (160, N_FEATURES))])
    expected = fitted.predict(hard, prediction_type=KINDS[loss])
    if KINDS[loss] == "Probability" and expected.shape[1] == 2:
        expected = expected[:, 1]
    np.testing.assert_allclose(load_model(fitted).predict(hard), expected, rtol=1e-9, atol=1e-12)


def test_categories_are_answered_as_the_library_does():
    rows = np.array([[i % 3, i] for i in range(60)], object)
    fitted = catboost.CatBoostRegressor(iterations=2, cat_features=[0], verbose=0, allow_writing_files=False)
    fitted.fit(rows, np.arange(60.0))
    np.testing.assert_allclose(load_model(fitted).predict(rows), fitted.predict(rows), rtol=1e-12)


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise"])
def test_damaged_files_are_refused_or_read_and_never_end_the_process(tmp_path, policy):
    fitted, _, rng = train(3, "Logloss", policy, "Min", 3)
    path = tmp_path / "model"
    fitted.save_model(str(path), format="json")
    content = path.read_bytes()
    assert load_model(path).describe()["format"] == "catboost"
    for length in range(0, len(content) - 2, 97):
        path.write_bytes(content[:length])
        with pytest.raises((ModelFormatError, UnsupportedModelError)):
            load_model(path)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            model = load_model(path)
        except (ModelFormatError, UnsupportedModelError):
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            model.predict(np.zeros((3, model.n_features)))
    assert min(outcomes.values()) > 5
