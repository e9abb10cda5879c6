// The faults of a simulation, as data: a plan holds any number of them, and they add up. A fault that a real model can
// be made to show has the name of its function in engine.testing.faults.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/clock.hpp"

namespace engine::scheduler {}

namespace engine::simulator {

using namespace scheduler;  // the simulator drives the scheduler's own parts

enum class FaultKind : uint8_t {
    stalling,      // executors make no progress for length_ns from from_ns on, again every every_ns
    slow,          // batches started in the window cost `factor` times as much, and extra_ns + rows * extra_row_ns more
    failing,       // a share of the scoring calls fails
    corrupting,    // a share of the rows is answered NaN
    poisoning,     // a share of the rows makes every scoring call fail that has one of them
    hanging,       // a batch started in the window makes no progress before the window's end; of one executor, until it
                   // is replaced
    dying,         // an executor dies at from_ns, its batch with it, and comes back at until_ns
    jumping,       // the clock jumps ahead by length_ns and nothing of ours runs meanwhile: a paused virtual machine, a
                   // suspended laptop, a frozen container. It never jumps back, because instants are CLOCK_MONOTONIC
    oversleeping,  // a share of the timed waits due in the window wakes length_ns late
    bursting,      // `count` requests come in one instant, again every every_ns
    overloading,   // the rate of arrivals is `factor` times the plan's
    swapping,      // a new version takes over, costing `factor` times the plan's, and `measured` times that by its
                   // calibration; every_ns later the next, at factor 1, and so on
    cancelling,    // a share of the callers gives up at a uniform instant of the budget
    sabotaging,    // the simulated runtime breaks one invariant once, to prove that it is checked
};
inline constexpr size_t FAULT_KINDS = 14;
inline constexpr std::array<const char*, FAULT_KINDS> FAULT_NAMES{
    "stalling", "slow",         "failing",  "corrupting",  "poisoning", "hanging",    "dying",
    "jumping",  "oversleeping", "bursting", "overloading", "swapping",  "cancelling", "sabotaging"};

// Must hold at every event of every run.
enum class Invariant : uint8_t {
    answered_once,    // a request is answered, or given up by its caller, no more than once
    answered_at_all,  // … and no less
    answered_after_arrival,
    claimed_once,       // an executor takes a request once, and only while it is unanswered
    bounded_queue,      // requests waiting, and slots in use, within queue_rows_max
    bounded_batch,      // rows in a batch within batch_rows_max, and the device's rows_max
    bounded_in_flight,  // batches of a device within its seats, those given up included
    in_time_to_start,   // no row joins a batch after its finish_by
    able_to_finish,     // no batch starts that its own estimate sees finishing after the finish_by of a member, but
                        // for the single row that probes a primary long idle
    own_answer,         // the values are those of the request's own row
    own_version,        // computed by the version that it came in under
    on_time,            // late only after an event larger than the safety margin allows for
    promise,            // in an environment without noise: never late where there was time for the fallback
    counts_agree,       // every arrival is answered, queued, running or falling back; the policy's count is ours
    forward_time,
    live_first,  // no batch of a canary starts that makes a queued request of the live version late, but at overload
    nothing_leaked,  // at the end all slots, queue entries and old versions are given back
};
inline constexpr size_t INVARIANTS = 17;
inline constexpr std::array<const char*, INVARIANTS> INVARIANT_NAMES{
    "answered_once",     "answered_at_all",  "answered_after_arrival", "claimed_once", "bounded_queue", "bounded_batch",
    "bounded_in_flight", "in_time_to_start", "able_to_finish",         "own_answer",   "own_version",   "on_time",
    "promise",           "counts_agree",     "forward_time",           "live_first",   "nothing_leaked"};

struct SimulatedFault {
    static constexpr uint32_t EVERY_EXECUTOR = UINT32_MAX;

    FaultKind kind = FaultKind::slow;
    int64_t from_ns = 0;  // the window, from the start of the run; half open
    int64_t until_ns = NEVER_NS;
    int64_t length_ns = 0;
    int64_t every_ns = 0;  // 0 for once
    int64_t extra_ns = 0, extra_row_ns = 0;
    double factor = 1.0;
    double measured = 1.0;
    double share = 1.0;
    uint32_t count = 0;
    uint32_t executor = EVERY_EXECUTOR;
    Invariant broken = Invariant::answered_once;  // the one that a sabotage breaks

    bool active(int64_t since_start_ns) const noexcept {
        return since_start_ns >= from_ns && since_start_ns < until_ns;
    }
    bool concerns(uint32_t which) const noexcept { return executor == EVERY_EXECUTOR || executor == which; }
};

}  // namespace engine::simulator
