"""Reads fitted scikit-learn trees and forests: the arrays that scikit-learn itself walks, under its own rules.

Trees, forests and gradient boosting round rows to float32 and compare with thresholds in double; the histogram boosters
compare in double. A missing value goes to the side that training chose for its split. scikit-learn's gradient boosting
refuses missing values; here they go right.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import UnsupportedModelError
from engine.model.forest import ForestBuilder, Link, Rule
from engine.model.model import Model

_AVERAGED_REGRESSORS = (
    "DecisionTreeRegressor",
    "ExtraTreeRegressor",
    "RandomForestRegressor",
    "ExtraTreesRegressor",
)
_AVERAGED_CLASSIFIERS = (
    "DecisionTreeClassifier",
    "ExtraTreeClassifier",
    "RandomForestClassifier",
    "ExtraTreesClassifier",
)
_BOOSTERS = ("GradientBoostingRegressor", "GradientBoostingClassifier")
_HISTOGRAM_BOOSTERS = ("HistGradientBoostingRegressor", "HistGradientBoostingClassifier")
_HISTOGRAM_LINKS = {"poisson": Link.EXPONENTIAL, "gamma": Link.EXPONENTIAL}
ESTIMATORS = (
    *_AVERAGED_REGRESSORS,
    *_AVERAGED_CLASSIFIERS,
    *_BOOSTERS,
    *_HISTOGRAM_BOOSTERS,
    "IsolationForest",
)

Array = npt.NDArray[Any]


def read_trees(fitted: Any, kind: str) -> Model:
    """Read one fitted estimator as the class named `kind`, one of ESTIMATORS.

    A classifier gives probabilities, of class 1 where there are two; an isolation forest its `decision_function`; any
    other estimator its `predict`.

    Raises:
        UnsupportedModelError: the estimator is not fitted, or cannot be represented exactly.
    """
    if not hasattr(fitted, "n_features_in_"):
        raise UnsupportedModelError(f"scikit-learn {kind} is not fitted: it has no n_features_in_")
    if kind in _BOOSTERS:
        builder = _read_boosting(fitted, kind)
    elif kind in _HISTOGRAM_BOOSTERS:
        builder = _read_histogram_boosting(fitted, kind)
    elif kind == "IsolationForest":
        builder = _read_isolation(fitted)
    else:
        builder = _read_averaged(fitted, kind)
    names = getattr(fitted, "feature_names_in_", None)
    return builder.model(
        format="sklearn",
        digest=_digest(builder),
        feature_names=None if names is None else [str(name) for name in names],
        details={"estimator": kind, "link": builder.link.name.lower()},
    )


def _read_averaged(fitted: Any, kind: str) -> ForestBuilder:
    """Trees whose answers are averaged; a tree of several answers is walked once for each."""
    if isinstance(fitted.n_outputs_, int | np.integer) and fitted.n_outputs_ > 1:
        if kind in _AVERAGED_CLASSIFIERS:
            raise UnsupportedModelError(f"{kind} of {fitted.n_outputs_} targets; load one for each target")
        answers: Sequence[tuple[int, int]] = [(target, 0) for target in range(fitted.n_outputs_)]
    elif kind in _AVERAGED_CLASSIFIERS:
        classes = int(fitted.n_classes_)
        answers = [(0, 1)] if classes == 2 else [(0, number) for number in range(classes)]
    else:
        answers = [(0, 0)]
    estimators = getattr(fitted, "estimators_", [fitted])
    builder = _builder(fitted, len(answers), scale=1.0 / len(estimators))
    for estimator in estimators:
        state = estimator.tree_.__getstate__()
        values = np.asarray(state["values"], np.float64)
        if kind in _AVERAGED_CLASSIFIERS:  # before scikit-learn 1.3 these were weights of samples
            values = values / values.sum(axis=2, keepdims=True)
        for output, (target, number) in enumerate(answers):
            _add_tree(builder, output, state["nodes"], values[:, target, number])
    return builder


def _read_boosting(fitted: Any, kind: str) -> ForestBuilder:
    init = type(fitted.init_).__name__
    if init not in ("str", "DummyRegressor", "DummyClassifier"):
        raise UnsupportedModelError(f"{kind} that starts from another model (init={init}); use init='zero'")
    outputs = fitted.estimators_.shape[1]
    link, parameter = Link.IDENTITY, 1.0
    if kind == "GradientBoostingClassifier":
        link = Link.SIGMOID if outputs == 1 else Link.SOFTMAX
        parameter = 2.0 if fitted.loss == "exponential" else 1.0
    base = fitted._raw_predict_init(np.zeros((1, fitted.n_features_in_), np.float32))[0]
    builder = _builder(fitted, outputs, scale=float(fitted.learning_rate), base=base, link=link)
    builder.link_parameter = parameter
    for stage in fitted.estimators_:
        for output, estimator in enumerate(stage):
            state = estimator.tree_.__getstate__()
            nodes = state["nodes"].copy()
            if "missing_go_to_left" in nodes.dtype.names:
                nodes["missing_go_to_left"] = 0
            _add_tree(builder, output, nodes, state["values"][:, 0, 0])
    return builder


def _read_histogram_boosting(fitted: Any, kind: str) -> ForestBuilder:
    if getattr(fitted, "is_categorical_", None) is not None:
        raise UnsupportedModelError(
            f"{kind} with categorical_features: scikit-learn matches categories by an encoder of its own"
        )
    outputs = int(fitted.n_trees_per_iteration_)
    link = _HISTOGRAM_LINKS.get(fitted.loss, Link.IDENTITY)
    if kind == "HistGradientBoostingClassifier":
        link = Link.SIGMOID if outputs == 1 else Link.SOFTMAX
    elif callable(fitted.loss) or not isinstance(fitted.loss, str):
        raise UnsupportedModelError(f"{kind} with the user's own loss, whose link is not known")
    base = np.broadcast_to(np.ravel(fitted._baseline_prediction), (outputs,))
    builder = _builder(fitted, outputs, base=base, link=link, float32_rows=False)
    for iteration in fitted._predictors:
        for output, predictor in enumerate(iteration):
            nodes = predictor.nodes
            _add_nodes(
                builder,
                output,
                is_leaf=nodes["is_leaf"] != 0,
                feature=nodes["feature_idx"],
                threshold=nodes["num_threshold"],
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                missing_left=nodes["missing_go_to_left"] != 0,
                value=nodes["value"],
            )
    return builder


def _read_isolation(fitted: Any) -> ForestBuilder:
    """decision_function is -2^(-depth / expected depth) - offset: the sum of depths under Link.ANOMALY."""
    expected = len(fitted.estimators_) * float(_path_length(np.array([fitted._max_samples]))[0])
    builder = _builder(
        fitted,
        1,
        # One training sample has no depth; scikit-learn then takes the quotient for 1.
        scale=-math.log(2) / expected if expected else 0.0,
        base=[0.0 if expected else -math.log(2)],
        link=Link.ANOMALY,
    )
    builder.link_parameter = -float(fitted.offset_)
    for estimator, features in zip(fitted.estimators_, fitted.estimators_features_, strict=True):
        nodes = estimator.tree_.__getstate__()["nodes"].copy()
        is_split = nodes["left_child"] != -1
        nodes["feature"][is_split] = np.asarray(features)[nodes["feature"][is_split]]
        _add_tree(builder, 0, nodes, _depths(nodes) + _path_length(nodes["n_node_samples"]))
    return builder


def _depths(nodes: Array) -> npt.NDArray[np.float64]:
    """Splits above each node; a parent stands before its children."""
    depth = np.zeros(len(nodes))
    for node in np.flatnonzero(nodes["left_child"] != -1):
        depth[nodes["left_child"][node]] = depth[nodes["right_child"][node]] = depth[node] + 1
    return depth


def _path_length(samples: Array) -> npt.NDArray[np.float64]:
    """Mean depth of a failed search in a tree of `samples` samples (Liu, Ting, Zhou 2008, equation 1)."""
    n = np.asarray(samples, np.float64)
    many = np.maximum(n, 3)
    mean = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(n > 2, mean, np.where(n == 2, 1.0, 0.0))


def _builder(
    fitted: Any,
    outputs: int,
    *,
    scale: float = 1.0,
    base: Sequence[float] | Array | None = None,
    link: Link = Link.IDENTITY,
    float32_rows: bool = True,
) -> ForestBuilder:
    return ForestBuilder(
        n_features=int(fitted.n_features_in_),
        n_outputs=outputs,
        float32_rows=float32_rows,
        base=[0.0] * outputs if base is None else [float(value) for value in base],
        link=link,
        scale=scale,
    )


def _add_tree(builder: ForestBuilder, output: int, nodes: Array, value: Array) -> None:
    """Add one tree of `sklearn.tree`; before 1.3 its nodes had no field for missing values."""
    named = "missing_go_to_left" in (nodes.dtype.names or ())
    _add_nodes(
        builder,
        output,
        is_leaf=nodes["left_child"] == -1,
        feature=nodes["feature"],
        threshold=nodes["threshold"],
        left=nodes["left_child"],
        right=nodes["right_child"],
        missing_left=nodes["missing_go_to_left"] != 0 if named else np.zeros(len(nodes), bool),
        value=value,
    )


def _add_nodes(
    builder: ForestBuilder,
    output: int,
    *,
    is_leaf: Array,
    feature: Array,
    threshold: Array,
    left: Array,
    right: Array,
    missing_left: Array,
    value: Array,
) -> None:
    is_split = ~is_leaf
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(is_split) - 1)
    builder.add_tree(
        output,
        feature=feature[is_split],
        threshold=np.asarray(threshold[is_split], np.float64),
        left=number[left[is_split]],
        right=number[right[is_split]],
        rule=np.where(missing_left[is_split], int(Rule.MISSING_LEFT), 0) | int(Rule.MISSING_NAN),
        leaf=np.asarray(value[is_leaf], np.float64),
    )


def _digest(builder: ForestBuilder) -> str:
    """sha256 over the arrays and numbers that score, because a fitted object has no file to hash."""
    facts = (builder.n_features, builder.n_outputs, builder.float32_rows, builder.base, int(builder.link))
    digest = hashlib.sha256(repr((facts, builder.link_parameter, builder.scale)).encode())
    builder.feed(digest.update)
    return digest.hexdigest()
