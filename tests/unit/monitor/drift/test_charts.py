import math

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor._charts import Evidence
from engine.monitor.drift.charts import CHARTS, NAMES, allowance, law_of, steps_of, thresholds_of, tilt
from engine.monitor.drift.dependence import INDEPENDENT, Dependence
from engine.monitor.drift.fitting import fit_column


def one_chart(threshold=8.0):
    """One column of one bin, whose rows add 1."""
    return Evidence(np.array([[[1.0], [-1.0], [0.0]]]), np.array([[threshold, 50.0]]))


def add(evidence, rows, missing=0, run=1, before=0):
    """Add rows with a value (a step of 1 each) and rows without one (-1)."""
    return evidence.observe(
        np.array([[rows]], dtype=np.uint32),
        np.array([missing], dtype=np.uint32),
        np.zeros(1, dtype=np.uint32),
        np.zeros(1, dtype=np.uint32),
        np.array([run], dtype=np.uint32),
        np.array([[2.0 * rows, 4.0 * rows]]),
        rows + missing,
        before,
    )


def test_a_chart_stays_between_0_and_its_threshold_and_is_alarmed_until_a_quarter():
    evidence = one_chart()
    levels = []
    for step in (4, -6, 4, 4, 4, -4, -2, -1):
        add(evidence, max(step, 0), max(-step, 0))
        levels.append((evidence.level[0, 0], bool(evidence.alarmed[0, 0])))
    assert levels == [
        (0.5, False), (0.0, False), (0.5, False), (1.0, True), (1.0, True), (0.5, True), (0.25, False), (0.125, False),
    ]  # fmt: skip


def test_a_chart_knows_where_it_left_zero_and_where_it_last_stood_at_its_threshold():
    evidence = one_chart(4.0)
    for place, step in enumerate((1, -2, -1, 2, 2, 3, -1)):
        add(evidence, max(step, 0), max(-step, 0), before=place * 10)
    assert evidence.since[0, 0] == 30
    assert evidence.until[0, 0] == 53


def test_a_run_alarms_at_its_limit_and_is_over_with_another_value():
    evidence = one_chart(math.inf)
    assert not add(evidence, 40, run=40)
    assert add(evidence, 20, run=60, before=40)
    assert evidence.alarmed.tolist() == [[0, 1]]
    assert evidence.since[0, 1] == 0
    assert not add(evidence, 20, run=3, before=60)


def test_sums_of_the_latest_blocks_are_kept():
    evidence = Evidence(np.zeros((1, 3, 1)), np.full((1, 2), np.inf), kept=2)
    for rows in (1, 2, 3):
        add(evidence, rows, missing=1)
    assert evidence.latest().tolist() == [1, 0]
    assert evidence.sums[evidence.latest(1)[0], 0].tolist() == [4.0, 1.0, 0.0, 6.0, 12.0, 1.0]
    assert evidence.gathered.tolist() == [[6.0]]


def test_other_thresholds_keep_the_sums():
    evidence = one_chart(8.0)
    add(evidence, 6)
    evidence.set_thresholds(np.array([[16.0, 50.0]]))
    assert evidence.level[0, 0] == 0.375
    add(evidence, 2)
    assert evidence.level[0, 0] == 0.5


def test_counts_of_another_shape_are_refused():
    with pytest.raises(MonitorError, match="expected a C-contiguous array of 1 counts"):
        one_chart().observe(*(np.zeros(2, dtype=np.uint32) for _ in range(5)), np.zeros((1, 2)), 1, 0)
    with pytest.raises(MonitorError, match="expected thresholds"):
        one_chart().set_thresholds(np.zeros((1, 1)))


def test_the_tilt_of_a_normal_law_is_twice_its_slack():
    grid = np.linspace(-8, 8, 4001)
    share = np.exp(-(grid**2) / 2)
    share /= share.sum()
    assert tilt(grid - 0.125, share) == pytest.approx(0.25, rel=1e-3)


def test_the_tilt_solves_its_equation_for_a_coin():
    # P(+1) = 1/4, P(-1) = 3/4: exp(theta) = 3.
    assert tilt(np.array([-1.0, 1.0]), np.array([0.75, 0.25])) == pytest.approx(math.log(3.0))


def test_an_allowance_covers_standard_errors_of_the_reference():
    fine, coarse = CHARTS[0], CHARTS[2]
    assert allowance(fine, INDEPENDENT, 20_000) == 0.05
    assert allowance(coarse, INDEPENDENT, 20_000) == 0.125
    assert allowance(fine, INDEPENDENT, 100) == pytest.approx(0.3)
    assert allowance(coarse, INDEPENDENT, 100) == pytest.approx(0.6)
    assert allowance(fine, Dependence(10.0, 31), 100_000) == 0.25


def test_the_parts_of_the_charts_are_all_of_a_column_s_false_alarms():
    assert sum(chart.part for chart in CHARTS) == pytest.approx(1.0)
    assert sum(chart.part_codes for chart in CHARTS) == pytest.approx(1.0)


def fitted(values, **options):
    return fit_column("x", np.asarray(values, dtype=np.float32), **({"categorical": False} | options))


def alarms_of(values, column):
    """Names of the charts that are alarmed after these values, in blocks of 50 rows."""
    made = column.scores()
    steps = steps_of(column, made)
    n_bins = column.bins.n_bins
    heights = np.append(thresholds_of(column, steps, law_of(column, made), 1e-7), np.inf)
    evidence = Evidence(steps.T[None], heights[None])
    values = np.asarray(values, dtype=np.float32)
    for start in range(0, len(values), 50):
        part = values[start : start + 50]
        index = column.bins.index(part)
        one = [
            np.array([count], dtype=np.uint32)
            for count in ((index == -1).sum(), np.isinf(part).sum(), (index == -2).sum(), 1)
        ]
        counts = np.bincount(index[index >= 0], minlength=n_bins).astype(np.uint32)[None]
        evidence.observe(counts, *one, np.zeros((1, 2)), len(part), start)
    return sorted({name for name, alarmed in zip(NAMES, evidence.alarmed[0], strict=False) if alarmed})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x, []),
        (lambda x: x + 0.5, ["mean up"]),
        (lambda x: x - 0.5, ["mean down"]),
        (lambda x: x * 1.2, ["extremes up"]),
        (lambda x: x * 0.7, ["extremes down"]),
        (lambda x: np.where(np.arange(1500) % 40 == 0, 6.0, x), ["out of range"]),
    ],
)
def test_each_chart_sees_its_own_change(change, expected):
    values = np.random.default_rng(7).normal(size=1500)
    found = alarms_of(change(values), fitted(np.random.default_rng(0).normal(size=10_000)))
    # A mean that moved far raises the extremes as well.
    assert [name for name in found if name != "extremes up" or expected == ["extremes up"]] == expected


def test_missing_values_alarm_in_both_directions_and_their_usual_share_does_not():
    reference = np.random.default_rng(5).normal(size=2000)
    reference[::5] = np.nan
    column = fitted(reference, ordered=False)
    live = np.random.default_rng(6).normal(size=1000)
    live[::5] = np.nan
    assert alarms_of(live, column) == []
    live[::3] = np.nan
    assert alarms_of(live, column) == ["missing values"]
    assert alarms_of(np.random.default_rng(6).normal(size=1000), column) == ["fewer missing values"]


def test_a_column_that_is_always_missing_has_no_chart_of_missing_values():
    assert alarms_of(np.full(20_000, np.nan), fitted(np.full(1000, np.nan))) == []


def test_new_codes_are_judged_by_the_rate_at_which_the_reference_brings_new_ones():
    rng = np.random.default_rng(8)
    few = fitted(rng.integers(0, 5, 2000), categorical=True)
    assert few.singletons == 0
    assert alarms_of(np.full(50, 9.0), few) == ["unseen values"]
    users = fitted(rng.integers(0, 10**6, 2000), categorical=True)
    assert users.singletons > 1900
    assert alarms_of(rng.integers(0, 10**6, 2000), users) == []


def test_a_code_that_takes_a_tenth_more_of_the_rows_is_seen():
    rng = np.random.default_rng(9)
    column = fitted(rng.choice(4, 20_000, p=[0.4, 0.3, 0.2, 0.1]), categorical=True)
    assert alarms_of(rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1]), column) == []
    assert "share up" in alarms_of(rng.choice(4, 2000, p=[0.4, 0.2, 0.3, 0.1]), column)


def test_an_ordinary_day_is_usual_where_the_reference_has_days():
    cycle = np.sin(np.arange(100_000) * (2 * np.pi / 5000))
    rng = np.random.default_rng(10)
    column = fitted(cycle + rng.normal(size=100_000))
    assert column.calibration.period == pytest.approx(5000, rel=0.02)
    assert alarms_of(cycle + rng.normal(size=100_000), column) == []
    assert alarms_of(cycle + rng.normal(size=100_000) + 1.5, column) != []
