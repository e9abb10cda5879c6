"""The demo's data and models: when facts are known, which are left out, and the small parts by hand."""

import numpy as np
import pytest

pytest.importorskip("pandas")

from engine.demo import flights, training
from engine.training.evaluate import auc
from engine.transform import FeatureProgram


@pytest.fixture(scope="module")
def parts():
    return flights.load()


def test_every_flight_that_arrived_is_in_one_of_the_two_parts(parts):
    learn, serve = parts
    # 336,776 flights; 9,430 of them have no arrival delay.
    assert len(learn) + len(serve) == 327_346
    assert len(learn) == len(learn.table) == 160_678


def test_nothing_that_is_known_only_later_is_an_input(parts):
    later = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    for part in parts:
        assert not later & set(part.table.columns)
    inputs = {name for feature in flights.SPEC for name, _ in feature.inputs()}
    assert inputs == set(parts[0].table.columns)


def test_the_first_flight_is_as_in_the_file(parts):
    # 2013-01-01 (a Tuesday), due out of Newark at 5:15, UA to IAH, 1,400 miles; it came 11 minutes late.
    first = parts[0].records(1)[0]
    assert (first["hour"], first["minute"], first["weekday"], first["carrier"], first["origin"]) == (
        5,
        15,
        1,
        "UA",
        "EWR",
    )
    assert (first["dest"], first["distance"], first["tailnum"]) == ("IAH", 1400, "N14228")
    assert not parts[0].late[0]
    # The weather of that airport in that hour.
    assert (first["temp"], first["wind_dir"]) == (39.02, 260)


def test_what_is_learned_comes_before_what_is_served(parts):
    # 22:50 on the last of June and 0:05 on the first of July or thereabouts: the parts are in order of time.
    assert len(parts[1]) == 166_668
    assert parts[0].table["weekday"].iloc[-1] == 6
    assert parts[1].table["weekday"].iloc[0] == 0


def test_a_record_gives_the_same_features_as_the_table(parts):
    program = FeatureProgram.fit(flights.SPEC, parts[0].table.iloc[:5_000])
    records = parts[1].records(300)
    table = program.batch(parts[1].table.iloc[:300])
    assert np.array_equal(np.stack([program.row(record) for record in records]), table, equal_nan=True)


def test_auc_by_hand():
    late = np.array([True, False, True, False])
    # Of the four pairs (late, punctual) three are in the right order; a tie counts half.
    assert auc(late, np.array([0.9, 0.5, 0.4, 0.1])) == 0.75
    assert auc(late, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert np.isnan(auc(np.array([True]), np.array([0.5])))


def test_thresholds_are_rounded_down_to_float32():
    import re

    line = re.match(r"(?m)^threshold=(.*)$", "threshold=0.1 0.5 -0.1 16777217")
    rounded = [float(value) for value in training._rounded_down(line).removeprefix("threshold=").split()]
    # float32(0.1) lies above 0.1 and float32(-0.1) below -0.1; 0.5 is exact; 2**24 + 1 is halfway and must go down.
    assert rounded == [
        float(np.nextafter(np.float32(0.1), np.float32(0))),
        0.5,
        float(np.float32(-0.1)),
        16777216.0,
    ]
