import numpy as np
import numpy.typing as npt

def window_aggregate_of(
    groups: npt.NDArray[np.int64],
    times_ns: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    window_ns: int,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]
]: ...
