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


def figures_of(rows):
    outcomes = Outcomes(100)
    for outputs, label in rows:
        outcomes.add("", 0, np.array(outputs), label, None)
    (group,) = outcomes.to_json()["groups"]
    return group


def test_the_shares_of_two_classes_have_the_figures_of_the_second():
    rows = [([0.1, 0.9], 1.0), ([0.8, 0.2], 0.0), ([0.4, 0.6], 0.0), ([0.3, 0.7], 1.0), ([0.85, 0.15], 1.0)]
    group = figures_of(rows)
    # Pairs (1, 0): .9 and .7 are above .2 and .6, .15 is above neither.
    assert group["auc"] == pytest.approx(4 / 6)
    assert group["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.09 + 0.7225) / 5)
    # Tenths: .15 -> 1 (bin 1), .2 -> 0 (bin 2), .6 -> 0, .7 -> 1, .9 -> 1.
    assert group["calibration_error"] == pytest.approx((0.85 + 0.2 + 0.6 + 0.3 + 0.1) / 5)
    assert (group["label_mean"], group["prediction_mean"]) == (0.6, pytest.approx(0.51))
    assert group["error_mean"] == pytest.approx((0.1 + 0.2 + 0.6 + 0.3 + 0.85) / 5)
    assert group == figures_of([([outputs[1]], label) for outputs, label in rows])


def test_the_shares_of_three_classes():
    group = figures_of([([0.7, 0.2, 0.1], 0.0), ([0.3, 0.6, 0.1], 1.0), ([0.5, 0.3, 0.2], 2.0)])
    assert group["accuracy"] == pytest.approx(2 / 3)
    # Class 0: .7 above .3 and .5; class 1: .6 above .2 and .3; class 2: .2 above .1 and .1.
    assert group["auc"] == 1.0
    brier = (0.09 + 0.04 + 0.01) + (0.09 + 0.16 + 0.01) + (0.25 + 0.09 + 0.64)
    assert group["brier"] == pytest.approx(brier / 3)
    # The likeliest class: .7 right, .6 right, .5 wrong.
    assert group["calibration_error"] == pytest.approx((0.3 + 0.4 + 0.5) / 3)
    assert group["error_mean"] == pytest.approx((0.3 + 0.4 + 0.8) / 3)
    assert (group["label_mean"], group["prediction_mean"]) == (1.0, pytest.approx((0.4 + 0.8 + 0.7) / 3))


def test_a_class_that_never_came_does_not_count_in_the_auc():
    group = figures_of([([0.7, 0.2, 0.1], 0.0), ([0.3, 0.6, 0.1], 1.0)])
    assert group["auc"] == 1.0
    assert figures_of([([0.7, 0.2, 0.1], 0.0)])["auc"] is None


def test_quantiles_are_judged_by_their_middle_and_their_coverage():
    group = figures_of(
        [([1.0, 2.0, 4.0], 1.0), ([0.0, 2.0, 3.0], 4.0), ([1.0, 3.0, 5.0], 3.5), ([2.0, 2.0, 2.0], 1.0)]
    )
    assert group["error_mean"] == pytest.approx((1.0 + 2.0 + 0.5 + 1.0) / 4)
    assert (group["prediction_mean"], group["label_mean"]) == (2.25, 2.375)
    # 1 <= 1, 2, 4; 4 <= none; 3.5 <= 5; 1 <= 2, 2, 2.
    assert group["below"] == [0.5, 0.5, 0.75]
    assert group["coverage"] == 0.5
    assert "auc" not in group
    assert figures_of([([1.0, 2.0], 0.0)])["prediction_mean"] == 1.5


def test_outputs_that_are_neither_shares_nor_quantiles_are_judged_by_the_first():
    group = figures_of([([3.0, 1.0], 1.0), ([4.0, 9.0], 2.0)])
    assert (group["prediction_mean"], group["error_mean"]) == (3.5, 2.0)


@pytest.mark.parametrize("outputs", [[np.nan], [np.nan, 0.3, 0.7], [0.3, np.inf], []])
def test_an_answer_with_an_output_that_is_no_number_is_counted_and_left_out(outputs):
    group = figures_of([(outputs, 1.0)])
    assert (group["labels"], group["not_finite"], group["rows"]) == (1, 1, 0)


def test_what_falling_back_costs_is_compared_within_each_version():
    outcomes = Outcomes(100)
    # Version 1 is worth 10 and falls back 90 of 100 times; version 2 is worth 20 and falls back 10 of 100 times. An
    # answer of the fallback is worth 1 less in both.
    for version, worth, fallbacks in (("1", 10.0, 90), ("2", 20.0, 10)):
        for i in range(100):
            source = 1 if i < fallbacks else 0
            outcomes.add(version, source, np.array([0.5]), 1.0, worth - source)
    outcomes.add("3", 1, np.array([0.5]), 1.0, 100.0)  # there is no primary to compare with
    assert outcomes.to_json()["fallback_cost"] == {"per_answer": 1.0, "total": 100.0, "answers": 100}


def test_a_value_may_come_without_a_label():
    outcomes = Outcomes(3)
    outcomes.add("", 0, np.array([0.5]), None, 7.0)
    (group,) = outcomes.to_json()["groups"]
    assert (group["labels"], group["rows"], group["value"], group["value_mean"]) == (0, 0, 7.0, 7.0)


def test_groups_are_bounded():
    outcomes = Outcomes(3)
    for i in range(100):
        outcomes.add(str(i), 0, np.array([0.5]), 1.0, None)
    assert len(outcomes.to_json()["groups"]) == 64
