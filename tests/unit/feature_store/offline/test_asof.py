"""The binding of the join: literal values, and arguments that do not fit."""

import numpy as np
import pytest

from engine.feature_store.offline._asof import newest_before_of


def test_each_label_gets_the_newest_row_that_is_not_later():
    found = newest_before_of([1, 0, 1], [30, 20, 10], None, [1, 1, 0, -1], [29, 30, 19, 99], 2)
    assert found.tolist() == [2, 0, -1, -1]
    assert found.dtype == np.int64
    assert newest_before_of([0, 0], [5, 5], [9, 8], [0], [5], 1).tolist() == [0]
    assert newest_before_of([], [], None, [], [], 0).shape == (0,)


def test_arguments_that_do_not_fit_are_refused():
    for arguments in (
        ([0], [], None, [], []),
        ([0], [1], [], [], []),
        ([0], [1], None, [0], []),
        ([[0]], [[1]], None, [], []),
    ):
        with pytest.raises(ValueError, match="one-dimensional and equally long"):
            newest_before_of(*arguments, 1)
    for groups, labels in (([1], [0]), ([0], [1])):
        with pytest.raises(ValueError, match="a group is below their number, 1"):
            newest_before_of(groups, [1], None, labels, [1], 1)
