"""Columns out of whatever a caller calls a table, recognised by what it can do: nothing is imported for it.

Read are: a mapping of columns, a pandas or Polars data frame, a pyarrow Table or RecordBatch, a NumPy
structured array, a DuckDB relation, and a list of mappings (one a row). A column is a NumPy array, a Series, an
Arrow array or any sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, InputTypeError
from engine.transform._columns import (
    ARROW_NUMBERS,
    Column,
    array_column,
    arrow_column,
    number_values,
    text_column,
    text_values,
)
from engine.transform._values import vector_values
from engine.transform.plan import TEXT, TIMESTAMP, VECTOR, kind_and_size
from engine.transform.timestamps import timestamps_of


class Table:
    """A table of a known number of rows, read column by column under the names a program asks for.

    Raises InputTypeError for something that is not a table, InputError naming the column that is missing or
    whose length differs from the first one's.
    """

    def __init__(self, source: Any, names: Sequence[str], *, refuse_missing: bool = False) -> None:
        source = _without_duckdb(source, names)
        self._columns: dict[str, Any] = {}
        self.n_rows = 0
        take = _columns_of(source, refuse_missing)
        for position, name in enumerate(names):
            column = take(name)
            ndim = getattr(column, "ndim", 1)
            if isinstance(column, (str, bytes)) or not hasattr(column, "__len__") or ndim not in (1, 2):
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

    def parts(self) -> Iterator[Table]:
        """The tables that make this one up: itself."""
        yield self

    def column(self, name: str, kind: str) -> Column:
        """The column as the native program reads it: in place, where it is a NumPy or an Arrow array."""
        column = self._columns[name]
        word, size = kind_and_size(kind)
        if word == VECTOR:
            return array_column(_vectors_of(column, size, name))
        if word.startswith(TIMESTAMP):
            return array_column(timestamps_of(column, name, naive_utc=word != TIMESTAMP))
        _require_flat(column, name)
        if kind == TEXT:
            chunks = _arrow_texts(column)
            return (
                text_column(_objects_of(column, name), name) if chunks is None else arrow_column(chunks, True)
            )
        chunks = _arrow_numbers(column)
        return array_column(self.numbers(name, copy=False)) if chunks is None else arrow_column(chunks, False)

    def numbers(self, name: str, *, copy: bool = True) -> npt.NDArray[Any]:
        """float64 [n_rows], NaN for what is missing; without `copy` of any type of number, as the column has
        it."""
        _require_flat(self._columns[name], name)
        values = _numbers_of(self._columns[name], name)
        if isinstance(values, np.ndarray):
            return np.ascontiguousarray(values, dtype=np.float64) if copy else values
        return number_values(values, name)

    def text_values(self, name: str) -> list[str | None]:
        """The same as a list of str and None: what fitting counts."""
        return text_values(_objects_of(self._columns[name], name), name)


def _without_duckdb(source: Any, names: Sequence[str]) -> Any:
    """A DuckDB relation as a pyarrow Table: in one query, for two might come in different orders."""
    if not (hasattr(source, "project") and hasattr(source, "fetchnumpy")):
        return source
    absent = [name for name in names if name not in source.columns]
    if absent:
        raise InputError(f"the table has no column {absent[0]!r}; it has: {', '.join(source.columns[:20])}")
    quoted = (name.replace('"', '""') for name in names)
    return source.project(", ".join(f'"{name}"' for name in quoted)).to_arrow_table()


def _columns_of(source: Any, refuse_missing: bool) -> Any:
    """A function from name to column."""
    if isinstance(source, Mapping):
        names = list(source)
    elif hasattr(source, "num_columns") and hasattr(source, "schema"):
        names = source.schema.names  # pyarrow Table or RecordBatch; `column_names` makes a wrapper a column
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


def _require_flat(column: Any, name: str) -> None:
    if getattr(column, "ndim", 1) != 1:
        raise InputTypeError(
            f"column {name!r}: expected a one-dimensional column, got {type(column).__name__} of shape "
            f"{list(column.shape)}"
        )


def _vectors_of(column: Any, size: int, name: str) -> npt.NDArray[Any]:
    """[n_rows, size] numbers, NaN for what is missing; a NumPy array of two dimensions is borrowed."""
    if isinstance(column, np.ndarray) and column.ndim == 2 and column.dtype.kind in "biuf":
        if column.shape[1] != size:
            raise InputError(f"column {name!r}: expected {size} values a row, got shape {list(column.shape)}")
        return column
    array = _arrow_of(column)
    is_fixed = array is not None and str(array.type).startswith("fixed_size_list")
    # `flatten` leaves out the vectors of null rows, so only a column without any is taken whole.
    if is_fixed and array.type.list_size == size and array.null_count == 0:
        flat = (array.combine_chunks() if hasattr(array, "num_chunks") else array).flatten()
        if str(flat.type) in ARROW_NUMBERS:
            return flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    return vector_values(_objects_of(column, name), size, name)


def _arrow_of(column: Any) -> Any:
    """The pyarrow array that a column is, or is made of, or None."""
    try:
        if hasattr(getattr(column, "dtype", None), "is_numeric"):  # Polars
            column = column.to_arrow()
        elif getattr(getattr(column, "dtype", None), "storage", None) == "pyarrow":  # pandas
            column = column.array.__arrow_array__()
    except ImportError:  # Polars and pandas do without pyarrow, and then so do we
        return None
    return column if hasattr(column, "to_pylist") else None


def _arrow_numbers(column: Any) -> list[Any] | None:
    """The column as pyarrow arrays of numbers, or None where it is nothing like that."""
    array = _arrow_of(column)
    return None if array is None or str(array.type) not in ARROW_NUMBERS else _chunks_of(array)


def _arrow_texts(column: Any) -> list[Any] | None:
    """The column as pyarrow arrays of string or large_string, or None where it is nothing like that."""
    array = _arrow_of(column)
    if array is None:
        return None
    kind = str(array.type)
    if (kind.startswith("dictionary<values=") and "string" in kind) or kind == "string_view":
        array = array.cast("large_string")
    elif kind not in ("string", "large_string"):
        return None
    return _chunks_of(array)


def _chunks_of(array: Any) -> list[Any]:
    # Asked for by a cheap name: `chunks` makes the chunks.
    return array.chunks if hasattr(array, "num_chunks") else [array]
