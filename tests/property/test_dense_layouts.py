"""Dense nets: the same bits on every instruction set and at any batch size, and close to NumPy's own."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.model import _dense, load_model

BATCHES = [1, 2, 3, 4, 5, 8, 12, 13, 16, 17, 33]


def available(net, rows):
    for name in ("scalar", "avx2", "avx512"):
        try:
            net.score_by(name, rows)
        except ConfigError:
            continue
        yield name


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.integers(1, 300), min_size=2, max_size=4),
    activation=st.sampled_from([0, 1, 2, 3]),
    float32=st.booleans(),
)
def test_same_bits_and_close_to_numpy(seed, widths, activation, float32):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=pair) / np.sqrt(pair[0]) for pair in itertools.pairwise(widths)]
    biases = [rng.normal(size=width) for width in widths[1:]]
    for bias in biases:
        bias[::3] = -0.0  # the sign of a zero is a bit too
    net = _dense.Dense([(w, b, activation) for w, b in zip(weights, biases, strict=True)], float32=float32)
    rows = rng.normal(size=(max(BATCHES), widths[0])).astype(np.float32)
    rows[::4] = 0.0
    expected = net.score_by("scalar", rows)
    for name in available(net, rows):
        for n in BATCHES:
            assert net.score_by(name, rows[:n]).tobytes() == expected[:n].tobytes(), (name, n)
    values = rows.astype(np.float64)
    functions = [lambda x: x, lambda x: np.maximum(x, 0), np.tanh, lambda x: 1 / (1 + np.exp(-x))]
    for w, b in zip(weights, biases, strict=True):
        values = functions[activation](values @ w + b)
    tolerance = 1e-4 if float32 else 1e-12
    np.testing.assert_allclose(expected, values, rtol=tolerance, atol=tolerance)


def test_scikit_learn_linear_models():
    from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(200, 17))
    y = rows[:, 0] + rows[:, 1] ** 2
    classes = np.digitize(y, [0, 1])
    for estimator, target in [
        (LinearRegression(), y),
        (LinearRegression(), np.c_[y, -y, 2 * y]),
        (Ridge(), y),
        (PoissonRegressor(), np.abs(y)),
        (LogisticRegression(), y > 0),
        (LogisticRegression(), classes),
        (MLPRegressor(hidden_layer_sizes=(9, 5), max_iter=5, random_state=0), y),
        (MLPClassifier(hidden_layer_sizes=(9,), activation="tanh", max_iter=5, random_state=0), y > 0),
        (MLPClassifier(hidden_layer_sizes=(9,), max_iter=5, random_state=0), classes),
    ]:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # five rounds do not converge, and need not
            estimator.fit(rows, target)
        classifier = hasattr(estimator, "predict_proba")
        expected = estimator.predict_proba(rows) if classifier else estimator.predict(rows)
        if classifier and expected.shape[1] == 2:
            expected = expected[:, 1]
        np.testing.assert_allclose(load_model(estimator).predict(rows), expected, rtol=1e-9, atol=1e-12)
