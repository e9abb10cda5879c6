"""Tables and rows of any common form as float32 columns; text becomes codes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MonitorError
from engine.monitor.drift.bins import UNKNOWN_CODE

# A column's values, and the texts that its codes stand for (none for numbers).
Values = tuple[npt.NDArray[np.float32], tuple[str, ...]]


def as_columns(table: Any, names: Sequence[str] | None = None, *, text: bool = True) -> dict[str, Values]:
    """The columns of a matrix, a mapping, a data frame, an Arrow table or a sequence of mappings, by name."""
    raw = _raw_columns(table, names)
    if names is not None:
        absent = [name for name in names if name not in raw]
        if absent:
            raise MonitorError(
                f"no column {', '.join(map(repr, absent))}; there are {', '.join(map(str, raw))}"
            )
        raw = {name: raw[name] for name in names}
    return {str(name): as_values(str(name), column) for name, column in raw.items()}


def _raw_columns(table: Any, names: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(table, Mapping):
        return dict(table)
    if hasattr(table, "column_names") and hasattr(table, "column"):  # pyarrow
        return {name: table.column(name).to_numpy() for name in table.column_names}
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):  # pandas, Polars
        return {name: table[name] for name in table.columns}
    if isinstance(table, Sequence) and table and isinstance(table[0], Mapping):
        found = names if names is not None else list(dict.fromkeys(key for row in table for key in row))
        return {name: [row.get(name) for row in table] for name in found}
    matrix = np.asarray(table)
    if matrix.dtype.names:
        return {name: matrix[name] for name in matrix.dtype.names}
    if matrix.ndim != 2:
        raise MonitorError(
            f"expected a table or a matrix of shape [n, n_features], got {type(table).__name__} of shape "
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
    """One column as float32 [n]; text as codes, the most frequent first."""
    array = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
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
        # pandas.NA does not even say whether it is itself; an array is no value at all.
        return type(value).__name__ == "NAType"


def _number(name: str, value: Any, codes: Mapping[str, float]) -> float:
    """A column with codes is one of texts: whatever stands there is looked up as text."""
    if _is_missing(value):
        return math.nan
    if codes:
        return codes.get(str(value), UNKNOWN_CODE)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise MonitorError(f"feature {name!r}: expected a number or None, got {value!r}") from None


def encode(
    features: Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any],
    names: tuple[str, ...],
    levels: Sequence[Mapping[str, float]],
) -> npt.NDArray[np.float32]:
    """One row as float32 [len(names)]; see Reference.row."""
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
        return np.ascontiguousarray(values, dtype=np.float32)


def named_outputs(outputs: Any) -> dict[str, Values]:
    """Outputs [n], [n, n_outputs] or a mapping, by name: "prediction" for one, "prediction:0", … for several."""
    if outputs is None:
        return {}
    if isinstance(outputs, Mapping):
        return {str(name): as_values(str(name), column) for name, column in outputs.items()}
    matrix = outputs.to_numpy() if hasattr(outputs, "to_numpy") else np.asarray(outputs)
    if matrix.ndim == 1:
        return {"prediction": as_values("prediction", matrix)}
    if matrix.ndim != 2:
        raise MonitorError(f"expected outputs [n] or [n, n_outputs], got shape {list(matrix.shape)}")
    if matrix.shape[1] == 1:
        return {"prediction": as_values("prediction", matrix[:, 0])}
    return {f"prediction:{i}": as_values("prediction", matrix[:, i]) for i in range(matrix.shape[1])}
