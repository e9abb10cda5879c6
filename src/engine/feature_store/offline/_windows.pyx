# Trailing windows over sorted events: arrays in, one native call without the GIL, arrays out.
import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

cnp.import_array()

cdef extern from "<span>" nogil:
    cdef cppclass int64_span "std::span<const std::int64_t>":
        int64_span(const int64_t* data, size_t size) noexcept
    cdef cppclass double_span "std::span<const double>":
        double_span(const double* data, size_t size) noexcept

cdef extern from "feature_store/window.hpp" namespace "engine::feature_store" nogil:
    cdef struct WindowResult:
        int64_t* count
        double* sum
        double* least
        double* greatest

    cbool window_aggregate(int64_span groups, int64_span times_ns, double_span values, int64_t window_ns,
                           const WindowResult& result) noexcept


def window_aggregate_of(groups, times_ns, values, int64_t window_ns):
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
    cdef cnp.ndarray g = np.ascontiguousarray(groups, dtype=np.int64)
    cdef cnp.ndarray t = np.ascontiguousarray(times_ns, dtype=np.int64)
    cdef cnp.ndarray v = np.ascontiguousarray(values, dtype=np.float64)
    cdef size_t n = g.size
    if g.ndim != 1 or t.ndim != 1 or v.ndim != 1 or <size_t>t.size != n or <size_t>v.size != n:
        raise ValueError("groups, times and values are one-dimensional and equally long")
    if window_ns <= 0:
        raise ValueError(f"window_ns must be above zero, got {window_ns}")
    cdef cnp.ndarray count = np.empty(n, dtype=np.int64)
    cdef cnp.ndarray total = np.empty(n), least = np.empty(n), greatest = np.empty(n)
    cdef WindowResult result
    result.count = <int64_t*>cnp.PyArray_DATA(count)
    result.sum = <double*>cnp.PyArray_DATA(total)
    result.least = <double*>cnp.PyArray_DATA(least)
    result.greatest = <double*>cnp.PyArray_DATA(greatest)
    cdef const int64_t* g_data = <const int64_t*>cnp.PyArray_DATA(g)
    cdef const int64_t* t_data = <const int64_t*>cnp.PyArray_DATA(t)
    cdef const double* v_data = <const double*>cnp.PyArray_DATA(v)
    cdef cbool done
    with nogil:
        done = window_aggregate(int64_span(g_data, n), int64_span(t_data, n), double_span(v_data, n), window_ns, result)
    if not done:
        raise MemoryError()
    return count, total, least, greatest
