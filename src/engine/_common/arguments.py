"""Checks of arguments that come from a caller: type, range, choice. Each error names the argument and its value."""

from __future__ import annotations

import math
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
    error: type[EngineError] = InputError,
    type_error: type[EngineError] | None = None,
) -> float:
    """A number from `low` to `high`, as a float; with `above`, one that is greater than `low`.

    Args:
        error: raised for a number outside the range, and for NaN.
        type_error: raised for anything but an int or a float, bool included; `error` unless given.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise (type_error or error)(f"{name} must be a number, got {type(value).__name__} {value!r:.80}")
    if math.isnan(value) or not low <= value <= high or (above and value == low):
        bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise error(f"{name} must be a number {bounds}, got {value!r}")
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


def whole(
    name: str,
    value: Any,
    low: int,
    high: int,
    *,
    error: type[EngineError] = InputError,
    type_error: type[EngineError] | None = None,
) -> int:
    """An int from `low` to `high`. Errors as in `number`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise (type_error or error)(f"{name} must be an int, got {type(value).__name__} {value!r:.80}")
    if not low <= value <= high:
        raise error(f"{name} must be an int from {low:,} to {high:,}, got {value:,}")
    return value


def one_of(name: str, value: Any, choices: Sequence[str], *, error: type[EngineError] = InputError) -> str:
    """One of `choices`. Raises `error`, which lists them, for anything else."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}, got {value!r:.80}")
    return value


def finite_number(name: str, value: Any, *, error: type[EngineError] = InputError) -> float:
    """Return a finite number as a float. Raises `error` for NaN, infinity, bool, or anything but a number."""
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
