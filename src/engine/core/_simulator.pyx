# The simulator of csrc/include/engine/simulator.hpp: a plan in, counters out. Checks are engine.planning.simulate's.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from time import monotonic_ns


cdef extern from "engine/simulator.hpp" namespace "engine" nogil:
    cdef cppclass Deadline "engine::SimulationPlan::Deadline":
        int64_t budget_ns  # from arrival
        double share       # of requests, relative to the other shares

    cdef cppclass SimulationPlan:
        uint64_t seed
        uint64_t requests
        double rate_per_s
        int64_t burst_every_ns
        uint32_t burst_requests
        vector[Deadline] deadlines
        int64_t batch_base_ns
        int64_t batch_row_ns
        double batch_noise
        uint32_t executors
        uint32_t batch_rows_max
        uint32_t queue_rows_max
        cbool calibrated
        int64_t fallback_ns
        double fallback_noise
        uint32_t cores
        double miss_rate
        int64_t overshoot_ns
        double overshoot_tail_share
        int64_t overshoot_tail_ns
        int64_t stall_ns
        int64_t stall_every_ns
        double slow_factor
        int64_t slow_from_ns
        int64_t hang_from_ns
        double crash_share
        double nan_share
        double cancel_share

    cdef cppclass SimulationResult:
        uint64_t requests
        uint64_t by_source[4]
        uint64_t by_reason[11]
        uint64_t on_time[4]
        int64_t elapsed_ns
        double capacity_per_s
        int64_t latency_ns_p50
        int64_t latency_ns_p99
        int64_t latency_ns_p999
        uint64_t batches
        uint64_t batch_rows
        uint64_t late_dropped
        uint64_t held
        uint64_t queue_depth_max
        int64_t recovery_ns
        int64_t prediction_error_ns
        int64_t guard_timer_ns
        int64_t guard_fallback_ns
        uint64_t outcomes_missing
        uint64_t outcomes_double
        uint64_t late_work_started
        uint64_t doomed_work_started
        uint64_t queue_over_bound
        uint64_t batch_over_bound
        uint64_t fallback_late_unexcused
        uint64_t events
        uint64_t trace_hash

    cdef cppclass SimulatedArrival:
        int64_t arrived_ns  # from the start
        int64_t budget_ns

    vector[SimulatedArrival] simulated_arrivals(const SimulationPlan& plan) except +
    SimulationResult run_plan "engine::simulate"(const SimulationPlan& plan) except +
    int64_t NEVER_NS

SOURCES = ("primary", "fallback", "default", "cancelled")
REASONS = ("none", "late", "stalled", "full", "released", "waited", "overdue", "crashed", "nan", "expired", "no_time")


cdef SimulationPlan _plan(dict plan, list deadlines) except *:
    cdef SimulationPlan p
    cdef Deadline deadline
    p.seed = plan["seed"]
    p.requests = plan["requests"]
    p.rate_per_s = plan["rate_per_s"]
    p.burst_every_ns = plan["burst_every_ns"]
    p.burst_requests = plan["burst_requests"]
    p.deadlines.clear()
    for budget_ns, share in deadlines:
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
    p.fallback_ns = plan["fallback_ns"]
    p.fallback_noise = plan["fallback_noise"]
    p.cores = plan["cores"]
    p.miss_rate = plan["miss_rate"]
    p.overshoot_ns = plan["overshoot_ns"]
    p.overshoot_tail_share = plan["overshoot_tail_share"]
    p.overshoot_tail_ns = plan["overshoot_tail_ns"]
    p.stall_ns = plan["stall_ns"]
    p.stall_every_ns = plan["stall_every_ns"]
    p.slow_factor = plan["slow_factor"]
    p.slow_from_ns = NEVER_NS if plan["slow_from_ns"] is None else plan["slow_from_ns"]
    p.hang_from_ns = NEVER_NS if plan["hang_from_ns"] is None else plan["hang_from_ns"]
    p.crash_share = plan["crash_share"]
    p.nan_share = plan["nan_share"]
    p.cancel_share = plan["cancel_share"]
    return p


def arrivals(dict plan, list deadlines) -> list:
    """The (arrived_ns, budget_ns) pairs that `run` would meet under the same plan, counted from its start."""
    cdef vector[SimulatedArrival] found = simulated_arrivals(_plan(plan, deadlines))
    return [(found[i].arrived_ns, found[i].budget_ns) for i in range(found.size())]


def run(dict plan, list deadlines) -> dict:
    """Runs one plan to its end without the GIL. Keys are the fields of SimulationPlan, all of them; an instant that is
    None never comes. `deadlines` holds (budget_ns, share) pairs. Returns the counters, and `wall_ns` really taken."""
    cdef SimulationPlan p = _plan(plan, deadlines)
    cdef SimulationResult r
    cdef object began_ns = monotonic_ns()
    with nogil:
        r = run_plan(p)
    return {
        "wall_ns": monotonic_ns() - began_ns,
        "requests": r.requests,
        "by_source": {name: r.by_source[i] for i, name in enumerate(SOURCES)},
        "by_reason": {name: r.by_reason[i] for i, name in enumerate(REASONS)},
        "on_time": {name: r.on_time[i] for i, name in enumerate(SOURCES)},
        "elapsed_ns": r.elapsed_ns,
        "capacity_per_s": r.capacity_per_s,
        "latency_ns_p50": r.latency_ns_p50,
        "latency_ns_p99": r.latency_ns_p99,
        "latency_ns_p999": r.latency_ns_p999,
        "batches": r.batches,
        "batch_rows": r.batch_rows,
        "late_dropped": r.late_dropped,
        "held": r.held,
        "queue_depth_max": r.queue_depth_max,
        "recovery_ns": None if r.recovery_ns < 0 else r.recovery_ns,
        "prediction_error_ns": r.prediction_error_ns,
        "guard_timer_ns": r.guard_timer_ns,
        "guard_fallback_ns": r.guard_fallback_ns,
        "violations": {
            "outcomes_missing": r.outcomes_missing,
            "outcomes_double": r.outcomes_double,
            "late_work_started": r.late_work_started,
            "doomed_work_started": r.doomed_work_started,
            "queue_over_bound": r.queue_over_bound,
            "batch_over_bound": r.batch_over_bound,
            "fallback_late_unexcused": r.fallback_late_unexcused,
        },
        "events": r.events,
        "trace_hash": r.trace_hash,
    }
