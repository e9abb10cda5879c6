"""Reads fitted scikit-learn linear models and multi-layer perceptrons into dense nets, computed in double."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import UnsupportedModelError
from engine.model.dense import dense
from engine.model.model import Model
from engine.model.readers.sklearn_trees import ESTIMATORS

# fmt: off
_PLAIN_REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV",
    "ElasticNet", "ElasticNetCV", "Lars", "LarsCV", "BayesianRidge", "ARDRegression", "HuberRegressor",
    "TheilSenRegressor", "SGDRegressor", "LinearSVR", "QuantileRegressor", "MultiTaskLasso",
    "MultiTaskElasticNet", "OrthogonalMatchingPursuit"
)
# fmt: on
# `predict` gives the dot product, or its exponential.
_REGRESSORS = {
    **dict.fromkeys(_PLAIN_REGRESSORS, "identity"),
    "PoissonRegressor": "exponential",
    "GammaRegressor": "exponential",
}
_CLASSIFIERS = ("LogisticRegression", "LogisticRegressionCV", "SGDClassifier")
_PERCEPTRONS = ("MLPRegressor", "MLPClassifier")


def read_linear(fitted: Any) -> Model:
    """Read one fitted estimator. A classifier gives probabilities, of class 1 where there are two.

    Raises:
        UnsupportedModelError: an estimator of another class, or one that is not fitted.
    """
    kind = type(fitted).__name__
    if kind in _PERCEPTRONS:
        return _read_perceptron(fitted, kind)
    if kind not in _REGRESSORS and kind not in _CLASSIFIERS:
        known = ", ".join([*_REGRESSORS, *_CLASSIFIERS, *_PERCEPTRONS, *ESTIMATORS])
        raise UnsupportedModelError(
            f"scikit-learn {kind} is not one of {known}; "
            f"export it to ONNX, or pass a callable around its predict"
        )
    if not hasattr(fitted, "coef_"):
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted: it has no coef_")
    output = _REGRESSORS[kind] if kind in _REGRESSORS else _classifier_output(fitted, kind)
    weights = np.atleast_2d(np.asarray(fitted.coef_, np.float64)).T
    bias = np.broadcast_to(np.asarray(fitted.intercept_, np.float64), (weights.shape[1],))
    return dense([weights], [bias], output=output, feature_names=_names(fitted), format="sklearn")


def _classifier_output(fitted: Any, kind: str) -> str:
    if kind == "SGDClassifier" and fitted.loss != "log_loss":
        raise UnsupportedModelError(
            f"SGDClassifier with loss {fitted.loss!r} gives no probabilities; use log_loss"
        )
    if len(fitted.classes_) == 2:
        if getattr(fitted, "multi_class", None) == "multinomial":
            raise UnsupportedModelError("LogisticRegression with two classes and multi_class='multinomial'")
        return "logistic"
    ovr = (
        kind == "SGDClassifier"
        or getattr(fitted, "multi_class", None) == "ovr"
        or fitted.solver == "liblinear"
    )
    if ovr:
        raise UnsupportedModelError(f"{kind} with {len(fitted.classes_)} classes one against the rest")
    return "softmax"


def _read_perceptron(fitted: Any, kind: str) -> Model:
    if not hasattr(fitted, "coefs_"):
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted: it has no coefs_")
    return dense(
        [np.asarray(array, np.float64) for array in fitted.coefs_],
        [np.asarray(array, np.float64) for array in fitted.intercepts_],
        activation=fitted.activation,
        output={"exp": "exponential"}.get(fitted.out_activation_, fitted.out_activation_),
        feature_names=_names(fitted),
        format="sklearn",
    )


def _names(fitted: Any) -> list[str] | None:
    names = getattr(fitted, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]
