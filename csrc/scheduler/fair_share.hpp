// What the models that share executors know of each other: when an executor is free, how much work is ahead, and who has
// had more than its share. Pure: no threads, no clock, no allocation after construction.
//
// Below capacity the order is earliest deadline first across all models, which misses nothing that could be met (Liu and
// Layland, JACM 20(1), 1973). Above it EDF would let whoever asks most take everything, so there a model is eligible only
// while it has had no more than its weighted share, and EDF chooses among the eligible: earliest eligible virtual
// deadline first (Stoica and Abdel-Wahab, 1995), with the requests' own deadlines.
//
// Marked "lock": under the executors' lock. All else may be called by any thread.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.hpp"
#include "scheduler/priority.hpp"

namespace engine::scheduler {

// Sums of requests and of their work by the instant they must be finished at, kept in a ring of quarter-millisecond
// buckets so that admission can ask without a lock. What lies past the ring's horizon of 134 ms counts as last.
class FinishCounts {
public:
    static constexpr int SHIFT = 18;  // 2^18 ns = 262 us a bucket
    static constexpr uint32_t BUCKETS = 512;
    static constexpr uint16_t FAR = BUCKETS;

    static uint16_t bucket(int64_t now_ns, int64_t finish_by_ns) noexcept;
    void add(uint16_t bucket, int64_t amount) noexcept;
    void remove(uint16_t bucket, int64_t amount) noexcept;
    // What must be finished before `finish_by_ns`.
    int64_t before(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    int64_t total() const noexcept { return total_.load(std::memory_order_relaxed); }

private:
    std::array<std::atomic<int64_t>, BUCKETS> near_{};
    std::atomic<int64_t> total_{0};
};

// One model's account with the executors.
struct Share {
    double weight = 1.0;
    std::atomic<int64_t> served{0};    // virtual time that it has had; written under the lock
    std::atomic<bool> active{false};   // it has work queued; written under the lock
};

class SharedExecutors {
public:
    static constexpr uint32_t EXECUTORS_MAX = 64;

    explicit SharedExecutors(uint32_t executors) noexcept;

    uint32_t count() const noexcept { return count_; }
    uint32_t models() const noexcept { return models_.load(std::memory_order_relaxed); }
    void joined() noexcept { models_.fetch_add(1, std::memory_order_relaxed); }
    void left() noexcept { models_.fetch_sub(1, std::memory_order_relaxed); }

    // Lock. An executor begins on a batch that is expected to take expected_ns and hardly ever more than high_ns.
    void started(uint32_t executor, int64_t now_ns, int64_t expected_ns, int64_t high_ns) noexcept;
    void finished(uint32_t executor) noexcept;
    int64_t started_ns(uint32_t executor) const noexcept { return executors_[executor].started_ns.load(std::memory_order_relaxed); }

    // When the first executor is free. One that is overdue is taken to need as long again as it has had already;
    // `working` counts those that are not overdue by their whole time again.
    int64_t first_free_ns(int64_t now_ns, uint32_t* working) const noexcept;
    bool all_stalled(int64_t now_ns) const noexcept;
    // The executors stand idle and have done so for longer than idle_ns_min.
    bool idle_for(int64_t now_ns, int64_t idle_ns_min) const noexcept;

    // Queued work of all models, in nanoseconds of one executor.
    FinishCounts work;

    // A request was turned away for want of capacity; for a while then the executors count as overloaded.
    void rejected(int64_t now_ns) noexcept {
        if (!overloaded(now_ns)) rejecting_since_ns_.store(now_ns, std::memory_order_relaxed);
        rejected_ns_.store(now_ns, std::memory_order_relaxed);
    }
    bool overloaded(int64_t now_ns) const noexcept { return recent(rejected_ns_, now_ns); }
    // … and have been for so long that it is no burst, after which there is time for what was put off.
    bool overloaded_lastingly(int64_t now_ns) const noexcept {
        return overloaded(now_ns) && now_ns - rejecting_since_ns_.load(std::memory_order_relaxed) >= LASTING_NS;
    }
    // A request was admitted at the cost of less important ones; for a while then class goes before deadline.
    void put_classes_first(int64_t now_ns) noexcept { classes_first_ns_.store(now_ns, std::memory_order_relaxed); }
    bool classes_first(int64_t now_ns) const noexcept { return recent(classes_first_ns_, now_ns); }

    // Lock. A model's queue has begun to hold work, or to hold none.
    void activate(Share& share) noexcept;
    void deactivate(Share& share) noexcept;
    // Lock. `share` has had an executor for this long.
    void charge(Share& share, int64_t ns) noexcept;
    // Any thread; a moment old for all but the lock's holder.
    bool eligible(const Share& share) const noexcept;
    // The part of the executors that `share` may count on, above 0 and at most 1.
    double entitled(const Share& share) const noexcept;

private:
    struct Executor {
        std::atomic<int64_t> started_ns{0}, expected_ns{0}, high_ns{0};
        std::atomic<bool> busy{false};
    };
    static bool recent(const std::atomic<int64_t>& at, int64_t now_ns) noexcept;

    uint32_t count_;
    std::array<Executor, EXECUTORS_MAX> executors_;
    std::atomic<uint32_t> models_{0};
    std::atomic<int64_t> latest_start_ns_{0};
    static constexpr int64_t LASTING_NS = 50'000'000;
    std::atomic<int64_t> rejected_ns_{0}, rejecting_since_ns_{0}, classes_first_ns_{0};
    std::atomic<int64_t> virtual_ns_{0};       // what a model of weight 1 has been entitled to so far
    std::atomic<double> active_weight_{0.0};
};

}  // namespace engine::scheduler
