"""Checks of a caller's arguments: type, range, choice. Each error names the argument and its value."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from engine.errors import EngineError, InputError


def number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    above: bool = False,
    below: bool = False,
    error: type[EngineError] = InputError,
    type_error: type[EngineError] | None = None,
) -> float:
    """Return a number from `low` to `high` as a float.

    Args:
        above: refuse `low` itself.
        below: refuse `high` itself.
        error: raised for NaN and for a number outside the range.
        type_error: raised for a bool and for any other value that is no int or float; `error` unless given. NumPy's
            numbers count as ints and floats.
    """
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise (type_error or error)(f"{name} must be a number, got {type(value).__name__} {value!r:.80}")
    if math.isnan(value) or not low <= value <= high or (above and value == low) or (below and value == high):
        raise error(f"{name} must be a number {_bounds(low, high, above, below)}, got {value!r}")
    return float(value)


def finite(name: str, value: Any, *, error: type[EngineError] = InputError) -> float:
    """A finite number of anything that `float` takes: bool, a NumPy scalar, text. Raises `error` otherwise."""
    try:
        converted = float(value)
    except (TypeError, ValueError, OverflowError):
        raise error(f"{name} must be a number, got {value!r:.80}") from None
    if not math.isfinite(converted):
        raise error(f"{name} must be finite, got {converted}")
    return converted


def _bounds(low: float, high: float, above: bool, below: bool) -> str:
    if not above and not below:
        return f"from {low:g} to {high:g}"
    return f"{'above' if above else 'at least'} {low:g} and {'below' if below else 'at most'} {high:g}"


def whole(
    name: str,
    value: Any,
    low: int,
    high: int,
    *,
    error: type[EngineError] = InputError,
    type_error: type[EngineError] | None = None,
) -> int:
    """Return an int from `low` to `high`. Errors as in `number`."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise (type_error or error)(f"{name} must be an int, got {type(value).__name__} {value!r:.80}")
    if not low <= value <= high:
        raise error(f"{name} must be an int from {low:,} to {high:,}, got {value:,}")
    return value


def _plain(value: Any) -> Any:
    """A number of NumPy, or of another library that says it is an integer, as Python's own; anything else unchanged."""
    if isinstance(value, int | float | str) or (getattr(value, "shape", ()) != ()):
        return value
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's, which would count as an integer
        return bool(value)
    try:
        return operator.index(value)
    except TypeError:
        pass
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return float(value) if kind == "f" else value


def one_of(name: str, value: Any, choices: Sequence[str], *, error: type[EngineError] = InputError) -> str:
    """Return one of `choices`. Raises `error`, which lists them, for any other value."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}, got {value!r:.80}")
    return value


def finite_number(name: str, value: Any, *, error: type[EngineError] = InputError) -> float:
    """Return a finite number as a float. Raises `error` for NaN, infinity, bool, or anything but a number."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise error(f"{name} must be a number, got {type(value).__name__} {value!r:.80}")
    try:
        found = float(value)
    except OverflowError:  # an int beyond the range of a float
        found = math.inf
    if not math.isfinite(found):
        raise error(f"{name} must be a finite number, got {value!r:.80}")
    return found


def shown(value: Any) -> str:
    """Return the type and the start of the repr of a value, for an error that says what it got."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
