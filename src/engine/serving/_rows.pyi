from typing import Any

import numpy as np
import numpy.typing as npt

def checked_default(value: Any, n_outputs: int) -> float | npt.NDArray[np.float64]:
    """The default as a float, or as a float64 array [n_outputs]. Raise ConfigError for another shape."""
