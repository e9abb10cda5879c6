import numpy as np
import numpy.typing as npt

def newest_before_of(
    groups: npt.NDArray[np.int64],
    times_ns: npt.NDArray[np.int64],
    created_ns: npt.NDArray[np.int64] | None,
    label_groups: npt.NDArray[np.int64],
    label_ns: npt.NDArray[np.int64],
    n_groups: int,
) -> npt.NDArray[np.int64]:
    """For each label the place of the newest row of its group with time <= the label's, or -1.

    Args:
        groups: int64 [n], the group of each row, below `n_groups`; below zero for none.
        times_ns: int64 [n].
        created_ns: int64 [n], which decides between rows of one time; None if it does not. The later row decides then.
        label_groups: int64 [m], as `groups`.
        label_ns: int64 [m].
        n_groups: the number of groups.

    Returns:
        int64 [m].

    Raises:
        ValueError: arrays of different lengths, or a group that is not below `n_groups`.
        MemoryError: no memory for the sorted rows: 16 bytes a row.
    """
