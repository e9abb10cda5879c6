"""Instants and spans as whole nanoseconds: the one form in which times are compared in this room.

The rule for time zones is the same everywhere, and the same as for timestamps in feature programs: an instant says its
zone. What says none is refused, unless the source declares `naive="utc"`, and then it is UTC. Nanoseconds since 1970
reach from 1677 to 2262; what lies beyond is refused rather than wrapped.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.errors import InputError, InputTypeError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS_MIN, NS_MAX = -(2**63) + 1, 2**63 - 1

_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_SPAN = re.compile(r"(\d{1,9})([smhd])")


def instant_ns(value: Any, what: str) -> int:
    """An aware datetime, or ISO 8601 text with a zone, as nanoseconds since 1970 UTC; `what` names it in errors."""
    given = value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InputError(f"{what}: expected ISO 8601 text, got {given!r}: {error}") from None
    if not isinstance(value, datetime):
        raise InputTypeError(
            f"{what}: expected a datetime or ISO 8601 text, got {type(given).__name__} {given!r}"
        )
    if value.utcoffset() is None:
        raise InputError(
            f"{what}: {given!r} has no time zone; write it with one, 2013-07-01T00:00:00+00:00, say"
        )
    # A pandas Timestamp is a datetime with nanoseconds of its own.
    ns = (value - EPOCH) // timedelta(microseconds=1) * 1000 + int(getattr(value, "nanosecond", 0))
    if not NS_MIN <= ns <= NS_MAX:
        raise InputError(f"{what}: expected a year from 1678 to 2261, got {given!r}")
    return ns


def span_ns(value: Any, what: str) -> int:
    """A timedelta, or text like "24h" (s, m, h, d), as nanoseconds above zero."""
    if isinstance(value, str) and (match := _SPAN.fullmatch(value)):
        ns = int(match[1]) * _UNITS_NS[match[2]]
    elif isinstance(value, timedelta):
        ns = value // timedelta(microseconds=1) * 1000
    else:
        raise InputError(f"{what}: expected a timedelta or text like '24h' (s, m, h or d), got {value!r}")
    if not 0 < ns <= NS_MAX:
        raise InputError(f"{what}: expected a time above zero and below 292 years, got {value!r}")
    return ns


def shown(ns: int) -> str:
    """An instant for a reader."""
    return (EPOCH + timedelta(microseconds=ns // 1000)).isoformat()
