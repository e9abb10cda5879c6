// The simulator: the compiled Policy, CostModel, SafetyMargin, SlotTable and Deployment on a virtual clock, under
// seeded load and faults. One thread, one event heap. The same plan gives the same events in the same order, and the
// same trace_hash.
//
// It takes a request through the batch lane as the runtime does, by the same slots and the same state words: admission,
// the submission stack, executors, batches in flight, the timed fallback on a few cores. It leaves out the GIL, the
// threads and the memory they share, which have tests of their own.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "scheduler/slot_stack.hpp"
#include "simulator/faults.hpp"

namespace engine::simulator {

// One of several models that share the executors. Its batches cost cost_factor times the plan's.
struct SimulatedModel {
    double share = 1.0;  // of the requests
    double weight = 1.0;
    double cost_factor = 1.0;
    bool canary = false;  // a guest of the first model, which is none
    // Batches that its device has in flight at once, up to SharedExecutors::EXECUTORS_MAX; 0 for a model that executors
    // call. An executor begins each batch, which takes no time, and must be free when it is done.
    uint32_t seats = 0;
    bool serial = false;    // the device works on one batch after the other
    uint32_t rows_max = 0;  // of a batch on the device; 0 for the plan's
};

struct SimulationPlan {
    struct Deadline {
        int64_t budget_ns;  // from arrival; a request with 0 or less has expired when it comes
        double share;
    };

    uint64_t seed = 1;
    uint64_t requests = 100'000;  // Poisson arrivals and members of bursts together
    double rate_per_s = 1'000.0;  // of the Poisson arrivals
    std::vector<Deadline> deadlines{{10'000'000, 1.0}};

    std::vector<SimulatedModel> models = std::vector<SimulatedModel>(1);
    std::array<double, PRIORITIES> priorities{0.0, 1.0, 0.0};  // shares of the requests, by class

    // The true cost of a batch of b rows: (base + b * row) * exp(noise * z), z standard normal.
    int64_t batch_base_ns = 50'000;
    int64_t batch_row_ns = 120'000;
    double batch_noise = 0.05;
    uint32_t executors = 1;
    uint32_t batch_rows_max = 64;
    uint32_t queue_rows_max = 4096;
    bool calibrated = true;  // cost model and safety margin start primed, as after a warm-up; else they know nothing
    // Replace executors that are stuck in one batch, as Executors::check_executors does. budget_ns is the usual
    // deadline.
    bool replace_hung = true;
    int64_t budget_ns = 10'000'000;

    // From a submission to the first look of an executor that slept. It finds later submissions too.
    int64_t handoff_ns = 8'500;

    int64_t fallback_ns = 10'000;
    double fallback_noise = 0.05;
    uint32_t cores = 2;  // fallbacks share them; executors have others
    double miss_rate = 0.001;

    // How late a timed wait wakes: exponential about a mean, with a rare long one in addition.
    int64_t overshoot_ns = 4'000;
    double overshoot_tail_share = 1e-4;
    int64_t overshoot_tail_ns = 1'100'000;

    std::vector<SimulatedFault> faults;
    int64_t bin_ns = 0;  // width of the timeline's bins; 0 for no timeline
};

// The outcomes of requests that arrived in one stretch of time, with one deadline, of one class or for one model.
struct SimulatedFate {
    uint64_t arrived = 0, cancelled = 0;
    uint64_t primary_in_time = 0, in_time = 0;
    int64_t latency_ns_sum = 0, latency_ns_max = 0;
    uint64_t queue_depth_max = 0;  // of a stretch of time; not kept by deadline
};

struct SimulationResult {
    uint64_t requests = 0, cancelled = 0;
    std::array<uint64_t, SOURCES> by_source{};
    std::array<uint64_t, REASONS> by_reason{};
    std::array<uint64_t, SOURCES> in_time{};  // at or before the deadline, by source
    std::vector<SimulatedFate> by_deadline;   // in the order of the plan's deadlines
    std::vector<SimulatedFate> by_model;
    std::array<SimulatedFate, PRIORITIES> by_priority{};
    std::vector<SimulatedFate> timeline;  // by instant of arrival; deadlines.size() entries a bin

    int64_t elapsed_ns = 0;       // virtual, from the first arrival to the last outcome
    double capacity_per_s = 0.0;  // rows per second of all executors on full batches of the true cost
    int64_t latency_ns_p50 = 0, latency_ns_p99 = 0, latency_ns_p999 = 0;
    uint64_t batches = 0, batch_rows = 0;
    uint64_t batches_of_one_avoidable = 0;  // a single row started while others were queued and would have fitted in
    uint64_t late_dropped = 0;              // rows that the primary finished after another answer
    uint64_t overdue = 0;                   // timed out while an executor was at work on them
    uint64_t held = 0;                      // times that an idle executor waited for a fuller batch
    uint64_t probes = 0;                    // single rows tried on a primary that seemed too slow for them
    uint64_t replaced = 0;                  // executors
    uint64_t abandoned = 0;                 // batches on devices that were given up
    uint64_t in_flight_max = 0;             // batches of one device at once, those given up included
    uint64_t breaker_openings = 0;
    uint64_t versions = 0, versions_freed = 0;
    uint64_t queue_depth_max = 0;
    int64_t recovery_ns = -1;  // after a stall, until the primary serves at 90 % of its steady rate; -1 for unknown
    int64_t prediction_error_ns = 0;  // learned by the policy and the safety margin at the end
    int64_t margin_timer_ns = 0, margin_fallback_ns = 0;

    std::array<uint64_t, INVARIANTS> violations{};  // all must be 0
    std::string first_violation;                    // in words; empty for none

    uint64_t events = 0;
    uint64_t trace_hash = 0;
};

struct SimulatedArrival {
    int64_t arrived_ns;  // from the start
    int64_t budget_ns;
};

// The arrivals of this plan, for judging the policy by a scheduler that knows the future. Without jumps of the clock:
// requests are listed when they were due.
std::vector<SimulatedArrival> simulated_arrivals(const SimulationPlan& plan);

// Throws only std::bad_alloc. The plan must be sensible; the binding checks it.
SimulationResult simulate(const SimulationPlan& plan);

}  // namespace engine::simulator
