"""Forests between a file and native memory: the builder that readers of trees fill, and the `Model` that it makes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelFormatError
from engine.model import _forest
from engine.model.model import Model


class Link(enum.IntEnum):
    """The function from a row's raw sums to its answer; csrc/model/forest/forest.hpp has the formula of each."""

    IDENTITY = 0
    SIGMOID = 1
    EXPONENTIAL = 2
    SOFTMAX = 3
    SIGNED_SQUARE = 4
    LOG1P_EXP = 5
    POSITIVE = 6
    ARGMAX = 7
    ANOMALY = 8


class Rule(enum.IntFlag):
    """Bits of one split: the side of a missing value, which values are missing, how a category set is read."""

    MISSING_LEFT = 1
    MISSING_NAN = 2
    MISSING_ZERO = 4
    CATEGORICAL = 8
    MEMBERS_LEFT = 16
    TRUNCATES = 32


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.empty(0, dtype)


@dataclass
class ForestBuilder:
    """Collects trees one by one, and makes a model of them.

    Splits and leaves are numbered across all trees; a child c < 0 is leaf ~c.

    Attributes:
        n_features: values a row.
        n_outputs: raw sums a row.
        float32_rows: the trainer compares in float32.
        base: [n_outputs], added to the sums.
        link: applied to the sums at the end.
        link_parameter: the link's own number, such as the slope of a sigmoid.
        scale: multiplies the sums before `base` is added, for forests that average.
        n_splits, n_leaves, n_sets, n_set_words: counts so far.
    """

    n_features: int
    n_outputs: int
    float32_rows: bool
    base: Sequence[float]
    link: Link = Link.IDENTITY
    link_parameter: float = 1.0
    scale: float = 1.0
    n_splits: int = 0
    n_leaves: int = 0
    n_sets: int = 0
    n_set_words: int = 0
    _root: list[int] = field(default_factory=list)
    _output: list[int] = field(default_factory=list)
    _parts: dict[str, list[npt.NDArray[Any]]] = field(
        default_factory=lambda: {
            name: [] for name in ("feature", "threshold", "left", "right", "rule", "leaf")
        }
    )
    _set_begin: list[int] = field(default_factory=lambda: [0])
    _set_words: list[npt.NDArray[np.uint32]] = field(default_factory=list)

    def add_set(self, words: npt.NDArray[np.uint32]) -> int:
        """Add a category set and return its number. Bit c % 32 of word c // 32 stands for category c."""
        self._set_words.append(words)
        self.n_set_words += len(words)
        self._set_begin.append(self.n_set_words)
        self.n_sets += 1
        return self.n_sets - 1

    def add_tree(
        self,
        output: int,
        *,
        feature: npt.NDArray[Any],
        threshold: npt.NDArray[Any],
        left: npt.NDArray[Any],
        right: npt.NDArray[Any],
        rule: npt.NDArray[Any],
        leaf: npt.NDArray[Any],
    ) -> None:
        """Add a tree.

        Args:
            output: the raw sum that its leaves add to.
            feature: [splits] column numbers.
            threshold: [splits]; a row goes left where x <= threshold. For a category set: its number.
            rule: [splits] bits of Rule.
            left, right: [splits] children, numbered within the tree. Split 0 is the root; leaf ~0 where there is none.
            leaf: [leaves] values.

        Raises:
            ModelFormatError: a child or feature number is out of range. Native code checks the rest in `model`.
        """
        for children in (left, right):
            if children.size and (children.min() < -len(leaf) or children.max() >= len(feature)):
                raise ModelFormatError(f"tree {len(self._root)}: a child is out of range")
        if feature.size and (feature.min() < 0 or feature.max() >= self.n_features):
            raise ModelFormatError(f"tree {len(self._root)}: a feature is not one of {self.n_features}")
        shift = np.array([-self.n_leaves, self.n_splits], np.int64)
        arrays = {
            "feature": feature,
            "threshold": threshold,
            "left": left + shift[(left >= 0).astype(np.intp)],
            "right": right + shift[(right >= 0).astype(np.intp)],
            "rule": rule,
            "leaf": leaf,
        }
        for name, array in arrays.items():
            self._parts[name].append(array)
        self._root.append(self.n_splits if len(feature) else ~self.n_leaves)
        self._output.append(output)
        self.n_splits += len(feature)
        self.n_leaves += len(leaf)

    def feed(self, take: Callable[[bytes], object]) -> None:
        """Pass the content of the trees so far to `take`, for a digest."""
        take(repr((self._root, self._output, self._set_begin)).encode())
        for parts in [*self._parts.values(), self._set_words]:
            for part in parts:
                take(part.tobytes())

    def model(
        self,
        *,
        format: str,
        digest: str,
        feature_names: Sequence[str] | None,
        details: Mapping[str, Any],
        categories: Mapping[str, Sequence[Any]] | None = None,
    ) -> Model:
        """Make the model. Raise ModelFormatError where the arrays do not make trees.

        Args:
            format, digest, feature_names, categories: as the attributes of `Model`.
            details: facts for `describe()`, to which the forest's own are added.
        """
        forest = _forest.Forest(
            n_features=self.n_features,
            n_outputs=self.n_outputs,
            float32_rows=self.float32_rows,
            root=self._root,
            output=self._output,
            feature=_joined(self._parts["feature"], np.int32),
            threshold=_joined(self._parts["threshold"], np.float64),
            left=_joined(self._parts["left"], np.int32),
            right=_joined(self._parts["right"], np.int32),
            rule=_joined(self._parts["rule"], np.uint8),
            leaf=_joined(self._parts["leaf"], np.float64),
            set_begin=self._set_begin,
            set_words=_joined(self._set_words, np.uint32),
            base=self.base,
            scale=self.scale,
            link=int(self.link),
            link_parameter=self.link_parameter,
        )
        return ForestModel(
            forest,
            format=format,
            digest=digest,
            feature_names=feature_names,
            details={**details, **forest.describe()},
            categories=categories,
        )


class ForestModel(Model):
    """A model made of trees.

    Attributes:
        forest: the native forest, through which tests and benchmarks score by one layout.
    """

    __slots__ = ("forest",)

    def __init__(self, forest: _forest.Forest, **facts: Any) -> None:
        super().__init__(forest.scorer, **facts)
        self.forest = forest
