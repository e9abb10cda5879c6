"""Reads XGBoost's JSON and UBJSON models (`Booster.save_model`, XGBoost 1.3 and later): gbtree, dart and gblinear."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, ModelFormatError, UnsupportedModelError
from engine.model import _dense, iterations
from engine.model.dense import ACTIVATIONS
from engine.model.forest import ForestBuilder, Link, Rule
from engine.model.iterations import Range
from engine.model.model import Model
from engine.model.readers import ubjson

_DENSE_OUTPUTS = {
    Link.IDENTITY: "identity",
    Link.SIGMOID: "logistic",
    Link.EXPONENTIAL: "exponential",
    Link.SOFTMAX: "softmax",
}
CATEGORIES_MAX = 2**24  # XGBoost reads categories from float32, which counts that far

_PLAIN = "plain"  # the function from base_score, in the space of the answer, to a margin
_LOGIT = "logit"
_LOG = "log"
_OBJECTIVES = {
    "reg:squarederror": (Link.IDENTITY, _PLAIN),
    "reg:linear": (Link.IDENTITY, _PLAIN),
    "reg:squaredlogerror": (Link.IDENTITY, _PLAIN),
    "reg:pseudohubererror": (Link.IDENTITY, _PLAIN),
    "reg:absoluteerror": (Link.IDENTITY, _PLAIN),
    "reg:quantileerror": (Link.IDENTITY, _PLAIN),
    "reg:expectileerror": (Link.IDENTITY, _PLAIN),
    "rank:pairwise": (Link.IDENTITY, _PLAIN),
    "rank:ndcg": (Link.IDENTITY, _PLAIN),
    "rank:map": (Link.IDENTITY, _PLAIN),
    "binary:logitraw": (Link.IDENTITY, _PLAIN),
    "reg:logistic": (Link.SIGMOID, _LOGIT),
    "binary:logistic": (Link.SIGMOID, _LOGIT),
    "count:poisson": (Link.EXPONENTIAL, _LOG),
    "reg:gamma": (Link.EXPONENTIAL, _LOG),
    "reg:tweedie": (Link.EXPONENTIAL, _LOG),
    "survival:cox": (Link.EXPONENTIAL, _LOG),
    "survival:aft": (Link.EXPONENTIAL, _LOG),
    "binary:hinge": (Link.POSITIVE, _PLAIN),
    "multi:softprob": (Link.SOFTMAX, _PLAIN),
    "multi:softmax": (Link.ARGMAX, _PLAIN),
}


def read_xgboost_json(content: bytes, name: str, rounds: Range = None) -> Model:
    """Read the JSON form. Args and errors as `read_xgboost`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(
            f"{name}: expected XGBoost JSON, and it is truncated or damaged: {error}"
        ) from None
    return read_xgboost(document, hashlib.sha256(content).hexdigest(), name, rounds)


def read_xgboost_ubjson(
    content: bytes, name: str, rounds: Range = None, *, classifier: bool = False
) -> Model:
    """Read the UBJSON form. Args and errors as `read_xgboost`."""
    digest = hashlib.sha256(content).hexdigest()
    return read_xgboost(ubjson.decode(content, name), digest, name, rounds, classifier=classifier)


def read_xgboost(
    document: Any, digest: str, name: str, rounds: Range = None, *, classifier: bool = False
) -> Model:
    """Make a model of the decoded document.

    Args:
        document: dicts, lists, text and numbers, as the JSON and UBJSON forms share them.
        digest: value of `Model.digest`.
        name: stands for the file in messages.
        rounds: the first round and the end of those in use. By default up to `best_iteration`, where the document has
            it from early stopping, as XGBoost's scikit-learn wrappers do; else all.
        classifier: the model is an XGBClassifier, which gives probabilities under multi:softmax too.

    Raises:
        ModelFormatError: a part is missing, or of the wrong type or length.
        ConfigError: rounds that the model does not have.
        UnsupportedModelError: an objective whose `predict` is not known here.
    """
    learner = _get(document, "learner", dict, name)
    parameters = _get(learner, "learner_model_param", dict, name)
    n_features = _count(parameters, "num_feature", name, low=1, high=2**24)
    n_outputs = max(
        _count(parameters, "num_class", name, low=0, high=1024),
        _count(parameters, "num_target", name, low=0, high=1024) if "num_target" in parameters else 1,
        1,
    )
    objective = _get(_get(learner, "objective", dict, name), "name", str, name)
    if objective not in _OBJECTIVES:
        raise UnsupportedModelError(
            f"{name}: objective {objective!r} has a link that is not known; expected {', '.join(_OBJECTIVES)}"
        )
    link, space = _OBJECTIVES[objective]
    if classifier and link == Link.ARGMAX:
        link = Link.SOFTMAX
    if objective == "binary:logitraw" and _version(document) < (1, 3):
        space = _LOGIT  # a probability up to 1.2, a margin since
    names = [str(text) for text in learner.get("feature_names") or []]
    if names and len(names) != n_features:
        raise ModelFormatError(f"{name}: expected {n_features} feature names, got {len(names)}")
    base = _base_scores(parameters, space, n_outputs, name)
    booster = _get(learner, "gradient_booster", dict, name)
    if booster.get("name") == "gblinear":
        linear = _column(
            _get(booster, "model", dict, name), "weights", (n_features + 1) * n_outputs, np.float32, name
        )
        table = linear.reshape(n_features + 1, n_outputs).astype(np.float64)
        if len(set(base)) > 1:
            # XGBoost 3.2 adds the first base score to every output of a linear model; others were not checked.
            if _version(document)[:2] not in ((3, 1), (3, 2)):
                raise UnsupportedModelError(
                    f"{name}: gblinear with several base scores is read as XGBoost 3.2 wrote it; save it with that"
                )
            base = base[:1] * n_outputs
        if rounds is not None:
            raise ConfigError(
                f"{name}: gblinear has no trees to choose from: leave out iteration_range and num_trees"
            )
        return _linear_model(table, base, objective, link, digest, names or None, name)
    forest, weights = _booster(booster, name)
    trees = _get(forest, "trees", list, name)
    if not trees:
        raise UnsupportedModelError(f"{name}: the model has no trees, so there is nothing to score")
    outputs = _column(forest, "tree_info", len(trees), np.int64, name)
    begins = _rounds(forest, outputs, n_outputs, name)
    used = iterations.chosen(len(begins) - 1, rounds, _best_iteration(learner), name)
    first, end = int(begins[used.first]), int(begins[used.end])
    builder = ForestBuilder(
        n_features=n_features,
        n_outputs=n_outputs,
        float32_rows=True,
        base=base,
        link=link,
    )
    for index, tree in list(enumerate(trees))[first:end]:
        weight = np.float32(1.0) if weights is None else weights[index]
        _read_tree(builder, int(outputs[index]), tree, weight, f"{name}, tree {index}")
    return builder.model(
        format="xgboost",
        digest=digest,
        feature_names=names or None,
        details={
            "objective": objective,
            "link": link.name.lower(),
            "trees_used": end - first,
            "trees_total": len(trees),
            "best_iteration": used.best,
        },
        categories=_known_categories(forest, names),
    )


def _best_iteration(learner: Mapping[str, Any]) -> int | None:
    """The best round of early stopping, which XGBoost keeps as text among the attributes."""
    attributes = learner.get("attributes")
    text = attributes.get("best_iteration") if isinstance(attributes, Mapping) else None
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else None


def _rounds(
    forest: Mapping[str, Any], outputs: npt.NDArray[np.int64], n_outputs: int, name: str
) -> npt.NDArray[np.int64]:
    """[rounds + 1], the first tree of each round; from 2.0 on in the file, before that by the trees' numbers."""
    if "iteration_indptr" in forest:
        begins = _column(forest, "iteration_indptr", None, np.int64, name)
        if len(begins) < 2 or begins[0] != 0 or begins[-1] != len(outputs) or np.any(np.diff(begins) < 0):
            raise ModelFormatError(
                f"{name}: iteration_indptr does not divide the {len(outputs)} trees into rounds"
            )
        return begins
    parameters = _get(forest, "gbtree_model_param", dict, name)
    parallel = _count({"num_parallel_tree": "1", **parameters}, "num_parallel_tree", name, low=0, high=2**24)
    size = max(parallel, 1) * n_outputs
    return np.append(np.arange(0, len(outputs), size), len(outputs))


def _known_categories(forest: Mapping[str, Any], names: list[str]) -> dict[str, list[Any]] | None:
    """The categories that XGBoost keeps from a data frame since 3.1; None where it keeps none."""
    held = forest.get("cats")
    if not isinstance(held, Mapping) or not names:
        return None
    segments, encodings = held.get("feature_segments"), held.get("enc")
    if not isinstance(encodings, list) or segments is None or len(segments) != len(names) + 1:
        return None
    found: dict[str, list[Any]] = {}
    for at, encoding in enumerate(encodings[: len(names)]):
        if not isinstance(encoding, Mapping) or segments[at] == segments[at + 1]:
            continue
        values, offsets = encoding.get("values"), encoding.get("offsets")
        if values is None:
            return None
        if offsets is None:
            found[names[at]] = np.asarray(values).tolist()
            continue
        try:
            text = bytes(np.asarray(values).astype(np.int64).astype(np.uint8))
            found[names[at]] = [
                text[a:b].decode() for a, b in itertools.pairwise(np.asarray(offsets).tolist())
            ]
        except (ValueError, TypeError):
            return None
    return found or None


def _linear_model(
    table: npt.NDArray[np.float64],
    base: list[float],
    objective: str,
    link: Link,
    digest: str,
    names: list[str] | None,
    name: str,
) -> Model:
    """gblinear: `table` is [n_features + 1, n_outputs], the biases last; a missing value adds nothing."""
    if link not in _DENSE_OUTPUTS:
        raise UnsupportedModelError(f"{name}: gblinear with objective {objective!r} is not supported")
    output = _DENSE_OUTPUTS[link]
    try:
        net = _dense.Dense(
            [(table[:-1], table[-1] + base, ACTIVATIONS[output])], float32=False, missing_zero=True
        )
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from None
    details = {"objective": objective, "link": link.name.lower(), "booster": "gblinear"}
    return Model(net.scorer, format="xgboost", digest=digest, feature_names=names, details=details)


def _version(document: Any) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in document["version"])
    except (KeyError, TypeError, ValueError):
        return (0,)


def _get(mapping: Any, key: str, kind: type, name: str) -> Any:
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    if not isinstance(value, kind):
        raise ModelFormatError(
            f"{name}: expected {key!r} as {kind.__name__} in an XGBoost model, got {type(value).__name__}"
        )
    return value


def _count(mapping: Mapping[str, Any], key: str, name: str, *, low: int, high: int) -> int:
    text = _get(mapping, key, str, name)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ModelFormatError(f"{name}: expected {key} from {low} to {high}, got {text!r}")
    return int(text)


def _column(mapping: Any, key: str, length: int | None, dtype: Any, name: str) -> npt.NDArray[Any]:
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    if not isinstance(value, list | np.ndarray):
        raise ModelFormatError(f"{name}: expected {key!r} as an array, got {type(value).__name__}")
    try:
        array = np.asarray(value)
        if array.size and (array.ndim != 1 or array.dtype.kind not in "iufb"):
            raise ValueError("not plain numbers")
        if np.dtype(dtype).kind == "i" and array.dtype.kind == "f" and not np.all(np.abs(array) < 2**53):
            raise ValueError("out of range")
        array = array.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFormatError(f"{name}: expected {key!r} as an array of numbers: {error}") from None
    if length is not None and array.size != length:
        raise ModelFormatError(f"{name}: expected {length} values of {key!r}, got {array.size}")
    return array


def _booster(
    booster: Mapping[str, Any], name: str
) -> tuple[Mapping[str, Any], npt.NDArray[np.float32] | None]:
    """The forest and, for dart, the weight of each tree."""
    kind = _get(booster, "name", str, name)
    if kind == "gbtree":
        return _get(booster, "model", dict, name), None
    if kind == "dart":
        forest = _get(_get(booster, "gbtree", dict, name), "model", dict, name)
        weights = _column(booster, "weight_drop", len(_get(forest, "trees", list, name)), np.float32, name)
        return forest, weights
    raise UnsupportedModelError(f"{name}: booster {kind!r} is not supported, only gbtree, dart and gblinear")


def _base_scores(parameters: Mapping[str, Any], space: str, n_outputs: int, name: str) -> list[float]:
    """XGBoost writes "5E-1" up to 3.0 and "[5E-1]", one value an output or one for all, from 3.1."""
    text = _get(parameters, "base_score", str, name)
    try:
        values = [float(np.float32(word)) for word in text.strip("[]").split(",")]
    except ValueError:
        raise ModelFormatError(f"{name}: expected base_score as numbers, got {text!r}") from None
    if len(values) == 1:
        values *= n_outputs
    if len(values) != n_outputs or not all(map(math.isfinite, values)):
        raise ModelFormatError(f"{name}: expected {n_outputs} finite base scores, got {text!r}")
    if space == _PLAIN:
        return values
    high = 1.0 if space == _LOGIT else math.inf
    if not all(0.0 < value < high for value in values):
        raise ModelFormatError(f"{name}: base_score {text!r} is outside the range of this objective")
    return [math.log(value / (1.0 - value)) if space == _LOGIT else math.log(value) for value in values]


def _read_tree(builder: ForestBuilder, output: int, tree: Any, weight: np.float32, where: str) -> None:
    parameters = _get(tree, "tree_param", dict, where)
    vector = _count({"size_leaf_vector": "1", **parameters}, "size_leaf_vector", where, low=0, high=1024)
    if vector > 1 and vector != builder.n_outputs:
        raise ModelFormatError(f"{where}: expected leaves of {builder.n_outputs} values, got {vector}")
    n_nodes = _count(parameters, "num_nodes", where, low=1, high=2**24)
    left = _column(tree, "left_children", n_nodes, np.int64, where)
    right = _column(tree, "right_children", n_nodes, np.int64, where)
    condition = _column(tree, "split_conditions", n_nodes, np.float32, where)
    is_leaf = left == -1
    is_split = ~is_leaf
    children = np.concatenate([left[is_split], right[is_split]])
    if children.size and (children.min() < 0 or children.max() >= n_nodes):
        raise ModelFormatError(f"{where}: a child is not one of its {n_nodes} nodes")
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(is_split) - 1)
    rule = np.where(_column(tree, "default_left", n_nodes, np.int64, where) != 0, int(Rule.MISSING_LEFT), 0)
    rule |= int(Rule.MISSING_NAN)
    # `x < t` is `x <= the float32 before t`.
    threshold = np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)
    if np.any(np.isneginf(condition[is_split])):
        raise UnsupportedModelError(f"{where}: a split at minus infinity")
    _read_categories(builder, tree, n_nodes, rule, threshold, where)
    feature = _column(tree, "split_indices", n_nodes, np.int64, where)[is_split]
    if vector > 1:  # one tree for all outputs: walked once for each
        leaves = list(enumerate(_vector_leaves(tree, vector, is_leaf, right, where)))
    else:
        leaves = [(output, condition[is_leaf])]
    for k, values in leaves:
        builder.add_tree(
            k,
            feature=feature,
            threshold=threshold[is_split],
            left=number[left[is_split]],
            right=number[right[is_split]],
            rule=rule[is_split],
            leaf=(values * weight).astype(np.float64),
        )


def _vector_leaves(
    tree: Mapping[str, Any],
    outputs: int,
    is_leaf: npt.NDArray[np.bool_],
    right: npt.NDArray[np.int64],
    where: str,
) -> npt.NDArray[np.float32]:
    """[outputs, leaves]. From 3.2 on a leaf's right child is its number in leaf_weights; up to 3.1 leaves have their
    values in base_weights, as every node has."""
    key = "leaf_weights" if "leaf_weights" in tree else "base_weights"
    weights = _column(tree, key, None, np.float32, where)
    leaf_index = right[is_leaf] if key == "leaf_weights" else np.flatnonzero(is_leaf)
    if weights.size % outputs or np.any((leaf_index < 0) | (leaf_index >= weights.size // outputs)):
        raise ModelFormatError(f"{where}: a leaf lies outside its {weights.size} {key}")
    return weights.reshape(-1, outputs)[leaf_index].T


def _read_categories(
    builder: ForestBuilder,
    tree: Mapping[str, Any],
    n_nodes: int,
    rule: npt.NDArray[Any],
    threshold: npt.NDArray[np.float64],
    where: str,
) -> None:
    """Turns the categorical nodes of a tree, whose members go right, into numbered sets."""
    if "split_type" not in tree:  # before 1.5 there were none
        return
    categorical = _column(tree, "split_type", n_nodes, np.int64, where) != 0
    if not categorical.any():
        return
    nodes = _column(tree, "categories_nodes", None, np.int64, where)
    begins = _column(tree, "categories_segments", nodes.size, np.int64, where)
    sizes = _column(tree, "categories_sizes", nodes.size, np.int64, where)
    categories = _column(tree, "categories", None, np.int64, where)
    if not np.array_equal(np.sort(nodes), np.flatnonzero(categorical)):
        raise ModelFormatError(f"{where}: categories_nodes do not list the categorical nodes")
    if categories.size and (categories.min() < 0 or categories.max() >= CATEGORIES_MAX):
        raise ModelFormatError(f"{where}: a category is outside 0 to {CATEGORIES_MAX - 1}")
    for node, begin, size in zip(nodes, begins, sizes, strict=True):
        if begin < 0 or size < 1 or begin + size > categories.size:
            raise ModelFormatError(f"{where}: the categories of node {node} lie outside the list")
        members = categories[begin : begin + size]
        words = np.zeros(int(members.max()) // 32 + 1, np.uint32)
        np.bitwise_or.at(words, members // 32, np.uint32(1) << (members % 32).astype(np.uint32))
        rule[node] = (rule[node] & int(Rule.MISSING_LEFT)) | int(Rule.CATEGORICAL)
        threshold[node] = builder.add_set(words)
