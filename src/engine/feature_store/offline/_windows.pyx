# Trailing windows over sorted events: arrays in, one native call without the GIL, arrays out.
import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t
from libcpp cimport bool as cbool

cnp.import_array()

cdef extern from "<span>" nogil:
    cdef cppclass int64_span "std::span<const std::int64_t>":
        int64_span() noexcept
        int64_span(const int64_t* data, size_t size) noexcept
    cdef cppclass double_span "std::span<const double>":
        double_span() noexcept
        double_span(const double* data, size_t size) noexcept
    cdef cppclass byte_span "std::span<const std::uint8_t>":
        byte_span() noexcept
        byte_span(const uint8_t* data, size_t size) noexcept

cdef extern from "feature_store/window.hpp" namespace "engine::feature_store" nogil:
    cdef struct CoreEvents "engine::feature_store::Events":
        int64_span groups
        int64_span times_ns

    cdef struct Window:
        int64_t length_ns
        cbool before

    cdef struct WindowResult:
        int64_t* count
        double* sum
        double* least
        double* greatest

    cbool window_aggregate(const CoreEvents& events, double_span values, const Window& window,
                           const WindowResult& result) noexcept
    cbool window_ends(const CoreEvents& events, byte_span present, const Window& window, int64_t* first,
                      int64_t* last) noexcept
    cbool window_distinct(const CoreEvents& events, int64_span codes, int64_t n_codes, const Window& window,
                          int64_t* count) noexcept
    cbool window_spread(const CoreEvents& events, double_span values, const Window& window, int64_t* count,
                        double* spread) noexcept
    cbool window_quantile(const CoreEvents& events, double_span values, const Window& window, double q,
                          int64_t* count, double* quantile) noexcept


cdef class Events:
    """Sorted events, over which windows are computed. Immutable.

    A window of a row is (time - window, time] of its group, and rows of one instant see each other; with `before` it is
    [time - window, time), and they do not. NaN is a missing value, which does not count.

    Args:
        groups: int64 [n], a number for each entity, ascending.
        times_ns: int64 [n], ascending within a group.

    Raises:
        ValueError: arrays of different lengths.
    """
    cdef cnp.ndarray groups, times_ns
    cdef CoreEvents core
    cdef readonly Py_ssize_t n

    def __init__(self, groups, times_ns):
        self.groups = np.ascontiguousarray(groups, dtype=np.int64)
        self.times_ns = np.ascontiguousarray(times_ns, dtype=np.int64)
        self.n = self.groups.size
        _require(self.groups, self.times_ns)
        self.core.groups = int64_span(<const int64_t*>cnp.PyArray_DATA(self.groups), self.n)
        self.core.times_ns = int64_span(<const int64_t*>cnp.PyArray_DATA(self.times_ns), self.n)

    def aggregate(self, values, int64_t window_ns, bint before=False):
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
        cdef cnp.ndarray v = np.ascontiguousarray(values, dtype=np.float64)
        cdef cnp.ndarray count = np.empty(self.n, dtype=np.int64)
        cdef cnp.ndarray total = np.empty(self.n), least = np.empty(self.n), greatest = np.empty(self.n)
        cdef Window window = self.window(v, window_ns, before)
        cdef WindowResult result
        result.count = <int64_t*>cnp.PyArray_DATA(count)
        result.sum = <double*>cnp.PyArray_DATA(total)
        result.least = <double*>cnp.PyArray_DATA(least)
        result.greatest = <double*>cnp.PyArray_DATA(greatest)
        cdef double_span span = double_span(<const double*>cnp.PyArray_DATA(v), self.n)
        cdef cbool done
        with nogil:
            done = window_aggregate(self.core, span, window, result)
        _require_memory(done)
        return count, total, least, greatest

    def ends(self, present, int64_t window_ns, bint before=False):
        """The places of the first and of the last row of each window that is present: two int64 [n], -1 without one.

        Args:
            present: uint8 [n], zero for a row that does not count.
            window_ns, before: as for `aggregate`.

        Raises:
            ValueError, MemoryError: as `aggregate`.
        """
        cdef cnp.ndarray p = np.ascontiguousarray(present, dtype=np.uint8)
        cdef cnp.ndarray first = np.empty(self.n, dtype=np.int64), last = np.empty(self.n, dtype=np.int64)
        cdef Window window = self.window(p, window_ns, before)
        cdef byte_span span = byte_span(<const uint8_t*>cnp.PyArray_DATA(p), self.n)
        cdef int64_t* first_data = <int64_t*>cnp.PyArray_DATA(first)
        cdef int64_t* last_data = <int64_t*>cnp.PyArray_DATA(last)
        cdef cbool done
        with nogil:
            done = window_ends(self.core, span, window, first_data, last_data)
        _require_memory(done)
        return first, last

    def distinct(self, codes, int64_t window_ns, bint before=False):
        """The number of different codes of each window: int64 [n].

        Args:
            codes: int64 [n], small whole numbers; below zero for a missing value.
            window_ns, before: as for `aggregate`.

        Raises:
            ValueError, MemoryError: as `aggregate`.
        """
        cdef cnp.ndarray c = np.ascontiguousarray(codes, dtype=np.int64)
        cdef cnp.ndarray count = np.empty(self.n, dtype=np.int64)
        cdef Window window = self.window(c, window_ns, before)
        cdef int64_t n_codes = int(c.max(initial=-1)) + 1
        cdef int64_span span = int64_span(<const int64_t*>cnp.PyArray_DATA(c), self.n)
        cdef int64_t* data = <int64_t*>cnp.PyArray_DATA(count)
        cdef cbool done
        with nogil:
            done = window_distinct(self.core, span, n_codes, window, data)
        _require_memory(done)
        return count

    def spread(self, values, int64_t window_ns, bint before=False):
        """The number of values of each window, int64 [n], and their sample standard deviation, float64 [n]: NaN over
        fewer than two values, or with an infinity among them. Arguments and errors as of `aggregate`."""
        cdef cnp.ndarray v = np.ascontiguousarray(values, dtype=np.float64)
        cdef cnp.ndarray count = np.empty(self.n, dtype=np.int64), spread = np.empty(self.n)
        cdef Window window = self.window(v, window_ns, before)
        cdef double_span span = double_span(<const double*>cnp.PyArray_DATA(v), self.n)
        cdef int64_t* count_data = <int64_t*>cnp.PyArray_DATA(count)
        cdef double* spread_data = <double*>cnp.PyArray_DATA(spread)
        cdef cbool done
        with nogil:
            done = window_spread(self.core, span, window, count_data, spread_data)
        _require_memory(done)
        return count, spread

    def quantile(self, values, int64_t window_ns, double q, bint before=False):
        """The number of values of each window, int64 [n], and their quantile, float64 [n]: NaN over no values.

        Between two values a and b it is a + (b - a) * part, as in NumPy's default.

        Args:
            values, window_ns, before: as for `aggregate`.
            q: from 0 to 1.

        Raises:
            ValueError, MemoryError: as `aggregate`; or `q` is out of range.
        """
        cdef cnp.ndarray v = np.ascontiguousarray(values, dtype=np.float64)
        cdef cnp.ndarray count = np.empty(self.n, dtype=np.int64), found = np.empty(self.n)
        cdef Window window = self.window(v, window_ns, before)
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must be from 0 to 1, got {q}")
        cdef double_span span = double_span(<const double*>cnp.PyArray_DATA(v), self.n)
        cdef int64_t* count_data = <int64_t*>cnp.PyArray_DATA(count)
        cdef double* found_data = <double*>cnp.PyArray_DATA(found)
        cdef cbool done
        with nogil:
            done = window_quantile(self.core, span, window, q, count_data, found_data)
        _require_memory(done)
        return count, found

    cdef Window window(self, cnp.ndarray values, int64_t window_ns, bint before) except *:
        _require(self.groups, values)
        if window_ns <= 0:
            raise ValueError(f"window_ns must be above zero, got {window_ns}")
        cdef Window window
        window.length_ns = window_ns
        window.before = before
        return window


cdef _require(cnp.ndarray one, cnp.ndarray other):
    if one.ndim != 1 or other.ndim != 1 or one.size != other.size:
        raise ValueError("groups, times and values are one-dimensional and equally long")


cdef _require_memory(cbool done):
    if not done:
        raise MemoryError()
