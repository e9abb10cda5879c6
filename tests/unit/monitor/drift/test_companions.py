import numpy as np
import pytest

from engine.monitor import ModelMonitor, Reference
from engine.monitor.drift.companions import movement


def weather(rng, n, calm_from=None):
    """A temperature that keeps one value in calm hours, as the humidity nearly does; humidity follows temperature."""
    steps = rng.normal(0.0, 0.05, n)
    calm = np.zeros(n, dtype=bool)
    for start in range(2000, n - 400, 3000):
        calm[start : start + 260] = True
    steps[calm] = 0.0
    temp = np.cumsum(steps)
    temp -= np.linspace(0.0, temp[-1], n)
    temp = np.round(temp * 10.0) / 10.0 + np.where(calm, 0.0, rng.normal(0.0, 0.2, n))
    temp[calm] = np.repeat(temp[calm].reshape(-1, 260)[:, :1], 260, axis=1).ravel()
    return {"temp": temp, "humid": 2.0 * temp + rng.normal(0.0, 0.05, n), "other": rng.normal(size=n)}


@pytest.fixture(scope="module")
def reference():
    return Reference.fit(weather(np.random.default_rng(0), 30_000))


def problems(reference, columns):
    with ModelMonitor(reference, handlers=[], background=False) as monitor:
        monitor.input_distribution.update(columns)
        return [(alert.column, alert.evidence["problem"], alert.detected_row) for alert in monitor.alerts]


def test_the_reference_knows_how_far_companions_move_in_its_calm_hours(reference):
    temp, humid, other = (column.calibration for column in reference.features)
    assert temp.run == 260
    assert 0.1 <= temp.moved < 0.5
    assert (humid.moved, other.moved) == (0.0, 0.0)
    again = Reference.from_json(reference.to_json())
    assert again.features[0].calibration.moved == temp.moved


def test_a_calm_hour_is_not_frozen(reference):
    found = problems(reference, weather(np.random.default_rng(1), 30_000))
    assert [alert for alert in found if alert[1] == "frozen value"] == []


def test_a_sensor_that_hangs_is_seen_long_before_the_longest_usual_run(reference):
    live = weather(np.random.default_rng(2), 6000)
    live["temp"][1000:] = live["temp"][1000]
    # The humidity goes on as the true temperature does.
    live["humid"][1000:] += np.linspace(0.0, 6.0, 5000)
    frozen = [alert for alert in problems(reference, live) if alert[:2] == ("temp", "frozen value")]
    assert len(frozen) == 1
    assert frozen[0][2] <= 1400  # twice the longest run would be at 1,580


def test_movement_is_the_range_of_what_is_known():
    assert movement(np.array([0.5, np.nan, -0.25])) == 0.75
    assert movement(np.array([np.nan])) == 0.0
