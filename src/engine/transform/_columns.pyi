from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ARROW_NUMBERS: frozenset[str]

class Column:
    """The values of one column, and the objects that keep them alive. `len` gives the rows."""

    def __len__(self) -> int: ...

def array_column(array: npt.NDArray[Any]) -> Column:
    """Return the column of a NumPy array of numbers; a 2-D array makes a column of vectors.

    The array is borrowed. It is copied as float64 only if its layout cannot be read in place: swapped bytes, unaligned
    or float16 values, a negative stride.
    """

def arrow_column(chunks: Sequence[Any], is_text: bool) -> Column:
    """Return the column of pyarrow arrays of one type, read in place.

    Args:
        chunks: the arrays, in row order.
        is_text: True for string or large_string arrays, False for a type of ARROW_NUMBERS.
    """

def text_column(values: Sequence[Any], name: str) -> Column:
    """Return the column of a list of strings, whole numbers and None. The list is copied, its strings are borrowed.

    Raises InputTypeError or InputError, naming the row and `name`.
    """

def number_values(values: Sequence[Any], name: str) -> npt.NDArray[np.float64]:
    """Return a list of numbers and None as float64 [n], NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """

def text_values(values: Sequence[Any], name: str) -> list[str | None]:
    """Return a list of strings, whole numbers and None as str and None, for fitting.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
