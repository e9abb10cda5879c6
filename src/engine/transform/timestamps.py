"""Columns of timestamps, of any library, as microseconds of Unix time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, InputTypeError
from engine.transform._values import timestamp_values


def timestamps_of(column: Any, name: str, *, naive_utc: bool) -> npt.NDArray[np.float64]:
    """Return float64 [n_rows]: whole microseconds, rounded towards the past, NaN where missing.

    Args:
        name: of the column, for errors.
        naive_utc: True reads timestamps without a time zone as UTC; False refuses them.

    Raises:
        InputTypeError: a column of anything else.
        InputError: timestamps without a time zone, or beyond the years 1 to 9999.
    """
    found = _instants_of(column)
    if found is None:
        values = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        return timestamp_values(values, naive_utc, name)
    instants, has_zone = found
    if instants.dtype.kind != "M":
        raise InputTypeError(f"column {name!r}: expected timestamps, got dtype {instants.dtype}")
    if not has_zone and not naive_utc:
        raise InputError(
            f"column {name!r}: its timestamps have no time zone; give them one, or declare the input with naive='utc'"
        )
    us = instants.astype("datetime64[us]")
    return np.where(np.isnat(us), np.nan, us.astype(np.int64).astype(np.float64))


def _instants_of(column: Any) -> tuple[npt.NDArray[Any], bool] | None:
    """Return datetime64 in UTC, and whether the column has a time zone. None for a column of objects."""
    dtype: Any = getattr(column, "dtype", None)
    if hasattr(column, "to_pylist"):  # pyarrow
        if not str(column.type).startswith("timestamp"):
            return None
        return column.to_numpy(**({} if hasattr(column, "chunks") else {"zero_copy_only": False})), bool(
            column.type.tz
        )
    if hasattr(dtype, "is_temporal"):  # Polars
        if not str(dtype).startswith("Datetime"):
            return None
        return _polars_instants(column), bool(dtype.time_zone)
    if isinstance(dtype, np.dtype) and dtype.kind == "M":
        return np.asarray(column), False
    if getattr(dtype, "tz", None) is not None:  # pandas
        return column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), True
    return None


def _polars_instants(column: Any) -> npt.NDArray[Any]:
    # The least int64 is NumPy's NaT.
    ticks = column.to_physical().fill_null(np.iinfo(np.int64).min).to_numpy()
    return ticks.astype(np.int64).astype(f"datetime64[{column.dtype.time_unit}]")
