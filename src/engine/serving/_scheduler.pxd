# csrc/scheduler and csrc/base as Cython sees them: what the bindings of this room need, and no more.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

from engine._common._features cimport ENGINE_FEATURES_ABI, ENGINE_FEATURES_CAPSULE, engine_features
from engine._common._observer cimport (
    ENGINE_ANSWER_CANARY,
    ENGINE_ANSWER_ROW_FLOAT64,
    ENGINE_OBSERVER_ABI,
    ENGINE_OBSERVER_CAPSULE,
    engine_answer,
    engine_observer,
)
from engine.model._scorer cimport engine_scorer

cdef extern from *:
    """
    #include <new>
    #include <system_error>
    /* std::system_error as OSError with its number; anything else as the exception Cython would make of it. */
    static void engine_raise_system_error() {
        try {
            throw;
        } catch (const std::system_error& error) {
            PyObject* arguments = Py_BuildValue("is", error.code().value(), error.what());
            if (arguments != nullptr) PyErr_SetObject(PyExc_OSError, arguments);
            Py_XDECREF(arguments);
        } catch (const std::bad_alloc&) {
            PyErr_NoMemory();
        } catch (const std::exception& error) {
            PyErr_SetString(PyExc_RuntimeError, error.what());
        }
    }
    """
    void system_error "engine_raise_system_error"()

cdef extern from "<atomic>" nogil:
    cdef cppclass atomic_u64 "std::atomic<uint64_t>":
        uint64_t load()
        uint64_t fetch_add(uint64_t amount)

cdef extern from "base/clock.hpp" namespace "engine" nogil:
    int64_t now_ns() noexcept
    int64_t NEVER_NS

cdef extern from "base/buffers.hpp" namespace "engine" nogil:
    cdef cppclass SmallBuffer:
        SmallBuffer() noexcept
        void* reserve(size_t n_bytes) except +

cdef extern from "scheduler/breaker.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass BreakerLimits:
        BreakerLimits()
        cbool enabled
        uint32_t calls_in_a_row
        double rows_share
        uint32_t rows_min
        int64_t window_ns
        int64_t rest_ns
        int64_t rest_ns_max

    cdef cppclass Breaker:
        cbool open() noexcept
        cbool resting(int64_t now_ns) noexcept
        uint64_t openings() noexcept
        uint64_t probes() noexcept

cdef extern from "scheduler/deployment.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass Deployment:
        Deployment(const engine_scorer& primary, const engine_scorer* fallback, cbool float64_rows, uint64_t number,
                   const BreakerLimits& breaker)
        void retain() noexcept
        void release() noexcept
        uint64_t number() noexcept
        uint32_t references() noexcept
        uint32_t in_flight_max() noexcept
        Breaker& breaker() noexcept

cdef extern from "base/key_hash.hpp" namespace "engine" nogil:
    uint64_t draw(uint64_t n) noexcept
    uint64_t key_hash(const char* bytes, size_t length, uint64_t salt) noexcept

cdef extern from "scheduler/shadow.hpp" namespace "engine::scheduler" nogil:
    ctypedef struct ShadowCounts:
        uint64_t rows
        uint64_t dropped
        uint64_t failed
        uint64_t compared
        double difference_mean
        double difference_max

    cdef cppclass Shadow:
        Shadow(Deployment* deployment, const engine_observer* observer, uint32_t rows_max) except +system_error
        void offer(const engine_answer& live, cbool compare) noexcept
        ShadowCounts counts() noexcept
        cbool close(int64_t patience_ns) noexcept

cdef extern from "scheduler/priority.hpp" namespace "engine::scheduler" nogil:
    int PRIORITIES

    cdef enum class Priority(uint8_t):
        critical
        normal
        sheddable

    const char* priority_name(Priority priority) noexcept

cdef extern from "scheduler/request.hpp" namespace "engine::scheduler" nogil:
    int REASONS
    int SOURCES

    cdef cppclass Request:
        Request() noexcept
        Deployment* deployment
        const void* row
        int64_t started_ns
        int64_t asked_ns
        int64_t deadline_ns
        Priority priority
        cbool hedge

    cdef enum class Source(uint8_t):
        primary
        fallback
        default_value

    cdef enum class Reason(uint8_t):
        ok
        expired
        closing

    const char* source_name(Source source) noexcept
    const char* reason_name(Reason reason) noexcept

    cdef cppclass Outcome:
        Outcome()
        uint64_t id
        uint64_t deployment
        int64_t started_ns
        int64_t deadline_ns
        int64_t ready_ns
        Source source
        Reason reason
        Priority priority

cdef extern from "scheduler/slot_table.hpp" namespace "engine::scheduler" nogil:
    uint32_t NO_SLOT

    cdef cppclass Slot:
        void* user
        Group* group
        uint32_t next_done_value "next_done.load"() noexcept

    cdef cppclass SlotTable:
        Slot& operator[](uint32_t) noexcept
        uint32_t in_use() noexcept
        uint32_t count() noexcept

cdef extern from "scheduler/completions.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass Completions:
        Completions() except +system_error
        void release() noexcept
        int fd() noexcept
        uint32_t take_all(SlotTable& table) noexcept
        void signal() noexcept
        void start_polling() noexcept
        cbool stop_polling() noexcept
        cbool has_answers() noexcept
        uint32_t pending

    cdef cppclass Group:
        Group()

cdef extern from "base/histogram.hpp" namespace "engine" nogil:
    cdef cppclass Histogram:
        uint64_t count() noexcept
        int64_t quantile(double quantile) noexcept

cdef extern from "scheduler/cost.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass CostModel:
        int64_t expected_ns(uint32_t rows) noexcept
        int64_t high_ns(uint32_t rows) noexcept
        uint32_t efficient_rows() noexcept
        double spread() noexcept
        uint64_t stalls() noexcept

cdef extern from "scheduler/margin.hpp" namespace "engine::scheduler" nogil:
    ctypedef struct MarginTerms:
        int64_t timer_ns
        int64_t return_ns
        int64_t fallback_ns
        int64_t typical_ns

    cdef cppclass SafetyMargin:
        MarginTerms terms() noexcept

cdef extern from "scheduler/fair_share.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass SharedExecutors:
        uint32_t models() noexcept

cdef extern from "scheduler/policy.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass Policy:
        uint32_t live() noexcept
        int64_t prediction_error_ns() noexcept

cdef extern from "scheduler/executors.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass ExecutorOptions:
        ExecutorOptions()
        uint32_t threads
        cbool may_watch
        int realtime_priority
        vector[int] cpus

    cdef cppclass Executors:
        @staticmethod
        shared_ptr[Executors] make(const ExecutorOptions& options) except +system_error
        void stop(int64_t patience_ns) noexcept
        int64_t watch_ns() noexcept
        int64_t handoff_ns() noexcept
        uint64_t replaced() noexcept
        uint64_t abandoned() noexcept
        uint32_t missing() noexcept
        uint64_t refused() noexcept
        uint32_t count() noexcept
        SharedExecutors& shared() noexcept

cdef extern from "scheduler/limits.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass RuntimeLimits:
        RuntimeLimits()
        uint32_t slots
        uint32_t batch_rows_max
        uint32_t n_features
        uint32_t n_outputs
        int64_t budget_ns
        double weight
        double miss_rate
        cbool errors_to_default
        cbool only_finite
        uint64_t first_id

cdef extern from "scheduler/counters.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass Counters:
        atomic_u64 late_ready
        atomic_u64 late_returned
        atomic_u64 late_dropped
        atomic_u64 batches
        atomic_u64 batch_rows
        atomic_u64 failed_batches
        atomic_u64 queue_depth_max
        atomic_u64 cancelled
        atomic_u64 inline_overruns
        const Histogram& latency(int source) noexcept
        Histogram returned_ns
        Histogram queued_ns

cdef extern from "scheduler/runtime.hpp" namespace "engine::scheduler" nogil:
    cdef cppclass Caller:
        Caller() noexcept
        Completions* completions
        Group* group
        void* user
        cbool wake

    cdef cppclass Calibration:
        Calibration()
        cbool failed

    cdef cppclass Runtime:
        Runtime(const RuntimeLimits& limits, shared_ptr[Executors] executors, cbool owns_executors) except +
        Calibration calibrate(Deployment& deployment, const void* rows, uint32_t n_rows) except +
        int64_t adopt(const Calibration& calibration) except +
        void warm_threads(Deployment& deployment) except +
        void make_canary(Deployment& deployment, double share, const Calibration* calibration) except +
        void time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows) except +
        void start_threads(Deployment* deployment, const void* rows, uint32_t n_rows) except +system_error
        cbool warmed_up() noexcept
        void set_primary(const Deployment& primary) except +
        cbool answers_soon() noexcept
        cbool answer_before_next_dispatch(const Completions& loop) noexcept
        Outcome predict_inline(const Request& request, double* out) noexcept
        void predict_many_inline(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                                 int64_t reserve_ns, Outcome* outcomes, double* out) except +
        uint32_t submit(const Request& request, const Caller& caller, Outcome* rejected, double* out) noexcept
        void kick() noexcept
        cbool submit_many(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                          const Caller& caller, uint32_t* slots, Outcome* outcomes, double* out) noexcept
        cbool wait(uint32_t index) noexcept
        cbool wait_group(Group& group, const vector[uint32_t]& slots) except +
        Outcome outcome(uint32_t index) noexcept
        const double* values(uint32_t index) noexcept
        const void* row(uint32_t index) noexcept
        void give_back(uint32_t index) noexcept
        cbool abandon(uint32_t index) noexcept
        void abandon_row(uint32_t index) noexcept
        void account(const Outcome& outcome, int64_t returned_ns, cbool queued, cbool synchronous) noexcept
        uint32_t close(int64_t patience_ns) noexcept
        SlotTable& slots() noexcept
        Counters& counters() noexcept
        CostModel& cost() noexcept
        CostModel& inline_cost() noexcept
        const SafetyMargin& margin(cbool synchronous) noexcept
        Policy& policy() noexcept
        Executors& executors() noexcept
        uint64_t answered(int priority, int source, int reason) noexcept
        @staticmethod
        int64_t working_until_ns() noexcept
