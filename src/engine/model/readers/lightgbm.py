"""Reads LightGBM's text format (`Booster.save_model`, versions 2, 3 and 4).

The reader is our own, because LightGBM's parser ends the process on most damaged files, and treelite accepts most
truncated files and crashes on a few. Here every array must have the length that its tree declares before native code
sees it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model import _callable, iterations
from engine.model.forest import ForestBuilder, Link, Rule
from engine.model.iterations import Range
from engine.model.model import Model
from engine.model.python import CallableModel

VERSIONS = ("v2", "v3", "v4")
ZERO_BAND = float(np.float32(1e-35))  # LightGBM reads every |x| up to this as 0.0
_BEFORE_ZERO_BAND = float(np.nextafter(np.float64(-ZERO_BAND), -np.inf))
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_SHIFT = 1, 2, 2  # bits of decision_type
_MISSING_RULES = (0, int(Rule.MISSING_ZERO), int(Rule.MISSING_NAN))

# objective -> link; _link reads the options `sigmoid:` and `sqrt` behind it, which change the link.
_LINKS = {
    "regression": Link.IDENTITY,
    "regression_l1": Link.IDENTITY,
    "huber": Link.IDENTITY,
    "fair": Link.IDENTITY,
    "quantile": Link.IDENTITY,
    "mape": Link.IDENTITY,
    "lambdarank": Link.IDENTITY,
    "rank_xendcg": Link.IDENTITY,
    "poisson": Link.EXPONENTIAL,
    "gamma": Link.EXPONENTIAL,
    "tweedie": Link.EXPONENTIAL,
    "binary": Link.SIGMOID,
    "multiclassova": Link.SIGMOID,
    "multiclass": Link.SOFTMAX,
    "cross_entropy": Link.SIGMOID,
    "cross_entropy_lambda": Link.LOG1P_EXP,
    "xentropy": Link.SIGMOID,  # the names up to 2.2
    "xentlambda": Link.LOG1P_EXP,
}


def read_lightgbm(
    content: bytes, name: str, rounds: Range = None, *, best: int | None = None, library: bool = True
) -> Model:
    """Read one model from the bytes of a file; `name` stands for the file in messages.

    Args:
        content: the bytes.
        name: stands for the file in messages.
        rounds: the first round and the end of those in use; all by default.
        best: the best round of early stopping, counted from 0, where the caller knows it. Rounds after it
            are left out by default. A file does not say, and `save_model` leaves them out.
        library: let lightgbm itself answer for linear trees, once every array has been checked here.

    Raises:
        ConfigError: rounds that the model does not have.
        ModelFormatError: the file is truncated, damaged or of another version.
        UnsupportedModelError: linear trees without lightgbm installed, an objective whose link is not known here,
        or no trees.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ModelFormatError(
            f"{name}: expected LightGBM text in UTF-8, got {error.reason} at byte {error.start}"
        ) from None
    if "\r\n" in text:  # a file that went through Windows or Git; the sizes in it count single ends of lines
        text = text.replace("\r\n", "\n")
    header, blocks = _sections(text.lstrip(), name)
    n_features = _count(header, "max_feature_idx", name, low=0, high=2**24) + 1
    per_iteration = _count(header, "num_tree_per_iteration", name, low=1, high=1024)
    if not blocks:
        raise UnsupportedModelError(f"{name}: the model has no trees, so there is nothing to score")
    if len(blocks) % per_iteration:
        raise ModelFormatError(f"{name}: {len(blocks)} trees do not make whole iterations of {per_iteration}")
    names = header.get("feature_names", "").split(" ")
    if len(names) != n_features:
        raise ModelFormatError(f"{name}: expected {n_features} feature names, got {len(names)}")
    link, parameter = _link(header, per_iteration, name)
    used = iterations.chosen(len(blocks) // per_iteration, rounds, best, name)
    builder = ForestBuilder(
        n_features=n_features,
        n_outputs=per_iteration,
        float32_rows=False,
        base=[0.0] * per_iteration,
        link=link,
        link_parameter=parameter,
        scale=1 / (used.end - used.first) if "average_output" in header else 1.0,
    )
    for index, block in list(enumerate(blocks))[used.first * per_iteration : used.end * per_iteration]:
        _read_tree(builder, index % per_iteration, block, f"{name}, tree {index}")
    digest = hashlib.sha256(content).hexdigest()
    categories = _known_categories(header, names, text)
    details = {
        "objective": header.get("objective"),
        "link": link.name.lower(),
        "trees_used": (used.end - used.first) * per_iteration,
        "trees_total": len(blocks),
        "best_iteration": used.best,
    }
    if any(block.get("is_linear", "0") != "0" for block in blocks):
        if not library:
            raise UnsupportedModelError(
                f"{name}: linear trees, which only lightgbm itself evaluates; use load_model"
            )
        for index, block in enumerate(blocks):
            _check_linear(block, n_features, f"{name}, tree {index}")
        return _read_linear_trees(
            text, name, used, digest=digest, feature_names=names, details=details, categories=categories
        )
    return builder.model(
        format="lightgbm", digest=digest, feature_names=names, details=details, categories=categories
    )


def _check_linear(block: dict[str, str], n_features: int, where: str) -> None:
    """Check the arrays of a linear tree's leaves, before lightgbm's parser, which believes their sizes."""
    n_leaves = _count(block, "num_leaves", where, low=1, high=2**24)
    if block.get("is_linear", "0") == "0":
        return
    if block["is_linear"] != "1":
        raise ModelFormatError(f"{where}: is_linear must be 0 or 1, got {block['is_linear'][:20]!r}")
    sizes = _numbers(block.get("num_features", "").strip(), int, f"{where}: num_features")
    if len(sizes) != n_leaves or min(sizes) < 0:
        raise ModelFormatError(f"{where}: expected {n_leaves} values of num_features, got {len(sizes)}")
    if len(_numbers(block.get("leaf_const", ""), float, f"{where}: leaf_const")) != n_leaves:
        raise ModelFormatError(f"{where}: expected {n_leaves} values of leaf_const")
    for key, kind in (("leaf_features", int), ("leaf_coeff", float)):
        values = _numbers(" ".join(block.get(key, "").split()), kind, f"{where}: {key}")
        if len(values) != sum(sizes):
            raise ModelFormatError(f"{where}: expected {sum(sizes)} values of {key}, got {len(values)}")
        if kind is int and values and not 0 <= min(values) <= max(values) < n_features:
            raise ModelFormatError(f"{where}: a feature of a leaf is not one of {n_features}")


def _read_linear_trees(text: str, name: str, used: iterations.Rounds, **facts: Any) -> Model:
    """Linear trees by lightgbm itself, in a Python callable."""
    try:
        import lightgbm
    except ImportError:
        raise UnsupportedModelError(
            f"{name}: linear trees are evaluated by lightgbm, which is not installed: install it, or train with "
            f"linear_tree=false"
        ) from None
    try:
        booster = lightgbm.Booster(params={"verbosity": -1, "num_threads": 1}, model_str=text)
    except Exception as error:  # LightGBMError, and others from its bindings
        raise ModelFormatError(f"{name}: lightgbm cannot read the linear trees: {error}") from error

    def score(rows: npt.NDArray[np.float64]) -> Any:
        return booster.predict(
            rows, start_iteration=used.first, num_iteration=used.end - used.first, num_threads=1
        )

    n_outputs = booster.num_model_per_iteration()
    details = {**facts.pop("details"), "runtime": "lightgbm", "native_reason": "linear trees"}
    return CallableModel(
        _callable.Callable(score, booster.num_feature(), n_outputs, True),
        format="lightgbm",
        details=details,
        **facts,
    )


def _known_categories(header: dict[str, str], names: list[str], text: str) -> dict[str, list[Any]] | None:
    """The categories of a data frame, from the last line; None where it cannot be told whose they are."""
    _, found, line = text.rpartition("\npandas_categorical:")
    if not found:
        return None
    try:
        lists = json.loads(line)
    except ValueError:
        return None
    infos = header.get("feature_infos", "").split(" ")
    columns = [
        name for name, info in zip(names, infos, strict=False) if info != "none" and not info.startswith("[")
    ]
    if (
        not isinstance(lists, list)
        or len(lists) != len(columns)
        or not all(isinstance(one, list) for one in lists)
    ):
        return None
    return dict(zip(columns, lists, strict=True)) or None


def _sections(text: str, name: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The header and the trees as key -> value, after checking the file's own sizes and end marks."""
    head, found, rest = text.partition("\n\n")
    header = _pairs(head, name)
    if not found or "tree_sizes" not in header:
        if "num_class" in header and found and "tree_sizes" not in header:
            raise UnsupportedModelError(f"{name}: the model has no trees, so there is nothing to score")
        raise ModelFormatError(
            f"{name}: the header has no tree_sizes, so the file is cut short, or older than is read here; load and "
            f"save it with LightGBM 4"
        )
    if header.get("version") not in VERSIONS:
        raise ModelFormatError(
            f"{name}: LightGBM text version {header.get('version')!r} is not one of {', '.join(VERSIONS)}; "
            f"load and save it with LightGBM 4"
        )
    sizes = _numbers(header["tree_sizes"], int, f"{name}: tree_sizes")
    data = rest.encode()
    end = sum(sizes)
    up_to_2_0 = header["version"] == "v2" and re.match(rb"\s*feature importances:\n", data[end:])
    if min(sizes, default=1) < 1 or not (data[end:].startswith(b"end of trees\n") or up_to_2_0):
        raise ModelFormatError(
            f"{name}: the trees should take {end} bytes and end with 'end of trees', and do not: "
            f"the file is truncated or was edited"
        )
    _check_tail(data[end:].decode(), name, up_to_2_0=bool(up_to_2_0))
    blocks = []
    start = 0
    for index, size in enumerate(sizes):
        block = data[start : start + size].decode()
        start += size
        if not block.startswith(f"Tree={index}\n") or not block.endswith("\n"):
            raise ModelFormatError(f"{name}: tree {index} does not begin where tree_sizes says")
        blocks.append(_pairs(block, f"{name}, tree {index}"))
    return header, blocks


def _check_tail(tail: str, name: str, *, up_to_2_0: bool) -> None:
    """Check the text behind the trees. It ends with the parameters and their end mark, and up to LightGBM 2.0 with the
    columns' importances."""
    _, found, after = tail.partition("\nend of parameters\n")
    importances = up_to_2_0 and re.fullmatch(
        r"\s*feature importances:\n([^\n]*=\d+\n)*\s*(pandas_categorical:[^\n]*\s*)?", tail
    )
    if importances:
        after = tail
    elif not found or not re.fullmatch(r"\s*(pandas_categorical:[^\n]*\s*)?", after):
        raise ModelFormatError(f"{name}: expected 'end of parameters' after the trees: the file is truncated")
    if "pandas_categorical" in after and not after.rstrip().endswith(("null", "]")):
        raise ModelFormatError(f"{name}: the last line, pandas_categorical, is cut short")


def _pairs(block: str, name: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in block.split("\n"):
        key, _, value = line.partition("=")
        if key and key in pairs:
            raise ModelFormatError(f"{name}: {key!r} is given twice")
        pairs[key] = value
    return pairs


def _numbers(text: str, kind: Callable[[str], Any], where: str) -> list[Any]:
    if "_" in text:  # Python would read 1_0 as 10
        raise ModelFormatError(f"{where}: expected numbers, got {text[:40]!r}")
    try:
        return list(map(kind, text.split(" "))) if text else []
    except ValueError as error:
        raise ModelFormatError(f"{where}: expected numbers separated by blanks: {error}") from None


_PLAIN = b"0123456789+-.eE "


def _array(text: str, kind: Callable[[str], Any], where: str) -> npt.NDArray[Any]:
    """`_numbers` as an array. NumPy's parser is quicker; where it stops early, Python's reads the text."""
    dtype = np.float64 if kind is float else np.int64
    if text and text.isascii() and not text.encode().translate(None, _PLAIN):
        try:
            values = np.fromstring(text, dtype, sep=" ")
        except (
            DeprecationWarning,
            ValueError,
        ):  # it stopped before the end, in a process where warnings are errors
            values = np.empty(0)
        if len(values) == text.count(" ") + 1:
            return values
    try:
        return np.array(_numbers(text, kind, where), dtype)
    except OverflowError:
        raise ModelFormatError(f"{where}: a value does not fit 64 bits") from None


def _count(header: dict[str, str], key: str, name: str, *, low: int, high: int) -> int:
    values = _numbers(header.get(key, ""), int, f"{name}: {key}")
    if len(values) != 1 or not low <= values[0] <= high:
        raise ModelFormatError(
            f"{name}: expected {key} from {low} to {high}, got {header.get(key, 'nothing')!r}"
        )
    return int(values[0])


def _link(header: dict[str, str], outputs: int, name: str) -> tuple[Link, float]:
    if "objective" not in header:  # trained with the user's own objective: predict gives the raw sum
        return Link.IDENTITY, 1.0
    objective, *options = header["objective"].split(" ")
    if objective not in _LINKS:
        raise UnsupportedModelError(
            f"{name}: objective {objective!r} has a link that is not known; expected {', '.join(_LINKS)}"
        )
    link = _LINKS[objective]
    parameter = 1.0
    for option in options:
        key, _, value = option.partition(":")
        if key == "sigmoid" and objective in ("binary", "multiclassova"):
            parameter = float(_numbers(value, float, f"{name}: sigmoid")[0]) if value else math.nan
        elif key == "sqrt":
            link = Link.SIGNED_SQUARE
        elif key == "num_class" and value != str(outputs):
            raise ModelFormatError(f"{name}: the objective has {value} classes and the trees {outputs}")
    if not math.isfinite(parameter) or parameter <= 0:
        raise ModelFormatError(f"{name}: expected a positive sigmoid parameter in {header['objective']!r}")
    return link, parameter


def _read_tree(builder: ForestBuilder, output: int, block: dict[str, str], where: str) -> None:
    n_leaves = _count(block, "num_leaves", where, low=1, high=2**24)
    n_sets = _count(block, "num_cat", where, low=0, high=n_leaves)
    n_splits = n_leaves - 1

    def column(key: str, kind: Callable[[str], Any], length: int) -> npt.NDArray[Any]:
        values = _array(block.get(key, ""), kind, f"{where}: {key}")
        if len(values) != length:
            raise ModelFormatError(f"{where}: expected {length} values of {key}, got {len(values)}")
        return values

    leaf = column("leaf_value", float, n_leaves)
    decision = column("decision_type", int, n_splits)
    threshold = column("threshold", float, n_splits)
    missing = decision >> _MISSING_SHIFT
    if np.any((decision < 0) | (missing > 2)):
        raise ModelFormatError(f"{where}: a decision_type is not one that LightGBM writes")
    categorical = (decision & _CATEGORICAL) != 0
    rule = np.where(decision & _DEFAULT_LEFT, int(Rule.MISSING_LEFT), 0) | np.take(_MISSING_RULES, missing)
    # LightGBM sends a missing category to the right, whatever the other bits say.
    rule[categorical] = int(Rule.CATEGORICAL | Rule.MEMBERS_LEFT | Rule.TRUNCATES)
    sets = threshold[categorical]
    threshold = _snap_to_zero_band(threshold)
    if n_sets:
        threshold[categorical] = _read_sets(builder, n_sets, sets, column, block, where)
    elif np.any(categorical):
        raise ModelFormatError(f"{where}: categorical splits and num_cat=0")
    if n_splits == 0:
        rule = np.empty(0, np.uint8)
    builder.add_tree(
        output,
        feature=column("split_feature", int, n_splits),
        threshold=threshold,
        left=column("left_child", int, n_splits),
        right=column("right_child", int, n_splits),
        rule=rule,
        leaf=leaf,
    )


def _snap_to_zero_band(threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Move thresholds out of the band |x| <= 1e-35, which has the effect of LightGBM's reading such x as 0.0."""
    threshold = np.where((threshold >= 0) & (threshold < ZERO_BAND), ZERO_BAND, threshold)
    return np.where((threshold < 0) & (threshold >= -ZERO_BAND), _BEFORE_ZERO_BAND, threshold)


def _read_sets(
    builder: ForestBuilder,
    n_sets: int,
    numbers: npt.NDArray[np.float64],
    column: Callable[[str, Callable[[str], Any], int], npt.NDArray[Any]],
    block: dict[str, str],
    where: str,
) -> npt.NDArray[np.float64]:
    """Add the tree's category sets; return the number in the forest of each split's set."""
    begin = column("cat_boundaries", int, n_sets + 1)
    if begin[0] != 0 or np.any(np.diff(begin) < 0) or begin[-1] > len(block.get("cat_threshold", "")):
        raise ModelFormatError(f"{where}: cat_boundaries do not rise from 0")
    words = column("cat_threshold", int, int(begin[-1]))
    if words.size and (words.min() < 0 or words.max() >= 2**32):
        raise ModelFormatError(f"{where}: a word of cat_threshold does not fit 32 bits")
    first = builder.n_sets
    for i in range(n_sets):
        builder.add_set(words[begin[i] : begin[i + 1]].astype(np.uint32))
    # Written so that NaN fails too.
    if not np.all((numbers >= 0) & (numbers < n_sets) & (numbers == np.floor(numbers))):
        raise ModelFormatError(f"{where}: a categorical split names a category set that does not exist")
    return numbers + first
