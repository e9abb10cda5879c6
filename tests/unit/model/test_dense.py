"""Dense nets, against answers worked out by hand."""

import math

import numpy as np
import pytest

from engine.errors import ConfigError, ModelFormatError, UnsupportedModelError
from engine.model import dense, load_model


def test_a_line():
    model = dense([np.array([[2.0], [1.0]])], [np.array([0.5])])
    assert model.predict([[1.0, 10.0], [0.0, 0.0]]).tolist() == [12.5, 0.5]
    assert (model.format, model.native, model.describe()["layers"]) == ("arrays", True, [2, 1])


def test_a_double_that_float32_cannot_hold_is_kept():
    assert dense([np.array([[1.0]])], [np.array([0.0])]).predict([[1 + 2**-40]]).tolist() == [1 + 2**-40]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("identity", [-1.0, 2.0, 0.0]),
        ("relu", [0.0, 2.0, 0.0]),
        ("tanh", [math.tanh(-1), math.tanh(2), 0.0]),
        ("logistic", [1 / (1 + math.e), 1 / (1 + math.exp(-2)), 0.5]),
        ("exponential", [math.exp(-1), math.exp(2), 1.0]),
        ("softmax", [math.exp(-1) / (1 + math.exp(-1) + math.exp(2)), None, None]),
    ],
)
def test_outputs(output, expected):
    got = dense([np.array([[-1.0, 2.0, 0.0]])], [np.zeros(3)], output=output).predict([[1.0]])[0]
    for value, wanted in zip(got, expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted, abs=1e-15)
    assert output != "softmax" or got.sum() == pytest.approx(1.0, abs=1e-15)


def test_a_hidden_layer():
    # relu(x - 1) and relu(-x), then 10 of the first plus 100 of the second plus 1.
    first, second = np.array([[1.0, -1.0]]), np.array([[10.0], [100.0]])
    model = dense([first, second], [np.array([-1.0, 0.0]), np.array([1.0])])
    assert model.predict([[3.0], [0.5], [-2.0]]).tolist() == [21.0, 1.0, 201.0]


def test_nan_goes_through():
    assert np.isnan(dense([np.array([[1.0]])], [np.zeros(1)]).predict([[math.nan]])[0])


@pytest.mark.parametrize(
    ("weights", "biases", "error", "message"),
    [
        ([], [], ConfigError, "one bias a layer"),
        ([np.ones((2, 1))], [], ConfigError, "one bias a layer"),
        (
            [np.ones((2, 3)), np.ones((2, 1))],
            [np.ones(3), np.ones(1)],
            ModelFormatError,
            "layer 1: expected 3 inputs",
        ),
        ([np.ones((2, 1))], [np.ones(2)], ModelFormatError, "layer 0"),
        ([np.ones(2)], [np.ones(1)], ModelFormatError, "layer 0"),
        ([np.full((1, 1), math.inf)], [np.ones(1)], ModelFormatError, "not finite"),
        ([np.ones((1, 2000))], [np.ones(2000)], ModelFormatError, "at most 1024 outputs"),
    ],
)
def test_what_makes_no_net(weights, biases, error, message):
    with pytest.raises(error, match=message):
        dense(weights, biases)


def test_an_unknown_activation_lists_those_that_are():
    with pytest.raises(ConfigError, match="relu, tanh"):
        dense([np.ones((1, 1))], [np.ones(1)], activation="gelu")


def test_an_estimator_that_was_not_fitted():
    from sklearn.linear_model import LinearRegression, Perceptron

    with pytest.raises(UnsupportedModelError, match="not fitted"):
        load_model(LinearRegression())
    with pytest.raises(UnsupportedModelError, match="Perceptron is not fitted"):
        load_model(Perceptron())


def test_a_line_through_two_points():
    from sklearn.linear_model import LinearRegression

    model = load_model(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))
    assert model.predict([[2.0]])[0] == pytest.approx(5.0, abs=1e-12)
    assert model.format == "sklearn"
