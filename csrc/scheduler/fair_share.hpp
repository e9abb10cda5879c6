// Fair sharing of executors between models. Models learn here when an executor is free, how much work is ahead, and
// which model has had more than its share. Pure: no threads, no clock, no allocation after construction.
//
// Below capacity the order is earliest deadline first across all models, which meets every deadline that can be met
// (Liu and Layland, JACM 20(1), 1973). Above capacity EDF would give everything to the model that asks most. There a
// model is eligible only while it has had no more than its weighted share, and EDF chooses among the eligible models:
// earliest eligible virtual deadline first (Stoica and Abdel-Wahab, 1995), with the requests' own deadlines.
//
// Marked "lock": under the executors' lock. Any thread may call the rest.
//
// Order. The lock orders all writers of executors and shares. Admission reads them without it, relaxed: it wants an
// estimate, and a batch that starts this moment may or may not be in it. An executor's fields are written before its
// `busy`, but a reader that sees them mixed is off by one batch at most, and the next request reads anew.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.hpp"
#include "base/gil_calls.hpp"
#include "scheduler/finish_counts.hpp"

namespace engine::scheduler {

// Where a batch runs: on the thread of an executor, or on a seat, which is a batch that a device has in flight.
struct Place {
    // An executor's thread, unless it says otherwise.
    constexpr Place(uint32_t its, bool seat = false) noexcept : number(its), on_device(seat) {}
    uint32_t number;
    bool on_device;
};

// One model's account with the executors.
struct Share {
    std::atomic<double> weight{1.0};  // written under the lock
    std::atomic<int64_t> served{0};   // virtual time it has had; written under the lock
    std::atomic<bool> active{false};  // whether it has work queued; written under the lock
    double active_weight = 1.0;       // lock: its weight when it became active
};

class SharedExecutors {
public:
    static constexpr uint32_t EXECUTORS_MAX = 64;
    static constexpr uint32_t NONE = UINT32_MAX;

    explicit SharedExecutors(uint32_t executors) noexcept;

    uint32_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
    // Lock. Executors beyond the new count end the batches that they have.
    void resize(uint32_t executors) noexcept;
    // Lock. The first executor without a batch, NONE where all have one.
    uint32_t first_idle() const noexcept;
    uint32_t models() const noexcept { return models_.load(std::memory_order_relaxed); }
    void joined() noexcept { models_.fetch_add(1, std::memory_order_relaxed); }
    void left() noexcept {
        [[maybe_unused]] const uint32_t before = models_.fetch_sub(1, std::memory_order_relaxed);
        ENGINE_ASSERT(before > 0, "a model leaves once");
    }

    // Lock. An executor begins a batch that should take expected_ns and hardly ever more than high_ns.
    void started(uint32_t executor, int64_t now_ns, int64_t expected_ns, int64_t high_ns) noexcept;
    void finished(uint32_t executor) noexcept;
    // When its batch began, later by the time for which the executor has waited for Python's GIL since: that is no time
    // of the primary's.
    int64_t started_ns(uint32_t executor, int64_t now_ns) const noexcept {
        ENGINE_ASSERT(executor < EXECUTORS_MAX, "an executor's number is below their bound");
        const Executor& it = executors_[executor];
        const int64_t started = it.started_ns.load(std::memory_order_relaxed);
        const GilCall* gil = it.gil.load(std::memory_order_relaxed);
        if (gil == nullptr) return started;
        return std::min(now_ns, started + gil->waited_ns(now_ns) - it.gil_waited_ns.load(std::memory_order_relaxed));
    }
    // Lock. The thread of an executor; null for one that never takes the GIL.
    void has_thread(uint32_t executor, const GilCall* gil) noexcept {
        executors_[executor].gil.store(gil, std::memory_order_relaxed);
    }

    // When the first executor is free. An overdue one is expected to take once more the time it has taken. `working`
    // counts the executors that are not overdue by their whole time again.
    int64_t first_free_ns(int64_t now_ns, uint32_t* working) const noexcept;
    bool all_stalled(int64_t now_ns) const noexcept;
    // Whether all executors have been idle for longer than idle_ns_min.
    bool idle_for(int64_t now_ns, int64_t idle_ns_min) const noexcept;

    // Queued work of all models, in nanoseconds of one executor.
    FinishCounts work;

    // A request was rejected for want of capacity; for the next 20 ms the executors count as overloaded.
    void rejected(int64_t now_ns) noexcept {
        if (!overloaded(now_ns)) rejecting_since_ns_.store(now_ns, std::memory_order_relaxed);
        rejected_ns_.store(now_ns, std::memory_order_relaxed);
    }
    bool overloaded(int64_t now_ns) const noexcept { return recent(rejected_ns_, now_ns); }
    // Overloaded for 50 ms or more: this is no burst, after which there would be time for the requests it held up.
    bool overloaded_lastingly(int64_t now_ns) const noexcept {
        return overloaded(now_ns) && now_ns - rejecting_since_ns_.load(std::memory_order_relaxed) >= LASTING_NS;
    }
    // A request was admitted in the place of less important ones; for the next 20 ms class goes before deadline.
    void put_classes_first(int64_t now_ns) noexcept { classes_first_ns_.store(now_ns, std::memory_order_relaxed); }
    bool classes_first(int64_t now_ns) const noexcept { return recent(classes_first_ns_, now_ns); }

    // Lock. A model's queue got its first request, or lost its last.
    void activate(Share& share) noexcept;
    void deactivate(Share& share) noexcept;
    // Lock. The model of `share` has had an executor for this long.
    void charge(Share& share, int64_t ns) noexcept;
    // Whether the model has had no more than its share. A moment old for all but the lock's holder.
    bool eligible(const Share& share) const noexcept;
    // The part of the executors that the model may count on, above 0 and at most 1.
    double entitled(const Share& share) const noexcept;

private:
    struct Executor {
        std::atomic<int64_t> started_ns{0}, expected_ns{0}, high_ns{0};
        std::atomic<bool> busy{false};
        std::atomic<const GilCall*> gil{nullptr};
        std::atomic<int64_t> gil_waited_ns{0};  // when its batch began
    };
    static bool recent(const std::atomic<int64_t>& at, int64_t now_ns) noexcept;

    std::atomic<uint32_t> count_;
    std::array<Executor, EXECUTORS_MAX> executors_;
    std::atomic<uint32_t> models_{0};
    std::atomic<int64_t> latest_start_ns_{0};
    static constexpr int64_t LASTING_NS = 50'000'000;
    std::atomic<int64_t> rejected_ns_{0}, rejecting_since_ns_{0}, classes_first_ns_{0};
    std::atomic<int64_t> virtual_ns_{0};  // executor time that a model of weight 1 has been entitled to so far
    std::atomic<double> active_weight_{0.0};
};

}  // namespace engine::scheduler
