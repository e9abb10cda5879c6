# Turns any Python value into the plain float, string, datetime or list that an input means, or raises an error that
# names the row, the input, the expected type and the value. _values.pxd has the quick readers for common types.
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from numbers import Real

import numpy as np

cimport numpy as cnp

from cpython.datetime cimport import_datetime
from libc.stdint cimport uint32_t

from engine._common.arguments import shown
from engine.errors import InputError, InputTypeError

cnp.import_array()
import_datetime()

cdef set _NUMPY_KINDS = set("biuf")


def _where(name, row) -> str:
    return f"input {name!r}" if row is None else f"row {row}, input {name!r}"


def _is_absent_marker(value) -> bool:
    """Whether a value is pandas.NA, pandas.NaT or numpy.ma.masked. Tells by the name of its type, without an import."""
    kind = type(value)
    if kind.__name__ == "MaskedConstant":
        return kind.__module__.startswith("numpy.")
    return kind.__name__ in ("NAType", "NaTType") and kind.__module__.startswith("pandas.")


cdef object plain_number(object value, object name, object row):
    """Return the float that a number means, or None if it is missing. May run code of the value's type."""
    if value is None or _is_absent_marker(value):
        return None
    if isinstance(value, np.generic) and value.dtype.kind not in _NUMPY_KINDS:
        raise InputTypeError(f"{_where(name, row)}: expected a number, got {shown(value)}")
    if isinstance(value, (int, float, np.generic, Real)) or type(value).__name__ == "Decimal":
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{_where(name, row)}: expected a number that a float64 can hold, "
                             f"got an integer of {value.bit_length()} bits") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{_where(name, row)}: expected a number, got {shown(value)}: {error}") from None
    raise InputTypeError(f"{_where(name, row)}: expected a number (int, float, bool or a NumPy scalar) or None, "
                         f"got {shown(value)}")


cdef object plain_text(object value, object name, object row):
    """Return the string that a category means, or None if it is missing. May run code of the value's type."""
    if value is None or _is_absent_marker(value):
        return None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{_where(name, row)}: expected text that UTF-8 can encode, got a lone surrogate "
                             f"U+{ord(value[error.start]):04X} at index {error.start}") from None
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, np.generic) and value.dtype.kind in _NUMPY_KINDS:
        value = value.item()
    if isinstance(value, (int, float)):
        if value != value:
            return None
        if -2**63 <= value < 2**63 and value == int(value):
            return str(int(value))
        raise InputError(f"{_where(name, row)}: a number used as a category must be whole and within 64 bits, "
                         f"got {shown(value)}; round it or bucketize it as a number")
    raise InputTypeError(f"{_where(name, row)}: expected a category (str, or a whole number) or None, "
                         f"got {shown(value)}")


cdef object _EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
cdef object _MICROSECOND = timedelta(microseconds=1)


cdef object plain_timestamp(object value, bint naive_utc, object name, object row):
    """Return the datetime in UTC that a timestamp means, or None if it is missing.

    Takes a datetime, a datetime64 and ISO 8601 text. Rounds towards the past, to the microsecond. Without a time zone
    it is in UTC if `naive_utc`, and refused otherwise.
    """
    if value is None or _is_absent_marker(value):
        return None
    given = value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InputError(f"{_where(name, row)}: expected an ISO 8601 date and time, got {shown(given)}: "
                             f"{error}") from None
    elif isinstance(value, np.datetime64):
        if np.isnat(value):
            return None
        try:
            value = (_EPOCH + timedelta(microseconds=int(value.astype("datetime64[us]").astype(np.int64))))
        except OverflowError:
            raise InputError(f"{_where(name, row)}: expected a year from 1 to 9999, got {shown(given)}") from None
        value = value.replace(tzinfo=None)
    if not isinstance(value, datetime):
        raise InputTypeError(f"{_where(name, row)}: expected a timestamp (a datetime, a datetime64 or ISO 8601 text) "
                             f"or None, got {shown(given)}")
    offset = value.utcoffset()
    if offset is None and not naive_utc:
        raise InputError(f"{_where(name, row)}: the timestamp {shown(given)} has no time zone; give it one, or declare "
                         f"the input with naive='utc'")
    try:
        # An exact datetime, because a subclass may keep nanoseconds or redefine arithmetic.
        plain = datetime(value.year, value.month, value.day, value.hour, value.minute, value.second,
                         value.microsecond, tzinfo=timezone.utc)
        return plain if offset is None else plain - offset
    except OverflowError:
        raise InputError(f"{_where(name, row)}: expected a year from 1 to 9999 in UTC, got {shown(given)}") from None


def timestamp_values(values, bint naive_utc, name):
    """Return a column of timestamps as float64 [n]: microseconds of Unix time, NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
    out = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        plain = plain_timestamp(value, naive_utc, name, i)
        if plain is not None:
            out[i] = (plain - _EPOCH) // _MICROSECOND
    return out


cdef object plain_vector(object value, uint32_t size, object name, object row):
    """Return the list of `size` floats and None that a vector means, or None if it is missing."""
    if value is None or _is_absent_marker(value):
        return None
    if isinstance(value, (str, bytes, bytearray)) or not (
            isinstance(value, (Sequence, np.ndarray)) or hasattr(value, "__array__")):
        raise InputTypeError(f"{_where(name, row)}: expected {size} numbers or None, got {shown(value)}")
    if getattr(value, "ndim", 1) != 1 or len(value) != size:
        got = f"shape {list(value.shape)}" if hasattr(value, "shape") else f"{len(value)}"
        raise InputError(f"{_where(name, row)}: expected {size} numbers, got {got}")
    return [plain_number(part, f"{name}[{i}]", row) for i, part in enumerate(value)]


def vector_values(values, uint32_t size, name):
    """Return a column of vectors as float64 [n, size], NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
    out = np.full((len(values), size), np.nan)
    for i, value in enumerate(values):
        plain = plain_vector(value, size, name, i)
        if plain is not None:
            out[i] = [np.nan if part is None else part for part in plain]
    return out
