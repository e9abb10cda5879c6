// Sums of requests, or of their work, by the instant at which they must be finished. A ring of quarter-millisecond
// buckets lets admission ask without a lock. An instant past the ring's horizon of 134 ms counts as last.
//
// Order. Relaxed: a sum is an estimate of the queue at about this instant. A request's amount is added to the total and
// to its bucket by two increments, and another thread may see one without the other. before() therefore clamps its sum
// to the total. An amount is removed only by a thread that has seen the request, so after it was added: no total that a
// thread removes from falls below zero.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/assert.hpp"

namespace engine::scheduler {

class FinishCounts {
public:
    static constexpr int SHIFT = 18;  // 2^18 ns = 262 us a bucket
    static constexpr uint32_t BUCKETS = 512;
    static constexpr uint16_t FAR = BUCKETS;

    // The bucket of an instant, as of now; FAR past the horizon.
    static uint16_t bucket(int64_t now_ns, int64_t finish_by_ns) noexcept;
    void add(uint16_t bucket, int64_t amount) noexcept;
    void remove(uint16_t bucket, int64_t amount) noexcept;
    // The sum over everything that must be finished before `finish_by_ns`.
    int64_t before(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    int64_t total() const noexcept { return total_.load(std::memory_order_relaxed); }

private:
    std::array<std::atomic<int64_t>, BUCKETS> near_{};
    std::atomic<int64_t> total_{0};
};

}  // namespace engine::scheduler
