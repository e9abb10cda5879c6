// The simulator's own books: every outcome counted by request number, apart from the slots that the simulated engine
// works with, so that a mistake in reusing a slot shows as a missing or a double outcome.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "engine/histogram.hpp"
#include "engine/simulator.hpp"

namespace engine::detail {

// How soon after a stall the primary serves again at its steady rate: its answers in time, folded over the period of
// the stalls into bins, so that many stalls make one smooth curve.
class Recovery {
public:
    static constexpr int64_t BINS = 2000;
    static constexpr int64_t WINDOW = 10;  // bins averaged, against the noise of Poisson arrivals

    Recovery(int64_t stall_ns, int64_t period_ns) : stall_ns_(stall_ns), period_ns_(stall_ns > 0 ? period_ns : 0) {}

    void answered(int64_t since_start_ns) noexcept {
        // The first period is left out: nothing has been learned yet.
        if (period_ns_ <= 0 || since_start_ns < period_ns_) return;
        ++bins_[static_cast<size_t>(since_start_ns % period_ns_ * BINS / period_ns_)];
    }

    // -1 without stalls, or where no window comes up to 90 % of the mean of the period's last half.
    int64_t ns() const noexcept {
        if (period_ns_ <= 0) return -1;
        const int64_t first = (stall_ns_ * BINS + period_ns_ - 1) / period_ns_;
        const double steady = mean((first + BINS) / 2, BINS);
        if (steady <= 0.0) return -1;
        for (int64_t at = first; at + WINDOW <= BINS; ++at)
            if (mean(at, at + WINDOW) >= 0.9 * steady) return std::max<int64_t>(0, at * period_ns_ / BINS - stall_ns_);
        return -1;
    }

private:
    double mean(int64_t from, int64_t to) const noexcept {
        double sum = 0.0;
        for (int64_t at = from; at < to; ++at) sum += static_cast<double>(bins_[static_cast<size_t>(at)]);
        return to > from ? sum / static_cast<double>(to - from) : 0.0;
    }

    int64_t stall_ns_, period_ns_;
    std::array<uint64_t, BINS> bins_{};
};

class SimulationBooks {
public:
    SimulationBooks(const SimulationPlan& plan, int64_t start_ns)
        : start_ns_(start_ns), recovery_(plan.stall_ns, plan.stall_every_ns), answered_(plan.requests, false) {
        result.requests = plan.requests;
    }

    void outcome(uint64_t request, int64_t started_ns, int64_t deadline_ns, int64_t now_ns, Source source,
                 Reason reason) {
        if (answered_[request]) ++result.outcomes_double;
        answered_[request] = true;
        ++outcomes_;
        const auto at = static_cast<size_t>(source);
        ++result.by_source[at];
        ++result.by_reason[static_cast<size_t>(reason)];
        result.elapsed_ns = std::max(result.elapsed_ns, now_ns - start_ns_);
        trace(now_ns, request, uint64_t{at} << 8 | static_cast<uint64_t>(reason));
        if (source == Source::cancelled) return;
        latency_.record(now_ns - started_ns);
        if (now_ns > deadline_ns) return;
        ++result.on_time[at];
        if (source == Source::primary) recovery_.answered(now_ns - start_ns_);
    }

    // Folds one event into the trace hash: order, instant and content all count.
    void trace(int64_t now_ns, uint64_t a, uint64_t b) noexcept {
        for (const uint64_t word : {static_cast<uint64_t>(now_ns), a, b})
            hash_ = std::rotl((hash_ ^ word) * 0x9E3779B97F4A7C15u, 29);
    }

    SimulationResult close() {
        result.outcomes_missing = result.requests - std::min(result.requests, outcomes_ - result.outcomes_double);
        result.latency_ns_p50 = latency_.quantile(0.5);
        result.latency_ns_p99 = latency_.quantile(0.99);
        result.latency_ns_p999 = latency_.quantile(0.999);
        result.recovery_ns = recovery_.ns();
        result.trace_hash = hash_;
        return result;
    }

    SimulationResult result;

private:
    int64_t start_ns_;
    Recovery recovery_;
    std::vector<bool> answered_;
    Histogram latency_;
    uint64_t outcomes_ = 0;
    uint64_t hash_ = 0;
};

}  // namespace engine::detail
