"""A fitted scikit-learn ColumnTransformer or Pipeline as the features of a program.

Learned values are taken over, not learned again. Anything that a program cannot reproduce is refused by name.
scikit-learn is not imported, because its objects are known by the names of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import ProgramError
from engine.transform import number_ops, text_ops
from engine.transform.ops import Op
from engine.transform.plan import TEXT
from engine.transform.sources import category, number
from engine.transform.spec import Feature

#: Appends a transformer to a feature. Arguments: the feature so far, the fitted transformer, the column's index in it.
Reader = Callable[[Feature, Any, int], Feature]


def features_of(transformer: Any) -> list[Feature]:
    """Return the fitted features, in the order of the transformer's outputs.

    Raises:
        ProgramError: a transformer or an option that a program cannot reproduce; names it.
    """
    names = getattr(transformer, "feature_names_in_", None)
    if names is None:
        raise ProgramError(
            f"{_kind(transformer)} has no feature_names_in_: fit it on a data frame, so that its columns have names"
        )
    if _kind(transformer) != "ColumnTransformer":
        return _read(transformer, [str(name) for name in names])
    if getattr(transformer, "transformer_weights", None):
        raise _refusal(transformer, "transformer_weights")
    features: list[Feature] = []
    for label, part, columns in transformer.transformers_:
        if not isinstance(part, str):
            features += _read(part, _names(columns, names), prefix=f"{label}__")
        elif part == "passthrough":
            features += [number(name).named(f"{label}__{name}") for name in _names(columns, names)]
        elif part != "drop":
            raise ProgramError(f"expected a transformer, 'passthrough' or 'drop', got {part!r}")
    return features


def _names(columns: Any, names: Any) -> list[str]:
    """Return the names of columns that a ColumnTransformer keeps as names, indices, a slice or a mask."""
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, slice):
        return [str(name) for name in np.asarray(names, dtype=object)[columns]]
    chosen = np.asarray(columns)
    if chosen.dtype.kind in "OUS":
        return [str(name) for name in columns]
    return [str(name) for name in np.asarray(names, dtype=object)[chosen]]


def _read(transformer: Any, names: list[str], prefix: str = "") -> list[Feature]:
    steps = [step for _, step in transformer.steps] if _kind(transformer) == "Pipeline" else [transformer]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    reads_text = any(_reads_text(step) for step in steps)
    features = []
    for place, name in enumerate(names):
        feature = category(name) if reads_text else number(name)
        for step in steps:
            reader = _READERS.get(_kind(step))
            if reader is None:
                raise ProgramError(
                    f"{_kind(step)} has no counterpart in a feature program; known are: {', '.join(sorted(_READERS))}"
                )
            feature = reader(feature, step, place)
        features.append(replace(feature, name=f"{prefix}{name}" if prefix else None))
    return features


def _reads_text(step: Any) -> bool:
    if _kind(step) == "SimpleImputer":
        return np.asarray(step.statistics_).dtype.kind in "OUS"
    return _kind(step) in ("OneHotEncoder", "OrdinalEncoder")


def _kind(transformer: Any) -> str:
    return type(transformer).__name__


def _refusal(step: Any, option: str) -> ProgramError:
    return ProgramError(
        f"{_kind(step)} with {option}={getattr(step, option)!r} has no counterpart in a feature program"
    )


def _require(step: Any, **expected: Any) -> None:
    for option, value in expected.items():
        if getattr(step, option, value) != value:
            raise _refusal(step, option)


def _imputer(feature: Feature, step: Any, place: int) -> Feature:
    _require(step, add_indicator=False, keep_empty_features=False)
    value = step.statistics_[place]
    if feature.gives == TEXT:
        return feature.impute_constant(str(value))
    missing = step.missing_values
    if not (isinstance(missing, float) and np.isnan(missing)):
        raise _refusal(step, "missing_values")
    if np.isnan(value):
        raise ProgramError(f"SimpleImputer dropped the column of {feature.label!r}: it had no value")
    return feature.impute_constant(float(value))


def _standard(feature: Feature, step: Any, place: int) -> Feature:
    mean = 0.0 if not step.with_mean else float(step.mean_[place])
    std = 1.0 if step.scale_ is None else float(step.scale_[place])
    return feature.then(number_ops.Standardise(mean, std))


def _min_max(feature: Feature, step: Any, place: int) -> Feature:
    _require(step, feature_range=(0, 1), clip=False)
    return feature.then(number_ops.MinMax(float(step.data_min_[place]), float(step.data_max_[place])))


def _robust(feature: Feature, step: Any, place: int) -> Feature:
    centre = 0.0 if step.center_ is None else float(step.center_[place])
    scale = 1.0 if step.scale_ is None else float(step.scale_[place])
    return feature.then(number_ops.Robust(centre, scale))


def _bins(feature: Feature, step: Any, place: int) -> Feature:
    edges = [float(edge) for edge in step.bin_edges_[place][1:-1]]
    feature = feature.bucketize(edges)
    if step.encode == "ordinal":
        return feature
    if step.encode != "onehot-dense":
        raise _refusal(step, "encode")
    return feature.then(number_ops.OneHotCodes(len(edges) + 1))


def _categories(step: Any, place: int) -> tuple[str, ...]:
    categories = step.categories_[place]
    if not all(isinstance(value, str) for value in categories):
        raise ProgramError(
            f"{_kind(step)}: expected categories that are texts, got {list(categories)[:5]}; impute missing ones first"
        )
    return tuple(map(str, categories))


def _one_hot(feature: Feature, step: Any, place: int) -> Feature:
    _require(step, drop=None, min_frequency=None, max_categories=None, sparse_output=False)
    return feature.then(text_ops.OneHot(_categories(step, place)))


def _ordinal(feature: Feature, step: Any, place: int) -> Feature:
    _require(step, handle_unknown="use_encoded_value", min_frequency=None, max_categories=None)
    op: Op = text_ops.Ordinal(_categories(step, place), unknown=float(step.unknown_value))
    return feature.then(op)


_READERS: dict[str, Reader] = {
    "SimpleImputer": _imputer,
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "KBinsDiscretizer": _bins,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
}
