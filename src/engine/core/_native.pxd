# csrc/include/engine as Cython sees it: what _runtime.pyx needs of the runtime, no more.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from engine.core._features cimport ENGINE_FEATURES_ABI, ENGINE_FEATURES_CAPSULE, engine_features
from engine.core._scorer cimport engine_scorer

cdef extern from "<atomic>" nogil:
    cdef cppclass atomic_u64 "std::atomic<uint64_t>":
        uint64_t load()

cdef extern from "engine/clock.hpp" namespace "engine" nogil:
    int64_t now_ns() noexcept
    int64_t NEVER_NS

cdef extern from "engine/buffer.hpp" namespace "engine" nogil:
    cdef cppclass SmallBuffer:
        SmallBuffer() noexcept
        void* reserve(size_t n_bytes) except +

cdef extern from "engine/deployment.hpp" namespace "engine" nogil:
    cdef cppclass Deployment:
        Deployment(const engine_scorer& primary, const engine_scorer* fallback, cbool float64_rows, uint64_t number)
        void retain() noexcept
        void release() noexcept
        uint64_t number() noexcept
        uint32_t references() noexcept

cdef extern from "engine/slot.hpp" namespace "engine" nogil:
    uint32_t NO_SLOT

    cdef enum class Source(uint8_t):
        primary
        fallback
        default_value

    cdef enum class Reason(uint8_t):
        ok
        expired
        closing

    cdef cppclass Slot:
        void* user
        Group* group
        uint32_t next_done_value "next_done.load"() noexcept

    cdef cppclass SlotTable:
        Slot& operator[](uint32_t) noexcept
        uint32_t in_use() noexcept
        uint32_t count() noexcept

cdef extern from "engine/completions.hpp" namespace "engine" nogil:
    cdef cppclass Completions:
        Completions() except +
        int fd() noexcept
        uint32_t take_all(SlotTable& table) noexcept
        void signal() noexcept
        void start_polling() noexcept
        cbool stop_polling() noexcept
        cbool has_answers() noexcept
        uint32_t pending

    cdef cppclass Group:
        Group()

cdef extern from "engine/histogram.hpp" namespace "engine" nogil:
    cdef cppclass Histogram:
        uint64_t count() noexcept
        int64_t quantile(double quantile) noexcept

cdef extern from "engine/cost.hpp" namespace "engine" nogil:
    cdef cppclass CostModel:
        int64_t expected_ns(uint32_t rows) noexcept
        int64_t high_ns(uint32_t rows) noexcept
        uint32_t efficient_rows() noexcept
        double spread() noexcept
        uint64_t stalls() noexcept

cdef extern from "engine/guard.hpp" namespace "engine" nogil:
    ctypedef struct GuardTerms:
        int64_t timer_ns
        int64_t return_ns
        int64_t fallback_ns
        int64_t typical_ns

    cdef cppclass Guard:
        GuardTerms terms() noexcept

cdef extern from "engine/policy.hpp" namespace "engine" nogil:
    cdef cppclass Policy:
        uint32_t live() noexcept
        int64_t prediction_error_ns() noexcept

cdef extern from "engine/runtime.hpp" namespace "engine" nogil:
    int REASONS
    int SOURCES

    cdef cppclass RuntimeLimits:
        RuntimeLimits()
        uint32_t slots
        uint32_t batch_rows_max
        uint32_t executors
        uint32_t row_bytes
        uint32_t n_features
        uint32_t n_outputs
        int64_t budget_ns
        cbool may_watch
        double miss_rate
        uint64_t first_id

    cdef cppclass Outcome:
        Outcome()
        uint64_t id
        uint64_t deployment
        int64_t started_ns
        int64_t deadline_ns
        int64_t ready_ns
        Source source
        Reason reason

    cdef cppclass Counters:
        atomic_u64 on_time_ready
        atomic_u64 on_time_returned
        atomic_u64 late_dropped
        atomic_u64 batches
        atomic_u64 batch_rows
        atomic_u64 failed_batches
        atomic_u64 queue_depth_max
        atomic_u64 inline_overruns
        const Histogram& latency(int source) noexcept
        Histogram returned_ns
        Histogram queued_ns

    cdef cppclass Runtime:
        Runtime(const RuntimeLimits& limits, Deployment* deployment) except +
        int64_t calibrate(const void* rows, uint32_t n_rows) except +
        void start_threads(const void* rows, uint32_t n_rows) except +
        cbool warmed_up() noexcept
        int64_t watch_ns() noexcept
        int64_t handoff_ns() noexcept
        cbool answers_soon() noexcept
        void swap(Deployment* deployment) noexcept
        Outcome predict_inline(const void* row, int64_t started_ns, int64_t deadline_ns, double* out) noexcept
        void predict_many_inline(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                                 int64_t reserve_ns, Outcome* outcomes, double* out) except +
        uint32_t submit(const void* row, int64_t started_ns, int64_t deadline_ns, Completions* completions,
                        Group* group, void* user, cbool wake, Outcome* refused, double* out) noexcept
        void kick() noexcept
        cbool submit_many(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                          Completions* completions, Group* group, void* user, uint32_t* slots, Outcome* outcomes,
                          double* out) noexcept
        cbool wait(uint32_t index) noexcept
        cbool wait_group(Group& group, const vector[uint32_t]& slots) except +
        Outcome outcome(uint32_t index) noexcept
        const double* values(uint32_t index) noexcept
        void give_back(uint32_t index) noexcept
        void abandon(uint32_t index) noexcept
        void account(const Outcome& outcome, int64_t returned_ns, cbool queued, cbool synchronous) noexcept
        uint32_t close(int64_t patience_ns) noexcept
        SlotTable& slots() noexcept
        Counters& counters() noexcept
        CostModel& cost() noexcept
        CostModel& inline_cost() noexcept
        const Guard& guard(cbool synchronous) noexcept
        const Policy& policy() noexcept
        uint64_t answered(int source, int reason) noexcept
