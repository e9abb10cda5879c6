"""The encoders of scikit-learn, one column at a time: categories to codes, and codes to columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import ProgramError
from engine.transform import number_ops, text_ops
from engine.transform.ops import Op
from engine.transform.plan import NUMBER, TEXT
from engine.transform.sklearn_columns import Block, Column, Columns, class_name, columns_of, is_missing
from engine.transform.spec import Feature


@dataclass(frozen=True)
class _Known:
    """The categories that an encoder knows for one column.

    Attributes:
        kind: TEXT or NUMBER.
        keys: the categories that are not missing: strings as fitted, or numbers, rising.
        places: the index of each key in the encoder's categories.
        missing: the index of the missing category, None if there is none.
    """

    kind: str
    keys: tuple[Any, ...]
    places: tuple[int, ...]
    missing: int | None

    def map(self, codes: Sequence[float], *, unknown: float, missing: float, refuse: str | None) -> Op:
        """Return the op that gives codes[i] for category i. NaN is a code as any other."""
        values = tuple(float(codes[place]) for place in self.places)
        fields = {
            "values": values,
            "unknown": _or_none(unknown),
            "missing": _or_none(missing),
            "refuse": refuse,
        }
        if self.kind == TEXT:
            return text_ops.Map(self.keys, **fields)  # type: ignore[arg-type]
        return number_ops.MapNumber(self.keys, **fields)  # type: ignore[arg-type]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _known(step: Any, place: int, column: Column) -> _Known:
    categories = list(step.categories_[place])
    missing = [i for i, value in enumerate(categories) if is_missing(value)]
    if len(missing) > 1:
        raise ProgramError(
            f"{class_name(step)}: None and NaN are two of its categories, and one in a feature program; replace one "
            f"of them in the table, and fit again"
        )
    if (
        missing
        and column.feature is not None
        and column.feature.ops[-1:]
        and column.feature.ops[-1].op == "impute"
    ):
        raise ProgramError(
            f"{class_name(step)}: {categories[missing[0]]!r} is one of its categories though column {column.name!r} "
            f"was imputed; SimpleImputer(missing_values=nan) leaves None in place, and a feature program does not. "
            f"Turn None into NaN in the table, and fit again"
        )
    places = [i for i in range(len(categories)) if i not in missing]
    present = [categories[i] for i in places]
    where = missing[0] if missing else None
    if present and all(isinstance(value, str) for value in present):
        return _Known(TEXT, tuple(map(str, present)), tuple(places), where)
    if not all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in present):
        raise ProgramError(
            f"{class_name(step)}: expected categories that are all texts or all numbers, got {present[:5]!r}; turn the "
            f"column into text, and fit again"
        )
    pairs = sorted((float(value), i) for value, i in zip(present, places, strict=True))
    return _Known(NUMBER, tuple(key for key, _ in pairs), tuple(i for _, i in pairs), where)


def _grouping(step: Any, place: int, count: int) -> tuple[list[int], int | None]:
    """Return the code of each category after rare ones are grouped, and the code of the group if there is one."""
    if getattr(step, "_infrequent_enabled", False):
        mapping = step._default_to_infrequent_mappings[place]
        if mapping is not None:
            return [int(code) for code in mapping], int(mapping[step._infrequent_indices[place][0]])
    return list(range(count)), None


def one_hot(column: Column, step: Any, place: int) -> Columns:
    """Return the columns that a OneHotEncoder makes of its column `place`."""
    known = _known(step, place, column)
    count = len(step.categories_[place])
    codes, group = _grouping(step, place, count)
    names = {code: str(step.categories_[place][i]) for i, code in enumerate(codes)}
    if group is not None:
        names[group] = "infrequent_sklearn"
    grouped = group is not None and step.handle_unknown in ("infrequent_if_exist", "warn")
    unknown = group if grouped and group is not None else -1
    dropped = getattr(step, "_drop_idx_after_grouping", None)
    drop = None if dropped is None else dropped[place]
    kept = [code for code in range(max(codes) + 1) if code != drop]
    # The output column of each code; -1 where it has none.
    output = {code: i for i, code in enumerate(kept)}
    outputs = [output.get(code, -1) for code in codes]
    unknown = output.get(unknown, -1)
    missing = unknown if known.missing is None else outputs[known.missing]
    refuse = _refuses(step, known)
    if not kept:
        return []
    base = column.of_kind(known.kind)
    is_plain = known.kind == TEXT and known.missing is None and refuse is None and unknown == -1
    if is_plain and outputs == list(range(count)):
        feature = base.then(text_ops.OneHot(known.keys))
    else:
        op = known.map(outputs, unknown=unknown, missing=missing, refuse=refuse)
        feature = base.then(op).then(number_ops.OneHotCodes(len(kept), tuple(names[code] for code in kept)))

    def single(i: int) -> Feature:
        flags = [float(code == i) for code in outputs]
        op = known.map(flags, unknown=float(unknown == i), missing=float(missing == i), refuse=refuse)
        return base.then(op)

    return columns_of(column.name, Block(feature, len(kept), single))


def ordinal(column: Column, step: Any, place: int) -> Columns:
    """Return the column that an OrdinalEncoder makes of its column `place`."""
    known = _known(step, place, column)
    codes, _ = _grouping(step, place, len(step.categories_[place]))
    refuse = _refuses(step, known)
    unknown = math.nan if step.unknown_value is None else float(step.unknown_value)
    missing = unknown if known.missing is None else float(step.encoded_missing_value)
    return [column.then(known.map(codes, unknown=unknown, missing=missing, refuse=refuse))]


def _refuses(step: Any, known: _Known) -> str | None:
    """Return which values an encoder with handle_unknown="error" refuses, as the field of a `map`."""
    if step.handle_unknown != "error":
        return None
    return "unknown" if known.missing is not None else "unknown_or_missing"
