"""Random small scikit-learn trees of every kind, trained here: our `predict` is scikit-learn's own.

Rows hold thresholds and their neighbours in float32 and double, NaN where scikit-learn takes it, infinities where it
takes those (the histogram boosters and isolation forests do), zeros of both signs and denormals.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import ensemble, tree

from engine.errors import UnsupportedModelError
from engine.model import load_model

N_ROWS, N_FEATURES = 200, 4
SPECIAL = [0.0, -0.0, 5e-324, 1e-40, 0.1, 1 + 2**-40, 1e30, -1e30]
AVERAGED = ["DecisionTree", "ExtraTree", "RandomForest", "ExtraTrees"]
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)


def table(rng, *, holes):
    rows = rng.normal(size=(N_ROWS, N_FEATURES))
    rows[:, 2] = rng.integers(0, 6, N_ROWS)
    rows[rng.random(rows.shape) < 0.1] = 0
    plain = rows.copy()
    if holes:
        rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows, plain[:, 0] + plain[:, 1] * plain[:, 2] + np.sin(3 * plain[:, 3])


def hard_rows(rng, rows, thresholds, *, holes, infinities):
    """Rows of the table beside thresholds, their neighbours and special values in random places."""
    thresholds = np.asarray([*thresholds, 0.5], np.float64)
    thresholds = thresholds[np.isfinite(thresholds) & (np.abs(thresholds) < 1e30)]
    single = thresholds.astype(np.float32)
    pool = [thresholds, np.nextafter(thresholds, np.inf), np.nextafter(thresholds, -np.inf), single]
    pool += [np.nextafter(single, np.float32(9e9)), np.nextafter(single, np.float32(-9e9)), SPECIAL]
    if holes:
        pool.append([np.nan] * 3)
    if infinities:
        pool.append([np.inf, -np.inf])
    values = np.concatenate([np.asarray(part, np.float64) for part in pool])
    return np.vstack([rows[:40], rng.choice(values, (160, N_FEATURES))])


def expected_of(estimator, rows):
    if hasattr(estimator, "predict_proba"):
        given = estimator.predict_proba(rows)
        return given[:, -1] if given.shape[1] <= 2 else given  # one output is one number a row
    return estimator.decision_function(rows) if hasattr(estimator, "offset_") else estimator.predict(rows)


def compare(estimator, rows):
    expected = expected_of(estimator, rows)
    model = load_model(estimator)
    got = model.predict(rows)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    with np.errstate(over="ignore", under="ignore"):
        single = rows.astype(np.float32)
    np.testing.assert_allclose(model.predict(single), expected_of(estimator, single), rtol=1e-9, atol=1e-12)
    return model


def thresholds_of(estimators):
    return np.concatenate([one.tree_.threshold[one.tree_.feature >= 0] for one in estimators])


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(AVERAGED),
    task=st.sampled_from(["regress", "regress two", "two classes", "four classes", "one class"]),
    depth=st.integers(1, 8),
    holes=st.booleans(),
)
def test_trees_and_forests(seed, kind, task, depth, holes):
    rng = np.random.default_rng(seed)
    rows, y = table(rng, holes=holes)
    classify = "class" in task
    target = {
        "regress": y,
        "regress two": np.c_[y, -(y**2)],
        "two classes": y > 0,
        "four classes": np.digitize(y, [-1, 0, 1]),
        "one class": np.zeros(N_ROWS, int),
    }[task]
    module = tree if kind in ("DecisionTree", "ExtraTree") else ensemble
    options = {"max_depth": depth, "random_state": seed % 1000}
    options |= {"n_estimators": 5} if module is ensemble else {}
    estimator = getattr(module, kind + ("Classifier" if classify else "Regressor"))(**options)
    estimator.fit(rows, target, sample_weight=rng.random(N_ROWS) + 0.1)
    trees = thresholds_of(getattr(estimator, "estimators_", [estimator]))
    # A model trained without holes takes NaN too, where its kind supports missing values.
    compare(estimator, hard_rows(rng, rows, trees, holes=holes, infinities=False))


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from(["squared_error", "huber", "quantile", "log_loss", "exponential", "multiclass"]),
    init=st.sampled_from([None, "zero"]),
    depth=st.integers(1, 4),
)
def test_gradient_boosting(seed, loss, init, depth):
    rng = np.random.default_rng(seed)
    rows, y = table(rng, holes=False)
    options = {"n_estimators": 5, "max_depth": depth, "init": init, "random_state": seed % 1000}
    if loss in ("log_loss", "exponential", "multiclass"):
        estimator = ensemble.GradientBoostingClassifier(
            loss="exponential" if loss == "exponential" else "log_loss", **options
        )
        estimator.fit(rows, np.digitize(y, [-1, 1]) if loss == "multiclass" else y > 0)
    else:
        estimator = ensemble.GradientBoostingRegressor(loss=loss, **options).fit(rows, y)
    trees = thresholds_of(estimator.estimators_.ravel())
    compare(estimator, hard_rows(rng, rows, trees, holes=False, infinities=False))


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from(["squared_error", "absolute_error", "poisson", "gamma", "quantile", "two", "three"]),
    leaves=st.integers(2, 20),
    holes=st.booleans(),
)
def test_histogram_boosting(seed, loss, leaves, holes):
    rng = np.random.default_rng(seed)
    rows, y = table(rng, holes=holes)
    options = {"max_iter": 5, "max_leaf_nodes": leaves, "min_samples_leaf": 3, "random_state": seed % 1000}
    if loss in ("two", "three"):
        estimator = ensemble.HistGradientBoostingClassifier(**options)
        estimator.fit(rows, y > 0 if loss == "two" else np.digitize(y, [-1, 1]))
    else:
        options |= {"quantile": 0.3} if loss == "quantile" else {}
        estimator = ensemble.HistGradientBoostingRegressor(loss=loss, **options)
        estimator.fit(rows, np.abs(y) + 0.1 if loss in ("poisson", "gamma") else y)
    nodes = np.concatenate([predictor.nodes for stage in estimator._predictors for predictor in stage])
    cuts = nodes["num_threshold"][nodes["is_leaf"] == 0]
    compare(estimator, hard_rows(rng, rows, cuts, holes=True, infinities=True))


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.sampled_from([1, 2, 3, 64, 200]),
    features=st.sampled_from([0.5, 1.0]),
    bootstrap=st.booleans(),
    contamination=st.sampled_from(["auto", 0.1]),
    holes=st.booleans(),
)
def test_isolation_forests(seed, samples, features, bootstrap, contamination, holes):
    rng = np.random.default_rng(seed)
    rows, _ = table(rng, holes=holes)
    estimator = ensemble.IsolationForest(
        n_estimators=7,
        max_samples=samples,
        max_features=features,
        bootstrap=bootstrap,
        contamination=contamination,
        random_state=seed % 1000,
    ).fit(rows)
    trees = thresholds_of(estimator.estimators_)
    compare(estimator, hard_rows(rng, rows, trees, holes=True, infinities=False))


def test_what_cannot_be_represented_is_answered_by_scikit_learn_or_refused_with_the_reason():
    rng = np.random.default_rng(1)
    rows, y = table(rng, holes=False)
    stacked = ensemble.GradientBoostingRegressor(n_estimators=2, init=tree.DecisionTreeRegressor()).fit(
        rows, y
    )
    # scikit-learn itself answers for what our layout cannot represent.
    np.testing.assert_allclose(load_model(stacked).predict(rows), stacked.predict(rows), rtol=1e-12)
    with pytest.raises(UnsupportedModelError, match="not fitted"):
        load_model(ensemble.RandomForestRegressor())
    two = ensemble.RandomForestClassifier(2).fit(rows, np.c_[y > 0, y > 1])
    with pytest.raises(UnsupportedModelError, match="2 targets"):
        load_model(two)
    categories = ensemble.HistGradientBoostingRegressor(max_iter=2, categorical_features=[2]).fit(rows, y)
    np.testing.assert_allclose(load_model(categories).predict(rows), categories.predict(rows), rtol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bags = ensemble.BaggingRegressor(n_estimators=2).fit(rows, y)
    np.testing.assert_allclose(load_model(bags).predict(rows), bags.predict(rows), rtol=1e-12)


def test_the_digest_tells_models_apart_and_not_loads():
    rng = np.random.default_rng(2)
    rows, y = table(rng, holes=False)
    first = ensemble.RandomForestRegressor(2, random_state=0).fit(rows, y)
    other = ensemble.RandomForestRegressor(2, random_state=1).fit(rows, y)
    assert load_model(first).digest == load_model(first).digest != load_model(other).digest
