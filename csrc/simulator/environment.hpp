// The simulator's environment, drawn from its seed: arrivals, deadlines, true costs, late wake-ups and faults. Each has
// a random stream of its own, so that adding a fault to a plan leaves everything else as it was.
//
// Instants are those of the virtual clock, which starts at START_NS; a fault's window counts from there.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/key_hash.hpp"
#include "base/random.hpp"
#include "simulator/simulator.hpp"

namespace engine::simulator {

class SimulatedEnvironment {
public:
    // Not 0, because the policy takes a zero instant for "never yet".
    static constexpr int64_t START_NS = 1'000'000'000;

    explicit SimulatedEnvironment(const SimulationPlan& plan)
        : plan_(plan),
          gaps_(plan.seed, 1),
          primary_(plan.seed, 2),
          machine_(plan.seed, 3),
          budgets_(plan.seed, 4),
          callers_(plan.seed, 5),
          failures_(plan.seed, 6),
          models_(plan.seed, 7),
          classes_(plan.seed, 8) {
        for (const auto& deadline : plan.deadlines) deadline_shares_.push_back(deadline.share);
        for (const auto& model : plan.models) model_shares_.push_back(model.share);
        class_shares_.assign(plan.priorities.begin(), plan.priorities.end());
        for (const SimulatedFault& fault : plan.faults) {
            of_[static_cast<size_t>(fault.kind)].push_back(fault);
            if (fault.kind != FaultKind::bursting || fault.count == 0) continue;
            bursts_.push_back({START_NS + fault.from_ns, START_NS + std::min(fault.until_ns, NEVER_NS - START_NS),
                               fault.every_ns, fault.count});
        }
        next_poisson_ns_ = after_gap(START_NS);
    }

    const std::vector<SimulatedFault>& of(FaultKind kind) const noexcept { return of_[static_cast<size_t>(kind)]; }
    bool has(FaultKind kind) const noexcept { return !of(kind).empty(); }

    int64_t next_arrival() noexcept {
        if (in_burst_ > 0) {
            --in_burst_;
            return burst_ns_;
        }
        Burst* first = nullptr;
        for (Burst& burst : bursts_)
            if (burst.at_ns < burst.until_ns && (first == nullptr || burst.at_ns < first->at_ns)) first = &burst;
        if (first != nullptr && first->at_ns <= next_poisson_ns_) {
            burst_ns_ = first->at_ns;
            in_burst_ = first->count - 1;
            first->at_ns = first->every_ns > 0 ? first->at_ns + first->every_ns : NEVER_NS;
            return burst_ns_;
        }
        const int64_t now = next_poisson_ns_;
        next_poisson_ns_ = after_gap(now);
        return now;
    }

    // The next request's deadline, as an index into the plan's.
    uint32_t deadline_class() noexcept { return one_of(deadline_shares_, budgets_); }
    uint32_t model() noexcept { return one_of(model_shares_, models_); }
    Priority priority() noexcept { return static_cast<Priority>(one_of(class_shares_, classes_)); }

    // How long after its arrival the caller gives up, or NEVER_NS.
    int64_t cancels_after_ns(int64_t now_ns, int64_t budget_ns) noexcept {
        for (const SimulatedFault& fault : of(FaultKind::cancelling))
            if (fault.active(now_ns - START_NS) && callers_.chance(fault.share))
                return static_cast<int64_t>(callers_.uniform() * static_cast<double>(std::max<int64_t>(budget_ns, 0)));
        return NEVER_NS;
    }

    // When a scoring call of `rows` rows that starts now ends; NEVER_NS for a hang without end. `replaced`: this
    // executor is a new thread, so a hang of one executor is over.
    int64_t score_end(int64_t now_ns, uint32_t rows, double cost_factor, uint32_t executor, bool replaced) noexcept {
        double ns = static_cast<double>(plan_.batch_base_ns + plan_.batch_row_ns * rows) * cost_factor;
        ns *= primary_.lognormal(plan_.batch_noise);
        const int64_t since = now_ns - START_NS;
        for (const SimulatedFault& fault : of(FaultKind::slow)) {
            if (!fault.active(since) || !fault.concerns(executor)) continue;
            ns = ns * fault.factor + static_cast<double>(fault.extra_ns + fault.extra_row_ns * rows);
        }
        int64_t start_ns = now_ns;
        for (const SimulatedFault& fault : of(FaultKind::hanging))
            if (fault.active(since) && fault.concerns(executor) && !(replaced && fault.executor == executor))
                start_ns = std::max(start_ns, fault.until_ns >= NEVER_NS ? NEVER_NS : START_NS + fault.until_ns);
        if (start_ns >= NEVER_NS) return NEVER_NS;
        ENGINE_ASSERT(start_ns >= now_ns, "a hang ends after it began");
        return past_stalls(start_ns, std::max<int64_t>(1, std::llround(std::min(ns, 9e17))), executor);
    }

    bool call_fails(int64_t now_ns) noexcept { return chance(FaultKind::failing, now_ns, failures_); }
    // A row is bad in every call, so it is drawn by its number.
    bool row_is_poison(int64_t now_ns, uint64_t number) const noexcept {
        for (const SimulatedFault& fault : of(FaultKind::poisoning))
            if (fault.active(now_ns - START_NS) &&
                static_cast<double>(spread(number + plan_.seed * 0x9e3779b97f4a7c15u)) < fault.share * 0x1p64)
                return true;
        return false;
    }
    bool row_is_nan(int64_t now_ns) noexcept { return chance(FaultKind::corrupting, now_ns, failures_); }

    int64_t fallback_ns() noexcept {
        return std::llround(static_cast<double>(plan_.fallback_ns) * machine_.lognormal(plan_.fallback_noise));
    }

    // How late a wait that is due at `due_ns` wakes.
    int64_t overshoot_ns(int64_t due_ns) noexcept {
        const bool long_one = machine_.chance(plan_.overshoot_tail_share);
        int64_t ns = std::llround(machine_.exponential(static_cast<double>(plan_.overshoot_ns)));
        ns += long_one ? plan_.overshoot_tail_ns : 0;
        for (const SimulatedFault& fault : of(FaultKind::oversleeping))
            if (fault.active(due_ns - START_NS) && machine_.chance(fault.share)) ns += fault.length_ns;
        return ns;
    }

    // Whether nothing comes late by chance, so that only the policy could make an answer late.
    bool is_exact() const noexcept {
        return plan_.calibrated && plan_.fallback_noise == 0.0 && plan_.overshoot_ns == 0 &&
               (plan_.overshoot_tail_share == 0.0 || plan_.overshoot_tail_ns == 0) && !has(FaultKind::jumping) &&
               !has(FaultKind::oversleeping) && !has(FaultKind::cancelling);
    }

private:
    struct Burst {
        int64_t at_ns, until_ns, every_ns;
        uint32_t count;
    };

    // An index drawn by shares, which need not add up to 1.
    static uint32_t one_of(const std::vector<double>& shares, Random& random) noexcept {
        ENGINE_ASSERT(!shares.empty(), "there is something to draw from");
        if (shares.size() == 1) return 0;
        double left = 0.0;
        for (const double share : shares) left += share;
        left *= random.uniform();
        uint32_t last = 0;
        for (uint32_t i = 0; i < shares.size(); ++i) {
            if (shares[i] <= 0.0) continue;
            last = i;
            if ((left -= shares[i]) < 0.0) break;
        }
        return last;
    }

    bool chance(FaultKind kind, int64_t now_ns, Random& random) noexcept {
        bool hit = false;
        for (const SimulatedFault& fault : of(kind))
            if (fault.active(now_ns - START_NS)) hit |= random.chance(fault.share);
        return hit;
    }

    // The end of one exponential gap. Overloads may change the rate on the way, so the gap is a number of arrivals to
    // wait for, used up at the rate of each stretch.
    int64_t after_gap(int64_t now_ns) noexcept {
        double left = gaps_.exponential(1.0);
        if (!has(FaultKind::overloading)) return now_ns + std::llround(left * 1e9 / plan_.rate_per_s);
        for (;;) {
            double rate = plan_.rate_per_s;
            int64_t change_ns = NEVER_NS;
            const int64_t since = now_ns - START_NS;
            for (const SimulatedFault& fault : of(FaultKind::overloading)) {
                if (fault.active(since)) rate *= fault.factor;
                for (const int64_t edge : {fault.from_ns, fault.until_ns})
                    if (edge > since && edge < NEVER_NS) change_ns = std::min(change_ns, START_NS + edge);
            }
            const double here = change_ns >= NEVER_NS ? INFINITY : rate * static_cast<double>(change_ns - now_ns) / 1e9;
            if (left <= here) return now_ns + std::llround(left * 1e9 / rate);
            left -= here;
            now_ns = change_ns;
        }
    }

    // The instant at which `work_ns` of work is done, where stalls stop all work.
    int64_t past_stalls(int64_t now_ns, int64_t work_ns, uint32_t executor) const noexcept {
        const auto& stalls = of(FaultKind::stalling);
        if (stalls.empty()) return now_ns + work_ns;
        for (;;) {
            int64_t free_ns = now_ns, next_ns = NEVER_NS;
            const SimulatedFault* only = nullptr;
            int concerned = 0;
            for (const SimulatedFault& stall : stalls) {
                if (!stall.concerns(executor)) continue;
                ++concerned;
                only = &stall;
                free_ns = std::max(free_ns, stall_end(stall, now_ns));
                next_ns = std::min(next_ns, next_stall(stall, now_ns));
            }
            if (free_ns > now_ns) {
                now_ns = free_ns;
                continue;
            }
            if (work_ns <= next_ns - now_ns) return now_ns + work_ns;
            ENGINE_ASSERT(next_ns > now_ns, "work goes on until the next stall");
            work_ns -= next_ns - now_ns;
            now_ns = next_ns;
            // Skip whole periods where a single stall comes back for ever.
            if (concerned == 1 && only->every_ns > 0 && only->until_ns >= NEVER_NS) {
                const int64_t whole = (work_ns - 1) / (only->every_ns - only->length_ns);
                now_ns += whole * only->every_ns;
                work_ns -= whole * (only->every_ns - only->length_ns);
            }
        }
    }

    // The end of the stall at `now_ns`, or now_ns outside of stalls.
    static int64_t stall_end(const SimulatedFault& stall, int64_t now_ns) noexcept {
        const int64_t since = now_ns - START_NS - stall.from_ns;
        if (since < 0 || now_ns - START_NS >= stall.until_ns || stall.length_ns <= 0) return now_ns;
        const int64_t phase = stall.every_ns > 0 ? since % stall.every_ns : since;
        return phase < stall.length_ns ? now_ns + stall.length_ns - phase : now_ns;
    }

    // The beginning of the first stall after `now_ns`.
    static int64_t next_stall(const SimulatedFault& stall, int64_t now_ns) noexcept {
        const int64_t since = now_ns - START_NS - stall.from_ns;
        int64_t at_ns = NEVER_NS;
        if (stall.length_ns <= 0) return at_ns;
        if (since < 0) at_ns = START_NS + stall.from_ns;
        else if (stall.every_ns > 0) at_ns = now_ns + stall.every_ns - since % stall.every_ns;
        return at_ns - START_NS < stall.until_ns ? at_ns : NEVER_NS;
    }

    const SimulationPlan& plan_;
    Random gaps_, primary_, machine_, budgets_, callers_, failures_, models_, classes_;
    std::array<std::vector<SimulatedFault>, FAULT_KINDS> of_;
    std::vector<Burst> bursts_;
    std::vector<double> deadline_shares_, model_shares_, class_shares_;
    int64_t next_poisson_ns_ = 0, burst_ns_ = 0;
    uint32_t in_burst_ = 0;
};

}  // namespace engine::simulator
