"""Columns out of whatever a caller calls a table, recognised by what it can do: nothing is imported for it.

Read are: a mapping of columns, a pandas or Polars data frame, a pyarrow Table or RecordBatch, a NumPy structured array,
and a list of mappings (one a row). A column is a NumPy array, a Series, an Arrow array or any sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core._program import TextColumn, number_column, text_column, text_values
from engine.errors import InputError, InputTypeError


class Table:
    """A table of a known number of rows, read column by column under the names a program asks for.

    Raises InputTypeError for something that is not a table, InputError naming the column that is missing or whose
    length differs from the first one's.
    """

    def __init__(self, source: Any, names: Iterable[str], *, refuse_missing: bool = False) -> None:
        self._columns: dict[str, Any] = {}
        self.n_rows = 0
        take = _columns_of(source, refuse_missing)
        for position, name in enumerate(names):
            column = take(name)
            ndim = getattr(column, "ndim", 1)
            if isinstance(column, (str, bytes)) or not hasattr(column, "__len__") or ndim != 1:
                raise InputTypeError(
                    f"column {name!r}: expected a one-dimensional column, got {type(column).__name__}"
                )
            if position == 0:
                first, self.n_rows = name, len(column)
            elif len(column) != self.n_rows:
                raise InputError(
                    f"column {name!r} has {len(column)} rows where column {first!r} has {self.n_rows}: "
                    f"columns of one table are equally long"
                )
            self._columns[name] = column

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """float64 [n_rows], NaN for what is missing; borrowed where the column is that already."""
        values = _array_or_list(self._columns[name], name)
        if isinstance(values, np.ndarray):
            return np.ascontiguousarray(values, dtype=np.float64)
        return number_column(values, name)

    def texts(self, name: str) -> TextColumn:
        return text_column(self._objects(name), name)

    def text_values(self, name: str) -> list[str | None]:
        return text_values(self._objects(name), name)

    def _objects(self, name: str) -> list[Any]:
        values = _array_or_list(self._columns[name], name)
        return values.tolist() if isinstance(values, np.ndarray) else values


def _columns_of(source: Any, refuse_missing: bool) -> Any:
    """A function from name to column."""
    if isinstance(source, Mapping):
        names = list(source)
    elif hasattr(source, "column_names") and hasattr(source, "schema"):
        names = list(source.column_names)  # pyarrow Table; a RecordBatch has it by way of its schema
    elif getattr(getattr(source, "dtype", None), "names", None):
        names = list(source.dtype.names)
    elif hasattr(source, "columns") and hasattr(source, "__getitem__"):
        names = list(source.columns)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the table has two columns named {twice!r}")
    elif isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        return lambda name: _column_of_rows(source, name, refuse_missing)
    else:
        raise InputTypeError(
            f"expected a table (a mapping of columns, a pandas or Polars data frame, a pyarrow Table, a structured "
            f"array or a list of mappings), got {type(source).__name__}"
        )

    def take(name: str) -> Any:
        if name not in names:
            raise InputError(f"the table has no column {name!r}; it has: {', '.join(map(str, names[:20]))}")
        return source[name]

    return take


def _column_of_rows(rows: Sequence[Mapping[str, Any]], name: str, refuse_missing: bool) -> list[Any]:
    """Rows are read as `row` would read them: an absent key is a missing value, or is refused."""
    if refuse_missing:
        for index, row in enumerate(rows):
            if name not in row:
                raise InputError(
                    f"row {index}: input {name!r} is missing and the program was fitted with missing='error'"
                )
    return [row[name] if name in row else None for row in rows]


def _array_or_list(column: Any, name: str) -> npt.NDArray[Any] | list[Any]:
    """A NumPy array of numbers where the column is one, else its values as Python objects."""
    if not isinstance(column, np.ndarray) and hasattr(column, "to_numpy"):
        column = _numpy_of(column)
    if isinstance(column, np.ndarray):
        if column.dtype.kind in "biuf":
            return column
        if column.dtype.kind not in "OUT":
            raise InputTypeError(
                f"column {name!r}: expected numbers or strings, got dtype {column.dtype}; turn dates and durations "
                f"into numbers first"
            )
        return column.tolist()
    if hasattr(column, "to_pylist"):
        return column.to_pylist()
    return list(column)


def _numpy_of(column: Any) -> npt.NDArray[Any]:
    """A pandas, Polars or pyarrow column as NumPy: numbers as numbers with NaN for null, all else as objects."""
    if hasattr(column, "to_pylist"):  # pyarrow
        return column.to_numpy(zero_copy_only=False) if hasattr(column, "null_count") else np.asarray(column)
    dtype = column.dtype
    if hasattr(dtype, "is_numeric"):  # Polars
        return column.to_numpy() if dtype.is_numeric() else _objects(column.to_list())
    if isinstance(dtype, np.dtype):
        return column.to_numpy()
    # A pandas extension type. Its own numbers become float64 as int64 would; strings and categories become objects.
    if getattr(dtype, "kind", "O") in "biuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return _objects(column.tolist())


def _objects(values: list[Any]) -> npt.NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
