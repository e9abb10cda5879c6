from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def timestamp_values(values: Sequence[Any], naive_utc: bool, name: str) -> npt.NDArray[np.float64]:
    """Return a column of timestamps as float64 [n]: microseconds of Unix time, NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """

def vector_values(values: Sequence[Any], size: int, name: str) -> npt.NDArray[np.float64]:
    """Return a column of vectors as float64 [n, size], NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
