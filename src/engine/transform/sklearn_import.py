"""Fitted scikit-learn transformers as the features of a program.

Learned values are taken over, not learned again. Anything that a program cannot reproduce is refused by name.
scikit-learn is not imported, because its objects are known by the names of their classes.

A matrix is a list of columns here, and a transformer turns one list into another. The kind of an input is open until a
transformer reads it as text or as a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import ProgramError
from engine.transform import number_ops, text_ops
from engine.transform.ops import Op
from engine.transform.plan import NUMBER, TEXT
from engine.transform.sklearn_columns import Block, Column, Columns, class_name, columns_of, is_missing
from engine.transform.sklearn_encoders import one_hot, ordinal
from engine.transform.spec import Feature


def input_names_of(transformer: Any) -> tuple[list[str], bool]:
    """Return the names of the columns that a fitted transformer or pipeline reads, and whether it knows them.

    One that was fitted on an array knows only their number: they are x0, x1, … then, as scikit-learn calls them.
    """
    for step in _first_steps(transformer):
        names = getattr(step, "feature_names_in_", None)
        if names is not None:
            return [str(name) for name in names], True
    for step in _first_steps(transformer):
        count = getattr(step, "n_features_in_", None)
        if count is not None:
            return [f"x{i}" for i in range(count)], False
    raise ProgramError(f"{class_name(transformer)} is not fitted: call its fit first")


def _first_steps(transformer: Any) -> list[Any]:
    """Return the object itself, and the parts of it that see the same columns."""
    if transformer is None or isinstance(transformer, str):
        return []
    found = [transformer]
    if _class_of(transformer) == "Pipeline":
        for _, step in transformer.steps:
            found += _first_steps(step)
            if step is not None and step != "passthrough":
                break
    elif _class_of(transformer) == "FeatureUnion":
        for _, part in transformer.transformer_list:
            found += _first_steps(part)
    return found


def features_of(transformer: Any) -> list[Feature]:
    """Return the fitted features of a transformer, in the order of its outputs.

    Raises:
        ProgramError: a transformer or an option that a program cannot reproduce; names it.
    """
    names, known = input_names_of(transformer)
    if not known:
        raise ProgramError(
            f"{class_name(transformer)} has no feature_names_in_: fit it on a data frame, so that its columns have "
            f"names"
        )
    return features_after([transformer], names)


def features_after(steps: Sequence[Any], names: Sequence[str]) -> list[Feature]:
    """Return the features of columns of these names after fitted transformers, one after the other.

    Raises:
        ProgramError: as `features_of`; also for a transformer that is not fitted, or drops every column.
    """
    columns = [Column(name, input=name) for name in names]
    for step in steps:
        columns = _apply(step, columns)
    if not columns:
        raise ProgramError("the transformers drop every column")
    return _distinct(_joined(columns))


def _joined(columns: Columns) -> list[Feature]:
    """Return the features of columns. A whole block, in its order, is one feature."""
    features = []
    place = 0
    while place < len(columns):
        column = columns[place]
        block = column.block
        run = columns[place : place + (block.size if block else 1)]
        if block is not None and [(other.block, other.place) for other in run] == [
            (block, i) for i in range(block.size)
        ]:
            features.append(block.feature.named(column.name))
            place += block.size
        else:
            name = column.name if block is None else f"{column.name}={column.place}"
            features.append(column.of_kind(column.feature.gives if column.feature else NUMBER).named(name))
            place += 1
    return features


def _distinct(features: list[Feature]) -> list[Feature]:
    """Return features of distinct names: the second of one name gets "#2"."""
    seen: Counter[str] = Counter()
    out = []
    for feature in features:
        seen[feature.label] += 1
        count = seen[feature.label]
        out.append(feature if count == 1 else feature.named(f"{feature.label}#{count}"))
    return out


def _apply(step: Any, columns: Columns) -> Columns:
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return columns
    if isinstance(step, str):
        raise ProgramError(f"expected a transformer, 'passthrough' or 'drop', got {step!r}")
    expected = getattr(step, "n_features_in_", len(columns))
    if expected != len(columns):
        raise ProgramError(
            f"{class_name(step)} was fitted on {expected} columns, and the steps before give {len(columns)}"
        )
    kind = _class_of(step)
    if kind in _MATRIX_READERS:
        return _MATRIX_READERS[kind](step, columns)
    if kind in _READERS:
        reader = _READERS[kind]
        return [made for place, column in enumerate(columns) for made in reader(column, step, place)]
    if any(base.__name__ == "SelectorMixin" for base in type(step).__mro__):
        return [column for column, chosen in zip(columns, step.get_support(), strict=True) if chosen]
    known = ", ".join(sorted([*_MATRIX_READERS, *_READERS]))
    raise ProgramError(
        f"{class_name(step)} has no counterpart in a feature program; known are: {known}, and selectors of columns. "
        f"Fit the pipeline without it, or apply it to the table before the pipeline, when training and when serving"
    )


def _class_of(transformer: Any) -> str:
    """Return the name of an object's scikit-learn class. A subclass that keeps `transform` counts as its base.

    Raises:
        ProgramError: a subclass that defines `transform` anew.
    """
    for base in type(transformer).__mro__:
        if base.__module__.startswith("sklearn."):
            return base.__name__
        if "transform" in vars(base):
            if any(other.__module__.startswith("sklearn.") for other in base.__mro__):
                raise ProgramError(
                    f"{class_name(transformer)} defines transform() anew, which a feature program cannot follow; use "
                    f"the scikit-learn class that it derives from"
                )
            break
    return class_name(transformer)


def _rejection(step: Any, option: str, way: str) -> ProgramError:
    return ProgramError(
        f"{class_name(step)} with {option}={getattr(step, option)!r} has no counterpart in a feature program; {way}"
    )


def _require_missing_is_nan(step: Any) -> None:
    if not is_missing(step.missing_values):
        raise _rejection(
            step, "missing_values", "mark missing values by NaN or None in the table, and fit again"
        )


# Transformers of a whole matrix


def _pipeline(step: Any, columns: Columns) -> Columns:
    for _, part in step.steps:
        columns = _apply(part, columns)
    return columns


def _part(part: Any, columns: Columns, prefix: str, weight: float | None) -> Columns:
    made = _apply(part, columns)
    if weight is not None:
        made = [column.then(number_ops.Affine(float(weight), 0.0)) for column in made]
    return [replace(column, name=f"{prefix}{column.name}") for column in made]


def _column_transformer(step: Any, columns: Columns) -> Columns:
    names = getattr(step, "feature_names_in_", None)
    weights = step.transformer_weights or {}
    out: Columns = []
    for label, part, chosen in step.transformers_:
        places = _places(chosen, names, len(columns))
        if not places or (isinstance(part, str) and part == "drop"):
            continue
        prefix = f"{label}__" if step.verbose_feature_names_out is not False else ""
        out += _part(part, [columns[place] for place in places], prefix, weights.get(label))
    return out


def _places(chosen: Any, names: Any, count: int) -> list[int]:
    """Return the indices of columns that a ColumnTransformer keeps as names, indices, a slice or a mask."""
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(
            chosen.stop, str
        ):  # a slice of names has both ends in it
            known = [str(name) for name in names]
            first = 0 if chosen.start is None else known.index(chosen.start)
            last = count if chosen.stop is None else known.index(chosen.stop) + 1
            return list(range(count))[first : last : chosen.step]
        return list(range(count))[chosen]
    flat = np.atleast_1d(np.asarray(chosen, dtype=object))
    if all(isinstance(one, (bool, np.bool_)) for one in flat):
        return [place for place, one in enumerate(flat) if one]
    places = []
    for one in flat:
        if isinstance(one, str):
            places.append([str(name) for name in names].index(one))
        else:
            places.append(int(one) % count)
    return places


def _feature_union(step: Any, columns: Columns) -> Columns:
    weights = step.transformer_weights or {}
    verbose = getattr(step, "verbose_feature_names_out", True)
    out: Columns = []
    for label, part in step.transformer_list:
        if not isinstance(part, str) or part != "drop":
            out += _part(part, columns, f"{label}__" if verbose else "", weights.get(label))
    return out


def _imputer(step: Any, columns: Columns) -> Columns:
    _require_missing_is_nan(step)
    out, kinds = [], []
    fill = getattr(step, "_fill_dtype", None)
    for column, value in zip(columns, step.statistics_, strict=True):
        kinds.append(TEXT if isinstance(value, str) else NUMBER)
        if is_missing(value):
            if step.keep_empty_features:
                out.append(column)
        elif isinstance(value, str):
            out.append(column.then(text_ops.ImputeText(value=str(value))))
        else:
            # Fitted on float32, scikit-learn fills in the value as float32.
            is_float = fill is not None and np.dtype(fill).kind == "f"
            filled = float(np.asarray(value, dtype=fill)) if is_float else float(value)
            out.append(column.then(number_ops.Impute(value=filled)))
    if step.add_indicator:
        out += _flags(step.indicator_, columns, kinds)
    return out


def _missing_indicator(step: Any, columns: Columns) -> Columns:
    _require_missing_is_nan(step)
    return _flags(step, columns, [column.feature.gives if column.feature else NUMBER for column in columns])


def _flags(indicator: Any, columns: Columns, kinds: Sequence[str]) -> Columns:
    made = []
    for place in indicator.features_:
        column = columns[int(place)]
        op: Op = text_ops.MissingText() if kinds[int(place)] == TEXT else number_ops.Missing()
        made.append(replace(column.then(op), name=f"missingindicator_{column.name}"))
    return made


# Transformers of one column at a time


def _standard(column: Column, step: Any, place: int) -> Columns:
    mean = 0.0 if not step.with_mean else float(step.mean_[place])
    std = 1.0 if step.scale_ is None else float(step.scale_[place])
    return [column.then(number_ops.Standardise(mean, std))]


def _min_max(column: Column, step: Any, place: int) -> Columns:
    made = column.then(number_ops.Affine(float(step.scale_[place]), float(step.min_[place])))
    low, high = step.feature_range
    return [made.then(number_ops.Clip(float(low), float(high))) if step.clip else made]


def _robust(column: Column, step: Any, place: int) -> Columns:
    centre = 0.0 if step.center_ is None else float(step.center_[place])
    scale = 1.0 if step.scale_ is None else float(step.scale_[place])
    return [column.then(number_ops.Robust(centre, scale))]


def _max_abs(column: Column, step: Any, place: int) -> Columns:
    made = column.then(number_ops.Standardise(0.0, float(step.scale_[place])))
    return [made.then(number_ops.Clip(-1.0, 1.0)) if getattr(step, "clip", False) else made]


def _binarizer(column: Column, step: Any, place: int) -> Columns:
    return [column.then(number_ops.Bucketize((float(step.threshold),), edge="right"))]


def _bins(column: Column, step: Any, place: int) -> Columns:
    edges = tuple(float(edge) for edge in step.bin_edges_[place][1:-1])
    code = column.of_kind(NUMBER).then(number_ops.Bucketize(edges))
    if step.encode == "ordinal":
        return [Column(column.name, feature=code)]
    n = len(edges) + 1

    def single(i: int) -> Feature:
        return code.then(number_ops.MapNumber((float(i),), (1.0,), unknown=0.0, missing=0.0))

    return columns_of(column.name, Block(code.then(number_ops.OneHotCodes(n)), n, single))


#: Functions of a FunctionTransformer -> the op that computes them.
_FUNCTIONS: tuple[tuple[Any, Op], ...] = ((np.log1p, number_ops.Log1p()), (np.sqrt, number_ops.Sqrt()))


def _function(column: Column, step: Any, place: int) -> Columns:
    if step.func is None:
        return [column]
    for known, op in _FUNCTIONS:
        if step.func is known and not step.kw_args:
            return [column.then(op)]
    raise _rejection(
        step,
        "func",
        "known are None, numpy.log1p and numpy.sqrt. Apply the function to the table before the pipeline, or write a "
        "spec with a function of your own (@engine.transform)",
    )


#: Turns a column into columns. Arguments: the column, the fitted transformer, the column's index in it.
Reader = Callable[[Column, Any, int], Columns]

_READERS: dict[str, Reader] = {
    "Binarizer": _binarizer,
    "FunctionTransformer": _function,
    "KBinsDiscretizer": _bins,
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "OneHotEncoder": one_hot,
    "OrdinalEncoder": ordinal,
    "RobustScaler": _robust,
    "StandardScaler": _standard,
}

_MATRIX_READERS: dict[str, Callable[[Any, Columns], Columns]] = {
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _feature_union,
    "MissingIndicator": _missing_indicator,
    "Pipeline": _pipeline,
    "SimpleImputer": _imputer,
}
