# The simulator of csrc/simulator/simulator.hpp: a plan in, counters out. engine.simulation checks the plan.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

from time import monotonic_ns


cdef extern from "simulator/simulator.hpp" namespace "engine::simulator" nogil:
    cdef enum class FaultKind(unsigned char):
        pass

    cdef enum class Invariant(unsigned char):
        pass

    cdef enum class Reason "engine::scheduler::Reason"(unsigned char):
        pass

    cdef enum class Source "engine::scheduler::Source"(unsigned char):
        pass

    cdef cppclass Deadline "engine::simulator::SimulationPlan::Deadline":
        int64_t budget_ns  # from arrival
        double share       # of requests, relative to the other shares

    cdef cppclass SimulatedModel:
        double share       # of the requests
        double weight      # of the executors, while there is not enough for all
        double cost_factor
        cbool canary       # a guest of the first model
        uint32_t seats     # batches that its device has in flight; 0 where executors call it
        cbool serial       # the device works on one batch after the other
        uint32_t rows_max  # of a batch on the device; 0 for the plan's

    cdef cppclass SimulatedFault:
        FaultKind kind
        int64_t from_ns
        int64_t until_ns
        int64_t length_ns
        int64_t every_ns
        int64_t extra_ns
        int64_t extra_row_ns
        double factor
        double measured
        double share
        uint32_t count
        uint32_t executor
        Invariant broken

    cdef cppclass SimulationPlan:
        uint64_t seed
        uint64_t requests
        double rate_per_s
        vector[Deadline] deadlines
        vector[SimulatedModel] models
        double priorities[3]
        int64_t batch_base_ns
        int64_t batch_row_ns
        double batch_noise
        uint32_t executors
        uint32_t batch_rows_max
        uint32_t queue_rows_max
        cbool calibrated
        cbool replace_hung
        int64_t budget_ns
        int64_t handoff_ns
        int64_t fallback_ns
        double fallback_noise
        uint32_t cores
        double miss_rate
        int64_t overshoot_ns
        double overshoot_tail_share
        int64_t overshoot_tail_ns
        vector[SimulatedFault] faults
        int64_t bin_ns

    cdef cppclass SimulatedFate:
        uint64_t arrived
        uint64_t cancelled
        uint64_t primary_in_time
        uint64_t in_time
        int64_t latency_ns_sum
        int64_t latency_ns_max
        uint64_t queue_depth_max

    cdef cppclass SimulationResult:
        uint64_t requests
        uint64_t cancelled
        uint64_t by_source[3]
        uint64_t by_reason[1]  # as many as there are reasons; the header knows
        uint64_t in_time[3]
        vector[SimulatedFate] by_deadline
        vector[SimulatedFate] by_model
        SimulatedFate by_priority[3]
        vector[SimulatedFate] timeline
        int64_t elapsed_ns
        double capacity_per_s
        int64_t latency_ns_p50
        int64_t latency_ns_p99
        int64_t latency_ns_p999
        uint64_t batches
        uint64_t batch_rows
        uint64_t batches_of_one_avoidable
        uint64_t late_dropped
        uint64_t overdue
        uint64_t held
        uint64_t probes
        uint64_t replaced
        uint64_t abandoned
        uint64_t in_flight_max
        uint64_t breaker_openings
        uint64_t versions
        uint64_t versions_freed
        uint64_t queue_depth_max
        int64_t recovery_ns
        int64_t prediction_error_ns
        int64_t margin_timer_ns
        int64_t margin_fallback_ns
        uint64_t violations[1]
        string first_violation
        uint64_t events
        uint64_t trace_hash

    cdef cppclass SimulatedArrival:
        int64_t arrived_ns  # from the start
        int64_t budget_ns

    vector[SimulatedArrival] simulated_arrivals(const SimulationPlan& plan) except +
    SimulationResult run_plan "engine::simulator::simulate"(const SimulationPlan& plan) except +
    int64_t NEVER_NS "engine::NEVER_NS"
    int N_REASONS "engine::scheduler::REASONS"
    int N_SOURCES "engine::scheduler::SOURCES"
    int N_FAULTS "engine::simulator::FAULT_KINDS"
    int N_INVARIANTS "engine::simulator::INVARIANTS"
    const char* FAULT_NAMES[1]
    const char* INVARIANT_NAMES[1]
    const char* reason_name(Reason reason)
    const char* source_name(Source source)
    uint32_t EVERY_EXECUTOR "engine::simulator::SimulatedFault::EVERY_EXECUTOR"

SOURCES = tuple([source_name(<Source>i).decode() for i in range(N_SOURCES)])
REASONS = tuple([reason_name(<Reason>i).decode() for i in range(N_REASONS)])
FAULTS = tuple([FAULT_NAMES[i].decode() for i in range(N_FAULTS)])
INVARIANTS = tuple([INVARIANT_NAMES[i].decode() for i in range(N_INVARIANTS)])


cdef int64_t _instant(object ns) except? -1:
    return NEVER_NS if ns is None else ns


cdef SimulatedFault _fault(dict fault) except *:
    cdef SimulatedFault f
    cdef int kind = FAULTS.index(fault["fault"])
    cdef int broken = INVARIANTS.index(fault["broken"]) if "broken" in fault else 0
    f.kind = <FaultKind>kind
    f.broken = <Invariant>broken
    f.from_ns = fault["from_ns"]
    f.until_ns = _instant(fault["until_ns"])
    f.length_ns = fault.get("length_ns", 0)
    f.every_ns = fault.get("every_ns", 0)
    f.extra_ns = fault.get("extra_ns", 0)
    f.extra_row_ns = fault.get("extra_row_ns", 0)
    f.factor = fault.get("factor", 1.0)
    f.measured = fault.get("measured", 1.0)
    f.share = fault.get("share", 1.0)
    f.count = fault.get("count", 0)
    f.executor = EVERY_EXECUTOR if fault.get("executor") is None else fault["executor"]
    return f


cdef SimulationPlan _plan(dict plan) except *:
    cdef SimulationPlan p
    cdef Deadline deadline
    cdef SimulatedModel model
    cdef int i
    p.seed = plan["seed"]
    p.requests = plan["requests"]
    p.rate_per_s = plan["rate_per_s"]
    p.deadlines.clear()
    for budget_ns, share in plan["deadlines"]:
        deadline.budget_ns = budget_ns
        deadline.share = share
        p.deadlines.push_back(deadline)
    p.batch_base_ns = plan["batch_base_ns"]
    p.batch_row_ns = plan["batch_row_ns"]
    p.batch_noise = plan["batch_noise"]
    p.executors = plan["executors"]
    p.batch_rows_max = plan["batch_rows_max"]
    p.queue_rows_max = plan["queue_rows_max"]
    p.calibrated = plan["calibrated"]
    p.replace_hung = plan["replace_hung"]
    p.budget_ns = plan["budget_ns"]
    p.models.clear()
    for share, weight, cost_factor, canary, seats, serial, rows_max in plan["models"]:
        model.share = share
        model.weight = weight
        model.cost_factor = cost_factor
        model.canary = canary
        model.seats = seats
        model.serial = serial
        model.rows_max = rows_max
        p.models.push_back(model)
    for i in range(3):
        p.priorities[i] = plan["priorities"][i]
    p.handoff_ns = plan["handoff_ns"]
    p.fallback_ns = plan["fallback_ns"]
    p.fallback_noise = plan["fallback_noise"]
    p.cores = plan["cores"]
    p.miss_rate = plan["miss_rate"]
    p.overshoot_ns = plan["overshoot_ns"]
    p.overshoot_tail_share = plan["overshoot_tail_share"]
    p.overshoot_tail_ns = plan["overshoot_tail_ns"]
    for fault in plan["faults"]:
        p.faults.push_back(_fault(fault))
    p.bin_ns = plan["bin_ns"]
    return p


cdef dict _fate(const SimulatedFate& fate):
    return {
        "arrived": fate.arrived,
        "cancelled": fate.cancelled,
        "primary_in_time": fate.primary_in_time,
        "in_time": fate.in_time,
        "latency_ns_sum": fate.latency_ns_sum,
        "latency_ns_max": fate.latency_ns_max,
        "queue_depth_max": fate.queue_depth_max,
    }


def arrivals(dict plan) -> list:
    """The (arrived_ns, budget_ns) pairs that `run` would meet under the same plan, counted from its start."""
    cdef vector[SimulatedArrival] found = simulated_arrivals(_plan(plan))
    return [(found[i].arrived_ns, found[i].budget_ns) for i in range(found.size())]


def run(dict plan) -> dict:
    """Runs one plan to its end without the GIL. Keys are the fields of SimulationPlan, all of them; an instant that is
    None never comes. `deadlines` holds (budget_ns, share) pairs, `faults` dicts of SimulatedFault's fields with the
    name of its kind as `fault`. Returns the counters, and `wall_ns` really taken."""
    cdef SimulationPlan p = _plan(plan)
    cdef SimulationResult r
    cdef object began_ns = monotonic_ns()
    with nogil:
        r = run_plan(p)
    return {
        "wall_ns": monotonic_ns() - began_ns,
        "requests": r.requests,
        "cancelled": r.cancelled,
        "by_source": {name: r.by_source[i] for i, name in enumerate(SOURCES)},
        "by_reason": {name: r.by_reason[i] for i, name in enumerate(REASONS)},
        "in_time": {name: r.in_time[i] for i, name in enumerate(SOURCES)},
        "by_deadline": [_fate(r.by_deadline[i]) for i in range(r.by_deadline.size())],
        "by_model": [_fate(r.by_model[i]) for i in range(r.by_model.size())],
        "by_priority": [_fate(r.by_priority[i]) for i in range(3)],
        "timeline": [_fate(r.timeline[i]) for i in range(r.timeline.size())],
        "elapsed_ns": r.elapsed_ns,
        "capacity_per_s": r.capacity_per_s,
        "latency_ns_p50": r.latency_ns_p50,
        "latency_ns_p99": r.latency_ns_p99,
        "latency_ns_p999": r.latency_ns_p999,
        "batches": r.batches,
        "batch_rows": r.batch_rows,
        "batches_of_one_avoidable": r.batches_of_one_avoidable,
        "late_dropped": r.late_dropped,
        "overdue": r.overdue,
        "held": r.held,
        "probes": r.probes,
        "replaced": r.replaced,
        "abandoned": r.abandoned,
        "in_flight_max": r.in_flight_max,
        "breaker_openings": r.breaker_openings,
        "versions": r.versions,
        "versions_freed": r.versions_freed,
        "queue_depth_max": r.queue_depth_max,
        "recovery_ns": None if r.recovery_ns < 0 else r.recovery_ns,
        "prediction_error_ns": r.prediction_error_ns,
        "guard_timer_ns": r.margin_timer_ns,
        "guard_fallback_ns": r.margin_fallback_ns,
        "violations": {name: r.violations[i] for i, name in enumerate(INVARIANTS)},
        "first_violation": r.first_violation.decode(),
        "events": r.events,
        "trace_hash": r.trace_hash,
    }
