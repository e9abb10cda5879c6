"""Instants and spans as whole nanoseconds, the only form in which this room compares times.

The rule for time zones is the same everywhere, and the same as for timestamps in feature programs: an instant says its
zone. An instant without one is refused, unless its source declares `naive="utc"`. Nanoseconds since 1970 reach from
1677 to 2262; an instant beyond is refused, because it would wrap.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.errors import InputError, InputTypeError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS_MIN, NS_MAX = -(2**63) + 1, 2**63 - 1

_UNITS_NS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
# The digits of a fraction of a second that are beyond the microsecond.
_NANOSECONDS = re.compile(r"[.,]\d{6}(\d+)")
_SPAN = re.compile(r"(\d{1,9})([smhd])")


def instant_ns(value: Any, what: str) -> int:
    """Nanoseconds since 1970 UTC of a datetime with a zone, or of ISO 8601 text with one.

    Args:
        value: the instant. A pandas Timestamp and text keep their nanoseconds; what is beyond is cut off.
        what: the beginning of every error text.

    Raises:
        InputTypeError: neither a datetime nor text.
        InputError: the text is not ISO 8601, the instant has no zone, or its year is not from 1678 to 2261.
    """
    given, beyond_us = value, 0
    if isinstance(value, str):
        if match := _NANOSECONDS.search(value):
            # A datetime would drop what is beyond the microsecond.
            beyond_us = int(match[1].ljust(3, "0")[:3])
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
            f"{what}: {given!r} has no time zone; write it with one, as 2013-07-01T00:00:00+00:00"
        )
    # A pandas Timestamp is a datetime with nanoseconds of its own.
    ns = (value - EPOCH) // timedelta(microseconds=1) * 1000 + int(getattr(value, "nanosecond", beyond_us))
    if not NS_MIN <= ns <= NS_MAX:
        raise InputError(f"{what}: expected a year from 1678 to 2261, got {given!r}")
    return ns


def span_ns(value: Any, what: str) -> int:
    """Nanoseconds of a timedelta, or of text as "24h" (s, m, h or d). Raises InputError unless it is above zero."""
    if isinstance(value, str) and (match := _SPAN.fullmatch(value)):
        ns = int(match[1]) * _UNITS_NS[match[2]]
    elif isinstance(value, timedelta):
        ns = value // timedelta(microseconds=1) * 1000
    else:
        raise InputError(f"{what}: expected a timedelta or text as '24h' (s, m, h or d), got {value!r}")
    if not 0 < ns <= NS_MAX:
        raise InputError(f"{what}: expected a time above zero and below 292 years, got {value!r}")
    return ns


def time_range(start_time: Any, end_time: Any) -> tuple[int | None, int | None]:
    """[start, end) in nanoseconds since 1970; None stays None, for no bound. Raises InputError if it is empty."""
    start = None if start_time is None else instant_ns(start_time, "start_time")
    end = None if end_time is None else instant_ns(end_time, "end_time")
    if start is not None and end is not None and start >= end:
        raise InputError(
            f"the range is empty: start_time {shown(start)} is not before end_time {shown(end)}, which is not in it"
        )
    return start, end


def shown(ns: int) -> str:
    """An instant as ISO 8601 text in UTC, to the microsecond."""
    return (EPOCH + timedelta(microseconds=ns // 1000)).isoformat()
