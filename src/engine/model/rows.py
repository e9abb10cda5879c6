"""Turns rows as people have them into the array that a model reads: by name wherever the model knows names.

The one place of this rule; `Model.predict` and `Engine` both use it. No library of data frames is imported: tables are
recognised by their attributes.

Rows have names in a data frame of pandas or Polars, a pyarrow Table or RecordBatch, a DuckDB relation, a structured
array, a Series, a mapping, and a list of mappings or Series. They are matched with the model's names: reordered, with
extra columns ignored (or refused, `strict=True`), and a missing column named in an InputError. Arrays and lists of
lists have none and go by position.

Some names are no names. A model trained on an array may carry its library's placeholders (`Column_0`, `f0`, `x0`,
`feature_0`, `0`, counted from 0 or 1). They match rows that have exactly them; all other tables then go by position, as
beside a model without names, and must have as many columns as the model. A data frame whose columns are the numbers
0, 1, … goes by position too. A mapping has no positions, so it needs a model with names.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine._common.tables import NAMES_SHOWN, Columns
from engine.errors import InputError
from engine.model import _scorer

Names = Sequence[str] | None
Categories = Mapping[str, Any] | None
Array = npt.NDArray[Any]

_PLACEHOLDER = re.compile(r"(?:Column_|column_|feature_|Feature_|f|x|X)?(\d+)")
_NUMBERS = "fiub"  # NumPy's kinds of real numbers


class TextCodes(tuple[str, ...]):
    """The texts of a category column, in the order of their codes. Every other value of the column is another text.

    Rows of numbers have codes: a text's place, -1 for any other text, NaN for a missing one.
    """

    texts_only = True
    _places: dict[str, float]
    _refusing: list[frozenset[str]]
    _refuses_missing: bool

    @classmethod
    def of(cls, known: Iterable[tuple[Iterable[str], str | None]]) -> TextCodes:
        """Return the codes of the texts that several readers of one column know.

        Args:
            known: (texts, refuse) of each reader: None takes every value, "unknown" no other text, and
                "unknown_or_missing" no missing one either.
        """
        readers = [(tuple(texts), refuse) for texts, refuse in known]
        made = cls(sorted({text for texts, _ in readers for text in texts}))
        made._places = {text: float(at) for at, text in enumerate(made)}
        made._refusing = [frozenset(texts) for texts, refuse in readers if refuse is not None]
        made._refuses_missing = any(refuse == "unknown_or_missing" for _, refuse in readers)
        return made

    def code(self, value: Any) -> float:
        """Return the code of a value. Raises InputError for one that a reader refuses."""
        if is_missing(value):
            if self._refuses_missing:
                raise InputError(f"expected one of {_listed(list(self))}, got none")
            return np.nan
        text = value if isinstance(value, str) else None
        if any(text not in texts for texts in self._refusing):
            raise InputError(f"expected one of {_listed(list(self))}, got {_shown(value)}")
        return self._places.get(text, -1.0) if text is not None else -1.0

    def accepted(self) -> list[float]:
        """Return the codes that no reader refuses; one of another text where there are none."""
        return [self._places[text] for text in self if all(text in texts for texts in self._refusing)] or [
            -1.0
        ]

    def texts_of(self, codes: Iterable[float]) -> list[str | None]:
        """Return the texts of codes: None for NaN, and a text that is none of them for another number."""
        other = "?" + max(self, key=len, default="")
        return [
            None
            if code != code
            else self[int(code)]
            if 0 <= code < len(self) and code == int(code)
            else other
            for code in codes
        ]


def known(names: Names) -> bool:
    """Return whether `names` are names that somebody gave, and not None or the placeholders of a library."""
    return bool(names) and _known(tuple(names or ()))


@functools.lru_cache(maxsize=256)
def _known(names: tuple[str, ...]) -> bool:
    found = [_PLACEHOLDER.fullmatch(name) for name in names]
    if None in found:
        return True
    numbers = [int(match[1]) for match in found if match is not None]
    count = len(numbers)
    return numbers != list(range(count)) and numbers != list(range(1, count + 1))


def named(rows: Any) -> bool:
    """Return whether `rows` (or one row) is of a kind that has names; see the module's text."""
    if type(rows) is np.ndarray:
        return rows.dtype.names is not None
    return (
        isinstance(rows, Mapping)
        or _is_series(rows)
        or _is_table(rows)
        or (
            isinstance(rows, list | tuple)
            and bool(rows)
            and (isinstance(rows[0], Mapping) or _is_series(rows[0]))
        )
    )


def matched(
    rows: Any,
    names: Names,
    *,
    n_features: int | None = None,
    strict: bool = False,
    categories: Categories = None,
) -> Array:
    """Return `rows` as a model of these features reads them.

    Args:
        rows: a table, a mapping of columns or of one row's values, a Series (one row), a list of mappings or Series, or
            anything that `numpy.asarray` takes. None, `pandas.NA` and masked values are missing; bools are 0 and 1.
        names: the model's features in order; None where it knows none.
        n_features: the model's width; len(names) by default. Checked where rows go by position.
        strict: refuse columns that the model does not know, instead of ignoring them.
        categories: name of a categorical feature -> its categories in the order of their codes. Values of a
            categorical or text column become codes, and other categories become missing.

    Returns:
        [n, n_features] of real numbers, NaN where missing: float32 where all columns are, else float64. A plain array
        of numbers is returned as it is, whatever its shape.

    Raises:
        InputError: a column is missing (or unknown, with `strict`), or of no type that a model reads; a value is no
            number; rows differ in length; another number of columns than `n_features` where they go by position. The
            message names row and column.
    """
    if type(rows) is np.ndarray and rows.dtype.kind in _NUMBERS:
        return rows
    if categories and names is not None and (found := _by_position(rows, names, categories)) is not None:
        return found
    width = n_features if n_features is not None else (len(names) if names is not None else None)
    if isinstance(rows, np.ndarray) and rows.dtype.names is None:
        return _numbers(rows, names)
    if isinstance(rows, list | tuple) and rows and _is_series(rows[0]):
        rows = [_pairs(row) if _is_series(row) else row for row in rows]
        return _by_name(rows, names, width, strict, categories, positions=True)
    if _is_series(rows):
        return _by_name([_pairs(rows)], names, width, strict, categories, positions=True)
    if isinstance(rows, Mapping):
        one = not any(_is_column(value) for value in rows.values())
        return _by_name([rows] if one else rows, names, width, strict, categories, positions=False)
    if isinstance(rows, list | tuple) and rows and isinstance(rows[0], Mapping):
        for at, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InputError(
                    f"row {at}: expected a mapping as the rows before it, got {type(row).__name__}"
                )
        return _by_name(rows, names, width, strict, categories, positions=False)
    if _is_table(rows) or (isinstance(rows, np.ndarray) and rows.dtype.names):
        return _by_name(rows, names, width, strict, categories, positions=True)
    return _plain(rows, names)


def matched_row(
    row: Any,
    names: Names,
    *,
    n_features: int | None = None,
    strict: bool = False,
    categories: Categories = None,
) -> Array:
    """Return one row, [n_features]. Args and errors as `matched`, which a mapping or Series follows.

    A table of one row is that row. A plain array is returned as it is.
    """
    if type(row) is np.ndarray and row.dtype.kind in _NUMBERS:
        return row
    if (
        isinstance(row, dict)
        and names
        and not strict
        and (read := _read_mapping(row, names, categories)) is not None
    ):
        return read
    found = matched(
        [row] if isinstance(row, Mapping) else row,
        names,
        n_features=n_features,
        strict=strict,
        categories=categories,
    )
    if not named(row):
        return found
    if len(found) != 1:
        raise InputError(f"expected one row, got a table of {len(found)}; predict_many takes tables")
    row_found: Array = found[0]
    return row_found


def _read_mapping(row: Mapping[Any, Any], names: Sequence[str], categories: Categories) -> Array | None:
    """One mapping of plain numbers, and of texts whose codes are known; None for one that needs the long way."""
    out = np.empty(len(names), np.float64)
    for at, name in enumerate(names):
        if name not in row:
            return None
        value = row[name]
        codes = categories.get(name) if categories else None
        if codes is not None:
            if not hasattr(codes, "code"):
                return None
            try:
                out[at] = codes.code(value)
            except InputError as error:
                raise InputError(f"row 0, column {name!r}: {error}") from None
        elif type(value) is float or type(value) is int or type(value) is bool:
            try:
                out[at] = value
            except OverflowError:
                return None
        elif value is None:
            out[at] = np.nan
        else:
            return None
    return out


def warn_lost(array: Array, names: Names) -> bool:
    """Warn if the array has a whole number that float32 cannot hold, and return whether it has one.

    For models that compute in float32. The UserWarning names row and column. Numbers from 2^53 on in a float array do
    not count, because a double does not hold all of those either.
    """
    lost = _scorer.lost(array)
    if lost is None:
        return False
    row, column = lost
    value = array[row, column]
    where = f"column {names[column]!r}" if names is not None and known(names) else f"column {column}"
    warnings.warn(
        f"this model computes in float32, which rounds {where}: {int(value)} (row {row}) becomes "
        f"{int(np.float32(value))}. Subtract a fixed number before training, or, for a Python callable, load it with "
        f"dtype='float64'. This is said once.",
        UserWarning,
        stacklevel=3,
    )
    return True


def _by_name(
    rows: Any, names: Names, width: int | None, strict: bool, categories: Categories, *, positions: bool
) -> Array:
    """The columns in the model's order; by position, where `positions` allows it and the model's names are unknown."""
    table = Columns(rows)
    order = _order(table.names, names, strict)
    if order is None:
        if known(names) and not _counted(table.names):
            raise _missing(table.names, names or ())
        if not positions:
            raise InputError(
                "the model does not know the names of its features, so a mapping has no order: pass an array, or "
                "load the model with load_model(..., feature_names=[…])"
            )
        if width is not None and len(table.names) != width:
            raise InputError(
                f"expected rows of {width} columns, got {len(table.names)}: the model does not know the names of its "
                f"features, so columns go by position"
            )
        order = list(table.names)
    count = len(rows) if isinstance(rows, list) else None
    shown = names if known(names) else [_text(name) for name in order]
    assert shown is not None
    if isinstance(rows, list):
        for at, row in enumerate(rows):
            for name, key in zip(shown, order, strict=True):
                if key not in row:
                    raise InputError(f"row {at} lacks the feature {name!r}")
    own = names if names is not None and len(names) == len(order) else shown
    columns = [
        _column(table[key], (categories or {}).get(of), name)
        for of, name, key in zip(own, shown, order, strict=True)
    ]
    lengths = {len(column) for column in columns}
    if count is None:
        count = lengths.pop() if len(lengths) == 1 else -1
    if lengths - {count} or count < 0:
        sizes = (f"{name!r} has {len(column)}" for name, column in zip(shown, columns, strict=True))
        raise InputError(f"the columns differ in length: {', '.join(sizes)}")
    dtype = np.float32 if columns and all(column.dtype == np.float32 for column in columns) else np.float64
    out = np.empty((count, len(columns)), dtype)
    for at, column in enumerate(columns):
        out[:, at] = column
    return out


def _by_position(rows: Any, names: Sequence[str], categories: Mapping[str, Any]) -> Array | None:
    """Rows (or one row) without names that hold texts, as numbers; None for any other rows."""
    if not isinstance(rows, list | tuple | np.ndarray) or named(rows):
        return None
    try:
        array = np.array(rows, object)
    except ValueError:
        return None
    if array.ndim not in (1, 2) or array.shape[-1] != len(names) or any(map(_is_column, array.reshape(-1))):
        return None
    if not any(isinstance(value, str) for value in array.reshape(-1)):
        return None
    columns = [
        _column(column, categories.get(name), name)
        for name, column in zip(names, np.atleast_2d(array).T, strict=True)
    ]
    made = np.column_stack(columns).astype(np.float64)
    return made if array.ndim == 2 else made[0]


def _order(given: Sequence[Any], names: Names, strict: bool) -> list[Any] | None:
    """The table's own name of each of the model's features; None where it lacks one."""
    if names is None:
        return None
    own: dict[str, Any] = {}
    for key in given:
        own.setdefault(_text(key), key)
    for key in given:  # LightGBM writes blanks as underscores
        own.setdefault(re.sub(r"\s", "_", _text(key)), key)
    if not all(name in own for name in names):
        return None
    order = [own[name] for name in names]
    if strict and (extra := [_text(key) for key in given if key not in set(order)]):
        raise InputError(f"the rows have columns that the model does not know: {_listed(extra)}")
    return order


def _missing(given: Sequence[Any], names: Sequence[str]) -> InputError:
    own = {_text(key) for key in given} | {re.sub(r"\s", "_", _text(key)) for key in given}
    lacking = [name for name in names if name not in own]
    return InputError(
        f"the rows lack {len(lacking)} of the model's {len(names)} features: {_listed(lacking)}; they have: "
        f"{_listed([_text(key) for key in given])}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + more if names else "none"


def _text(name: Any) -> str:
    """A column's name as training libraries write it: the parts of a tuple joined by blanks."""
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _counted(names: Sequence[Any]) -> bool:
    """Whether the names are the numbers 0, 1, … that a data frame without names has."""
    return all(isinstance(name, int | np.integer) and name == at for at, name in enumerate(names))


def _is_series(value: Any) -> bool:
    """A pandas Series: one row, named by its index. A Series of Polars has no names."""
    return (
        hasattr(value, "index")
        and hasattr(value, "dtype")
        and hasattr(value, "items")
        and hasattr(value, "iloc")
    )


def _is_table(value: Any) -> bool:
    return hasattr(value, "columns") and (hasattr(value, "__getitem__") or hasattr(value, "schema"))


def _is_column(value: Any) -> bool:
    return (
        hasattr(value, "__len__")
        and not isinstance(value, str | bytes)
        and getattr(value, "shape", None) != ()
    )


def _pairs(series: Any) -> dict[Any, Any]:
    if not series.index.is_unique:
        raise InputError(f"the row has two values named {series.index[series.index.duplicated()][0]!r}")
    return dict(zip(series.index, series.array, strict=True))


def _column(column: Any, categories: Sequence[Any] | None, name: str) -> Array:
    """One column as numbers; NaN where missing."""
    if hasattr(column, "cat") and hasattr(column.cat, "codes"):  # pandas, categorical
        if categories is None:
            raise InputError(
                f"column {name!r} is categorical, and the model does not know its categories: pass their codes as the "
                f"model was trained on them (frame[{name!r}].cat.codes)"
            )
        return _codes(list(column.astype(object)), categories, name)
    if categories is not None and getattr(categories, "texts_only", False):
        return _codes(list(column.to_pylist() if hasattr(column, "to_pylist") else column), categories, name)
    kind = str(getattr(column, "dtype", None) or getattr(column, "type", ""))
    if hasattr(column, "to_numpy") and not isinstance(column, np.ndarray):
        values = _read(column, kind)
    elif isinstance(column, np.ma.MaskedArray) or type(column) is np.ndarray:
        values = column
    else:
        values = np.empty(len(column), object)
        values[:] = list(column)
    if categories is not None and values.dtype.kind not in _NUMBERS:
        return _codes(list(values), categories, name)
    if values.dtype.kind in "mM" or kind.lower().startswith(("date", "timestamp", "duration", "time")):
        raise InputError(f"column {name!r} holds times ({kind}), which no model reads: pass them as numbers")
    if values.ndim != 1:
        raise InputError(f"column {name!r}: expected one value a row, got shape {list(values.shape)}")
    return _numbers(values, None, name)


def _read(column: Any, kind: str) -> Array:
    """A column of pandas, Polars or pyarrow as an array: of numbers where it holds them, else of objects."""
    if hasattr(column, "isna") and hasattr(column, "array"):  # pandas
        dtype = column.dtype
        if isinstance(dtype, np.dtype):
            return np.asarray(column)
        if getattr(dtype, "kind", "O") in _NUMBERS:  # nullable and Arrow types
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.to_numpy(dtype=object))
    if hasattr(column, "to_pylist"):  # pyarrow: a null of a type with no NaN makes objects
        if kind.startswith("dictionary") or kind == "bool":
            return np.array([*column.to_pylist(), None], object)[:-1]
        if hasattr(column, "combine_chunks"):
            return np.asarray(column.to_numpy())
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.asarray(column.to_numpy())  # Polars


def _codes(values: Sequence[Any], categories: Sequence[Any], name: str) -> Array:
    """The position of each value among the model's categories; NaN for any other."""
    if hasattr(categories, "code"):
        codes = np.empty(len(values), np.float64)
        for at, value in enumerate(values):
            try:
                codes[at] = categories.code(value)
            except InputError as error:
                raise InputError(f"row {at}, column {name!r}: {error}") from None
        return codes
    try:
        positions = {value: at for at, value in enumerate(categories)}
        return np.array([positions.get(value, np.nan) for value in values], np.float64)
    except TypeError:
        raise InputError(
            f"column {name!r}: expected categories, got a value that is none (a list?)"
        ) from None


def _numbers(values: Array, names: Names, column: str | None = None) -> Array:
    """An array as numbers: masked values and None become NaN. `column` or `names` are for messages."""
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        plain = _numbers(
            np.where(mask, np.array(None), values.data) if values.dtype.kind == "O" else values.data,
            names,
            column,
        )
        if not mask.any():
            return plain
        plain = plain.astype(np.float32 if plain.dtype == np.float32 else np.float64)
        plain[mask] = np.nan
        return plain
    if values.dtype.kind in _NUMBERS:
        return np.asarray(values)
    if values.dtype.kind not in "OUS":
        where = f"column {column!r}: " if column is not None else ""
        raise InputError(f"{where}expected numbers, got dtype {values.dtype}")
    out = np.empty(values.shape, np.float64)
    flat = out.reshape(-1)
    for at, value in enumerate(values.reshape(-1)):
        try:
            flat[at] = _number(value)
        except (TypeError, ValueError, OverflowError):
            index = np.unravel_index(at, values.shape)
            raise InputError(
                f"{_where(index, names, column)}: expected a number, got {_shown(value)}"
            ) from None
    return out


def is_missing(value: Any) -> bool:
    """Whether a value stands for a missing one: None, NaN, pandas.NA and NaT, or masked."""
    return (
        value is None
        or value is np.ma.masked
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
    )


def _number(value: Any) -> float:
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return np.nan
    if isinstance(value, str | bytes | np.datetime64 | np.timedelta64) or type(value).__name__ == "NaTType":
        raise TypeError
    return float(value)


def _where(index: tuple[Any, ...], names: Names, column: str | None) -> str:
    if column is not None:
        return f"row {index[0]}, column {column!r}"
    if len(index) == 1:
        return f"value {index[0]}"
    at = int(index[-1])
    named_column = repr(names[at]) if names is not None and at < len(names) else at
    return f"row {index[0]}, column {named_column}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _plain(rows: Any, names: Names) -> Array:
    """Lists, tensors and other arrays, by position."""
    if rows is None or isinstance(rows, str | bytes):
        raise InputError(f"expected rows, got {_shown(rows)}")
    if hasattr(rows, "toarray") and hasattr(rows, "nnz"):
        raise InputError(
            f"expected an array of rows, got the sparse {type(rows).__name__}: pass rows.toarray()"
        )
    if isinstance(rows, list | tuple):
        rows = [
            np.asarray(_numbers(row, names)) if isinstance(row, np.ma.MaskedArray) else row for row in rows
        ]
    try:
        array = np.asarray(rows)
    except (ValueError, TypeError) as error:
        raise _ragged(rows, error) from None
    if array.ndim == 0 and array.dtype.kind not in _NUMBERS:
        raise InputError(f"expected rows, got {_shown(rows)}")
    if array.dtype.kind in _NUMBERS:
        return array
    if array.dtype.kind in "US":  # NumPy makes text of all values where one is text
        array = np.array(rows, object)
    return _numbers(array, names)


def _ragged(rows: Any, error: Exception) -> InputError:
    try:
        sizes = [len(row) if hasattr(row, "__len__") and not isinstance(row, str) else None for row in rows]
        at = next(at for at, size in enumerate(sizes) if size != sizes[0])
    except (TypeError, StopIteration):
        return InputError(f"expected rows of numbers: {error}")
    got = "a single value" if sizes[at] is None else f"{sizes[at]} values"
    first = "a single value" if sizes[0] is None else f"{sizes[0]} values"
    return InputError(f"row {at} has {got} and row 0 has {first}: expected rows of one length")
