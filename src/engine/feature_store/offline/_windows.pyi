import numpy as np
import numpy.typing as npt

def window_aggregate_of(
    groups: npt.NDArray[np.int64],
    times_ns: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    window_ns: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The count, exact sum, least and greatest value over each row's (time - window, time] in its group.

    Args:
        groups: int64 [n], a number for each entity, ascending.
        times_ns: int64 [n], ascending within a group. Rows of one instant see each other.
        values: float64 [n]; NaN is a missing value and does not count.
        window_ns: above zero.

    Returns:
        int64 [n] and three float64 [n]; the latter are NaN over no values.

    Raises:
        ValueError: arrays of different lengths, or a window that is not above zero.
        MemoryError: no memory for the window.
    """
