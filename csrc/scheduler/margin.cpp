#include "scheduler/margin.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace engine::scheduler {

namespace {

// Two records beyond the quantile 1 - miss_rate, so that it is not just the largest record; within bounds.
uint32_t window_for(double miss_rate) noexcept {
    return static_cast<uint32_t>(std::clamp(2.0 / miss_rate, 256.0, 65536.0));
}

}  // namespace

SafetyMargin::SafetyMargin(double miss_rate, uint32_t cores) noexcept
    : timer_(1.0 - miss_rate, window_for(miss_rate)),
      return_(1.0 - miss_rate, window_for(miss_rate)),
      fallback_(0.999, 4096),
      typical_(0.5, 1024),
      cores_(std::max(cores, 1u)) {}

int64_t SafetyMargin::fallback_at(int64_t started_ns, int64_t deadline_ns, uint32_t expiring, bool hedged,
                                  bool returns) const noexcept {
    for (DecayingQuantile* quantile : {&timer_, &return_, &fallback_}) quantile->age(started_ns);
    MarginTerms now = terms();
    if (!returns) now.return_ns = 0;
    if (hedged) now.fallback_ns = now.typical_ns = 0;
    const int64_t crowd = now.fallback_ns * expiring / cores_;
    const int64_t noise = now.timer_ns + now.return_ns + crowd + now.fallback_ns - now.typical_ns;
    const auto most = static_cast<int64_t>(MARGIN_SHARE_MAX * static_cast<double>(deadline_ns - started_ns));
    ENGINE_ASSERT(now.timer_ns >= 0 && now.return_ns >= 0 && now.fallback_ns >= 0, "no length of time is below zero");
    const int64_t at = deadline_ns - now.typical_ns - std::min(noise, most);
    ENGINE_ASSERT(most < 0 || noise < 0 || at <= deadline_ns, "the fallback never starts after the deadline");
    return at;
}

bool SafetyMargin::time_for_fallback(int64_t now_ns, int64_t deadline_ns, uint32_t running) const noexcept {
    return now_ns + typical_.value() * (1 + running / cores_) <= deadline_ns;
}

}  // namespace engine::scheduler
