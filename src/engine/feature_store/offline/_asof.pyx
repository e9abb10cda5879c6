# The point-in-time join on whole numbers: arrays in, one native call without the GIL, an array out.
import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t
from libcpp cimport bool as cbool

cnp.import_array()

cdef extern from "<span>" nogil:
    cdef cppclass int64_span "std::span<const std::int64_t>":
        int64_span() noexcept
        int64_span(const int64_t* data, size_t size) noexcept
    cdef cppclass place_span "std::span<std::int64_t>":
        place_span() noexcept
        place_span(int64_t* data, size_t size) noexcept

cdef extern from "feature_store/asof.hpp" namespace "engine::feature_store" nogil:
    cdef struct Instants:
        int64_span groups
        int64_span times_ns

    cbool newest_before(const Instants& rows, int64_span created, const Instants& labels, int64_t n_groups,
                        place_span places) noexcept


def newest_before_of(groups, times_ns, created_ns, label_groups, label_ns, int64_t n_groups):
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
    cdef cnp.ndarray g = np.ascontiguousarray(groups, dtype=np.int64)
    cdef cnp.ndarray t = np.ascontiguousarray(times_ns, dtype=np.int64)
    cdef cnp.ndarray c = np.ascontiguousarray(() if created_ns is None else created_ns, dtype=np.int64)
    cdef cnp.ndarray lg = np.ascontiguousarray(label_groups, dtype=np.int64)
    cdef cnp.ndarray lt = np.ascontiguousarray(label_ns, dtype=np.int64)
    for one, other in ((g, t), (g, g if created_ns is None else c), (lg, lt)):
        if one.ndim != 1 or other.ndim != 1 or one.size != other.size:
            raise ValueError("groups and times are one-dimensional and equally long")
    if n_groups < 0 or max(g.max(initial=-1), lg.max(initial=-1)) >= n_groups:
        raise ValueError(f"a group is below their number, {n_groups}")
    cdef cnp.ndarray places = np.empty(lg.size, dtype=np.int64)
    cdef Instants rows, labels
    cdef int64_span created
    rows.groups = int64_span(<const int64_t*>cnp.PyArray_DATA(g), g.size)
    rows.times_ns = int64_span(<const int64_t*>cnp.PyArray_DATA(t), t.size)
    labels.groups = int64_span(<const int64_t*>cnp.PyArray_DATA(lg), lg.size)
    labels.times_ns = int64_span(<const int64_t*>cnp.PyArray_DATA(lt), lt.size)
    if created_ns is not None:
        created = int64_span(<const int64_t*>cnp.PyArray_DATA(c), c.size)
    cdef place_span out = place_span(<int64_t*>cnp.PyArray_DATA(places), places.size)
    cdef cbool done
    with nogil:
        done = newest_before(rows, created, labels, n_groups, out)
    if not done:
        raise MemoryError()
    return places
