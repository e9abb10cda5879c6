"""Random small forests of every kind, trained here: our `predict` is that of the library that trained them.

Rows hold what trips readers up: thresholds of the model itself and their neighbours, NaN, infinities, zeros
of both signs, values inside LightGBM's zero band, fractional, negative and unseen categories, doubles between
two float32.
"""

import warnings

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.model import inspect, load_model

# Shrinking would train hundreds more forests, and the failing case is small already.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SPECIAL = [
    0.0,
    -0.0,
    1e-36,
    -1e-36,
    float(np.float32(1e-35)),
    -1e-35,
    np.nan,
    np.inf,
    -np.inf,
    -0.5,
    -1.0,
    1.5,
    39.7,
]
SPECIAL += [41.0, 1e9, 3e9, -3e9, 1e300, 5e-324, 0.1, 1 + 2**-40]
N_ROWS, N_FEATURES = 300, 4

LIGHTGBM_OBJECTIVES = [
    "binary",
    "regression",
    "regression_l1",
    "poisson",
    "gamma",
    "tweedie",
    "quantile",
    "huber",
]
LIGHTGBM_OBJECTIVES += [
    "fair",
    "mape",
    "cross_entropy",
    "cross_entropy_lambda",
    "multiclass",
    "multiclassova",
]
LIGHTGBM_EXTRAS = [
    {},
    {"zero_as_missing": True},
    {"use_missing": False},
    {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    {"boosting": "dart", "drop_rate": 0.5},
    {"reg_sqrt": True},
    {"sigmoid": 0.7},
]
XGBOOST_OBJECTIVES = ["reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "binary:logistic"]
XGBOOST_OBJECTIVES += [
    "binary:logitraw",
    "reg:logistic",
    "count:poisson",
    "reg:gamma",
    "reg:tweedie",
    "multi:softprob",
]
XGBOOST_EXTRAS = [{}, {"booster": "dart", "rate_drop": 0.3}, {"num_parallel_tree": 3, "subsample": 0.5}]
XGBOOST_EXTRAS += [{"base_score": 0.3}]


def training_table(rng):
    """Two dense columns, one of categories and one of small whole numbers, with zeros and holes."""
    rows = rng.normal(size=(N_ROWS, N_FEATURES))
    rows[:, 2] = rng.integers(0, 40, N_ROWS)
    rows[:, 3] = rng.integers(0, 5, N_ROWS)
    rows[rng.random(rows.shape) < 0.15] = 0
    rows[rng.random(rows.shape) < 0.1] = np.nan
    plain = np.nan_to_num(rows)
    return rows, plain[:, 0] + plain[:, 1] * plain[:, 3] + np.sin(3 * plain[:, 2])


def target_for(objective, y):
    if objective.startswith("multi"):
        return np.digitize(y, [-1, 1])
    if (
        objective in ("binary", "cross_entropy", "cross_entropy_lambda", "reg:logistic")
        or "binary" in objective
    ):
        return (y > 0) * 1.0
    if any(word in objective for word in ("poisson", "gamma", "tweedie", "mape")):
        return np.abs(y) + 0.1
    return y


def to_float32(values):
    with np.errstate(over="ignore"):  # 1e300 becomes inf
        return values.astype(np.float32)


def hard_rows(rng, rows, thresholds):
    """Rows of the table, special values, and thresholds with their neighbours in double and float32."""
    near = [thresholds, np.nextafter(thresholds, np.inf), np.nextafter(thresholds, -np.inf)]
    single = to_float32(thresholds)
    near += [single, np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))]
    pool = np.concatenate([np.asarray(values, np.float64) for values in [*near, SPECIAL]])
    return np.vstack([rows[:50], rng.choice(SPECIAL, (50, N_FEATURES)), rng.choice(pool, (150, N_FEATURES))])


def assert_close(got, expected, tolerance=1e-6):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    objective=st.sampled_from(LIGHTGBM_OBJECTIVES),
    extra=st.sampled_from(LIGHTGBM_EXTRAS),
    leaves=st.integers(2, 40),
    categories=st.booleans(),
)
def test_lightgbm(seed, objective, extra, leaves, categories):
    rng = np.random.default_rng(seed)
    rows, y = training_table(rng)
    parameters = {"objective": objective, "num_leaves": leaves, "min_data_in_leaf": 2, "verbose": -1, **extra}
    parameters |= {"num_class": 3} if objective.startswith("multi") else {}
    parameters |= {"num_threads": 1, "seed": seed % 1000, "min_data_per_group": 2}
    data = lgb.Dataset(rows, target_for(objective, y), categorical_feature=[2] if categories else [])
    booster = lgb.train(parameters, data, 5)
    table = booster.trees_to_dataframe()["threshold"] if booster.num_trees() else []
    numeric = np.array([value for value in table if isinstance(value, float) and np.isfinite(value)] + [0.5])
    hard = hard_rows(rng, rows, numeric)
    model = load_model(booster)
    assert_close(model.predict(hard), booster.predict(hard))
    single = to_float32(hard)
    assert_close(model.predict(single), booster.predict(single))


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    objective=st.sampled_from(XGBOOST_OBJECTIVES),
    extra=st.sampled_from(XGBOOST_EXTRAS),
    depth=st.integers(1, 5),
    categories=st.booleans(),
    form=st.sampled_from(["json", "ubj", "booster"]),
)
def test_xgboost(seed, objective, extra, depth, categories, form, tmp_path_factory):
    rng = np.random.default_rng(seed)
    rows, y = training_table(rng)
    parameters = {"objective": objective, "max_depth": depth, "nthread": 1, "seed": seed % 1000, **extra}
    parameters |= {"num_class": 3} if objective.startswith("multi") else {}
    kinds = ["q", "q", "c" if categories else "q", "q"]

    def matrix(values, label=None):
        return xgb.DMatrix(values, label, feature_types=kinds, enable_categorical=True, nthread=1)

    booster = xgb.train(parameters, matrix(rows, target_for(objective, y)), 5)
    numeric = booster.trees_to_dataframe()["Split"].dropna().to_numpy(np.float64)
    hard = hard_rows(rng, rows, np.append(numeric, 0.5))
    hard[np.abs(hard) > 1e30] = 7.0  # XGBoost refuses infinities in its own matrix
    source = booster
    if form != "booster":
        source = tmp_path_factory.mktemp("xgboost") / f"model.{form}"
        booster.save_model(source)
    assert_close(load_model(source).predict(hard), booster.predict(matrix(hard)))


@pytest.mark.parametrize("parameters", [{}, {"num_parallel_tree": 2, "subsample": 0.7}])
def test_xgboost_multi_output_trees(parameters):
    rng = np.random.default_rng(8)
    rows, y = training_table(rng)
    parameters = {"multi_strategy": "multi_output_tree", "tree_method": "hist", "nthread": 1, **parameters}
    booster = xgb.train(parameters, xgb.DMatrix(rows, np.c_[y, -y, y**2]), 4)
    hard = hard_rows(rng, rows, np.array([0.5]))
    hard[np.abs(hard) > 1e30] = 7.0
    assert_close(load_model(booster).predict(hard), booster.predict(xgb.DMatrix(hard)))


@pytest.mark.parametrize(
    "objective", ["reg:squarederror", "binary:logistic", "multi:softprob", "count:poisson", "reg:gamma"]
)
def test_xgboost_linear(objective, tmp_path):
    rng = np.random.default_rng(9)
    rows, y = training_table(rng)
    parameters = {"booster": "gblinear", "objective": objective, "nthread": 1, "eta": 0.1}
    parameters |= {"num_class": 3} if objective.startswith("multi") else {}
    booster = xgb.train(parameters, xgb.DMatrix(rows, target_for(objective, y), nthread=1), 4)
    hard = np.vstack([rows, rng.choice([np.nan, 0.0, -0.0, 0.1, 1e-40, -3.0, 1 + 2**-40], (100, N_FEATURES))])
    model = load_model(booster)
    # XGBoost adds up in float32.
    assert_close(model.predict(hard), booster.predict(xgb.DMatrix(hard)), 3e-6)
    for batch in (1, 3, 7):
        assert model.predict(hard[:batch]).tobytes() == model.predict(hard)[:batch].tobytes()
    path = tmp_path / "linear.ubj"
    booster.save_model(path)
    facts = inspect(path)
    assert (facts.objective, facts.trees, facts.n_features) == (objective, None, N_FEATURES)


def test_early_stopping_is_honoured_as_predict_does():
    rng = np.random.default_rng(5)
    rows, y = training_table(rng)
    label = (y + rng.normal(size=N_ROWS) > 0) * 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = lgb.LGBMClassifier(n_estimators=60, verbose=-1, num_threads=1).fit(
            rows[:200],
            label[:200],
            eval_set=[(rows[200:], label[200:])],
            callbacks=[lgb.early_stopping(3, verbose=False)],
        )
    assert trained.best_iteration_ < 60
    assert_close(load_model(trained).predict(rows), trained.predict_proba(rows)[:, 1])
    stopped = xgb.XGBClassifier(n_estimators=60, early_stopping_rounds=3, n_jobs=1)
    stopped.fit(rows[:200], label[:200], eval_set=[(rows[200:], label[200:])], verbose=False)
    assert stopped.best_iteration < 59
    assert_close(load_model(stopped).predict(rows), stopped.predict_proba(rows)[:, 1])


@pytest.mark.parametrize("kind", ["txt", "json", "ubj"])
def test_damaged_files_are_refused_or_read_and_never_end_the_process(tmp_path, kind):
    """A file cut short is always refused; a flipped bit gives an error or another sound model."""
    from engine.errors import ModelFormatError

    rng = np.random.default_rng(11)
    rows, y = training_table(rng)
    path = tmp_path / f"model.{kind}"
    if kind == "txt":
        parameters = {"objective": "binary", "verbose": -1, "num_leaves": 6, "num_threads": 1}
        lgb.train(parameters, lgb.Dataset(rows, (y > 0) * 1.0, categorical_feature=[2]), 3).save_model(path)
    else:
        xgb.train({"max_depth": 3, "nthread": 1}, xgb.DMatrix(rows, y, nthread=1), 3).save_model(path)
    content = path.read_bytes()
    needed = content.index(b"end of parameters") + 17 if kind == "txt" else len(content)
    for length in range(0, needed, 37):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFormatError):
            load_model(path)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            model = load_model(path)
        except ModelFormatError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            model.predict(np.zeros((3, model.n_features)))
    assert outcomes["refused"] > 50
    assert outcomes["read"] > 5  # a digit of a leaf, say: no format here has a checksum
