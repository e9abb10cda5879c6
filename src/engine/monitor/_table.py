"""Tables and rows of any common form as float32 columns; text becomes codes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.tables import KINDS, Columns
from engine.errors import InputError, InputTypeError, MonitorError
from engine.monitor._ids import WideIds
from engine.monitor.drift.bins import UNKNOWN_CODE

# A column's values, and the texts that its codes stand for (none for numbers).
Values = tuple[npt.NDArray[np.float32], tuple[str, ...]]


def as_columns(
    table: Any, names: Sequence[str] | None = None, categorical: Collection[str] = ()
) -> tuple[dict[str, Values], dict[str, WideIds]]:
    """Return the columns of a table or of a matrix by name, and the ids that float32 does not hold, by column.

    Args:
        table: any table that `engine._common.tables` reads, or a matrix [n, columns].
        names: of a matrix's columns ("f0", "f1", … where None); or which columns of a table, in that order.
        categorical: names of columns whose numbers are codes.

    Raises:
        MonitorError: no table, a name that is not there, two columns of one name, or values that are no numbers.
    """
    raw = _matrix_columns(table, names) if _is_matrix(table) else _table_columns(table, names)
    found, wide = {}, {}
    for name, column in ((str(name), column) for name, column in raw.items()):
        values, levels = as_values(name, column)
        if name in categorical and not levels and (ids := WideIds.of(_as_array(column))):
            values, wide[name] = ids.codes(_as_array(column), values), ids
        found[name] = values, levels
    return found, wide


def known_columns(table: Any, names: Sequence[str], wide: Mapping[str, WideIds]) -> dict[str, Values]:
    """Return those of the named columns that a table has. Raises MonitorError where it is no table.

    `wide`: codes of ids that float32 does not hold, by column.
    """
    columns = _columns(table, None)
    found = {}
    for name in set(columns.names).intersection(names):
        values, levels = as_values(name, columns[name])
        if name in wide and not levels:
            values = wide[name].codes(_as_array(columns[name]), values)
        found[name] = values, levels
    return found


def as_rows(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table as mappings by name. Raises MonitorError where it is no table."""
    columns = _columns(table, None)
    values = [_as_array(columns[name]).tolist() for name in columns.names]
    return [dict(zip(map(str, columns.names), row, strict=True)) for row in zip(*values, strict=True)]


def _columns(table: Any, names: Sequence[str] | None) -> Columns:
    try:
        return Columns(table, names)
    except (InputError, InputTypeError) as error:
        raise MonitorError(str(error)) from None


def _table_columns(table: Any, names: Sequence[str] | None) -> dict[str, Any]:
    columns = _columns(table, names)
    try:
        return {name: columns[name] for name in (columns.names if names is None else names)}
    except InputError as error:
        raise MonitorError(str(error)) from None


def _is_matrix(table: Any) -> bool:
    """Whether `table` is an array without names, or a sequence of other things than mappings."""
    if isinstance(table, Sequence) and not isinstance(table, str | bytes):
        return len(table) > 0 and not isinstance(table[0], Mapping)
    named = ("columns", "schema", "keys")
    return (
        hasattr(table, "__array__")
        and not any(hasattr(table, name) for name in named)
        and getattr(getattr(table, "dtype", None), "names", None) is None
    )


def _matrix_columns(table: Any, names: Sequence[str] | None) -> dict[str, Any]:
    matrix = np.asarray(table)
    if matrix.ndim != 2:
        raise MonitorError(
            f"expected a table ({KINDS}) or a matrix of shape [n, n_features], got {type(table).__name__} of shape "
            f"{list(matrix.shape)}"
        )
    if names is None:
        names = [f"f{i}" for i in range(matrix.shape[1])]
    if len(names) != matrix.shape[1]:
        raise MonitorError(f"expected {matrix.shape[1]} names, one a column of the matrix, got {len(names)}")
    if len(set(names)) != len(names):
        raise MonitorError(f"feature names must differ, got {list(names)}")
    return {name: matrix[:, i] for i, name in enumerate(names)}


def as_values(name: str, column: Any) -> Values:
    """Return one column as float32 [n]; text as codes, the most frequent text first. Raises MonitorError."""
    array = _as_array(column)
    if array.ndim != 1:
        raise MonitorError(f"column {name!r}: expected one value a row, got shape {list(array.shape)}")
    if array.dtype.kind in "fiub":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array, dtype=np.float32), ()
    if array.dtype.kind in "OUST":
        return _from_objects(name, array)
    raise MonitorError(
        f"column {name!r}: expected numbers or text, got dtype {array.dtype}; turn times into numbers first"
    )


def _as_array(column: Any) -> npt.NDArray[Any]:
    if not hasattr(column, "to_numpy"):
        return np.asarray(column)
    if hasattr(column, "null_count") and hasattr(column, "type"):
        # A pyarrow array copies only on request, and text and nulls need a copy.
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy())


def _from_objects(name: str, array: npt.NDArray[Any]) -> Values:
    values = array.tolist()
    if not any(isinstance(value, str) for value in values):
        return np.array([_number(name, value, {}) for value in values], dtype=np.float32), ()
    counts = Counter(str(value) for value in values if not _is_missing(value))
    levels = tuple(sorted(counts, key=lambda text: (-counts[text], text)))
    codes = {text: float(code) for code, text in enumerate(levels)}
    return np.array([_number(name, value, codes) for value in values], dtype=np.float32), levels


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        # pandas.NA has no answer to whether it differs from itself. An array has several, and is no missing value.
        return type(value).__name__ == "NAType"


def _number(name: str, value: Any, codes: Mapping[str, float] | WideIds) -> float:
    """Return a value as a float; in a column that has codes, the code of its text or id."""
    if _is_missing(value):
        return math.nan
    try:
        if isinstance(codes, WideIds):
            return codes.code(value)
        return codes.get(str(value), UNKNOWN_CODE) if codes else float(value)
    except (TypeError, ValueError, OverflowError):
        raise MonitorError(f"feature {name!r}: expected a number or None, got {value!r}") from None


def encode(
    features: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any],
    names: tuple[str, ...],
    levels: Sequence[Mapping[str, float] | WideIds],
    wide: Sequence[tuple[int, WideIds]] = (),
) -> npt.NDArray[np.float32]:
    """Return one row as float32 [len(names)]; `levels` has the code of each text or id, by column.

    `wide`: the places and codes of the columns of ids. See Reference.row.
    """
    if isinstance(features, Mapping):
        values: Any = [features.get(name) for name in names]
    elif isinstance(features, np.ndarray) and features.dtype.kind in "fiub":
        values = features
    else:
        values = list(features)
    shape = values.shape if isinstance(values, np.ndarray) else (len(values),)
    if shape != (len(names),):
        raise MonitorError(f"expected a row of {len(names)} features ({', '.join(names[:6])}), got {shape}")
    if not isinstance(values, np.ndarray):
        values = [
            value if type(value) is float and not codes else _number(name, value, codes)
            for name, value, codes in zip(names, values, levels, strict=True)
        ]
    with np.errstate(over="ignore"):
        row = np.array(values, dtype=np.float32)
    if isinstance(values, np.ndarray):
        for place, ids in wide:
            row[place] = ids.code(values[place])
    return row


def named_outputs(outputs: Any) -> dict[str, Values]:
    """Return outputs [n], [n, n_outputs] or a mapping, by name.

    Without names one output is "prediction", and several are "prediction:0", "prediction:1", ….
    """
    if outputs is None:
        return {}
    if isinstance(outputs, Mapping):
        return {str(name): as_values(str(name), column) for name, column in outputs.items()}
    matrix = _as_array(outputs)
    if matrix.ndim == 1:
        return {"prediction": as_values("prediction", matrix)}
    if matrix.ndim != 2:
        raise MonitorError(f"expected outputs [n] or [n, n_outputs], got shape {list(matrix.shape)}")
    if matrix.shape[1] == 1:
        return {"prediction": as_values("prediction", matrix[:, 0])}
    return {f"prediction:{i}": as_values("prediction", matrix[:, i]) for i in range(matrix.shape[1])}
