import numpy as np
import pytest

from engine.monitor.drift.column import groups_of, two_sample_chi_square
from engine.monitor.drift.fitting import fit_column
from engine.monitor.drift.windows import Windows, discoveries, population_stability


def test_chi_square_of_two_samples_by_hand():
    # Shares 1/2, 1/2 in 20 rows against 3/4, 1/4 in 40: pooled 40 and 20 of 60; expected 13.33, 6.67 | 26.67, 13.33.
    expected = 10 * np.log(10 / (40 / 3)) + 10 * np.log(10 / (20 / 3))
    expected += 30 * np.log(30 / (80 / 3)) + 10 * np.log(10 / (40 / 3))
    assert two_sample_chi_square(np.array([10, 10]), np.array([30, 10])) == pytest.approx(2 * expected)


def test_chi_square_of_no_rows_is_0():
    assert two_sample_chi_square(np.array([0, 0]), np.array([30, 10])) == 0.0


def test_neighbouring_bins_join_until_enough_is_expected():
    assert groups_of(np.array([100, 1, 1, 98]), 20).tolist() == [0, 1, 1, 1]
    assert groups_of(np.array([100, 100, 1]), 20).tolist() == [0, 1, 1]
    assert groups_of(np.array([5]), 20).tolist() == [0]


def test_benjamini_and_hochberg_by_hand():
    # Levels 0.01, 0.02, 0.03, 0.04, 0.05: the third of the ordered p-values is the last below its own.
    p_values = np.array([0.029, 0.5, 0.001, 0.025, 0.06])
    assert discoveries(p_values, 0.05).tolist() == [True, False, True, True, False]
    assert not discoveries(np.array([0.02, 0.9]), 0.01).any()
    assert not discoveries(np.array([]), 0.01).any()


def test_population_stability_by_hand():
    found = population_stability(np.array([[50.0, 50.0, 0.0]]), np.array([[25.0, 75.0, 0.0]]))
    assert found == pytest.approx([(0.5 - 0.25) * np.log(0.5 / 0.25) + (0.5 - 0.75) * np.log(0.5 / 0.75)])


def windows_over(reference, live, *, categorical, rows=500):
    """Windows of two parts of `live`: each part is half a window."""
    column = fit_column("x", reference.astype(np.float32), categorical=categorical)
    windows = Windows([column], column.bins.n_bins, rows, 1e-6)
    index = column.bins.index(live.astype(np.float32))
    for start in range(0, len(live) - rows // 2 + 1, rows // 2):
        part = index[start : start + rows // 2]
        counts = np.bincount(part[part >= 0], minlength=column.bins.n_bins)[None, :]
        windows.observe(counts.astype(float), np.zeros(1), len(part), start + len(part))
    return windows


def test_two_categories_that_change_places_are_seen():
    rng = np.random.default_rng(1)
    reference = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=5000)
    same = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=1000)
    swapped = rng.choice(4, p=[0.25, 0.45, 0.2, 0.1], size=1000)
    assert not windows_over(reference, same, categorical=True).alarmed[0]
    found = windows_over(reference, swapped, categorical=True)
    assert found.alarmed[0]
    assert found.psi[0] > 0.02


def test_a_second_hump_is_seen_though_mean_and_spread_stay():
    rng = np.random.default_rng(2)
    humps = rng.choice([-1.0, 1.0], size=500) + rng.normal(size=500) * 0.05
    found = windows_over(rng.normal(size=5000), humps, categorical=False)
    assert found.alarmed[0]
    assert found.distance[0] > 0.25


def test_a_small_change_of_shape_is_seen_in_a_long_window():
    rng = np.random.default_rng(5)
    reference = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=20_000)
    live = rng.choice(4, p=[0.37, 0.33, 0.2, 0.1], size=16_000)
    assert not windows_over(reference, live[:1000], categorical=True, rows=1000).alarmed[0]
    found = windows_over(reference, live, categorical=True, rows=1000)
    assert found.alarmed[0]
    assert not found.alarmed_now[0]


def test_an_unfinished_part_is_not_tested():
    found = windows_over(np.random.default_rng(3).normal(size=1000), np.full(249, 50.0), categorical=False)
    assert not found.alarmed[0]
    assert found.p_values[0] == 1.0


def test_a_window_without_values_is_no_discovery():
    column = fit_column("x", np.random.default_rng(4).normal(size=1000).astype(np.float32), categorical=False)
    windows = Windows([column], column.bins.n_bins, 500, 1e-6)
    for end in (250, 500):
        windows.observe(np.zeros((1, column.bins.n_bins)), np.zeros(1), 250, end)
    assert (windows.p_values[0], windows.psi[0], bool(windows.alarmed[0])) == (1.0, 0.0, False)


def test_what_was_forgotten_no_longer_raises_an_alarm():
    rng = np.random.default_rng(6)
    live = np.concatenate([rng.normal(3.0, size=4000), rng.normal(size=4000)])
    found = windows_over(rng.normal(size=5000), live, categorical=False, rows=1000)
    assert found.alarmed[0]
    assert not found.differs()[0]
    found.forget(0)
    found.observe(found.parts[found._latest(1)[0]].copy(), np.zeros(1), 500, 8500)
    assert not found.alarmed[0]
