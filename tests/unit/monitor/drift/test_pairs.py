import os

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference
from engine.monitor.drift.pairs import Changed, fit_pairs, named, pair_scores

NIGHTLY = bool(os.environ.get("ENGINE_NIGHTLY"))


def correlated(rng, n, correlation, width=6):
    rows = rng.normal(size=(n, width))
    rows[:, 1] = correlation * rows[:, 0] + (1.0 - correlation**2) ** 0.5 * rows[:, 1]
    return rows


def alerts(reference, rows, **options):
    with ModelMonitor(reference, handlers=[], background=False, **options) as monitor:
        monitor.input_distribution.update(rows)
        return monitor.alerts, monitor.incidents


def test_the_correlations_of_a_reference_are_those_of_its_scores():
    rng = np.random.default_rng(0)
    made = Reference.fit(correlated(rng, 20_000, 0.5, 3))
    assert made.pairs.names == ("f0", "f1", "f2")
    assert made.pairs.rows == 20_000
    assert made.pairs.correlation == pytest.approx([0.5, 0.0, 0.0], abs=0.02)
    # Independent normal columns have the influence u v, whose mean square is 1.
    assert made.pairs.variance[1:] == pytest.approx([1.0, 1.0], abs=0.06)
    again = Reference.from_json(made.to_json())
    assert again.pairs.correlation == pytest.approx(made.pairs.correlation, abs=1e-4)
    assert again.to_json() == made.to_json()


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.5), (0.6, 0.0), (0.5, -0.5)])
def test_a_correlation_that_changes_is_one_incident_of_two_columns(before, after):
    rng = np.random.default_rng(1)
    reference = Reference.fit(correlated(rng, 20_000, before))
    rows = np.concatenate([correlated(rng, 4000, before), correlated(rng, 8000, after)])
    found, incidents = alerts(reference, rows)
    assert sorted(alert.column for alert in found) == ["f0", "f1"]
    (incident,) = incidents
    assert incident.problem == "correlation changed"
    first = found[0]
    assert 4000 < first.detected_row <= 6000
    assert first.evidence["with"] == ["f1"]
    assert first.evidence["correlation_reference"] == pytest.approx(before, abs=0.02)
    assert "correlation with f1" in first.message


def test_a_column_that_comes_loose_of_several_is_named_alone():
    rng = np.random.default_rng(2)

    def rows(n, loose):
        common = rng.normal(size=(n, 1))
        made = 0.8 * common + 0.6 * rng.normal(size=(n, 5))
        if loose:
            made[:, 2] = rng.normal(size=n)
        return made

    found, _ = alerts(
        Reference.fit(rows(10_000, False)), np.concatenate([rows(2000, False), rows(4000, True)])
    )
    assert [alert.column for alert in found] == ["f2"]
    assert found[0].evidence["with"] == ["f0", "f1", "f3", "f4"]


def test_it_ends_when_the_correlation_is_as_before():
    rng = np.random.default_rng(3)
    reference = Reference.fit(correlated(rng, 20_000, 0.0))
    rows = [correlated(rng, 3000, 0.0), correlated(rng, 4000, 0.5), correlated(rng, 9000, 0.0)]
    found, _ = alerts(reference, np.concatenate(rows))
    assert {alert.lasts for alert in found} == {False}
    assert all(7000 <= alert.ended_row <= 12_000 for alert in found)


def test_columns_whose_mean_moves_are_no_change_of_a_correlation():
    rng = np.random.default_rng(4)
    reference = Reference.fit(correlated(rng, 10_000, 0.5))
    rows = correlated(rng, 5000, 0.5) + np.array([1.0, 1.0, 0, 0, 0, 0])
    found, _ = alerts(reference, rows)
    assert {alert.evidence["problem"] for alert in found} == {"drift"}


def test_columns_of_rows_that_hang_together_take_no_part():
    day = np.sin(np.arange(40_000) * (2 * np.pi / 2000))
    rng = np.random.default_rng(5)
    made = Reference.fit({"day": day + rng.normal(size=40_000), "a": rng.normal(size=40_000)})
    assert pair_scores(made.features[0]) is None
    assert made.pairs is None


def laws(rng, n):
    """Independent columns of many kinds: normal, heavy tails, mostly zeros, few values, gaps, codes."""
    gaps = rng.normal(size=n)
    gaps[rng.random(n) < 0.3] = np.nan
    zeros = [np.where(rng.random(n) < 0.95, 0.0, rng.exponential(1.0, n)) for _ in range(4)]
    tails = [rng.standard_t(2, n) for _ in range(4)]
    codes = [rng.choice(4, n, p=[0.7, 0.2, 0.08, 0.02]) * 1.0 for _ in range(3)]
    return np.stack([*zeros, *tails, *codes, gaps, rng.normal(size=n)], axis=1)


def test_no_false_alarms_of_correlations_of_any_law():
    for seed in range(20 if NIGHTLY else 2):
        rng = np.random.default_rng(100 + seed)
        for rows in (150, 20_000):
            found, _ = alerts(
                Reference.fit(laws(rng, rows), ordered=False), laws(rng, 100_000 if NIGHTLY else 30_000)
            )
            assert [alert.column for alert in found if "with" in alert.evidence] == []


def test_live_rows_that_hang_together_where_the_reference_is_thinned_raise_no_alert():
    from scipy.signal import lfilter

    rng = np.random.default_rng(6)
    rows = lfilter([0.19**0.5], [1.0, -0.9], rng.normal(size=(440_000, 8)), axis=0)
    reference = Reference.fit(rows[:400_000:20])
    found, _ = alerts(reference, rows[400_000:])
    assert [alert.column for alert in found if "with" in alert.evidence] == []


def test_the_cause_of_several_pairs_is_the_column_they_have_in_common():
    pairs = [Changed(0, 3, 0.5, 0.0, 500), Changed(2, 3, 0.5, 0.0, 500), Changed(4, 5, 0.5, 0.0, 500)]
    assert {place: len(found) for place, found in named(pairs).items()} == {3: 2, 4: 1, 5: 1}


def test_one_column_has_no_pairs():
    made = Reference.fit(np.random.default_rng(0).normal(size=(500, 1)))
    assert made.pairs is None
    assert fit_pairs(made.features, {}) is None


def test_damaged_correlations_are_refused():
    made = Reference.fit(np.random.default_rng(0).normal(size=(500, 2)))
    text = made.to_json()
    with pytest.raises(MonitorError, match="correlations of a reference are damaged"):
        Reference.from_json(text.replace('"correlation":[', '"correlation":[0.1,'))
    with pytest.raises(MonitorError, match="columns that it does not have"):
        Reference.from_json(text.replace('"pairs":{"names":["f0"', '"pairs":{"names":["g0"'))
