"""The binding of the windows: literal values, and arguments that do not fit."""

import numpy as np
import pytest

from engine.feature_store.offline._windows import Events


def test_each_row_sees_the_values_of_its_window():
    found = Events([1, 1, 1, 2], [0, 10, 20, 20]).aggregate([1.0, np.nan, 4.0, 8.0], 20)
    assert [part.tolist() for part in found] == [
        [1, 1, 1, 1],
        [1.0, 1.0, 4.0, 8.0],
        [1.0, 1.0, 4.0, 8.0],
        [1.0, 1.0, 4.0, 8.0],
    ]
    assert [part.dtype for part in found] == [np.int64, np.float64, np.float64, np.float64]
    assert all(part.shape == (0,) for part in Events([], []).aggregate([], 5))


def test_over_no_values_the_count_is_zero_and_the_others_are_nan():
    count, *others = Events([1], [0]).aggregate([np.nan], 5)
    assert count.tolist() == [0]
    assert all(np.isnan(part[0]) for part in others)


@pytest.mark.parametrize("window_ns", [0, -1])
def test_a_window_is_above_zero(window_ns):
    with pytest.raises(ValueError, match=f"window_ns must be above zero, got {window_ns}"):
        Events([1], [0]).aggregate([1.0], window_ns)


def test_arrays_of_different_lengths_are_refused():
    for arrays in (([1], [0, 1], [1.0]), ([1], [0], []), ([[1]], [[0]], [[1.0]])):
        with pytest.raises(ValueError, match="one-dimensional and equally long"):
            Events(*arrays[:2]).aggregate(arrays[2], 5)


def test_ends_distinct_values_spread_and_quantiles():
    events = Events([1, 1, 1], [0, 10, 20])
    values = [1.0, np.nan, 4.0]
    assert [part.tolist() for part in events.ends([1, 0, 1], 15)] == [[0, 0, 2], [0, 0, 2]]
    assert [part.tolist() for part in events.ends([1, 0, 1], 15, before=True)] == [[-1, 0, -1], [-1, 0, -1]]
    assert events.distinct([5, -1, 5], 30).tolist() == [1, 1, 1]
    count, spread = events.spread(values, 30)
    assert (count.tolist(), spread[2]) == ([1, 1, 2], np.sqrt(4.5))
    assert np.isnan(spread[:2]).all()
    count, found = events.quantile(values, 30, 0.5)
    assert (count.tolist(), found.tolist()) == ([1, 1, 2], [1.0, 1.0, 2.5])
    with pytest.raises(ValueError, match="q must be from 0 to 1, got 2"):
        events.quantile(values, 30, 2.0)
