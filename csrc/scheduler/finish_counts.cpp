#include "scheduler/finish_counts.hpp"

#include <algorithm>

namespace engine::scheduler {

uint16_t FinishCounts::bucket(int64_t now_ns, int64_t finish_by_ns) noexcept {
    // The horizon is one bucket short of the whole ring, so that the far end never shares the bucket of `now`.
    if ((finish_by_ns >> SHIFT) - (now_ns >> SHIFT) >= int64_t{BUCKETS} - 1) return FAR;
    return static_cast<uint16_t>((finish_by_ns >> SHIFT) & (BUCKETS - 1));
}

void FinishCounts::add(uint16_t bucket, int64_t amount) noexcept {
    ENGINE_ASSERT(bucket <= FAR, "a bucket lies in the ring, or is the one past its horizon");
    total_.fetch_add(amount, std::memory_order_relaxed);
    if (bucket != FAR) near_[bucket].fetch_add(amount, std::memory_order_relaxed);
}

void FinishCounts::remove(uint16_t bucket, int64_t amount) noexcept {
    ENGINE_ASSERT(bucket <= FAR, "a bucket lies in the ring, or is the one past its horizon");
    [[maybe_unused]] const int64_t before = total_.fetch_sub(amount, std::memory_order_relaxed);
    ENGINE_ASSERT(amount >= 0 && before >= amount, "an amount is added before it is removed");
    if (bucket != FAR) near_[bucket].fetch_sub(amount, std::memory_order_relaxed);
}

int64_t FinishCounts::before(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    const int64_t total = this->total();
    if (total <= 0) return 0;
    const int64_t first = now_ns >> SHIFT, last = finish_by_ns >> SHIFT;
    if (last - first >= int64_t{BUCKETS} - 1) return total;
    int64_t sum = 0;
    for (int64_t b = first; b <= last; ++b) sum += near_[b & (BUCKETS - 1)].load(std::memory_order_relaxed);
    return std::clamp<int64_t>(sum, 0, total);
}

}  // namespace engine::scheduler
