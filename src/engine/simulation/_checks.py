"""Checks of numbers that come from a caller: type, range and unit; each error names the argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.errors import InputError, InputTypeError

MS, US = 1e6, 1e3  # nanoseconds in one
NS_MAX = 1e15  # eleven days: sums of a few such times stay far inside 64 bits


def number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"{name}: expected a number, got {type(value).__name__} {value!r}")
    if math.isnan(value) or not low <= value <= high:
        raise InputError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name}: expected a whole number, got {type(value).__name__} {value!r}")
    if not low <= value <= high:
        raise InputError(f"{name}: expected a whole number from {low} to {high}, got {value}")
    return value


def ns(name: str, value: Any, unit: float) -> int:
    return round(number(name, value, 0.0, NS_MAX / unit) * unit)


def deadlines(deadline_ms: Any) -> list[tuple[int, float]]:
    if not isinstance(deadline_ms, Mapping):
        return [(ns("deadline_ms", deadline_ms, MS), 1.0)]
    mix = [
        (ns("deadline_ms", ms, MS), number("share of deadline_ms", s, 0.0, 1e9))
        for ms, s in deadline_ms.items()
    ]
    if not any(share > 0 for _, share in mix):
        raise InputError(
            f"deadline_ms: expected at least one deadline with a share over 0, got {dict(deadline_ms)!r}"
        )
    return mix
