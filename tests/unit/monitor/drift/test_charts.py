import math

import numpy as np
import pytest

from engine.monitor.drift.charts import NAMES, Charts, LocationCharts, RateCharts, tilt, usual_share
from engine.monitor.drift.column import fit_column


def test_a_chart_stays_between_0_and_its_threshold_and_is_alarmed_until_a_quarter():
    charts = Charts(["a"], np.array([[8.0]]))
    levels = []
    for rows, step in enumerate((4.0, -6.0, 4.0, 4.0, 4.0, -4.0, -2.0, -1.0)):
        charts.observe(np.array([[step]]), rows)
        levels.append((charts.level[0, 0], bool(charts.alarmed[0, 0])))
    assert levels == [
        (0.5, False), (0.0, False), (0.5, False), (1.0, True), (1.0, True), (0.5, True), (0.25, False), (0.125, False),
    ]  # fmt: skip


def test_a_chart_knows_where_it_left_zero():
    charts = Charts(["a"], np.array([[8.0]]))
    for rows, step in enumerate((1.0, -2.0, -1.0, 2.0, 2.0)):
        charts.observe(np.array([[step]]), rows * 10)
    assert charts.since[0, 0] == 30


def test_the_tilt_of_a_normal_law_is_twice_its_slack():
    grid = np.linspace(-8, 8, 4001)
    share = np.exp(-(grid**2) / 2)
    share /= share.sum()
    assert tilt(grid - 0.125, share) == pytest.approx(0.25, rel=1e-3)


def test_the_tilt_solves_its_equation_for_a_coin():
    # P(+1) = 1/4, P(-1) = 3/4: exp(theta) = 3.
    assert tilt(np.array([-1.0, 1.0]), np.array([0.75, 0.25])) == pytest.approx(math.log(3.0))


def test_a_share_that_was_never_seen_is_not_impossible():
    assert usual_share(0, 1000, 1.0) == pytest.approx(
        0.5 / 1001 + 2 * (0.5 / 1001 * (1 - 0.5 / 1001) / 1000) ** 0.5
    )
    assert usual_share(1000, 1000, 1.0) == 0.98
    assert usual_share(20, 1000, 100.0) > usual_share(20, 1000, 1.0)


def normal_column(n=10_000, seed=0):
    return fit_column("x", np.random.default_rng(seed).normal(size=n).astype(np.float32), categorical=False)


def alarms_of(values, column):
    charts = LocationCharts([column], column.bins.n_bins, 1e-7)
    for start in range(0, len(values), 50):
        index = column.bins.index(values[start : start + 50].astype(np.float32))
        charts.observe(np.bincount(index, minlength=column.bins.n_bins)[None, :], start)
    return [name for name, alarmed in zip(NAMES, charts.charts.alarmed[:, 0], strict=True) if alarmed]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x, []),
        (lambda x: x + 0.5, ["mean up"]),
        (lambda x: x - 0.5, ["mean down"]),
        (lambda x: x * 1.4, ["extremes up"]),
        (lambda x: x * 0.7, ["extremes down"]),
    ],
)
def test_each_chart_sees_its_own_change(change, expected):
    values = np.random.default_rng(7).normal(size=1500)
    assert alarms_of(change(values), normal_column()) == expected


def test_missing_values_alarm_and_their_usual_share_does_not():
    values = np.random.default_rng(5).normal(size=2000).astype(np.float32)
    values[::20] = np.nan
    charts = RateCharts([fit_column("x", values, categorical=False)], 1e-7)
    for start in range(0, 2000, 50):
        charts.observe(np.array([2]), np.array([0]), 50, start)
    assert not charts.charts.alarmed.any()
    for start in range(2000, 2400, 50):
        charts.observe(np.array([15]), np.array([0]), 50, start)
    assert charts.charts.alarmed.tolist() == [[True], [False]]


def test_unseen_values_alarm():
    charts = RateCharts([fit_column("x", np.arange(1000, dtype=np.float32) % 5, categorical=True)], 1e-7)
    charts.observe(np.array([0]), np.array([10]), 50, 0)
    assert charts.charts.alarmed.tolist() == [[False], [True]]
