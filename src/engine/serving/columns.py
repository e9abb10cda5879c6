"""The order of an engine's columns: one for all its versions, whatever order each model was trained on.

A row reaches every model of an engine in one layout, and the monitor sees that layout. The first version with names
sets it: by its feature program's outputs, its primary's `feature_names`, or its fallback's where the primary has none.
A model whose own columns stand in another order gets each row reordered. A model that reads other columns is refused.
Placeholders of a library (`f0`, `Column_0`) are no names, and such a model reads by position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine._common.tables import Columns as Table
from engine.errors import ConfigError, InputError
from engine.model import Model, _scorer
from engine.model import rows as by_name

NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The layout of the rows of one version.

    Attributes:
        names: of the columns in order, as `engine.model.rows` takes them; None where no model knows any.
        known: somebody gave the names, so rows are matched by them.
        categories: name of a categorical column -> its categories in the order of their codes, or None.
    """

    names: tuple[str, ...] | None
    known: bool
    categories: Mapping[str, Any] | None


def columns_of(model: Model, fallback: Model | None, features: Any, before: Columns | None) -> Columns:
    """The layout of a version's rows.

    Args:
        model, fallback: the version's models.
        features: its feature program, or None.
        before: the layout of the version that serves now, None for the first.

    Raises:
        ConfigError: primary and fallback have different codes for the categories of a column.
    """
    if features is not None:
        made = getattr(features, "output_names", None) or getattr(
            getattr(features, "program", None), "output_names", None
        )
        return Columns(tuple(made) if made else None, False, None)
    categories = _categories(model, fallback)
    if before is not None and before.known:
        return Columns(before.names, True, categories)
    for each in (model, fallback):
        if each is not None and by_name.known(each.feature_names):
            return Columns(each.feature_names, True, categories)
    return Columns(model.feature_names, False, categories)


def order_of(model: Model, role: str, columns: Columns, *, strict: bool = True) -> list[int] | None:
    """The column of the layout that is the model's i-th; None where both have one order, or either knows no names.

    Raises:
        ConfigError: the model reads other columns, and `strict`.
    """
    if not by_name.known(columns.names) or not by_name.known(model.feature_names):
        return None
    ours, its = [[_plain(name) for name in names or ()] for names in (columns.names, model.feature_names)]
    if ours == its:
        return None
    if sorted(ours) == sorted(its):
        return [ours.index(name) for name in its]
    if strict:
        raise ConfigError(
            f"the {role} reads other columns than this engine's rows have: it has {_listed(its, ours)}, and lacks "
            f"{_listed(ours, its)}. If only the names differ, give it these: load_model(…, feature_names=[…]); else "
            f"make an Engine of its own for it"
        )
    return None


def scorer_of(model: Model, role: str, columns: Columns, *, strict: bool = True) -> Any:
    """The model's scorer for rows in this layout. Errors as `order_of`."""
    order = order_of(model, role, columns, strict=strict)
    return model.scorer if order is None else _scorer.reordered(model.scorer, order)


def is_named(rows: Any) -> bool:
    """Whether rows, or one row, are of a kind that has names. Raise InputError for a table that is not read yet."""
    if hasattr(rows, "collect_schema") and hasattr(rows, "collect"):
        raise InputError(f"{type(rows).__name__} has no rows before it is collected: pass rows.collect()")
    return by_name.named(rows)


def is_series(value: Any) -> bool:
    """Whether this is a row of pandas, named by its index."""
    return all(hasattr(value, name) for name in ("iloc", "index", "items", "dtype"))


def records_of(rows: Any) -> list[Any]:
    """Rows with names, for a feature program: a list of one mapping a row."""
    if is_series(rows):
        return [dict(rows.items())]
    if isinstance(rows, list | tuple):
        return [dict(row.items()) if is_series(row) else row for row in rows]
    if isinstance(rows, Mapping) and not any(_is_column(value) for value in rows.values()):
        return [rows]
    table = Table(rows)
    columns = [_values(table[name]) for name in table.names]
    lengths = {name: len(column) for name, column in zip(table.names, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns differ in length: {lengths}")
    return [dict(zip(table.names, row, strict=True)) for row in zip(*columns, strict=True)]


def plain_structured(rows: Any) -> Any:
    """Records of NumPy, or one of them, as a structured array [n]."""
    return np.asarray(rows).view(np.ndarray).reshape(-1)


def require_all(row: Mapping[Any, Any], names: Sequence[str]) -> None:
    """Raise InputError, which names them, if a mapping lacks some of these features."""
    has = {_plain(str(key)) for key in row}
    if lacking := [name for name in names if _plain(name) not in has]:
        raise InputError(
            f"the row lacks {len(lacking)} of the model's {len(names)} features: {_listed(lacking, ())}; it has: "
            f"{_listed([str(key) for key in row], ())}"
        )


def unreadable(rows: Any, error: Exception) -> InputError:
    """The error for rows whose own type raised one."""
    return InputError(
        f"cannot read rows from {type(rows).__name__}: {type(error).__name__}: {str(error)[:200]}"
    )


def warn_lost(rows: Any, names: Sequence[str] | None) -> None:
    """Warn of the first whole number of these rows, [n, n_features], that float32 does not hold."""
    by_name.warn_lost(rows, names)


def _is_column(value: Any) -> bool:
    return (
        hasattr(value, "__len__")
        and not isinstance(value, str | bytes)
        and getattr(value, "shape", None) != ()
    )


def _values(column: Any) -> list[Any]:
    """A column as a list of plain values."""
    for name in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, name):
            found: list[Any] = getattr(column, name)()
            return found
    return list(column)


def same_columns(one: Model, other: Model) -> bool:
    """Whether two models read the same columns, in any order, as far as they know names."""
    names = [each.feature_names for each in (one, other)]
    if not all(map(by_name.known, names)):
        return True
    its = [sorted(map(_plain, each or ())) for each in names]
    return its[0] == its[1]


def _categories(model: Model, fallback: Model | None) -> Mapping[str, Any] | None:
    if fallback is None or fallback.categories is None:
        return model.categories
    both = dict(fallback.categories)
    for name, codes in (model.categories or {}).items():
        if name in both and both[name] != codes:
            raise ConfigError(
                f"primary and fallback have different codes for the categories of column {name!r}, so one row cannot "
                f"serve both: train both on one table"
            )
        both[name] = codes
    return both


def _plain(name: str) -> str:
    return re.sub(r"\s", "_", name)  # LightGBM writes blanks as underscores


def _listed(names: Sequence[str], without: Sequence[str]) -> str:
    found = [name for name in names if name not in set(without)]
    more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
    return ", ".join(map(repr, found[:NAMES_SHOWN])) + more if found else "none"
