import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

class Events:
    """Sorted events, over which windows are computed. Immutable.

    A window of a row is (time - window, time] of its group, and rows of one instant see each other; with `before` it is
    [time - window, time), and they do not. NaN is a missing value, which does not count.

    Args:
        groups: int64 [n], a number for each entity, ascending.
        times_ns: int64 [n], ascending within a group.

    Raises:
        ValueError: arrays of different lengths.
    """

    n: int
    def __init__(self, groups: npt.ArrayLike, times_ns: npt.ArrayLike) -> None: ...
    def aggregate(
        self, values: npt.ArrayLike, window_ns: int, before: bool = False
    ) -> tuple[Whole, Floats, Floats, Floats]:
        """The count, exact sum, least and greatest value of each window.

        Args:
            values: float64 [n].
            window_ns: above zero.
            before: leave out the row's own instant.

        Returns:
            int64 [n] and three float64 [n]; the latter are NaN over no values.

        Raises:
            ValueError: another length, or a window that is not above zero.
            MemoryError: no memory for the window.
        """

    def ends(self, present: npt.ArrayLike, window_ns: int, before: bool = False) -> tuple[Whole, Whole]:
        """The places of the first and of the last row of each window that is present: two int64 [n], -1 without one.

        Args:
            present: uint8 [n], zero for a row that does not count.
            window_ns, before: as for `aggregate`.

        Raises:
            ValueError, MemoryError: as `aggregate`.
        """

    def distinct(self, codes: npt.ArrayLike, window_ns: int, before: bool = False) -> Whole:
        """The number of different codes of each window: int64 [n].

        Args:
            codes: int64 [n], small whole numbers; below zero for a missing value.
            window_ns, before: as for `aggregate`.

        Raises:
            ValueError, MemoryError: as `aggregate`.
        """

    def spread(self, values: npt.ArrayLike, window_ns: int, before: bool = False) -> tuple[Whole, Floats]:
        """The number of values of each window, int64 [n], and their sample standard deviation, float64 [n]: NaN over
        fewer than two values, or with an infinity among them. Arguments and errors as of `aggregate`."""

    def quantile(
        self, values: npt.ArrayLike, window_ns: int, q: float, before: bool = False
    ) -> tuple[Whole, Floats]:
        """The number of values of each window, int64 [n], and their quantile, float64 [n]: NaN over no values.

        Between two values a and b it is a + (b - a) * part, as in NumPy's default.

        Args:
            values, window_ns, before: as for `aggregate`.
            q: from 0 to 1.

        Raises:
            ValueError, MemoryError: as `aggregate`; or `q` is out of range.
        """
