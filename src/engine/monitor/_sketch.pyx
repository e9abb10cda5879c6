"""The monitor's native half (csrc/monitor/sketch.hpp), and the capsule through which an engine shows its answers."""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from libcpp cimport bool as cbool
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine._common._observer cimport (
    ENGINE_ANSWER_CANARY,
    ENGINE_ANSWER_ROW_FLOAT64,
    ENGINE_ANSWER_SHADOW,
    ENGINE_OBSERVER_CAPSULE,
    engine_answer,
    engine_observer,
)

from engine._common import vocabulary
from engine.errors import ClosedError, MonitorError

cdef extern from "monitor/sketch.hpp" namespace "engine::monitor" nogil:
    size_t VERSIONS
    uint16_t UNSEEN
    size_t SOURCES
    size_t REASONS
    size_t SHARE_BINS
    size_t DIFFERENCE_BINS

    cdef cppclass Column:
        vector[float] cuts
        vector[uint16_t] bin_of
        vector[float] pair_scores
        uint32_t n_bins
        cbool discrete
        uint16_t bin(float value) noexcept

    cdef cppclass Block:
        uint64_t rows
        uint64_t output_rows
        uint64_t answers
        int64_t first_ns
        int64_t last_ns
        vector[uint32_t] counts
        vector[uint32_t] missing
        vector[uint32_t] infinite
        vector[uint32_t] unseen
        vector[uint32_t] runs
        vector[double] sums
        uint32_t pair_rows
        vector[float] pair_sums
        uint32_t n_deployments
        uint64_t* deployments_data "deployments.data"()
        uint32_t* tally_data "tally.data"()
        uint32_t* late_data "late.data"()
        double* moments_data "output_moments.data"()

    cdef cppclass Comparison:
        uint64_t deployment
        uint64_t count
        uint64_t within
        uint64_t same_decision
        double sum
        double sum_squares
        double largest
        uint64_t* histogram_data "histogram.data"()

    cdef cppclass Totals:
        uint64_t pushed
        uint64_t dropped
        uint64_t wrong_width
        uint64_t folded
        uint64_t remembered
        uint64_t unpaired_shadows
        uint64_t* latency_data "latency.front().data"()
        uint64_t* share_data "share.data"()
        Comparison* shadows_begin "shadows.begin"()
        Comparison* shadows_end "shadows.end"()

    cdef cppclass Remembered:
        uint64_t deployment
        int64_t ready_ns
        uint8_t source
        uint8_t labelled
        uint8_t canary
        uint8_t valued
        uint16_t n_outputs

    cdef cppclass Limits:
        Limits()
        uint32_t ring_rows
        uint32_t features_max
        uint32_t outputs_max
        uint32_t block_rows
        uint32_t blocks_max
        uint32_t answers_max
        uint32_t sample_rows
        double shadow_tolerance
        double decision_threshold

    cdef cppclass CSketch "engine::monitor::Sketch":
        CSketch(const Limits& limits) except +
        cbool observe(const engine_answer& answer) noexcept
        void deployed(uint64_t deployment, const char* version) except +
        vector[pair[uint64_t, string]] versions() except +
        cbool set_layout(vector[Column] columns, uint32_t n_features, cbool drop) except +
        void fold_features(const float* rows, size_t n, size_t stride) except +
        void fold_outputs(const double* rows, size_t n, size_t stride) except +
        cbool drain(cbool flush) except +
        cbool pressed() noexcept
        cbool take(Block& into) except +
        void wait(int64_t timeout_ns) except +
        cbool wait_closed(int64_t timeout_ns) except +
        Totals totals() except +
        cbool find(uint64_t id, Remembered& found, double* outputs) except +
        cbool label(uint64_t id) except +
        cbool value(uint64_t id) except +
        vector[float] sample(uint32_t& width) except +
        void answers(vector[Remembered]& entries, vector[double]& outputs, size_t most) except +
        void remember(const Remembered* entries, const double* outputs, size_t n) except +
        void close() noexcept
        cbool alive() noexcept
        uint32_t n_features() noexcept
        size_t ring_bytes() noexcept
        void retain() noexcept
        void release() noexcept
        engine_observer observer() noexcept

cdef extern from "base/histogram.hpp" namespace "engine" nogil:
    cdef cppclass LogBuckets:
        @staticmethod
        int64_t upper(size_t index) noexcept
    size_t LOG_BUCKETS "engine::LogBuckets::COUNT"

cnp.import_array()

SHADOW = ENGINE_ANSWER_SHADOW
CANARY = ENGINE_ANSWER_CANARY
# The native tables have a place for every source and reason of the vocabulary.
if <Py_ssize_t>SOURCES != len(vocabulary.SOURCES) or <Py_ssize_t>REASONS < len(vocabulary.REASONS):
    raise ImportError("csrc/monitor/sketch.hpp has other sources or fewer reasons than engine._common.vocabulary; "
                      "compile again")

# One remembered answer, as csrc/monitor/answers.hpp lays it out.
ANSWERS = np.dtype({
    "names": ["id", "deployment", "ready_ns", "source", "labelled", "used", "canary", "valued", "foreign", "n_outputs"],
    "formats": ["<u8", "<u8", "<i8", "u1", "u1", "u1", "u1", "u1", "u1", "<u2"],
    "offsets": [0, 8, 16, 24, 25, 26, 27, 28, 29, 30],
    "itemsize": 32,
})
LATENCY_UPPER_NS = np.array([LogBuckets.upper(i) for i in range(LOG_BUCKETS)], dtype=np.int64)


cdef void _free_capsule(object capsule) noexcept:
    cdef engine_observer* observer = <engine_observer*>PyCapsule_GetPointer(capsule, ENGINE_OBSERVER_CAPSULE)
    observer.release(observer.ctx)
    free(observer)


cdef cnp.ndarray _copied(int kind, const void* data, size_t item_bytes, tuple shape):
    cdef cnp.ndarray made = cnp.PyArray_ZEROS(len(shape), [shape[0], shape[1] if len(shape) > 1 else 0,
                                                           shape[2] if len(shape) > 2 else 0], kind, 0)
    if cnp.PyArray_SIZE(made):
        memcpy(cnp.PyArray_DATA(made), data, cnp.PyArray_SIZE(made) * item_bytes)
    return made


cdef class Sketch:
    """Counts answers and rows, by bin, source, reason and version, on a native thread of its own. Thread-safe.

    In a child of fork() every method raises ClosedError, except close(), which returns. Observers do nothing there.
    All memory except the bins' is taken here.

    Args:
        features_max: widest row, in features.
        outputs_max: most outputs of an answer.
        ring_rows: answers that wait to be counted, rounded up to a power of two. Further ones are dropped and counted.
        block_rows: rows, output rows or answers after which a block is closed.
        blocks_max: closed blocks that wait to be taken. While there are that many, answers wait in the ring; once a
            quarter of it is full, the open block grows.
        answers_max: answers remembered for labels; the oldest is forgotten first.
        sample_rows: raw rows kept while there is no layout.
        shadow_tolerance: largest difference at which a shadow's first output agrees with the live one.
        decision_threshold: outputs on the same side of it are the same decision.

    Attributes:
        outputs_max: int, as given.
        features_max: int, as given.
    """

    cdef CSketch* _sketch
    cdef Block _taken
    cdef readonly uint32_t outputs_max
    cdef readonly uint32_t features_max

    def __cinit__(self, *, uint32_t features_max, uint32_t outputs_max, uint32_t ring_rows=16384,
                  uint32_t block_rows=50, uint32_t blocks_max=64, uint32_t answers_max=131072,
                  uint32_t sample_rows=0, double shadow_tolerance=0.01, double decision_threshold=0.5):
        cdef Limits limits
        limits.features_max = features_max
        limits.outputs_max = outputs_max
        limits.ring_rows = ring_rows
        limits.block_rows = block_rows
        limits.blocks_max = blocks_max
        limits.answers_max = answers_max
        limits.sample_rows = sample_rows
        limits.shadow_tolerance = shadow_tolerance
        limits.decision_threshold = decision_threshold
        self.features_max = features_max
        self.outputs_max = outputs_max
        self._sketch = new CSketch(limits)

    def __dealloc__(self):
        if self._sketch is not NULL:
            with nogil:
                self._sketch.close()
                self._sketch.release()

    cdef int check(self) except -1:
        if not self._sketch.alive():
            raise ClosedError("this monitor belongs to the parent process: its thread did not survive fork(); make one "
                              "in the child")
        return 0

    @property
    def alive(self) -> bool:
        """False in a child of fork()."""
        return self._sketch.alive()

    @property
    def n_features(self) -> int:
        """Width of the rows; 0 until the first row or a layout decides it."""
        return self._sketch.n_features()

    @property
    def ring_bytes(self) -> int:
        """Memory of the ring, in bytes."""
        return self._sketch.ring_bytes()

    @property
    def observer(self):
        """A new capsule of csrc/include/engine/observer.h. It keeps the native part alive, not this object."""
        cdef engine_observer* made = <engine_observer*>malloc(sizeof(engine_observer))
        if made is NULL:
            raise MemoryError()
        made[0] = self._sketch.observer()
        self._sketch.retain()
        return PyCapsule_New(made, ENGINE_OBSERVER_CAPSULE, _free_capsule)

    def set_layout(self, columns, uint32_t n_features, cbool drop=True) -> bool:
        """Set how values become bins. Answers that still wait in the ring are counted by the new bins.

        Args:
            columns: (cuts, bin_of, n_bins) of each feature, then of each output. cuts: float32 [m], ascending. bin_of:
                uint16 [m], the bin of each code, or None for numbers, which have m + 1 bins. A feature may have a
                fourth part: float32 [n_bins], a whole number from -20 to 20 for each bin. Products of these scores are
                then summed for all pairs of such features.
            n_features: how many of the columns are features; 0 where the first row shall decide the width.
            drop: drop the columns of all blocks that were not taken; answers stay counted. Where False and there are
                such blocks, nothing changes, and it returns False.
        """
        self.check()
        cdef vector[Column] made
        cdef Column column
        for cuts, bin_of, n_bins, *scores in columns:
            column.pair_scores.clear()
            if scores and scores[0] is not None:
                column.pair_scores = scores[0].tolist()
            column.cuts = cuts.tolist()
            column.discrete = bin_of is not None
            column.bin_of.clear()
            if bin_of is not None:
                column.bin_of = bin_of.tolist()
            column.n_bins = n_bins
            made.push_back(column)
        cdef cbool done
        with nogil:
            done = self._sketch.set_layout(made, n_features, drop)
        return done

    def push(self, uint64_t id, *, uint64_t deployment=0, int64_t started_ns=0, int64_t deadline_ns=0,
             int64_t ready_ns=0, cnp.ndarray row=None, cnp.ndarray values=None, uint8_t source=0, uint8_t reason=0,
             uint32_t flags=0) -> bool:
        """Push one answer through the ring. Return False where the ring was full, or after close().

        Args:
            id: of the answer; a shadow's answer has the id of the live one.
            deployment: number of the version, as given to `deployed`.
            started_ns, deadline_ns, ready_ns: CLOCK_MONOTONIC; a deadline at or before the start is none.
            row: float32 or float64 [n_features], C-contiguous, or None.
            values: float64 [n_outputs], C-contiguous, or None.
            source, reason: places in `engine._common.vocabulary`.
            flags: SHADOW, CANARY or 0.

        Raises:
            MonitorError: an array of another dtype or layout.
        """
        self.check()
        cdef engine_answer answer
        memset(&answer, 0, sizeof(answer))
        answer.id = id
        answer.deployment = deployment
        answer.started_ns = started_ns
        answer.deadline_ns = deadline_ns
        answer.ready_ns = ready_ns
        answer.source = source
        answer.reason = reason
        answer.flags = flags
        if row is not None:
            if cnp.PyArray_TYPE(row) == cnp.NPY_FLOAT64:
                answer.row = cnp.PyArray_DATA(_flat(row, cnp.NPY_FLOAT64))
                answer.flags |= ENGINE_ANSWER_ROW_FLOAT64
            else:
                answer.row = cnp.PyArray_DATA(_flat(row, cnp.NPY_FLOAT32))
            answer.n_features = cnp.PyArray_SIZE(row)
        if values is not None:
            answer.values = <const double*>cnp.PyArray_DATA(_flat(values, cnp.NPY_FLOAT64))
            answer.n_outputs = cnp.PyArray_SIZE(values)
        return self._sketch.observe(answer)

    def push_rows(self, cnp.ndarray rows, cnp.ndarray values, uint64_t first_id=0, int64_t started_ns=0,
                  int64_t ready_ns=0, int64_t deadline_ns=0) -> int:
        """Push one answer a row, with ids that count up, and return how many the ring took. Releases the GIL.

        Args:
            rows: float32 [n, n_features], C-contiguous.
            values: float64 [n], C-contiguous: one output a row.
            first_id: id of the first row.
            started_ns, ready_ns, deadline_ns: as in `push`, the same for all rows.

        Raises:
            MonitorError: arrays of another dtype, layout or shape.
        """
        self.check()
        _flat(rows, cnp.NPY_FLOAT32)
        _flat(values, cnp.NPY_FLOAT64)
        if rows.ndim != 2 or values.ndim != 1 or rows.shape[0] != values.shape[0]:
            raise MonitorError(f"expected rows [n, n_features] and values [n], got {list((<object>rows).shape)} and "
                               f"{list((<object>values).shape)}")
        cdef engine_answer answer
        memset(&answer, 0, sizeof(answer))
        answer.started_ns = started_ns
        answer.ready_ns = ready_ns
        answer.deadline_ns = deadline_ns
        answer.n_features = rows.shape[1]
        answer.n_outputs = 1
        cdef const float* row = <const float*>cnp.PyArray_DATA(rows)
        cdef const double* value = <const double*>cnp.PyArray_DATA(values)
        cdef size_t n = rows.shape[0]
        cdef size_t i, taken = 0
        with nogil:
            for i in range(n):
                answer.id = first_id + i
                answer.row = row + i * answer.n_features
                answer.values = value + i
                taken += self._sketch.observe(answer)
        return taken

    def fold_features(self, cnp.ndarray rows) -> None:
        """Count rows, float32 [n, n_features], past the ring: on this thread, without the GIL."""
        self.check()
        _flat(rows, cnp.NPY_FLOAT32)
        cdef const float* data = <const float*>cnp.PyArray_DATA(rows)
        cdef size_t n = rows.shape[0]
        cdef size_t stride = rows.shape[1]
        with nogil:
            self._sketch.fold_features(data, n, stride)

    def fold_outputs(self, cnp.ndarray rows) -> None:
        """Count outputs, float64 [n, n_outputs], past the ring: on this thread, without the GIL."""
        self.check()
        _flat(rows, cnp.NPY_FLOAT64)
        cdef const double* data = <const double*>cnp.PyArray_DATA(rows)
        cdef size_t n = rows.shape[0]
        cdef size_t stride = rows.shape[1]
        with nogil:
            self._sketch.fold_outputs(data, n, stride)

    def drain(self, cbool flush) -> bool:
        """Count what the ring holds, and with `flush` close the open block.

        Return False where it stopped because `blocks_max` blocks are closed: take them, and call it again.
        """
        self.check()
        cdef cbool done
        with nogil:
            done = self._sketch.drain(flush)
        return done

    @property
    def pressed(self) -> bool:
        """Whether blocks should be taken soon, because the queue of closed blocks or the ring fills up."""
        return self._sketch.pressed()

    def take(self):
        """Return the oldest closed block as a dict, or None where there is none.

        Keys: rows, output_rows and answers; first_ns and last_ns on CLOCK_MONOTONIC; counts, uint32 [columns,
        bins_max]; missing, infinite and unseen, uint32 [columns]; runs, uint32 [columns], the longest run of one value
        that ends in the block; sums, float64 [columns, 2], of values and of their squares; deployments, uint64 [v];
        tally, uint32 [v, sources, reasons]; late, uint32 [sources]; output_moments, float64 [v, 3], the count, sum and
        sum of squares of the first output; pair_rows and pair_sums, float32 [p (p + 3) / 2], of the p features with
        scores: the rows, sums of scores, and sums of products of (0, 0), (0, 1), …, (p - 1, p - 1).
        """
        self.check()
        cdef cbool found
        with nogil:
            found = self._sketch.take(self._taken)
        if not found:
            return None
        cdef Block* block = &self._taken
        columns = block.missing.size()
        bins_max = block.counts.size() // columns if columns else 0
        versions = block.n_deployments
        return {
            "rows": block.rows,
            "output_rows": block.output_rows,
            "answers": block.answers,
            "first_ns": block.first_ns,
            "last_ns": block.last_ns,
            "counts": _copied(cnp.NPY_UINT32, block.counts.data(), 4, (columns, bins_max)),
            "missing": _copied(cnp.NPY_UINT32, block.missing.data(), 4, (columns,)),
            "infinite": _copied(cnp.NPY_UINT32, block.infinite.data(), 4, (columns,)),
            "unseen": _copied(cnp.NPY_UINT32, block.unseen.data(), 4, (columns,)),
            "runs": _copied(cnp.NPY_UINT32, block.runs.data(), 4, (columns,)),
            "sums": _copied(cnp.NPY_FLOAT64, block.sums.data(), 8, (columns, 2)),
            "pair_rows": block.pair_rows,
            "pair_sums": _copied(cnp.NPY_FLOAT32, block.pair_sums.data(), 4, (block.pair_sums.size(),)),
            "deployments": _copied(cnp.NPY_UINT64, block.deployments_data(), 8, (versions,)),
            "tally": _copied(cnp.NPY_UINT32, block.tally_data(), 4, (versions, SOURCES, REASONS)),
            "late": _copied(cnp.NPY_UINT32, block.late_data(), 4, (SOURCES,)),
            "output_moments": _copied(cnp.NPY_FLOAT64, block.moments_data(), 8, (versions, 3)),
        }

    def wait(self, double timeout_s) -> None:
        """Wait, without the GIL, until a block is closed, the sketch is closed or the time is over."""
        self.check()
        cdef int64_t timeout_ns = <int64_t>(timeout_s * 1e9)
        with nogil:
            self._sketch.wait(timeout_ns)

    def wait_closed(self, double timeout_s) -> bool:
        """Wait, without the GIL, until the sketch is closed (True) or the time is over (False)."""
        self.check()
        cdef int64_t timeout_ns = <int64_t>(timeout_s * 1e9)
        cdef cbool closed
        with nogil:
            closed = self._sketch.wait_closed(timeout_ns)
        return closed

    def totals(self) -> dict:
        """Return counts since the start as a dict.

        Keys: pushed, dropped (the ring was full), wrong_width, folded (counted), remembered, unpaired_shadows; latency,
        uint64 [sources, len(LATENCY_UPPER_NS)]; share, uint64 [40], of latency / budget in bins of 0.05; shadows, one
        dict for each shadow version.
        """
        self.check()
        cdef Totals totals
        with nogil:
            totals = self._sketch.totals()
        cdef Comparison* shadow = totals.shadows_begin()
        shadows = []
        while shadow != totals.shadows_end():
            if shadow.count:
                shadows.append({
                    "deployment": shadow.deployment,
                    "count": shadow.count,
                    "within": shadow.within,
                    "same_decision": shadow.same_decision,
                    "sum": shadow.sum,
                    "sum_squares": shadow.sum_squares,
                    "largest": shadow.largest,
                    "histogram": _copied(cnp.NPY_UINT64, shadow.histogram_data(), 8, (DIFFERENCE_BINS,)),
                })
            shadow += 1
        return {
            "pushed": totals.pushed,
            "dropped": totals.dropped,
            "wrong_width": totals.wrong_width,
            "folded": totals.folded,
            "remembered": totals.remembered,
            "unpaired_shadows": totals.unpaired_shadows,
            "latency": _copied(cnp.NPY_UINT64, totals.latency_data(), 8, (SOURCES, LOG_BUCKETS)),
            "share": _copied(cnp.NPY_UINT64, totals.share_data(), 8, (SHARE_BINS,)),
            "shadows": shadows,
        }

    def deployed(self, uint64_t deployment, str version) -> None:
        """Announce that answers may carry this deployment number from now on."""
        self.check()
        cdef bytes name = version.encode()
        self._sketch.deployed(deployment, name)

    def versions(self) -> dict:
        """Return the latest 1,024 announced versions, by deployment number."""
        self.check()
        return {number: name.decode("utf-8", "replace") for number, name in self._sketch.versions()}

    def find(self, uint64_t id):
        """Return (deployment, ready_ns, source, labelled, canary, outputs) of a remembered answer, or None.

        outputs: float64 [n_outputs], as many as the answer had.
        """
        self.check()
        cdef Remembered found
        cdef cnp.ndarray outputs = np.empty(self.outputs_max, dtype=np.float64)
        cdef double* data = <double*>cnp.PyArray_DATA(outputs)
        cdef cbool known
        with nogil:
            known = self._sketch.find(id, found, data)
        if not known:
            return None
        return found.deployment, found.ready_ns, found.source, bool(found.labelled), bool(found.canary), \
            outputs[:found.n_outputs]

    def label(self, uint64_t id) -> bool:
        """Mark an answer as labelled. Return False where it was already, or is not remembered."""
        self.check()
        cdef cbool fresh
        with nogil:
            fresh = self._sketch.label(id)
        return fresh

    def value(self, uint64_t id) -> bool:
        """Mark an answer as worth something. Return False where it was already, or is not remembered."""
        self.check()
        cdef cbool fresh
        with nogil:
            fresh = self._sketch.value(id)
        return fresh

    def sample(self):
        """Return the primary's raw answers of before the first layout, float32 [rows, n_features + outputs_max]."""
        self.check()
        cdef uint32_t width = 0
        cdef vector[float] rows = self._sketch.sample(width)
        return _copied(cnp.NPY_FLOAT32, rows.data(), 4, (rows.size() // max(width, 1), width))

    def answers(self, int64_t most=-1):
        """Return the latest remembered answers, ANSWERS [n], and their outputs, float64 [n, outputs_max], oldest first.

        At most `most` of them; all where it is below 0.
        """
        self.check()
        cdef vector[Remembered] entries
        cdef vector[double] outputs
        with nogil:
            self._sketch.answers(entries, outputs, <size_t>most)
        cdef size_t n = entries.size()
        raw = _copied(cnp.NPY_UINT8, entries.data(), 1, (n * sizeof(Remembered),))
        return raw.view(ANSWERS), _copied(cnp.NPY_FLOAT64, outputs.data(), 8, (n, self.outputs_max))

    def remember(self, entries, cnp.ndarray outputs) -> None:
        """Remember answers of another sketch, as `answers` returned them. An answer of an id that is known stays.

        Args:
            entries: ANSWERS [n].
            outputs: float64 [n, outputs_max], C-contiguous.

        Raises:
            MonitorError: arrays of another dtype, layout or shape.
        """
        self.check()
        cdef cnp.ndarray raw = np.ascontiguousarray(entries, dtype=ANSWERS).view(np.uint8)
        cdef size_t n = len(entries)
        _flat(outputs, cnp.NPY_FLOAT64)
        if (<object>outputs).shape != (n, self.outputs_max):
            raise MonitorError(f"expected outputs [{n}, {self.outputs_max}], got {list((<object>outputs).shape)}")
        cdef const Remembered* first = <const Remembered*>cnp.PyArray_DATA(raw)
        cdef const double* values = <const double*>cnp.PyArray_DATA(outputs)
        with nogil:
            self._sketch.remember(first, values, n)

    def close(self) -> None:
        """Count what the ring holds and end the thread. A second call, or one in a child of fork(), does nothing."""
        with nogil:
            self._sketch.close()


def places_of(cnp.ndarray cuts, bin_of, int n_bins, cnp.ndarray values):
    """Return the bin of each value, int64 [n]: -1 for missing values, -2 for unseen codes. Releases the GIL.

    Args:
        cuts: float32 [m], ascending.
        bin_of: uint16 [m], the bin of each code, or None for numbers.
        n_bins: how many bins there are.
        values: float32 [n].

    Raises:
        MonitorError: values of another dtype or layout.
    """
    cdef Column column
    column.cuts = cuts.tolist()
    column.discrete = bin_of is not None
    if bin_of is not None:
        column.bin_of = bin_of.tolist()
    column.n_bins = n_bins
    _flat(values, cnp.NPY_FLOAT32)
    cdef const float* value = <const float*>cnp.PyArray_DATA(values)
    cdef cnp.ndarray made = np.empty(cnp.PyArray_SIZE(values), dtype=np.int64)
    cdef int64_t* place = <int64_t*>cnp.PyArray_DATA(made)
    cdef Py_ssize_t i, n = cnp.PyArray_SIZE(values)
    cdef uint16_t found
    with nogil:
        for i in range(n):
            if value[i] != value[i]:
                place[i] = -1
                continue
            found = column.bin(value[i])
            place[i] = -2 if found == UNSEEN else <int64_t>found
    return made


cdef cnp.ndarray _flat(cnp.ndarray array, int kind):
    if cnp.PyArray_TYPE(array) != kind or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        wanted = "float32" if kind == cnp.NPY_FLOAT32 else "float64"
        raise MonitorError(f"expected a C-contiguous {wanted} array, got {(<object>array).dtype} of strides "
                           f"{(<object>array).strides}")
    return array
