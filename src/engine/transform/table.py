"""Columns out of whatever a caller calls a table, recognised by what it can do: nothing is imported for it.

Read are: a mapping of columns, a pandas or Polars data frame, a pyarrow Table or RecordBatch, a NumPy
structured array, and a list of mappings (one a row). A column is a NumPy array, a Series, an Arrow array or
any sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core._program import (
    TextColumn,
    arrow_text_column,
    number_column,
    text_column,
    text_values,
)
from engine.errors import InputError, InputTypeError

ARROW_NUMBERS = frozenset(
    [
        "float",
        "double",
        "halffloat",
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
)


class Table:
    """A table of a known number of rows, read column by column under the names a program asks for.

    Raises InputTypeError for something that is not a table, InputError naming the column that is missing or
    whose length differs from the first one's.
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
        values = _numbers_of(self._columns[name], name)
        if isinstance(values, np.ndarray):
            return np.ascontiguousarray(values, dtype=np.float64)
        return number_column(values, name)

    def texts(self, name: str) -> TextColumn:
        """Texts as the native program reads them; Arrow strings are read in place."""
        column = self._columns[name]
        chunks = _arrow_texts(column)
        if chunks is not None:
            return arrow_text_column(chunks)
        return text_column(_objects_of(column, name), name)

    def text_values(self, name: str) -> list[str | None]:
        """The same as a list of str and None: what fitting counts."""
        return text_values(_objects_of(self._columns[name], name), name)


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
            f"expected a table (a mapping of columns, a pandas or Polars data frame, a pyarrow Table, a "
            f"structured array or a list of mappings), got {type(source).__name__}"
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
    return [row.get(name) for row in rows]


def _numbers_of(column: Any, name: str) -> npt.NDArray[Any] | list[Any]:
    """A NumPy array of numbers where the column is one, with NaN for null, else its values as objects."""
    array = column
    if hasattr(column, "to_pylist"):  # pyarrow
        if str(column.type) in ARROW_NUMBERS:
            array = column.to_numpy(zero_copy_only=False)
    elif hasattr(getattr(column, "dtype", None), "is_numeric"):  # Polars
        array = column.to_numpy() if column.dtype.is_numeric() else column
    elif not isinstance(column, np.ndarray) and hasattr(column, "to_numpy"):  # pandas
        if isinstance(column.dtype, np.dtype):
            array = column.to_numpy()
        elif getattr(column.dtype, "kind", "O") in "biuf":  # its own nullable numbers
            array = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        return array
    return _objects_of(column, name)


def _objects_of(column: Any, name: str) -> list[Any]:
    """The values as Python objects. Never by way of float64, which would round large whole numbers."""
    if hasattr(column, "to_pylist"):  # pyarrow
        return column.to_pylist()
    dtype = getattr(column, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biufOUT":
        raise InputTypeError(
            f"column {name!r}: expected numbers or strings, got dtype {dtype}; turn dates and durations into "
            f"numbers first"
        )
    for verb in ("to_list", "tolist"):
        if hasattr(column, verb):
            return getattr(column, verb)()
    return list(column)


def _arrow_texts(column: Any) -> list[Any] | None:
    """The column as pyarrow arrays of string or large_string, or None where it is nothing like that."""
    try:
        if hasattr(getattr(column, "dtype", None), "is_numeric"):  # Polars
            is_text = str(column.dtype).startswith(("String", "Categorical", "Enum"))
            column = column.to_arrow() if is_text else column
        elif getattr(getattr(column, "dtype", None), "storage", None) == "pyarrow":  # pandas
            column = column.array.__arrow_array__()
    except ImportError:  # Polars and pandas do without pyarrow, and then so do we
        return None
    if not hasattr(column, "to_pylist"):
        return None
    kind = str(column.type)
    if (kind.startswith("dictionary<values=") and "string" in kind) or kind == "string_view":
        column = column.cast("large_string")
    elif kind not in ("string", "large_string"):
        return None
    return list(column.chunks) if hasattr(column, "chunks") else [column]
