// What the simulator draws from its seed: arrivals, deadlines, true costs, late wake-ups and faults. One random stream
// each for load, primary and machine, so that adding a fault to a plan leaves its arrivals where they were.
#pragma once

#include <algorithm>

#include "detail/random.hpp"
#include "engine/simulator.hpp"

namespace engine::detail {

class SimulatedWorld {
public:
    // Not 0: the policy takes a zero instant for "never yet".
    static constexpr int64_t START_NS = 1'000'000'000;

    explicit SimulatedWorld(const SimulationPlan& plan)
        : plan_(plan), load_(plan.seed, 1), primary_(plan.seed, 2), machine_(plan.seed, 3) {
        for (const auto& deadline : plan.deadlines) shares_ += deadline.share;
        next_poisson_ns_ = START_NS + gap();
        next_burst_ns_ = plan.burst_every_ns > 0 && plan.burst_requests > 0 ? START_NS + plan.burst_every_ns : NEVER_NS;
    }

    int64_t next_arrival() noexcept {
        if (in_burst_ > 0) {
            --in_burst_;
            return burst_ns_;
        }
        if (next_burst_ns_ <= next_poisson_ns_) {
            burst_ns_ = next_burst_ns_;
            next_burst_ns_ += plan_.burst_every_ns;
            in_burst_ = plan_.burst_requests - 1;
            return burst_ns_;
        }
        const int64_t now = next_poisson_ns_;
        next_poisson_ns_ += gap();
        return now;
    }

    int64_t budget_ns() noexcept {
        if (plan_.deadlines.size() == 1) return plan_.deadlines[0].budget_ns;
        double left = load_.uniform() * shares_;
        for (const auto& deadline : plan_.deadlines)
            if ((left -= deadline.share) < 0.0) return deadline.budget_ns;
        return plan_.deadlines.back().budget_ns;
    }

    // When the caller gives up: a length of time from arrival, or NEVER_NS.
    int64_t cancels_after_ns(int64_t budget_ns) noexcept {
        if (!load_.chance(plan_.cancel_share)) return NEVER_NS;
        return static_cast<int64_t>(load_.uniform() * static_cast<double>(std::max<int64_t>(budget_ns, 0)));
    }

    // When a batch that starts now ends; NEVER_NS for a hang.
    int64_t batch_end(int64_t now_ns, uint32_t rows, uint32_t executor) noexcept {
        double ns = static_cast<double>(plan_.batch_base_ns + plan_.batch_row_ns * rows);
        ns *= primary_.lognormal(plan_.batch_noise);
        if (now_ns - START_NS >= plan_.slow_from_ns) ns *= plan_.slow_factor;
        if (executor == 0 && now_ns - START_NS >= plan_.hang_from_ns) return NEVER_NS;
        return past_stalls(now_ns, std::max<int64_t>(1, std::llround(ns)));
    }

    bool batch_crashes() noexcept { return primary_.chance(plan_.crash_share); }
    bool row_is_nan() noexcept { return primary_.chance(plan_.nan_share); }

    int64_t fallback_ns() noexcept {
        return std::llround(static_cast<double>(plan_.fallback_ns) * machine_.lognormal(plan_.fallback_noise));
    }

    int64_t overshoot_ns() noexcept {
        const bool long_one = machine_.chance(plan_.overshoot_tail_share);
        const int64_t ns = std::llround(machine_.exponential(static_cast<double>(plan_.overshoot_ns)));
        return ns + (long_one ? plan_.overshoot_tail_ns : 0);
    }

private:
    int64_t gap() noexcept { return std::llround(load_.exponential(1e9 / plan_.rate_per_s)); }

    // The instant at which `work_ns` of progress is made, when none is made in the first stall_ns of each period.
    int64_t past_stalls(int64_t now_ns, int64_t work_ns) const noexcept {
        const int64_t stall = plan_.stall_ns, period = plan_.stall_every_ns;
        if (stall <= 0 || period <= stall) return now_ns + work_ns;
        const int64_t phase = (now_ns - START_NS) % period;
        const int64_t start = phase < stall ? now_ns + stall - phase : now_ns;
        const int64_t room = period - std::max(phase, stall);
        if (work_ns <= room) return start + work_ns;
        const int64_t rest = work_ns - room, each = period - stall;
        const int64_t whole = (rest - 1) / each;  // periods used up entirely; the last one ends inside its own
        return start + room + whole * period + stall + (rest - whole * each);
    }

    const SimulationPlan& plan_;
    Random load_, primary_, machine_;
    double shares_ = 0.0;
    int64_t next_poisson_ns_ = 0, next_burst_ns_ = NEVER_NS, burst_ns_ = 0;
    uint32_t in_burst_ = 0;
};

}  // namespace engine::detail
