from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def timestamp_values(values: Sequence[Any], naive_utc: bool, name: str) -> npt.NDArray[np.float64]: ...
def vector_values(values: Sequence[Any], size: int, name: str) -> npt.NDArray[np.float64]: ...
