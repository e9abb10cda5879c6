"""Reads fitted scikit-learn linear models and multi-layer perceptrons into dense nets, computed in double."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import UnsupportedModelError
from engine.model.dense import dense
from engine.model.model import Model

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
    "TweedieRegressor": "exponential",  # or the dot product, by its link
    "LassoLarsIC": "identity",
    "OrthogonalMatchingPursuitCV": "identity",
    "MultiTaskLassoCV": "identity",
    "MultiTaskElasticNetCV": "identity",
}
_CLASSIFIERS = ("LogisticRegression", "LogisticRegressionCV", "SGDClassifier", "LinearDiscriminantAnalysis")
# Without probabilities: `decision_function`, of class 1 where there are two.
_DECISIONS = (
    "RidgeClassifier",
    "RidgeClassifierCV",
    "LinearSVC",
    "Perceptron",
    "PassiveAggressiveClassifier",
)
_PERCEPTRONS = ("MLPRegressor", "MLPClassifier")


NATIVE = (*_REGRESSORS, *_CLASSIFIERS, *_DECISIONS, *_PERCEPTRONS)


def read_linear(fitted: Any, kind: str) -> Model:
    """Read one fitted estimator as the class named `kind`, one of NATIVE.

    A classifier gives probabilities, of class 1 where there are two, or its `decision_function` where it has none.

    Raises:
        UnsupportedModelError: not fitted, or answers that a dense net does not give.
    """
    if kind in _PERCEPTRONS:
        return _read_perceptron(fitted, kind)
    if not hasattr(fitted, "coef_"):
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted: it has no coef_")
    output = _output(fitted, kind)
    weights = np.atleast_2d(np.asarray(fitted.coef_, np.float64)).T
    bias = np.broadcast_to(np.asarray(fitted.intercept_, np.float64), (weights.shape[1],))
    return dense([weights], [bias], output=output, feature_names=_names(fitted), format="sklearn")


def _output(fitted: Any, kind: str) -> str:
    if kind == "TweedieRegressor":
        link = fitted.link if fitted.link != "auto" else ("identity" if fitted.power <= 0 else "log")
        return "identity" if link == "identity" else "exponential"
    if kind in _REGRESSORS:
        return _REGRESSORS[kind]
    if kind in _DECISIONS or (kind == "SGDClassifier" and fitted.loss not in ("log_loss", "modified_huber")):
        return "identity"
    return _classifier_output(fitted, kind)


def _classifier_output(fitted: Any, kind: str) -> str:
    if kind == "SGDClassifier" and fitted.loss != "log_loss":
        raise UnsupportedModelError(
            f"SGDClassifier with loss {fitted.loss!r} has probabilities of its own; use log_loss"
        )
    if len(fitted.classes_) == 2:
        if getattr(fitted, "multi_class", None) == "multinomial":
            raise UnsupportedModelError("LogisticRegression with two classes and multi_class='multinomial'")
        return "logistic"
    if kind == "LinearDiscriminantAnalysis":
        return "softmax"
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
