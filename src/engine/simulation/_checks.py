"""Checks of the simulator's arguments: numbers, lengths of time, mixes of deadlines. Each error names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from engine._common import arguments
from engine.errors import InputError, InputTypeError

MS, US = 1e6, 1e3  # nanoseconds in one
NS_MAX = 1e15  # eleven days: sums of a few such times stay far inside 64 bits

number = partial(arguments.number, type_error=InputTypeError)
whole = partial(arguments.whole, type_error=InputTypeError)


def ns(name: str, value: Any, unit: float) -> int:
    """Return a length of time, given as a number of `unit` nanoseconds, in nanoseconds."""
    return round(number(name, value, 0.0, NS_MAX / unit) * unit)


def deadlines(deadline_ms: Any) -> list[tuple[int, float]]:
    """Return (budget_ns, share) pairs of one deadline, or of a mapping {deadline_ms: share}."""
    if not isinstance(deadline_ms, Mapping):
        return [(ns("deadline_ms", deadline_ms, MS), 1.0)]
    mix = [
        (ns("deadline_ms", ms, MS), number("share of deadline_ms", share, 0.0, 1e9))
        for ms, share in deadline_ms.items()
    ]
    if not any(share > 0 for _, share in mix):
        raise InputError(
            f"deadline_ms needs at least one deadline with a share above 0, got {dict(deadline_ms)!r}"
        )
    return mix
