"""Labels: numbers to regress, or classes of any type that are encoded once, as codes from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import TrainingError

if TYPE_CHECKING:
    import pyarrow as pa

CLASSIFICATION, REGRESSION = "classification", "regression"
TASKS = (CLASSIFICATION, REGRESSION)
CLASSES_MAX = 1_000  # more distinct labels than this are no classes, but numbers, keys or free text
UNSEEN = -1.0  # code of a class that no row before the split has

Array = npt.NDArray[np.float64]
Label = str | bool | int | float


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Labels before and after a split, as numbers.

    Attributes:
        learn, judge: float64 [rows]. Classes are codes: the position of the label in `classes`, UNSEEN for a class that
            `classes` lacks.
        classes: the labels in the order of their codes, which is their own order; None for numbers.
    """

    learn: Array
    judge: Array
    classes: tuple[Label, ...] | None


def known(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.bool_]:
    """Return bool [rows], the rows that have a label: not null, and if it is a number, finite.

    Raises:
        TrainingError: the type can be no label.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_text(column.type) or pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        return np.asarray(pc.is_valid(column).to_numpy())
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return np.isfinite(pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy())
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=bool)
    if pa.types.is_dictionary(column.type):
        return known(pc.cast(column, column.type.value_type), name)
    raise TrainingError(f"the label column {name!r} must hold numbers, booleans or texts, got {column.type}")


def encoded(
    learn: pa.ChunkedArray, judge: pa.ChunkedArray, name: str, *, task: str | None, n_classes: int | None
) -> Encoded:
    """Return the labels of both parts as numbers. Codes come from the rows before the split alone.

    Texts and booleans are classes. Numbers are classes if the task is classification, or without a task if there are
    only 0 and 1, or two distinct whole numbers.

    Args:
        task: "classification", "regression", or None if the learner takes either.
        n_classes: number of classes that the learner was told; labels from 0 below it are then codes already.

    Raises:
        TrainingError: a regression of texts, only one class, or too many.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(learn.type):
        learn, judge = pc.cast(learn, learn.type.value_type), pc.cast(judge, judge.type.value_type)
    if _is_text(learn.type):
        if task == REGRESSION:
            raise TrainingError(
                f"the label column {name!r} must hold numbers for a regression, got {learn.type}; say "
                f'task="classification", or give a learner that classifies'
            )
        return _as_classes(learn.to_pylist(), judge.to_pylist(), name)
    numbers = _numbers(learn), _numbers(judge)
    if task == REGRESSION:
        return Encoded(*numbers, None)
    if pa.types.is_boolean(learn.type):
        return Encoded(*numbers, (False, True))
    distinct = np.unique(numbers[0])
    whole = pa.types.is_integer(learn.type)
    if np.isin(distinct, (0.0, 1.0)).all():
        # 0 and 1 are codes already, in any numeric type. A third label after the split makes them no others.
        if np.isin(numbers[1], (0.0, 1.0)).all() or task == CLASSIFICATION:
            later = np.where(np.isin(numbers[1], (0.0, 1.0)), numbers[1], UNSEEN)
            return Encoded(numbers[0], later, (0, 1) if whole else (0.0, 1.0))
        return Encoded(*numbers, None)
    if n_classes and task == CLASSIFICATION and set(distinct) <= set(range(n_classes)):
        later = np.where(np.isin(numbers[1], np.arange(n_classes)), numbers[1], UNSEEN)
        return Encoded(numbers[0], later, tuple(range(n_classes)))
    two = len(distinct) == 2 and bool((distinct == np.floor(distinct)).all())
    if task == CLASSIFICATION or (two and np.isin(numbers[1], distinct).all()):
        if whole:
            return _as_classes(learn.to_pylist(), judge.to_pylist(), name)
        return _as_classes(numbers[0].tolist(), numbers[1].tolist(), name)
    return Encoded(*numbers, None)


def _numbers(column: Any) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _as_classes(learn: list[Any], judge: list[Any], name: str) -> Encoded:
    classes = sorted(set(learn))
    if len(classes) < 2:
        raise TrainingError(
            f"the label column {name!r}: the {len(learn):,} rows before the split hold one class, {classes[0]!r}; at "
            f"least 2 are needed"
        )
    if len(classes) > CLASSES_MAX:
        raise TrainingError(
            f"the label column {name!r} has {len(classes):,} distinct labels; at most {CLASSES_MAX:,} are classes. "
            f'Numbers are learned with task="regression"'
        )
    codes = {label: float(code) for code, label in enumerate(classes)}
    return Encoded(
        np.array([codes[label] for label in learn]),
        np.array([codes.get(label, UNSEEN) for label in judge], dtype=np.float64),
        tuple(classes),
    )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
