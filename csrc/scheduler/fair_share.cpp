#include "scheduler/fair_share.hpp"

namespace engine::scheduler {

namespace {

// After a rejection, or after a request took the place of less important ones, for this long.
constexpr int64_t RECENT_NS = 20'000'000;
// How far a model may run ahead of its share before it is not eligible. Wide enough for a few batches of any one model,
// so that models with equal shares are still served by deadline; narrow against the time scale of overloads.
constexpr int64_t LAG_NS_MAX = 5'000'000;

}  // namespace

uint16_t FinishCounts::bucket(int64_t now_ns, int64_t finish_by_ns) noexcept {
    // One bucket short of the whole ring, so that the bucket of `now` never receives the far end of the horizon.
    if ((finish_by_ns >> SHIFT) - (now_ns >> SHIFT) >= int64_t{BUCKETS} - 1) return FAR;
    return static_cast<uint16_t>((finish_by_ns >> SHIFT) & (BUCKETS - 1));
}

void FinishCounts::add(uint16_t bucket, int64_t amount) noexcept {
    total_.fetch_add(amount, std::memory_order_relaxed);
    if (bucket != FAR) near_[bucket].fetch_add(amount, std::memory_order_relaxed);
}

void FinishCounts::remove(uint16_t bucket, int64_t amount) noexcept { add(bucket, -amount); }

int64_t FinishCounts::before(int64_t now_ns, int64_t finish_by_ns) const noexcept {
    const int64_t total = this->total();
    if (total <= 0) return 0;
    const int64_t first = now_ns >> SHIFT, last = finish_by_ns >> SHIFT;
    if (last - first >= int64_t{BUCKETS} - 1) return total;
    int64_t sum = 0;
    for (int64_t b = first; b <= last; ++b) sum += near_[b & (BUCKETS - 1)].load(std::memory_order_relaxed);
    return std::clamp<int64_t>(sum, 0, total);
}

SharedExecutors::SharedExecutors(uint32_t executors) noexcept : count_(std::clamp(executors, 1u, EXECUTORS_MAX)) {}

void SharedExecutors::started(uint32_t executor, int64_t now_ns, int64_t expected_ns, int64_t high_ns) noexcept {
    Executor& it = executors_[executor];
    latest_start_ns_.store(now_ns, std::memory_order_relaxed);
    it.started_ns.store(now_ns, std::memory_order_relaxed);
    it.expected_ns.store(expected_ns, std::memory_order_relaxed);
    it.high_ns.store(high_ns, std::memory_order_relaxed);
    it.busy.store(true, std::memory_order_relaxed);
}

void SharedExecutors::finished(uint32_t executor) noexcept {
    executors_[executor].busy.store(false, std::memory_order_relaxed);
}

int64_t SharedExecutors::first_free_ns(int64_t now_ns, uint32_t* working) const noexcept {
    int64_t first = NEVER_NS;
    *working = 0;
    for (uint32_t e = 0; e < count_; ++e) {
        const Executor& it = executors_[e];
        int64_t free_ns = now_ns;
        if (!it.busy.load(std::memory_order_relaxed)) {
            ++*working;
        } else {
            const int64_t started = it.started_ns.load(std::memory_order_relaxed);
            const int64_t due = started + it.expected_ns.load(std::memory_order_relaxed);
            const int64_t surely_due = started + it.high_ns.load(std::memory_order_relaxed);
            *working += now_ns <= surely_due + (surely_due - started);
            free_ns = now_ns <= due ? due : now_ns <= surely_due ? now_ns : now_ns + (now_ns - started);
        }
        first = std::min(first, free_ns);
    }
    return first;
}

bool SharedExecutors::all_stalled(int64_t now_ns) const noexcept {
    for (uint32_t e = 0; e < count_; ++e) {
        const Executor& it = executors_[e];
        if (!it.busy.load(std::memory_order_relaxed)) return false;
        const int64_t high = it.high_ns.load(std::memory_order_relaxed);
        if (now_ns <= it.started_ns.load(std::memory_order_relaxed) + 2 * high) return false;
    }
    return true;
}

bool SharedExecutors::idle_for(int64_t now_ns, int64_t idle_ns_min) const noexcept {
    for (uint32_t e = 0; e < count_; ++e)
        if (executors_[e].busy.load(std::memory_order_relaxed)) return false;
    return now_ns - latest_start_ns_.load(std::memory_order_relaxed) > idle_ns_min;
}

bool SharedExecutors::recent(const std::atomic<int64_t>& at, int64_t now_ns) noexcept {
    const int64_t then = at.load(std::memory_order_relaxed);
    return then != 0 && now_ns - then <= RECENT_NS;
}

void SharedExecutors::activate(Share& share) noexcept {
    if (share.active.load(std::memory_order_relaxed)) return;
    share.active.store(true, std::memory_order_relaxed);
    // Time in which it asked for nothing is not saved up.
    const int64_t now = virtual_ns_.load(std::memory_order_relaxed);
    share.served.store(std::max(share.served.load(std::memory_order_relaxed), now), std::memory_order_relaxed);
    active_weight_.store(active_weight_.load(std::memory_order_relaxed) + share.weight, std::memory_order_relaxed);
}

void SharedExecutors::deactivate(Share& share) noexcept {
    if (!share.active.load(std::memory_order_relaxed)) return;
    share.active.store(false, std::memory_order_relaxed);
    active_weight_.store(std::max(0.0, active_weight_.load(std::memory_order_relaxed) - share.weight),
                         std::memory_order_relaxed);
}

void SharedExecutors::charge(Share& share, int64_t ns) noexcept {
    const double others = active_weight_.load(std::memory_order_relaxed) -
                          (share.active.load(std::memory_order_relaxed) ? share.weight : 0.0);
    const int64_t served =
        share.served.load(std::memory_order_relaxed) + static_cast<int64_t>(static_cast<double>(ns) / share.weight);
    share.served.store(served, std::memory_order_relaxed);
    // Nobody else wanted the time: it is not held against the model.
    const int64_t before = virtual_ns_.load(std::memory_order_relaxed);
    const int64_t now = others < share.weight * 1e-9
                            ? std::max(before, served)
                            : before + static_cast<int64_t>(static_cast<double>(ns) / (share.weight + others));
    virtual_ns_.store(now, std::memory_order_relaxed);
}

bool SharedExecutors::eligible(const Share& share) const noexcept {
    return share.served.load(std::memory_order_relaxed) <= virtual_ns_.load(std::memory_order_relaxed) + LAG_NS_MAX;
}

double SharedExecutors::entitled(const Share& share) const noexcept {
    const double others = active_weight_.load(std::memory_order_relaxed) -
                          (share.active.load(std::memory_order_relaxed) ? share.weight : 0.0);
    return share.weight / (share.weight + std::max(others, 0.0));
}

}  // namespace engine::scheduler
