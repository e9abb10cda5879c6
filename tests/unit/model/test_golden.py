"""Golden rows: what is taken, what differs and in which words, and the bytes on disk."""

import hashlib

import numpy as np
import pytest

from engine.errors import ConfigError, InputError, ModelError, RegistryError
from engine.model.dense import dense
from engine.model.golden import Golden

ROWS = np.array([[1.0, 0.0], [2.0, 3.0]])


def two(rows=ROWS):
    return Golden.of(rows, [1.0, 32.0])


def model(bias: float):
    return dense([np.array([[1.0], [10.0]])], [np.array([bias])])


def test_rows_and_values_are_copied_and_keep_their_precision():
    rows = ROWS.astype(np.float32)
    golden = two(rows)
    rows[:] = 0.0
    assert golden.rows.dtype == np.float32
    assert golden.rows.tolist() == ROWS.tolist()
    assert two(ROWS.astype(int)).rows.dtype == np.float64


@pytest.mark.parametrize(
    ("rows", "values", "text"),
    [
        ("ab", [1.0], "golden must be \\(rows, values\\) of numbers"),
        (np.zeros((0, 2)), [], "golden must be at least one row"),
        (np.zeros(2), [1.0, 2.0], r"got shapes \[2\] and \[2\]"),
        (ROWS, [1.0], r"got shapes \[2, 2\] and \[1\]"),
        (ROWS, [1.0, float("nan")], "golden row 1: expected a finite value, got nan"),
        (ROWS, [[1.0, 2.0], [float("inf"), 0.0]], r"golden row 1: expected a finite value, got \[inf, 0\]"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused_with_the_error_asked_for(rows, values, text):
    with pytest.raises(InputError, match=text):
        Golden.of(rows, values)
    with pytest.raises(RegistryError, match=text):
        Golden.of(rows, values, error=RegistryError)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([1.0, 32.0], None),
        ([1.0 + 9e-7, 32.0 * (1 + 9e-7)], None),
        ([1.0, 33.0], "golden row 1: expected 32, got 33 (1 of 2 rows differ)"),
        ([float("nan"), 32.0 * (1 + 2e-6)], "golden row 0: expected 1, got nan (2 of 2 rows differ)"),
        ([1.0, float("inf")], "golden row 1: expected 32, got inf (1 of 2 rows differ)"),
        ([1.0], "golden rows: expected answers of shape [2], got [1]"),
    ],
)
def test_a_difference_beyond_one_millionth_is_named(found, text):
    assert two().mismatch(np.array(found)) == text


def test_several_outputs_are_compared_row_by_row():
    golden = Golden.of(ROWS, [[1.0, 2.0], [3.0, 4.0]])
    found = np.array([[1.0, 2.0], [5.0, 6.0]])
    assert golden.mismatch(found) == "golden row 1: expected [3, 4], got [5, 6] (1 of 2 rows differ)"


def test_check_scores_the_rows():
    two().check(model(0.0), "primary")
    with pytest.raises(
        ModelError, match="the primary does not answer as expected: golden row 0: expected 1, got 6"
    ):
        two().check(model(5.0), "primary")
    with pytest.raises(ConfigError, match=r"golden values must have shape \[2\] for 2 rows, got \[2, 1\]"):
        Golden.of(ROWS, [[1.0], [2.0]]).check(model(0.0), "primary")


def test_the_bytes_on_disk_are_those_of_version_0_1():
    content = two(ROWS.astype(np.float32)).to_bytes()
    assert hashlib.sha256(content).hexdigest() == (
        "846bc1d86070f3938ad0646c0c84116476c5561b30a7d34078c4dacde0001c36"
    )
    again = Golden.from_bytes(content)
    assert again.rows.dtype == np.float32
    assert (again.rows.tolist(), again.values.tolist()) == (ROWS.tolist(), [1.0, 32.0])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", two().to_bytes()[:-1], b"{}"])
def test_other_bytes_are_refused(content):
    with pytest.raises(InputError, match="golden rows cannot be read"):
        Golden.from_bytes(content)
