import numpy as np
import pytest

from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import MonitorError
from engine.monitor.drift.budgets import Budgets


def block(ok=0, fallback=0, errors=0):
    made = np.zeros((len(SOURCES), len(REASONS)))
    made[0, REASONS.index("ok")] = ok
    made[1, REASONS.index("late")] = fallback
    made[1, REASONS.index("primary_error")] = errors
    return made


def budgets(**changes):
    given = {"fallback_share_max": 0.05, "late_share_max": 0.01, "error_share_max": 0.01, "chance": 1e-5}
    return Budgets(**{**given, **changes})


def test_a_kept_budget_raises_nothing():
    watched = budgets()
    for _ in range(400):
        assert watched.observe(block(ok=96, fallback=4), 0) == []
    assert watched.answers == 40_000


def test_an_overspent_budget_is_one_event_with_its_share_start_and_end():
    watched = budgets()
    for _ in range(50):
        watched.observe(block(ok=100), 0)
    events = [event for _ in range(40) for event in watched.observe(block(ok=70, fallback=30), 0)]
    assert [event.kind for event in events] == ["fallback_share"]
    assert (events[0].started_row, events[0].share, events[0].ended_row) == (5000, pytest.approx(0.3), None)
    assert 5000 < events[0].detected_row <= 5300
    after = [event for _ in range(200) for event in watched.observe(block(ok=100), 0)]
    assert after == events
    assert 9000 <= events[0].ended_row < 12_000


def test_late_answers_and_errors_have_budgets_of_their_own():
    watched = budgets(fallback_share_max=1.0)
    found = [event.kind for _ in range(20) for event in watched.observe(block(ok=80, errors=20), 10)]
    assert sorted(found) == ["error_share", "late_share"]


def test_a_budget_of_1_is_no_budget():
    watched = budgets(fallback_share_max=1.0, error_share_max=1.0, late_share_max=1.0)
    assert [watched.observe(block(errors=100), 100) for _ in range(50)] == [[]] * 50


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_budget_out_of_range_is_named(share):
    with pytest.raises(MonitorError, match="late_share_max must be a number above 0 and at most 1"):
        budgets(late_share_max=share)
