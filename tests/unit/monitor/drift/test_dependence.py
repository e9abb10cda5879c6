import numpy as np
import pytest

from engine.monitor.drift.dependence import INDEPENDENT, caution, dependence, tail_ratio


def everywhere(n):
    return np.ones(n, dtype=bool)


def test_independent_rows_are_found_independent():
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=4000)
        assert dependence(scores - scores.mean(), everywhere(4000)) == INDEPENDENT


def test_values_that_stay_for_fifty_rows_count_once_in_fifty():
    scores = np.repeat(np.random.default_rng(3).normal(size=400), 50)
    found = dependence(scores - scores.mean(), everywhere(20_000))
    assert 25 < found.factor < 90
    assert found.freedom in (31, 15, 7)


def test_a_lasting_trend_is_not_taken_for_fluctuation():
    rng = np.random.default_rng(4)
    scores = np.linspace(-1.7, 1.7, 20_000) + np.repeat(rng.normal(size=400), 50) * 0.3
    with_trend = dependence(scores - scores.mean(), everywhere(20_000))
    without = dependence(scores - np.linspace(-1.7, 1.7, 20_000), everywhere(20_000))
    assert with_trend.factor < without.factor


@pytest.mark.parametrize("n", [0, 5, 31])
def test_too_few_rows_count_as_independent(n):
    assert dependence(np.zeros(n), everywhere(n)) == INDEPENDENT


def test_a_constant_counts_as_independent():
    assert dependence(np.zeros(1000), everywhere(1000)) == INDEPENDENT


def test_whole_cycles_cancel():
    rng = np.random.default_rng(5)
    cycle = np.sin(np.arange(20_000) * (2 * np.pi / 1000)) * 1.4
    scores = cycle + rng.normal(size=20_000)
    found = dependence(scores - scores.mean(), everywhere(20_000))
    assert found.factor > 3
    assert dependence(scores - scores.mean(), everywhere(20_000), 1000.0).independent


def test_an_autoregressive_process_counts_beyond_its_batches():
    noise = np.random.default_rng(6).normal(size=20_000)
    scores = np.zeros(20_000)
    for i in range(1, 20_000):
        scores[i] = 0.999 * scores[i - 1] + noise[i]
    scores /= scores.std()
    # The truth is 1,999; 32 batches of 625 rows see a third of it.
    assert dependence(scores - scores.mean(), everywhere(20_000)).factor > 500


def test_few_windows_ask_for_caution():
    assert caution(np.array([20.0, 200.0])).tolist() == [2.5, 1.6]


def test_an_estimated_variance_widens_the_tail():
    # Student with 7 degrees of freedom at 1e-4: 7.063; normal: 3.719.
    assert tail_ratio(1e-4, 7) == pytest.approx((7.063 / 3.719) ** 2, rel=1e-3)
    assert tail_ratio(1e-4, float("inf")) == 1.0
