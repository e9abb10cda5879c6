"""Timestamps: the parts of a date in a zone, the columns of each library, and timestamps without a time zone."""

import json
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from engine import transform as t
from engine.errors import InputError, InputTypeError, ProgramError
from engine.transform.date_ops import PARTS, changes_of


def program_of(zone, *parts, naive=None):
    at = t.timestamp("at", zone=zone, naive=naive)
    features = [at.part(part).named(part) for part in parts]
    return t.FeatureProgram.fit(features, {"at": [datetime(2020, 1, 1, tzinfo=UTC)]})


def test_every_part_of_one_instant():
    # 31 December 2023, a Sunday, 23:30:15.25 UTC, is half past midnight of New Year's Day, a Monday, in Berlin.
    at = datetime(2023, 12, 31, 23, 30, 15, 250_000, UTC)
    assert program_of("UTC", *PARTS).row({"at": at}).tolist() == [
        *(2023, 12, 31, 365, 6, 23, 30, 15.25, 84615.25),
        np.float32(1704065415.25),
    ]
    assert program_of("Europe/Berlin", *PARTS[:-1]).row({"at": at}).tolist() == [
        *(2024, 1, 1, 1, 0, 0, 30, 15.25, 1815.25)
    ]


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]
)
def test_hours_around_every_change_are_those_of_the_zone_database(zone):
    program = program_of(zone, "hour", "minute", "day", "weekday")
    edges, _ = changes_of(zone)
    instants = [edge + delta for edge in edges for delta in (-1, 0, 1)] or [0, 1]
    moments = [datetime.fromtimestamp(instant, ZoneInfo(zone)) for instant in instants]
    expected = [[m.hour, m.minute, m.day, m.weekday()] for m in moments]
    assert program.batch({"at": moments}).tolist() == expected


def test_summer_time_of_one_year():
    edges, offsets = changes_of("Europe/Berlin")
    first = int(datetime(2024, 3, 31, 1, tzinfo=UTC).timestamp())
    last = int(datetime(2024, 10, 27, 1, tzinfo=UTC).timestamp())
    assert offsets[edges.index(first) : edges.index(first) + 3] == (3600, 7200, 3600)
    assert edges[edges.index(first) + 1] == last
    assert changes_of("UTC") == ((), (0,))


def test_one_instant_has_the_same_bits_however_it_is_written():
    program = program_of("Asia/Tokyo", "second_of_day", "unix_second", naive="utc")
    plain = datetime(1969, 7, 20, 20, 17, 40, 123_456)
    ways = [
        plain,
        plain.replace(tzinfo=UTC),
        plain.replace(tzinfo=UTC).astimezone(ZoneInfo("America/New_York")),
        plain.replace(tzinfo=timezone(timedelta(0))),
        np.datetime64(plain),
        np.datetime64("1969-07-20T20:17:40.123456789"),
        pd.Timestamp("1969-07-20T20:17:40.123456789"),
        pd.Timestamp(plain, tz="Europe/Berlin") + pd.Timedelta(hours=1),
        "1969-07-20T20:17:40.123456Z",
        "1969-07-20T21:17:40.123456+01:00",
    ]
    assert {program.row({"at": way}).tobytes() for way in ways} == {program.row([plain]).tobytes()}
    assert (
        program.row_json(b'{"at": "1969-07-20T20:17:40.123456Z"}').tobytes() == program.row([plain]).tobytes()
    )
    assert program.batch({"at": ways}).tobytes() == program.row([plain]).tobytes() * len(ways)


MOMENTS = [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), None, datetime(2024, 2, 29, 12, tzinfo=UTC)]


def zoned_columns():
    yield MOMENTS
    for unit in ("us", "ns", "ms"):
        moments = [m and m.replace(microsecond=m.microsecond // 1000 * 1000) for m in MOMENTS]
        moments = moments if unit == "ms" else MOMENTS
        array = pa.array(moments, pa.timestamp(unit, "Europe/Berlin"))
        yield array
        yield pa.chunked_array([array[:1], array[1:]])
        yield pl.Series("at", moments, dtype=pl.Datetime(unit, "UTC"))
        yield pd.Series(pd.to_datetime(moments, utc=True)).dt.tz_convert("Asia/Tokyo")


def test_columns_of_every_library_agree_with_rows():
    program = program_of("America/New_York", *PARTS)
    for column in zoned_columns():
        rows = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        expected = b"".join(program.row([value]).tobytes() for value in rows)
        assert program.batch({"at": column}).tobytes() == expected
        assert np.isnan(program.batch({"at": column})[1]).all()


NAIVE = datetime(2024, 2, 29, 12)


@pytest.mark.parametrize(
    "column",
    [
        [NAIVE],
        ["2024-02-29T12:00"],
        np.array([NAIVE], "datetime64[ns]"),
        pa.array([NAIVE]),
        pl.Series([NAIVE]),
        pd.Series([NAIVE]),
    ],
    ids=["datetime", "text", "numpy", "arrow", "polars", "pandas"],
)
def test_a_time_zone_that_is_missing_is_refused_or_declared(column):
    with pytest.raises(InputError, match=r"time zone.*naive='utc'"):
        program_of("UTC", "hour").batch({"at": column})
    assert program_of("Asia/Tokyo", "hour", naive="utc").batch({"at": column}).tolist() == [[21.0]]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (12, InputTypeError, "input 'at': expected a timestamp .*got int 12"),
        ("yesterday", InputError, "expected an ISO 8601 date and time, got str 'yesterday'"),
        (NAIVE, InputError, "input 'at': the timestamp .* has no time zone"),
        ("0001-01-01T00:00+10:00", InputError, "year from 1 to 9999"),
        (np.datetime64("20000-01-01"), InputError, "year from 1 to 9999"),
    ],
)
def test_what_is_no_timestamp_is_refused(value, error, words):
    with pytest.raises(error, match=words):
        program_of("UTC", "hour").row({"at": value})
    with pytest.raises(error, match="row 1, input 'at'"):
        program_of("UTC", "hour").batch({"at": [None, value]})


def test_a_column_of_numbers_is_no_column_of_timestamps():
    with pytest.raises(InputTypeError, match="expected a timestamp"):
        program_of("UTC", "hour").batch({"at": np.array([1.0])})


def test_specs_that_make_no_sense_are_refused():
    with pytest.raises(ProgramError, match="unknown time zone 'Mars/Base'"):
        t.timestamp("at", zone="Mars/Base")
    with pytest.raises(ProgramError, match="expected a time zone such as"):
        t.FeatureProgram.fit([{"type": "timestamp", "input": "at", "ops": []}], {"at": [None]})
    with pytest.raises(ProgramError, match="naive is 'utc' or None, got 'local'"):
        t.timestamp("at", zone="UTC", naive="local")
    with pytest.raises(ProgramError, match="ends as a timestamp: add part"):
        t.FeatureProgram.fit([t.timestamp("at", zone="UTC")], {"at": [None]})
    with pytest.raises(ProgramError, match=r"part must be one of year, month, .*got 'hours'"):
        t.timestamp("at", zone="UTC").part("hours")
    with pytest.raises(ProgramError, match="read both as a timestamp and as a timestamp_utc"):
        parts = [t.timestamp("at", zone="UTC", naive=naive).part("hour") for naive in (None, "utc")]
        t.FeatureProgram.fit(parts, {"at": [None]})


def test_a_saved_program_keeps_the_zone_it_was_fitted_with():
    program = program_of("Europe/Berlin", "hour")
    body = json.loads(program.to_json())
    assert body["features"][0]["ops"][0]["offsets"][:3] == [3600, 7200, 3600]
    loaded = t.FeatureProgram.from_json(program.to_json())
    assert loaded.digest == program.digest


def test_a_part_goes_on_as_a_number():
    hour = t.timestamp("at", zone="UTC").part("hour")
    program = t.FeatureProgram.fit([hour.cyclic(24), hour.one_hot().named("h")], {"at": [MOMENTS[0]]})
    assert program.row({"at": datetime(2024, 1, 1, 6, tzinfo=UTC)}).tolist()[:2] == [1.0, 0.0]
