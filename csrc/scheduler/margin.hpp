// The margin: how long before a deadline the rescue must begin so that the answer is still in time. Learned from what
// timers, returns and fallbacks really took here, never typed in.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/histogram.hpp"

namespace engine::scheduler {

struct MarginTerms {
    int64_t timer_ns;     // how late a timed wait wakes up
    int64_t return_ns;    // from a native answer being ready to Python having it: the GIL, or the event loop
    int64_t fallback_ns;  // what the fallback takes, its worst cases included
    int64_t typical_ns;   // what it takes as a rule
};

class SafetyMargin {
public:
    // miss_rate: the share of rescues that may come late, in (0, 1).
    SafetyMargin(double miss_rate, uint32_t cores) noexcept;

    void timer_overshot(int64_t ns, int64_t now_ns) noexcept { timer_.record(ns, now_ns); }
    void returned_after(int64_t ns, int64_t now_ns) noexcept { return_.record(ns, now_ns); }
    void fallback_took(int64_t ns, int64_t now_ns) noexcept {
        fallback_.record(ns, now_ns);
        typical_.record(ns, now_ns);
    }

    int64_t typical_fallback_ns() const noexcept { return typical_.value(); }
    MarginTerms terms() const noexcept { return {timer_.value(), return_.value(), fallback_.value(), typical_.value()}; }

    // The instant at which the rescue of a request takes over. `expiring` requests may do so together and share the
    // cores. What is set aside for noise (all but a fallback as it usually goes) never eats more than MARGIN_SHARE_MAX of the
    // budget: past that the machine is too noisy for the deadline, and giving up primary answers would not mend it.
    // hedged: the fallback's answer lies ready, so nothing is set aside for it.
    int64_t fallback_at(int64_t started_ns, int64_t deadline_ns, uint32_t expiring, bool hedged = false) const noexcept;

    // Whether a fallback begun now would usually be in time, with `running` others before it on the cores. Where not,
    // the default is the only answer in time. The worst cases have no say here: a fallback that was once preempted for
    // four milliseconds is still worth trying with one left.
    bool time_for_fallback(int64_t now_ns, int64_t deadline_ns, uint32_t running) const noexcept;

    static constexpr double MARGIN_SHARE_MAX = 0.3;

private:
    // Mutable: they age when they are asked, which is once a request. A wait that ends before its time is up records
    // nothing, so a service whose primary is always in time would never forget one timer that was late.
    mutable DecayingQuantile timer_, return_, fallback_, typical_;
    uint32_t cores_;
};

}  // namespace engine::scheduler
