// The simulator's figures: outcomes by source and reason, by deadline and over time, and the hash that a seed stands
// for.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "base/histogram.hpp"
#include "simulator/simulator.hpp"

namespace engine::simulator {

// How soon after a stall the primary serves again at its steady rate. Its answers in time are folded over the period of
// the stalls into bins, so that many stalls make one smooth curve.
class Recovery {
public:
    static constexpr int64_t BINS = 2000;
    static constexpr int64_t WINDOW = 10;  // bins averaged, against the noise of Poisson arrivals

    Recovery(int64_t stall_ns, int64_t period_ns) : stall_ns_(stall_ns), period_ns_(stall_ns > 0 ? period_ns : 0) {}

    void answered(int64_t since_start_ns) noexcept {
        // Not in the first period, before anything has been learned.
        if (period_ns_ <= 0 || since_start_ns < period_ns_) return;
        const int64_t at = since_start_ns % period_ns_ * BINS / period_ns_;
        ENGINE_ASSERT(at >= 0 && at < BINS, "an instant of a period has a bin");
        ++bins_[static_cast<size_t>(at)];
    }

    // -1 without stalls, or where no window reaches 90 % of the mean of the period's last half.
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

// The part of a request that its outcome is judged by.
struct Judged {
    uint64_t number;
    uint32_t deadline_class, model;
    Priority priority;
    int64_t started_ns, deadline_ns;
};

class SimulationMetrics {
public:
    static constexpr size_t BINS_MAX = 1 << 16;

    SimulationMetrics(const SimulationPlan& plan, int64_t start_ns)
        : start_ns_(start_ns), bin_ns_(plan.bin_ns), classes_(plan.deadlines.size()), recovery_(steady_stall(plan)) {
        result.requests = plan.requests;
        result.by_deadline.resize(classes_);
        result.by_model.resize(plan.models.size());
    }

    void arrived(const Judged& request, uint64_t queue_depth) {
        for (SimulatedFate* fate : fates_of(request)) ++fate->arrived;
        if (SimulatedFate* bin = bin_of(request)) {
            ++bin->arrived;
            bin->queue_depth_max = std::max(bin->queue_depth_max, queue_depth);
        }
    }

    void answered(const Judged& request, int64_t now_ns, Source source, Reason reason) {
        const auto at = static_cast<size_t>(source);
        ++result.by_source[at];
        ++result.by_reason[static_cast<size_t>(reason)];
        outcome(request, now_ns, uint64_t{at} << 8 | static_cast<uint64_t>(reason));
        const bool in_time = now_ns <= request.deadline_ns;
        latency_.record(now_ns - request.started_ns);
        for (SimulatedFate* fate : fates_of(request)) add(*fate, request, now_ns, source);
        if (SimulatedFate* bin = bin_of(request)) add(*bin, request, now_ns, source);
        if (!in_time) return;
        ++result.in_time[at];
        if (source == Source::primary) recovery_.answered(now_ns - start_ns_);
    }

    void cancelled(const Judged& request, int64_t now_ns) {
        ++result.cancelled;
        outcome(request, now_ns, 0xFFFF);
        for (SimulatedFate* fate : fates_of(request)) ++fate->cancelled;
        if (SimulatedFate* bin = bin_of(request)) ++bin->cancelled;
    }

    // Folds one event into the trace hash: its order, instant and content.
    void trace(int64_t now_ns, uint64_t a, uint64_t b) noexcept {
        for (const uint64_t word : {static_cast<uint64_t>(now_ns), a, b})
            hash_ = std::rotl((hash_ ^ word) * 0x9E3779B97F4A7C15u, 29);
    }

    SimulationResult close() {
        result.latency_ns_p50 = latency_.quantile(0.5);
        result.latency_ns_p99 = latency_.quantile(0.99);
        result.latency_ns_p999 = latency_.quantile(0.999);
        result.recovery_ns = recovery_.ns();
        result.trace_hash = hash_;
        return std::move(result);
    }

    SimulationResult result;

private:
    // The curve needs one period: that of the stall that comes back from the start for ever.
    static Recovery steady_stall(const SimulationPlan& plan) {
        for (const SimulatedFault& fault : plan.faults)
            if (fault.kind == FaultKind::stalling && fault.from_ns == 0 && fault.until_ns >= NEVER_NS)
                return Recovery(fault.length_ns, fault.every_ns);
        return Recovery(0, 0);
    }

    static void add(SimulatedFate& fate, const Judged& request, int64_t now_ns, Source source) noexcept {
        const int64_t latency_ns = now_ns - request.started_ns;
        fate.in_time += now_ns <= request.deadline_ns;
        fate.primary_in_time += now_ns <= request.deadline_ns && source == Source::primary;
        fate.latency_ns_sum += latency_ns;
        fate.latency_ns_max = std::max(fate.latency_ns_max, latency_ns);
    }

    void outcome(const Judged& request, int64_t now_ns, uint64_t what) noexcept {
        result.elapsed_ns = std::max(result.elapsed_ns, now_ns - start_ns_);
        trace(now_ns, request.number, what);
    }

    std::array<SimulatedFate*, 3> fates_of(const Judged& request) noexcept {
        return {&result.by_deadline[request.deadline_class], &result.by_model[request.model],
                &result.by_priority[static_cast<size_t>(request.priority)]};
    }

    // The request's bin of the timeline; null without a timeline, and past its bound.
    SimulatedFate* bin_of(const Judged& request) {
        if (bin_ns_ <= 0) return nullptr;
        const auto bin = static_cast<size_t>((request.started_ns - start_ns_) / bin_ns_);
        if (bin >= BINS_MAX) return nullptr;
        const size_t at = bin * classes_ + request.deadline_class;
        if (at >= result.timeline.size()) result.timeline.resize((bin + 1) * classes_);
        return &result.timeline[at];
    }

    int64_t start_ns_, bin_ns_;
    size_t classes_;
    Recovery recovery_;
    Histogram latency_;
    uint64_t hash_ = 0;
};

}  // namespace engine::simulator
