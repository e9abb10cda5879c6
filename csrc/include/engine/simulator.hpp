// The simulator: the compiled Policy, CostModel and Guard on a virtual clock, under seeded load and faults. One thread,
// one event heap; the same plan gives the same events in the same order, which trace_hash attests.
//
// It mirrors the life of a request in the batch lane: the door, the queue, executors, the timed rescue, the fallback on
// a few cores. It leaves out the GIL, the threads themselves and the memory they share: those have tests of their own.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/clock.hpp"

namespace engine {

struct SimulationPlan {
    struct Deadline {
        int64_t budget_ns;  // from arrival; 0 or less is a request that has expired at the door
        double share;
    };

    uint64_t seed = 1;
    uint64_t requests = 100'000;  // Poisson arrivals and members of bursts together
    double rate_per_s = 1'000.0;  // of the Poisson arrivals
    int64_t burst_every_ns = 0;   // 0 for no bursts
    uint32_t burst_requests = 0;  // arrive in the same instant
    std::vector<Deadline> deadlines{{10'000'000, 1.0}};

    // The true cost of a batch of b rows: (base + b * row) * exp(noise * z), z standard normal.
    int64_t batch_base_ns = 50'000;
    int64_t batch_row_ns = 120'000;
    double batch_noise = 0.05;
    uint32_t executors = 1;
    uint32_t batch_rows_max = 64;
    uint32_t queue_rows_max = 4096;
    bool calibrated = true;  // cost model and guard start primed, as after a warm-up; else they know nothing

    int64_t fallback_ns = 10'000;
    double fallback_noise = 0.05;
    uint32_t cores = 2;  // what fallbacks share; executors do not take from them
    double miss_rate = 0.001;

    // How late a timed wait wakes: exponential about a mean, with a rare long one in addition.
    int64_t overshoot_ns = 4'000;
    double overshoot_tail_share = 1e-4;
    int64_t overshoot_tail_ns = 1'100'000;

    // Faults. A clock that jumps is not among them: CLOCK_MONOTONIC cannot, and nothing reads another clock.
    int64_t stall_ns = 0;  // the primary makes no progress in the first stall_ns of every stall_every_ns
    int64_t stall_every_ns = 0;
    double slow_factor = 1.0;  // of batches started from slow_from_ns on
    int64_t slow_from_ns = NEVER_NS;
    int64_t hang_from_ns = NEVER_NS;  // the first batch that executor 0 starts from then on never ends
    double crash_share = 0.0;         // of batches: every row fails
    double nan_share = 0.0;           // of rows: the primary answers NaN
    double cancel_share = 0.0;        // of requests: the caller gives up at a uniform instant of the budget
};

enum class Source : uint8_t { primary, fallback, default_value, cancelled };
inline constexpr size_t SOURCES = 4;

enum class Reason : uint8_t {
    none,
    late,      // refused at the door: predicted to finish too late
    stalled,   // refused at the door: every executor is overdue
    full,      // refused at the door: the queue is at its bound
    released,  // queued, then given up by the forming of a batch
    waited,    // its rescue came while it was still queued
    overdue,   // its rescue came while an executor was at work on it
    crashed,   // its batch failed
    nan,       // the primary's answer was not a number
    expired,   // the deadline had passed at the door
    no_time,   // not even the fallback would have been in time
};
inline constexpr size_t REASONS = 11;

struct SimulationResult {
    uint64_t requests = 0;
    std::array<uint64_t, SOURCES> by_source{};
    std::array<uint64_t, REASONS> by_reason{};
    std::array<uint64_t, SOURCES> on_time{};  // at or before the deadline, by source

    int64_t elapsed_ns = 0;  // virtual, from the first arrival to the last outcome
    double capacity_per_s = 0.0;  // rows per second of all executors on full batches of the true cost
    int64_t latency_ns_p50 = 0, latency_ns_p99 = 0, latency_ns_p999 = 0;
    uint64_t batches = 0, batch_rows = 0;
    uint64_t late_dropped = 0;  // rows that the primary finished after somebody else had answered
    uint64_t held = 0;          // times that an idle executor waited for a fuller batch
    uint64_t queue_depth_max = 0;
    int64_t recovery_ns = -1;  // after a stall, until the primary serves at 90 % of its steady rate; -1 for unknown
    int64_t prediction_error_ns = 0;  // what the policy and the guard had learned at the end
    int64_t guard_timer_ns = 0, guard_fallback_ns = 0;

    // The invariants, counted by the simulator's own books. All must be 0.
    uint64_t outcomes_missing = 0;     // requests without an outcome
    uint64_t outcomes_double = 0;      // requests with more than one
    uint64_t late_work_started = 0;    // rows put into a batch after their deadline
    uint64_t doomed_work_started = 0;  // rows put into a batch after their rescue was due
    uint64_t queue_over_bound = 0;
    uint64_t batch_over_bound = 0;
    // Fallbacks that came late although nothing excused it: wake-up, fallback and wait for a core each within what
    // the guard had allowed for, and the allowance not cut by its cap.
    uint64_t fallback_late_unexcused = 0;

    uint64_t events = 0;
    uint64_t trace_hash = 0;
};

struct SimulatedArrival {
    int64_t arrived_ns;  // from the start
    int64_t budget_ns;
};

// What comes to the door under this plan, for judging the policy by a scheduler that knows the future.
std::vector<SimulatedArrival> simulated_arrivals(const SimulationPlan& plan);

// Throws std::bad_alloc and nothing else; the plan is taken to be sensible (the binding checks it).
SimulationResult simulate(const SimulationPlan& plan);

}  // namespace engine
