"""Reads CatBoost's JSON models (`save_model(path, format="json")`): symmetric trees and those grown by other policies.

A row is rounded to float32 and goes right where its value is above a border. Categories, text and embeddings would need
CatBoost's own hashing and statistics, so models with them are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import iterations
from engine.model.forest import ForestBuilder, Link, Rule
from engine.model.iterations import Range
from engine.model.model import Model

DEPTH_MAX = 16  # CatBoost's own limit for symmetric trees: 65,536 leaves

_PLAIN = (
    "RMSE",
    "MAE",
    "Quantile",
    "MultiQuantile",
    "Expectile",
    "MAPE",
    "Lq",
    "Huber",
    "LogCosh",
    "MultiRMSE",
    "MultiRMSEWithMissingValues",
    "RMSPE",
    "NumErrors",
    "GroupQuantile",
    "SurvivalAft",
    "Cox",
)
_RANKING = (
    "QueryRMSE",
    "QuerySoftMax",
    "PairLogit",
    "PairLogitPairwise",
    "YetiRank",
    "YetiRankPairwise",
    "StochasticRank",
    "StochasticFilter",
    "LambdaMart",
)
LINKS = {
    **dict.fromkeys((*_PLAIN, *_RANKING), Link.IDENTITY),
    "Logloss": Link.SIGMOID,
    "CrossEntropy": Link.SIGMOID,
    "MultiClass": Link.SOFTMAX,
    "MultiClassOneVsAll": Link.SIGMOID,
    "MultiLogloss": Link.SIGMOID,
    "MultiCrossEntropy": Link.SIGMOID,
    "Focal": Link.SIGMOID,
    "LogLinQuantile": Link.IDENTITY,  # CatBoostRegressor.predict gives the raw value
    "Poisson": Link.EXPONENTIAL,
    "Tweedie": Link.EXPONENTIAL,
}
# NaN goes right where it counts as larger than every border, else left.
_NAN_RULES = {
    "AsIs": int(Rule.MISSING_NAN | Rule.MISSING_LEFT),
    "AsFalse": int(Rule.MISSING_NAN | Rule.MISSING_LEFT),
    "AsTrue": int(Rule.MISSING_NAN),
}


def read_catboost(content: bytes, name: str, rounds: Range = None) -> Model:
    """Read one model. A classifier gives probabilities, of class 1 where there are two.

    Args:
        content: the bytes.
        name: stands for the file in messages.
        rounds: the first tree and the end of those in use, as CatBoost's ntree_start and ntree_end; all by default.

    Raises:
        ModelFormatError: a part is missing, or of the wrong type or length.
        ConfigError: rounds that the model does not have.
        UnsupportedModelError: splits on categories, text or embeddings, or a loss whose link is not known here.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{name}: expected CatBoost JSON, and it is truncated or damaged: {error}"
        ) from None
    features, n_features, names = _features(document, name)
    scale_and_bias = _get(document, "scale_and_bias", list, name)
    if len(scale_and_bias) != 2 or not isinstance(scale_and_bias[1], list):
        raise ModelFormatError(f"{name}: expected scale_and_bias as a scale and a list")
    base = [_number(value, f"{name}: bias") for value in scale_and_bias[1]]
    if not 1 <= len(base) <= 1024:
        raise ModelFormatError(f"{name}: expected 1 to 1,024 biases, got {len(base)}")
    loss = _loss(document, name)
    symmetric = "oblivious_trees" in document
    trees = _get(document, "oblivious_trees" if symmetric else "trees", list, name)
    if not trees:
        raise UnsupportedModelError(f"{name}: the model has no trees, so there is nothing to score")
    used = iterations.chosen(len(trees), rounds, None, name)
    builder = ForestBuilder(
        n_features=n_features,
        n_outputs=len(base),
        float32_rows=True,
        base=base if used.first == 0 else [0.0] * len(base),  # CatBoost adds the bias with the first tree
        link=LINKS[loss],
        scale=_number(scale_and_bias[0], f"{name}: scale"),
    )
    for index, tree in list(enumerate(trees))[used.first : used.end]:
        where = f"{name}, tree {index}"
        nodes = _Nodes(features, len(base), where)
        (nodes.add_symmetric if symmetric else nodes.add_nested)(tree)
        nodes.build(builder)
    return builder.model(
        format="catboost",
        digest=hashlib.sha256(content).hexdigest(),
        feature_names=names,
        details={
            "objective": loss,
            "link": builder.link.name.lower(),
            "symmetric": symmetric,
            "trees_used": used.end - used.first,
            "trees_total": len(trees),
            "best_iteration": None,
        },
    )


class _Nodes:
    """One tree as lists; a child c < 0 is leaf ~c. Each output's leaves are a list of their own."""

    def __init__(self, features: Mapping[int, tuple[int, int]], n_outputs: int, where: str) -> None:
        self.features = features
        self.where = where
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.rule: list[int] = []
        self.left: list[int] = []
        self.right: list[int] = []
        self.leaves: list[list[float]] = [[] for _ in range(n_outputs)]

    def add_split(self, split: Any) -> int:
        kind = split.get("split_type", "FloatFeature") if isinstance(split, dict) else None
        if kind != "FloatFeature":
            raise UnsupportedModelError(
                f"{self.where}: splits of type {kind!r} are not supported, only FloatFeature"
            )
        number = split.get("float_feature_index")
        if not isinstance(number, int) or number not in self.features:
            raise ModelFormatError(
                f"{self.where}: a split asks feature {number!r}, which features_info does not list"
            )
        column, rule = self.features[number]
        self.feature.append(column)
        self.rule.append(rule)
        self.threshold.append(_number(split.get("border"), f"{self.where}: border"))
        self.left.append(0)
        self.right.append(0)
        return len(self.feature) - 1

    def add_leaf(self, values: Sequence[Any]) -> int:
        if len(values) != len(self.leaves):
            raise ModelFormatError(
                f"{self.where}: expected {len(self.leaves)} values a leaf, got {len(values)}"
            )
        for leaves, value in zip(self.leaves, values, strict=True):
            leaves.append(_number(value, f"{self.where}: leaf"))
        return ~(len(self.leaves[0]) - 1)

    def add_symmetric(self, tree: Any) -> None:
        """Add a tree whose splits are alike within a level; split i gives bit i of the leaf's number."""
        splits = tree.get("splits") if isinstance(tree, dict) else None
        splits = [] if splits is None and isinstance(tree, dict) else splits
        if not isinstance(splits, list) or len(splits) > DEPTH_MAX:
            raise ModelFormatError(f"{self.where}: expected a list of at most {DEPTH_MAX} splits")
        values = _get(tree, "leaf_values", list, self.where)
        outputs, depth = len(self.leaves), len(splits)
        if len(values) != outputs << depth:
            raise ModelFormatError(
                f"{self.where}: expected {outputs << depth} leaf values, got {len(values)}"
            )
        # The last split is asked first, so that leaves lie in order of their number.
        for level in range(depth):
            first = len(self.feature)
            for at in range(first, first + (1 << level)):
                self.add_split(splits[depth - 1 - level])
                last = level + 1 == depth
                self.left[at] = ~(2 * (at - first)) if last else 2 * at + 1
                self.right[at] = ~(2 * (at - first) + 1) if last else 2 * at + 2
        for leaf in range(1 << depth):
            self.add_leaf(values[leaf * outputs : (leaf + 1) * outputs])

    def add_nested(self, tree: Any) -> None:
        waiting: list[tuple[Any, list[int] | None, int]] = [(tree, None, 0)]
        while waiting:
            node, children, parent = waiting.pop()
            if isinstance(node, dict) and "split" in node:
                number = self.add_split(node["split"])
                waiting += [(node.get("right"), self.right, number), (node.get("left"), self.left, number)]
            else:
                value = node.get("value") if isinstance(node, dict) else None
                number = self.add_leaf(value if isinstance(value, list) else [value])
            if children is not None:
                children[parent] = number

    def build(self, builder: ForestBuilder) -> None:
        for output, leaves in enumerate(self.leaves):
            builder.add_tree(
                output,
                feature=np.array(self.feature, np.int64),
                threshold=np.array(self.threshold, np.float64),
                left=np.array(self.left, np.int64),
                right=np.array(self.right, np.int64),
                rule=np.array(self.rule, np.uint8),
                leaf=np.array(leaves, np.float64),
            )


def _features(document: Any, name: str) -> tuple[dict[int, tuple[int, int]], int, list[str] | None]:
    """Float feature -> its column and rule for NaN; the width of a row; the names, where all columns have one."""
    info = _get(document, "features_info", dict, name)
    others = sorted(key for key, value in info.items() if key != "float_features" and value)
    if others:
        raise UnsupportedModelError(
            f"{name}: the model uses {', '.join(others)}; only float_features are supported"
        )
    features: dict[int, tuple[int, int]] = {}
    names: dict[int, str] = {}
    for feature in _get(info, "float_features", list, name):
        number = _get(feature, "feature_index", int, name)
        column = _get(feature, "flat_feature_index", int, name)
        treatment = feature.get("nan_value_treatment", "AsIs")
        if not 0 <= column < 2**24 or number in features or column in names or treatment not in _NAN_RULES:
            raise ModelFormatError(f"{name}: float feature {number} is listed twice, out of range or damaged")
        features[number] = (column, _NAN_RULES[treatment])
        names[column] = str(feature.get("feature_id", ""))
    if not features:
        raise ModelFormatError(f"{name}: features_info lists no float_features")
    width = max(names) + 1
    complete = len(names) == width and all(names.values())
    return features, width, [names[column] for column in range(width)] if complete else None


def _loss(document: Any, name: str) -> str:
    parameters = _get(_get(document, "model_info", dict, name), "params", (dict, str), name)
    if isinstance(parameters, str):  # older versions write the options as text
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError) as error:
            raise ModelFormatError(f"{name}: the options in model_info are damaged: {error}") from None
    loss = _get(_get(parameters, "loss_function", dict, name), "type", str, name)
    if loss not in LINKS:
        raise UnsupportedModelError(
            f"{name}: loss {loss!r} has a link that is not known; expected {', '.join(LINKS)}"
        )
    return loss


def _get(mapping: Any, key: str, kind: type | tuple[type, ...], name: str) -> Any:
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelFormatError(f"{name}: expected {key!r} in a CatBoost model, got {type(value).__name__}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelFormatError(f"{where}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ModelFormatError(f"{where}: expected a finite number, got {number}")
    return number
