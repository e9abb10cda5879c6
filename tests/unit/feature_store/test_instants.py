"""Instants and spans: exact nanoseconds, and a zone or an error."""

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest

from engine.errors import InputError, InputTypeError
from engine.feature_store.instants import instant_ns, shown, span_ns


def test_an_instant_is_the_same_in_every_zone():
    assert instant_ns(datetime(1970, 1, 1, tzinfo=UTC), "t") == 0
    west = timezone(timedelta(hours=-5))
    assert instant_ns(datetime(1970, 1, 1, 7, 0, 0, 1, tzinfo=west), "t") == 12 * 3600 * 10**9 + 1000
    assert instant_ns("1970-01-01T01:00:00+01:00", "t") == 0
    assert instant_ns("1969-12-31T23:59:59.999999Z", "t") == -1000
    assert instant_ns(pd.Timestamp(1_700_000_000_123_456_789, tz="UTC"), "t") == 1_700_000_000_123_456_789


def test_an_instant_without_a_zone_is_refused():
    for value in (datetime(2013, 1, 1), "2013-01-01T00:00:00", "2013-01-01", pd.Timestamp("2013-01-01")):
        with pytest.raises(InputError, match=r"start_time: .* has no time zone; write it with one"):
            instant_ns(value, "start_time")


def test_a_value_that_is_no_instant_is_refused():
    for value in (5, None, datetime(2013, 1, 1).date()):
        with pytest.raises(InputTypeError, match="t: expected a datetime or ISO 8601 text, got"):
            instant_ns(value, "t")
    with pytest.raises(InputError, match="t: expected ISO 8601 text, got 'yesterday'"):
        instant_ns("yesterday", "t")
    for year in (1600, 2300, 9999):
        with pytest.raises(InputError, match="expected a year from 1678 to 2261"):
            instant_ns(datetime(year, 1, 1, tzinfo=UTC), "t")


def test_spans():
    assert [span_ns(text, "t") for text in ("1s", "2m", "3h", "4d")] == [
        10**9,
        120 * 10**9,
        10800 * 10**9,
        345600 * 10**9,
    ]
    assert span_ns(timedelta(microseconds=1), "t") == 1000
    with pytest.raises(InputError, match="below 292 years"):
        span_ns("999999d", "t")


def test_an_instant_is_shown_with_its_zone():
    assert shown(1_357_000_000_000_000_000) == "2013-01-01T00:26:40+00:00"
