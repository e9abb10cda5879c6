import numpy as np
import pytest

from engine.monitor.drift.bins import codes, look_like_codes, numeric, scores


def float32(*values):
    return np.array(values, dtype=np.float32)


def test_few_distinct_numbers_have_a_bin_each_and_there_are_bins_beyond_the_range():
    bins = numeric(float32(1, 2, 2, 4))
    assert not bins.discrete
    index = bins.index(float32(1, 2, 4, 0.9, 100, -100, np.nan, np.inf, -np.inf))
    inside = index[:3]
    assert len(set(inside.tolist())) == 3
    assert index[3] < inside[0]
    assert index[4] == bins.n_bins - 1
    assert index[5] == 0
    assert index[6] == -1
    assert (index[7], index[8]) == (bins.n_bins - 1, 0)


def test_bins_of_many_numbers_hold_equal_parts_but_for_the_tails():
    values = np.arange(32_000, dtype=np.float32)
    bins = numeric(values)
    counts = np.bincount(bins.index(values), minlength=bins.n_bins)
    inner = counts[counts > 0]
    assert counts.sum() == 32_000
    assert np.median(inner) == 1000
    assert inner[0] == 64  # the lowest 0.2 %


def test_a_constant_column_has_room_on_both_sides():
    bins = numeric(float32(*[5.0] * 10))
    low, same, high = bins.index(float32(4.0, 5.0, 6.0))
    assert low < same < high


@pytest.mark.parametrize("value", [0.0, -3.0e38, 3.0e38, 1e-45])
def test_constants_at_the_ends_of_float32_have_finite_cuts(value):
    bins = numeric(float32(*[value] * 10))
    assert np.isfinite(bins.cuts).all()
    assert (np.diff(bins.cuts) > 0).all()
    assert bins.n_bins == len(bins.cuts) + 1


def test_codes_have_a_bin_each_and_others_are_unseen():
    bins = codes(float32(0, 3, 3, 9))
    assert bins.n_bins == 3
    assert bins.index(float32(0, 3, 9, 1, np.nan)).tolist() == [0, 1, 2, -2, -1]


def test_rare_codes_share_the_last_bin():
    values = np.concatenate([np.repeat(np.arange(62), 10), np.arange(62, 100)]).astype(np.float32)
    bins = codes(values)
    assert bins.n_bins == 63
    assert bins.index(float32(61, 62, 99, 100)).tolist() == [61, 62, 62, -2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2, 2), True),
        ((-1, 0, 1), True),
        ((0, 1), False),
        ((0, 2, 3), False),
        ((5, 6, 7), False),
        ((0, 0.5, 1), False),
    ],
)
def test_whole_numbers_without_a_gap_look_like_codes(values, expected):
    assert look_like_codes(float32(*values)) is expected


def test_scores_have_mean_0_and_variance_1_under_the_reference():
    values = np.random.default_rng(1).exponential(size=5000).astype(np.float32)
    bins = numeric(values)
    made = scores(bins, np.bincount(bins.index(values), minlength=bins.n_bins))
    for score in made.names.values():
        assert abs((made.share * score).sum()) < 1e-12
        assert abs((made.share * score**2).sum() - 1) < 1e-9
    assert made.share.sum() == pytest.approx(1.0)
    assert (made.share > 0).all()
    # Far beyond the range the scores have reached their cap.
    assert (np.diff(made.location)[3:-3] > 0).all()
    assert (np.diff(made.location) >= 0).all()


def test_the_score_of_a_normal_sample_is_its_own_value():
    values = np.random.default_rng(2).normal(size=50_000).astype(np.float32)
    bins = numeric(values)
    made = scores(bins, np.bincount(bins.index(values), minlength=bins.n_bins))
    for value in (-1.5, 0.0, 1.0, 2.0):
        assert made.location[bins.index(float32(value))[0]] == pytest.approx(value, abs=0.12)
    assert made.location[bins.index(float32(30.0))[0]] > 7.5
