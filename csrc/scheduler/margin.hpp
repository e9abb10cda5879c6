// The safety margin: how long before a deadline the fallback must begin so that its answer is still in time. It is
// learned from measured timers, returns and fallbacks, and never configured.
//
// Order. Each term is one relaxed word of a DecayingQuantile. A reader may mix an old term with a new one; both were
// true within the last few records, and the margin is an estimate of either.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/histogram.hpp"

namespace engine::scheduler {

struct MarginTerms {
    int64_t timer_ns;     // how late a timed wait wakes up
    int64_t return_ns;    // from a native answer being ready to Python having it: the GIL, or the event loop
    int64_t fallback_ns;  // time of the fallback, its worst cases included
    int64_t typical_ns;   // its median
};

class SafetyMargin {
public:
    // miss_rate: the share of timed fallbacks that may come late, in (0, 1).
    SafetyMargin(double miss_rate, uint32_t cores) noexcept;

    void timer_overshot(int64_t ns, int64_t now_ns) noexcept { timer_.record(ns, now_ns); }
    void returned_after(int64_t ns, int64_t now_ns) noexcept { return_.record(ns, now_ns); }
    void fallback_took(int64_t ns, int64_t now_ns) noexcept {
        fallback_.record(ns, now_ns);
        typical_.record(ns, now_ns);
    }

    int64_t typical_fallback_ns() const noexcept { return typical_.value(); }
    MarginTerms terms() const noexcept {
        return {timer_.value(), return_.value(), fallback_.value(), typical_.value()};
    }

    // The instant at which the fallback of a request takes over. `expiring` requests may do so together and share the
    // cores. The margin beyond a typical fallback is capped at MARGIN_SHARE_MAX of the budget: past that the machine is
    // too noisy for the deadline, and giving up more primary answers would not help. hedged: the fallback's answer lies
    // ready, so no time is kept for it.
    // returns: keep time for the way back to Python.
    int64_t fallback_at(int64_t started_ns, int64_t deadline_ns, uint32_t expiring, bool hedged = false,
                        bool returns = true) const noexcept;

    // Whether a fallback begun now would usually be in time, with `running` others before it on the cores. If not, the
    // default is the only answer in time. The worst cases do not count here: a fallback that was once preempted for
    // four milliseconds is still worth trying with one left.
    bool time_for_fallback(int64_t now_ns, int64_t deadline_ns, uint32_t running) const noexcept;

    static constexpr double MARGIN_SHARE_MAX = 0.3;

private:
    // Mutable, because they age when they are read, once a request. A wait that ends before its time is up records
    // nothing, so an engine whose primary is always in time would otherwise never forget one late timer.
    mutable DecayingQuantile timer_, return_, fallback_, typical_;
    uint32_t cores_;
};

}  // namespace engine::scheduler
