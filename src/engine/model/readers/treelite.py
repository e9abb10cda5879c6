"""Reads treelite's checkpoints (`Model.serialize`, treelite 4). A model answers as treelite's own `gtil.predict` does.

A checkpoint is a sequence of numbers, texts and arrays, each array behind its length. The reader is our own, because
treelite's trusts the lengths in a file. treelite drops some facts of the model that it imports, such as LightGBM's
zero_as_missing, and a checkpoint cannot bring them back: load the original model where you have it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelFormatError, UnsupportedModelError
from engine.model.forest import ForestBuilder, Link, Rule
from engine.model.model import Model

_FLOAT32, _FLOAT64 = 2, 3  # treelite's TypeInfo
_TYPES: dict[int, np.dtype[Any]] = {_FLOAT32: np.dtype("<f4"), _FLOAT64: np.dtype("<f8")}
_LEAF, _NUMERICAL, _CATEGORICAL = 0, 1, 2
_LESS, _LESS_EQUAL, _GREATER, _GREATER_EQUAL = 2, 3, 4, 5
_TASKS = ("binary", "regression", "multiclass", "ranking", "isolation forest")
_LINKS = {
    "identity": Link.IDENTITY,
    "identity_multiclass": Link.IDENTITY,
    "signed_square": Link.SIGNED_SQUARE,
    "hinge": Link.POSITIVE,
    "sigmoid": Link.SIGMOID,
    "multiclass_ova": Link.SIGMOID,
    "exponential": Link.EXPONENTIAL,
    "exponential_standard_ratio": Link.EXPONENTIAL,
    "logarithm_one_plus_exp": Link.LOG1P_EXP,
    "softmax": Link.SOFTMAX,
}
CATEGORIES_MAX = 2**24


class _Cursor:
    """Takes parts off the front of the bytes. Raises ModelFormatError where one would lie beyond their end."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name, self.at = content, name, 0

    def scalar(self, kind: str) -> Any:
        size = struct.calcsize("<" + kind)
        self._need(size)
        (value,) = struct.unpack_from("<" + kind, self.content, self.at)
        self.at += size
        return value

    def array(self, dtype: Any) -> npt.NDArray[Any]:
        dtype = np.dtype(dtype)
        count = self.scalar("Q")
        self._need(count * dtype.itemsize)
        found = np.frombuffer(self.content, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return found

    def text(self) -> str:
        return self.array(np.uint8).tobytes().decode("utf-8", "replace")

    def skip_optional(self) -> None:
        """Fields of later minor versions: a name, the size of a value, and an array of such values."""
        for _ in range(self._few()):
            self.text()
            size = self.scalar("Q")
            count = self.scalar("Q")
            self._need(size * count)
            self.at += size * count

    def _few(self) -> int:
        count = int(self.scalar("i"))
        if not 0 <= count <= 1024:
            raise ModelFormatError(f"{self.name}: expected at most 1,024 optional fields, got {count}")
        return count

    def _need(self, size: int) -> None:
        left = len(self.content) - self.at
        if size > left:
            raise ModelFormatError(
                f"{self.name}: the treelite checkpoint is truncated or damaged: expected {size:,} more bytes at "
                f"{self.at:,}, got {left:,}"
            )


def read_treelite(content: bytes, name: str) -> Model:
    """Make a model of a checkpoint; `name` stands for the file in messages.

    A classifier gives what treelite's `gtil.predict` gives: two columns where treelite has two classes.

    Raises:
        ModelFormatError: the checkpoint is truncated or damaged, or has no trees.
        UnsupportedModelError: another major version, integer leaves, targets with different numbers of classes, a test
            for equality, or an unknown postprocessor.
    """
    cursor = _Cursor(content, name)
    header = _Header(cursor)
    builder = ForestBuilder(
        n_features=header.n_features,
        n_outputs=header.n_targets * header.n_classes,
        float32_rows=header.dtype.itemsize == 4,
        base=[float(score) * header.stretch for score in header.base_scores],
        link=header.link,
        link_parameter=header.link_parameter,
        scale=header.scale(),
    )
    for index in range(header.n_trees):
        _read_tree(builder, header, index, cursor, f"{name}, tree {index}")
    if cursor.at != len(content):
        raise ModelFormatError(f"{name}: {len(content) - cursor.at:,} bytes follow the last tree")
    return builder.model(
        format="treelite",
        digest=hashlib.sha256(content).hexdigest(),
        feature_names=None,
        details={
            "objective": header.task,
            "link": header.link.name.lower(),
            "treelite_version": header.version,
        },
    )


class _Header:
    """The fields in front of the trees."""

    def __init__(self, cursor: _Cursor) -> None:
        name = cursor.name
        major, minor, patch = (cursor.scalar("i") for _ in range(3))
        self.version = f"{major}.{minor}.{patch}"
        if major != 4:
            raise UnsupportedModelError(
                f"{name}: a checkpoint of treelite {self.version}, expected 4; load and save it with treelite 4"
            )
        threshold, leaf = cursor.scalar("B"), cursor.scalar("B")
        if threshold not in _TYPES or threshold != leaf:
            raise UnsupportedModelError(
                f"{name}: expected thresholds and leaves of one type, float32 or float64, got types {threshold} "
                f"and {leaf}"
            )
        self.dtype = _TYPES[threshold]
        self.n_trees = self._within("num_tree", cursor.scalar("Q"), 1, 2**24, name)
        self.n_features = self._within("num_feature", cursor.scalar("i"), 1, 2**24, name)
        task = self._within("task_type", cursor.scalar("B"), 0, len(_TASKS) - 1, name)
        self.task = _TASKS[task]
        self.averages = bool(cursor.scalar("B"))
        self.n_targets = self._within("num_target", cursor.scalar("i"), 1, 1024, name)
        classes = cursor.array("<i4")
        if classes.size != self.n_targets or len(set(classes.tolist())) != 1:
            raise UnsupportedModelError(
                f"{name}: expected the same number of classes for each of {self.n_targets} targets, got "
                f"{classes[:8].tolist()}"
            )
        self.n_classes = self._within("num_class", int(classes[0]), 1, 1024, name)
        self._within("targets times classes", self.n_targets * self.n_classes, 1, 1024, name)
        shape = cursor.array("<i4")
        self.leaf_shape = tuple(shape.tolist())
        if self.leaf_shape not in {
            (targets, classes) for targets in (1, self.n_targets) for classes in (1, self.n_classes)
        }:
            raise ModelFormatError(f"{name}: leaves of shape {self.leaf_shape} do not fit the outputs")
        self.target, self.cls = cursor.array("<i4"), cursor.array("<i4")
        for of, ids, count in (
            ("target", self.target, self.n_targets),
            ("class", self.cls, self.n_classes),
        ):
            if ids.size != self.n_trees or ids.min() < -1 or ids.max() >= count:
                raise ModelFormatError(f"{name}: expected a {of} of each tree from -1 to {count - 1}")
        self._read_link(cursor)
        self.base_scores = cursor.array("<f8")
        if (
            self.base_scores.size != self.n_targets * self.n_classes
            or not np.isfinite(self.base_scores).all()
        ):
            raise ModelFormatError(f"{name}: expected a finite base score for each output")
        cursor.text()  # attributes
        cursor.skip_optional()
        self.name = name

    def _read_link(self, cursor: _Cursor) -> None:
        postprocessor = cursor.text()
        alpha, ratio = cursor.scalar("f"), cursor.scalar("f")
        if postprocessor not in _LINKS:
            raise UnsupportedModelError(
                f"{cursor.name}: postprocessor {postprocessor[:40]!r} is not known; expected {', '.join(_LINKS)}"
            )
        if postprocessor == "softmax" and self.n_targets > 1:
            raise UnsupportedModelError(f"{cursor.name}: softmax over several targets")
        self.link = _LINKS[postprocessor]
        self.link_parameter = float(alpha) if self.link is Link.SIGMOID else 1.0
        self.stretch = 1.0
        if postprocessor == "exponential_standard_ratio":  # 2 ** (-x / ratio)
            if not ratio > 0:
                raise ModelFormatError(f"{cursor.name}: expected a positive ratio_c, got {ratio}")
            self.stretch = -math.log(2.0) / ratio
        if not math.isfinite(self.link_parameter):
            raise ModelFormatError(f"{cursor.name}: expected a finite sigmoid_alpha, got {alpha}")

    def outputs_of(self, tree: int) -> list[int]:
        """The outputs that a tree adds to, in order of its leaf's values."""
        targets = range(self.n_targets) if self.target[tree] < 0 else [int(self.target[tree])]
        classes = range(self.n_classes) if self.cls[tree] < 0 else [int(self.cls[tree])]
        if (len(targets), len(classes)) != self.leaf_shape:
            raise ModelFormatError(
                f"{self.name}, tree {tree}: leaves of shape {self.leaf_shape} for {len(targets)} targets and "
                f"{len(classes)} classes"
            )
        return [target * self.n_classes + k for target in targets for k in classes]

    def scale(self) -> float:
        """The factor of the sums: an average divides by the number of trees that add to an output."""
        if not self.averages:
            return self.stretch
        counts = np.zeros(self.n_targets * self.n_classes, np.int64)
        for tree in range(self.n_trees):
            counts[self.outputs_of(tree)] += 1
        if counts.min() != counts.max():
            raise UnsupportedModelError(f"{self.name}: averages over different numbers of trees")
        return self.stretch / int(counts[0])

    @staticmethod
    def _within(what: str, value: int, low: int, high: int, name: str) -> int:
        if not low <= value <= high:
            raise ModelFormatError(f"{name}: expected {what} from {low} to {high:,}, got {value:,}")
        return value


def _read_tree(builder: ForestBuilder, header: _Header, index: int, cursor: _Cursor, where: str) -> None:
    n_nodes = cursor.scalar("i")
    cursor.scalar("B")  # has_categorical_split: the nodes say so themselves
    kinds: dict[str, Any] = {
        "kind": "i1",
        "left": "<i4",
        "right": "<i4",
        "feature": "<i4",
        "default_left": "u1",
        "leaf": header.dtype,
        "threshold": header.dtype,
        "compare": "i1",
        "members_right": "u1",
    }
    node = {name: cursor.array(dtype) for name, dtype in kinds.items()}
    vector, vector_begin, vector_end = cursor.array(header.dtype), cursor.array("<u8"), cursor.array("<u8")
    categories, first, last = cursor.array("<u4"), cursor.array("<u8"), cursor.array("<u8")
    for dtype in ("<u8", "u1", "<f8", "u1", "<f8", "u1"):  # statistics of training
        cursor.array(dtype)
    cursor.skip_optional()
    cursor.skip_optional()
    if n_nodes < 1 or any(array.size != n_nodes for array in node.values()):
        raise ModelFormatError(f"{where}: expected {n_nodes} values of each field of its nodes")
    split = node["kind"] != _LEAF
    if np.any((node["kind"] < _LEAF) | (node["kind"] > _CATEGORICAL)):
        raise ModelFormatError(f"{where}: a node is neither leaf, numerical nor categorical test")
    children = np.concatenate([node["left"][split], node["right"][split]])
    if children.size and (children.min() < 0 or children.max() >= n_nodes):
        raise ModelFormatError(f"{where}: a child is not one of its {n_nodes} nodes")
    left, right, threshold, rule = _tests(node, where)
    for at in np.flatnonzero(node["kind"] == _CATEGORICAL):
        if not 0 <= at < first.size or not first[at] <= last[at] <= categories.size:
            raise ModelFormatError(f"{where}: the categories of node {at} lie outside the list")
        threshold[at] = builder.add_set(_words(categories[int(first[at]) : int(last[at])], where))
    number = np.where(split, np.cumsum(split) - 1, ~(np.cumsum(~split) - 1))
    leaves = _leaves(node["leaf"], vector, vector_begin, vector_end, np.flatnonzero(~split), header, where)
    for output, values in zip(header.outputs_of(index), leaves, strict=True):
        builder.add_tree(
            output,
            feature=node["feature"][split],
            threshold=threshold[split],
            left=number[left[split]],
            right=number[right[split]],
            rule=rule[split],
            leaf=values.astype(np.float64),
        )


def _tests(
    node: dict[str, npt.NDArray[Any]], where: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Left, right, threshold and rule of each node, with every numerical test turned into `x <= threshold`."""
    compare, numerical = node["compare"], node["kind"] == _NUMERICAL
    if np.any(numerical & ((compare < _LESS) | (compare > _GREATER_EQUAL))):
        raise UnsupportedModelError(f"{where}: a test for equality")
    # `x < t` is `x <= the number before t`; `x > t` is what `x <= t` sends the other way.
    strict = numerical & ((compare == _LESS) | (compare == _GREATER_EQUAL))
    turned = numerical & ((compare == _GREATER) | (compare == _GREATER_EQUAL))
    before = np.nextafter(node["threshold"], node["threshold"].dtype.type(-np.inf))
    threshold = np.where(strict, before, node["threshold"]).astype(np.float64)
    if np.any(np.isneginf(threshold[strict])):
        raise UnsupportedModelError(f"{where}: a split at minus infinity")
    left = np.where(turned, node["right"], node["left"])
    right = np.where(turned, node["left"], node["right"])
    missing_left = (node["default_left"] != 0) ^ turned
    categorical = node["kind"] == _CATEGORICAL
    rule = np.where(missing_left, int(Rule.MISSING_LEFT), 0)
    rule |= np.where(categorical, int(Rule.CATEGORICAL), int(Rule.MISSING_NAN))
    rule |= np.where(categorical & (node["members_right"] == 0), int(Rule.MEMBERS_LEFT), 0)
    return left, right, threshold, rule


def _words(members: npt.NDArray[np.uint32], where: str) -> npt.NDArray[np.uint32]:
    if members.size and members.max() >= CATEGORIES_MAX:
        raise ModelFormatError(f"{where}: a category is not below {CATEGORIES_MAX:,}")
    words = np.zeros(int(members.max(initial=0)) // 32 + 1, np.uint32)
    np.bitwise_or.at(words, members // 32, np.uint32(1) << (members % 32))
    return words


def _leaves(
    scalar: npt.NDArray[Any],
    vector: npt.NDArray[Any],
    begin: npt.NDArray[np.uint64],
    end: npt.NDArray[np.uint64],
    nodes: npt.NDArray[np.intp],
    header: _Header,
    where: str,
) -> npt.NDArray[Any]:
    """[values a leaf, leaves]."""
    size = math.prod(header.leaf_shape)
    if size == 1 and not vector.size:
        return scalar[nodes][None]
    if begin.size < scalar.size or end.size < scalar.size:
        raise ModelFormatError(f"{where}: expected the place of each leaf's {size} values")
    first, last = begin[nodes].astype(np.int64), end[nodes].astype(np.int64)
    if np.any((last - first != size) | (first < 0) | (last > vector.size)):
        raise ModelFormatError(f"{where}: expected leaves of {size} values within {vector.size}")
    return vector[first[None] + np.arange(size)[:, None]]
