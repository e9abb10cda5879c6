"""The evidence of all columns of one side, block by block (csrc/monitor/charts.hpp)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool

import numpy as np

cimport numpy as cnp

from engine.errors import MonitorError

cdef extern from "monitor/charts.hpp" namespace "engine::monitor" nogil:
    cdef cppclass CEvidence "engine::monitor::Evidence":
        CEvidence()
        size_t columns
        size_t bins
        size_t charts
        double cleared
        const double* weights
        const double* run_limits
        double* level
        uint8_t* alarmed
        int64_t* since
        int64_t* until
        double* gathered
        double* sums
        double* steps

    cdef cppclass CBlock "engine::monitor::BlockCounts":
        CBlock()
        const uint32_t* counts
        const uint32_t* missing
        const uint32_t* infinite
        const uint32_t* unseen
        const uint32_t* runs
        const double* sums

    cbool add_evidence(const CEvidence& to, const CBlock& block, uint64_t rows, int64_t before) noexcept

cnp.import_array()


cdef class Evidence:
    """Charts of all columns, and the sums of the latest blocks. Not thread-safe.

    A chart is a cumulative sum that never falls below 0. It alarms at its threshold, and goes on until it has fallen to
    `cleared` of it. The last chart of a column is the length of the current run of one value.

    Args:
        weights: float64 [columns, bins + 2, charts], what a row adds to a chart: one in each bin, one whose value is
            missing, and one whose value is strange (a new code, or infinite).
        thresholds: float64 [columns, charts + 1]; infinite for a chart that never alarms.
        kept: how many blocks are kept.
        cleared: share of the threshold.

    Attributes:
        weights: float64 [columns, bins + 2, charts], as given.
        thresholds: float64 [columns, charts + 1].
        level: float64 [columns, charts + 1], the sums as shares of their thresholds, 0 to 1.
        alarmed: uint8 [columns, charts + 1], 1 where a chart is alarmed.
        since: int64 [columns, charts + 1], the row at which each chart last left 0.
        until: int64 [columns, charts + 1], the row at which each chart last stood at its threshold.
        gathered: float64 [columns, bins], counts since `gathered` was last set to 0.
        sums: float64 [kept, columns, 6], of the latest blocks: rows, missing, strange, sum, sum of squares, run.
        steps: float64 [kept, columns, charts], what the latest blocks added, as shares of the thresholds.
        ends: int64 [kept], the row count at the end of each of these blocks.
        blocks: int, blocks seen.
    """

    cdef CEvidence _to
    cdef cnp.ndarray _scaled
    cdef readonly cnp.ndarray weights
    cdef cnp.ndarray _limits
    cdef readonly object thresholds
    cdef readonly cnp.ndarray level
    cdef readonly cnp.ndarray alarmed
    cdef readonly cnp.ndarray since
    cdef readonly cnp.ndarray until
    cdef readonly cnp.ndarray gathered
    cdef readonly cnp.ndarray sums
    cdef readonly cnp.ndarray steps
    cdef readonly cnp.ndarray ends
    cdef public int64_t blocks

    def __init__(self, weights, thresholds, *, Py_ssize_t kept=256, double cleared=0.25):
        self.weights = np.ascontiguousarray(weights, dtype=np.float64)
        columns, places, charts = (<object>self.weights).shape
        self.level = np.zeros((columns, charts + 1))
        self.alarmed = np.zeros((columns, charts + 1), dtype=np.uint8)
        self.since = np.zeros((columns, charts + 1), dtype=np.int64)
        self.until = np.zeros((columns, charts + 1), dtype=np.int64)
        self.gathered = np.zeros((columns, places - 2))
        self.sums = np.zeros((kept, columns, 6))
        self.steps = np.zeros((kept, columns, charts))
        self.ends = np.zeros(kept, dtype=np.int64)
        self.blocks = 0
        self._to.columns, self._to.bins, self._to.charts = columns, places - 2, charts
        self._to.cleared = cleared
        self._to.level = <double*>cnp.PyArray_DATA(self.level)
        self._to.alarmed = <uint8_t*>cnp.PyArray_DATA(self.alarmed)
        self._to.since = <int64_t*>cnp.PyArray_DATA(self.since)
        self._to.until = <int64_t*>cnp.PyArray_DATA(self.until)
        self._to.gathered = <double*>cnp.PyArray_DATA(self.gathered)
        self.thresholds = None
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds) -> None:
        """Take other thresholds, float64 [columns, charts + 1]. The sums stay; their shares of the thresholds change.

        Raises:
            MonitorError: another shape.
        """
        given = np.array(thresholds, dtype=np.float64)
        if given.shape != (<object>self.level).shape:
            raise MonitorError(f"expected thresholds {list((<object>self.level).shape)}, got {list(given.shape)}")
        if self.thresholds is not None:
            ratio = np.divide(self.thresholds, given, out=np.ones_like(given), where=np.isfinite(given))
            self.level[...] = np.minimum(self.level * ratio, 1.0)
            self.alarmed[...] &= (self.level >= 1.0) | (ratio == 1.0)
            self.steps[...] *= ratio[None, :, :-1]
        self.thresholds = given
        self._scaled = np.ascontiguousarray(self.weights / given[:, None, :-1])
        self._limits = np.ascontiguousarray(given[:, -1])
        self._to.weights = <const double*>cnp.PyArray_DATA(self._scaled)
        self._to.run_limits = <const double*>cnp.PyArray_DATA(self._limits)

    def observe(self, cnp.ndarray counts, cnp.ndarray missing, cnp.ndarray infinite, cnp.ndarray unseen,
                cnp.ndarray runs, cnp.ndarray sums, uint64_t rows, int64_t before) -> bool:
        """Add a block, and return whether any chart is alarmed.

        Args:
            counts: uint32 [columns, bins].
            missing, infinite, unseen: uint32 [columns].
            runs: uint32 [columns], the longest run of one value that ends in the block.
            sums: float64 [columns, 2], sum and sum of squares of the finite values.
            rows: of the block.
            before: rows before the block.

        Raises:
            MonitorError: an array of another dtype, layout or size.
        """
        cdef Py_ssize_t columns = self._to.columns
        cdef CBlock block
        block.counts = <const uint32_t*>_data(counts, cnp.NPY_UINT32, columns * <Py_ssize_t>self._to.bins)
        block.missing = <const uint32_t*>_data(missing, cnp.NPY_UINT32, columns)
        block.infinite = <const uint32_t*>_data(infinite, cnp.NPY_UINT32, columns)
        block.unseen = <const uint32_t*>_data(unseen, cnp.NPY_UINT32, columns)
        block.runs = <const uint32_t*>_data(runs, cnp.NPY_UINT32, columns)
        block.sums = <const double*>_data(sums, cnp.NPY_FLOAT64, columns * 2)
        cdef Py_ssize_t place = self.blocks % cnp.PyArray_DIM(self.ends, 0)
        self._to.sums = <double*>cnp.PyArray_DATA(self.sums) + place * columns * 6
        self._to.steps = <double*>cnp.PyArray_DATA(self.steps) + place * columns * <Py_ssize_t>self._to.charts
        (<int64_t*>cnp.PyArray_DATA(self.ends))[place] = before + rows
        self.blocks += 1
        cdef cbool any_alarm
        with nogil:
            any_alarm = add_evidence(self._to, block, rows, before)
        return any_alarm

    def latest(self, most=None):
        """Return the places of the kept blocks in `sums`, `steps` and `ends`, the oldest first, at most `most`."""
        kept = len(self.ends)
        n = min(self.blocks, kept if most is None else min(most, kept))
        return np.arange(self.blocks - n, self.blocks) % kept


cdef void* _data(cnp.ndarray array, int kind, Py_ssize_t size) except NULL:
    if cnp.PyArray_TYPE(array) != kind or not cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_SIZE(array) != size:
        raise MonitorError(f"expected a C-contiguous array of {size} counts or sums, got {(<object>array).dtype} "
                           f"{(<object>array).shape}")
    return cnp.PyArray_DATA(array)
