"""The columns of a table as the native program reads them.

`engine._common.tables` says which objects are tables. A column is a NumPy array, a Series, an Arrow array or any
sequence. NumPy and Arrow columns are read in place; others are converted first. Each kind is recognised by the methods
it has, so no table library is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.tables import Columns, is_rows
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
    """Named columns of one length, out of any table.

    Args:
        source: the table.
        names: the columns to read.
        refuse_missing: in a list of mappings, True refuses a row without one of the names; False makes it a missing
            value.

    Attributes:
        n_rows: number of rows.

    Raises:
        InputTypeError: `source` is no table, or a column is none.
        InputError: a column is absent, or of another length than the first.
    """

    def __init__(self, source: Any, names: Sequence[str], *, refuse_missing: bool = False) -> None:
        self._columns: dict[str, Any] = {}
        self.n_rows = 0
        take = _reader_of(source, names, refuse_missing)
        for position, name in enumerate(names):
            column = _unmasked(take(name))
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
        """Yield the table itself. `Batches` yields several."""
        yield self

    def column(self, name: str, kind: str) -> Column:
        """Return a column as the native program reads it.

        Args:
            kind: of the input, as `Feature.inputs` gives it.

        Raises:
            InputTypeError, InputError: a value that the input cannot read; names the column or the row.
        """
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
        """Return a column of numbers, [n_rows], NaN where missing.

        Args:
            copy: True gives dense float64. False can give the column itself, of its own dtype.
        """
        _require_flat(self._columns[name], name)
        values = _numbers_of(self._columns[name], name)
        if isinstance(values, np.ndarray):
            return np.ascontiguousarray(values, dtype=np.float64) if copy else values
        return number_values(values, name)

    def text_values(self, name: str) -> list[str | None]:
        """Return a column of categories as str and None, for fitting."""
        return text_values(_objects_of(self._columns[name], name), name)


def _unmasked(column: Any) -> Any:
    """Return a masked NumPy column with its masked values missing, any other column as it is."""
    if not isinstance(column, np.ndarray) or not hasattr(column, "filled"):
        return column
    return column.filled(np.datetime64("NaT")) if column.dtype.kind == "M" else column.tolist()


def _reader_of(source: Any, names: Sequence[str], refuse_missing: bool) -> Callable[[str], Any]:
    """Return a function from name to column."""
    # A row without a key has a missing value there, as for `FeatureProgram.row`. So any name is a column of rows.
    if is_rows(source):
        return lambda name: _column_of_rows(source, name, refuse_missing)
    return Columns(source, names).__getitem__


def _column_of_rows(rows: Sequence[Mapping[str, Any]], name: str, refuse_missing: bool) -> list[Any]:
    if refuse_missing:
        for index, row in enumerate(rows):
            if name not in row:
                raise InputError(
                    f"row {index}: input {name!r} is missing and the program was fitted with missing='error'"
                )
    return [row.get(name) for row in rows]


def _numbers_of(column: Any, name: str) -> npt.NDArray[Any] | list[Any]:
    """Return a column of numbers as a NumPy array, NaN where missing. Return any other column as a list of objects."""
    array = column
    if hasattr(column, "to_pylist"):  # pyarrow
        if str(column.type) in ARROW_NUMBERS:
            array = column.to_numpy(zero_copy_only=False)
    elif hasattr(getattr(column, "dtype", None), "is_numeric"):  # Polars
        array = column.to_numpy() if column.dtype.is_numeric() else column
    elif not isinstance(column, np.ndarray) and hasattr(column, "to_numpy"):  # pandas
        if isinstance(column.dtype, np.dtype):
            array = column.to_numpy()
        elif getattr(column.dtype, "kind", "O") in "biuf":  # pandas' own nullable numbers
            array = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        return array
    return _objects_of(column, name)


def _objects_of(column: Any, name: str) -> list[Any]:
    """Return the values as Python objects. Never through float64, which would round large whole numbers."""
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
    """Return a column of vectors as numbers [n_rows, size], NaN where missing. A 2-D NumPy array is borrowed."""
    if isinstance(column, np.ndarray) and column.ndim == 2 and column.dtype.kind in "biuf":
        if column.shape[1] != size:
            raise InputError(f"column {name!r}: expected {size} values a row, got shape {list(column.shape)}")
        return column
    array = _arrow_of(column)
    is_fixed = array is not None and str(array.type).startswith("fixed_size_list")
    # `flatten` drops the vectors of null rows, so it fits only a column without null rows.
    if is_fixed and array.type.list_size == size and array.null_count == 0:
        flat = (array.combine_chunks() if hasattr(array, "num_chunks") else array).flatten()
        if str(flat.type) in ARROW_NUMBERS:
            return flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    return vector_values(_objects_of(column, name), size, name)


def _arrow_of(column: Any) -> Any:
    """Return the pyarrow array that a column is, or that it wraps. None for any other column."""
    try:
        if hasattr(getattr(column, "dtype", None), "is_numeric"):  # Polars
            column = column.to_arrow()
        elif getattr(getattr(column, "dtype", None), "storage", None) == "pyarrow":  # pandas
            column = column.array.__arrow_array__()
    except ImportError:  # Polars and pandas work without pyarrow
        return None
    return column if hasattr(column, "to_pylist") else None


def _arrow_numbers(column: Any) -> list[Any] | None:
    """Return the pyarrow arrays of a column of numbers. None for any other column."""
    array = _arrow_of(column)
    return None if array is None or str(array.type) not in ARROW_NUMBERS else _chunks_of(array)


def _arrow_texts(column: Any) -> list[Any] | None:
    """Return the pyarrow arrays, string or large_string, of a column of text. None for any other column."""
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
    # `num_chunks` is cheap to look up; `chunks` builds the list.
    return array.chunks if hasattr(array, "num_chunks") else [array]
