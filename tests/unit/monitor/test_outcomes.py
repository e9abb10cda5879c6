import numpy as np
import pytest

from engine.monitor.outcomes import Outcomes, area_under_curve, calibration_error


def test_area_under_curve_by_hand():
    # Pairs (1, 0): .9>.8, .9>.1, .4<.8, .4>.1, one tie at .5 counted half.
    assert area_under_curve(np.array([0.9, 0.8, 0.4, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])) == 0.75
    assert area_under_curve(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == 0.5
    assert area_under_curve(np.array([0.5]), np.array([1.0])) is None


def test_calibration_error_by_hand():
    # Bin .2: predicted .2, true .5, two rows; bin .9: predicted .95, true 1, one row; bin 1.0 counts as .9.
    predicted, labels = np.array([0.2, 0.2, 0.95]), np.array([0.0, 1.0, 1.0])
    assert calibration_error(predicted, labels) == pytest.approx((2 * 0.3 + 0.05) / 3)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0.0


def test_outcomes_are_kept_by_version_and_source():
    outcomes = Outcomes(100)
    for prediction, label in ((0.9, 1.0), (0.2, 0.0), (0.6, 0.0), (0.7, 1.0)):
        outcomes.add("7", 0, np.array([prediction]), label, 10.0)
    outcomes.add("7", 1, np.array([0.5]), 1.0, 4.0)
    outcomes.add("7", 2, np.array([0.5]), 0.0, 2.0)
    made = outcomes.to_json()
    primary = made["groups"][0]
    assert (primary["version"], primary["source"], primary["labels"], primary["auc"]) == (
        "7",
        "primary",
        4,
        1.0,
    )
    assert primary["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.09) / 4)
    assert [group["source"] for group in made["groups"]] == ["primary", "fallback", "default"]
    assert made["fallback_cost"] == {"per_answer": 7.0, "total": 14.0, "answers": 2}


def test_without_values_there_is_no_cost():
    outcomes = Outcomes(10)
    outcomes.add("", 0, np.array([0.5]), 1.0, None)
    outcomes.add("", 1, np.array([0.5]), 1.0, 3.0)
    assert outcomes.to_json()["fallback_cost"] is None


def test_figures_roll_and_totals_stay():
    outcomes = Outcomes(3)
    for i in range(10):
        outcomes.add("", 0, np.array([float(i)]), float(i) + 2.0, None)
    (group,) = outcomes.to_json()["groups"]
    assert (group["labels"], group["rows"], group["prediction_mean"], group["error_mean"]) == (
        10,
        3,
        8.0,
        2.0,
    )
    assert "auc" not in group


def test_a_class_label_counts_the_share_it_was_given():
    outcomes = Outcomes(3)
    outcomes.add("", 0, np.array([0.1, 0.7, 0.2]), 1.0, None)
    (group,) = outcomes.to_json()["groups"]
    assert (group["prediction_mean"], group["label_mean"]) == (0.7, 1.0)


def test_a_prediction_that_is_no_number_is_counted_and_left_out():
    outcomes = Outcomes(3)
    outcomes.add("", 0, np.array([np.nan]), 1.0, None)
    (group,) = outcomes.to_json()["groups"]
    assert (group["labels"], group["rows"]) == (1, 0)


def test_groups_are_bounded():
    outcomes = Outcomes(3)
    for i in range(100):
        outcomes.add(str(i), 0, np.array([0.5]), 1.0, None)
    assert len(outcomes.to_json()["groups"]) == 64
