"""Real rows, which depend on each other by hour and day: halves of a month are alike, and July differs from January."""

import pytest

pytest.importorskip("pandas")

from benchmarks import bench_monitor


@pytest.fixture(scope="module")
def figures():
    try:
        return bench_monitor.on_flights()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_no_half_of_january_alerts_against_the_other(figures):
    halves = {key: value for key, value in figures.items() if key.startswith("january_")}
    assert len(halves) == 6
    assert set(halves.values()) == {0.0}


@pytest.mark.slow
def test_july_alerts_once_for_weather_and_delays(figures):
    assert figures["july_flagged_share"] == 1.0
    assert figures["july_alerts_a_flagged_column"] == 1
    assert figures["july_other_columns_flagged"] == 0
