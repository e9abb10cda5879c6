#include "scheduler/fair_share.hpp"

#include <algorithm>

namespace engine::scheduler {

namespace {

// How long the executors count as overloaded after a rejection, and class goes before deadline after a displacement.
constexpr int64_t RECENT_NS = 20'000'000;
// A model may run this far ahead of its share and stay eligible. That is a few batches of any one model, so that models
// within their shares are still served by deadline, and little against the length of an overload.
constexpr int64_t LAG_NS_MAX = 5'000'000;

}  // namespace

SharedExecutors::SharedExecutors(uint32_t executors) noexcept : count_(std::clamp(executors, 1u, EXECUTORS_MAX)) {}

void SharedExecutors::resize(uint32_t executors) noexcept {
    count_.store(std::clamp(executors, 1u, EXECUTORS_MAX), std::memory_order_relaxed);
}

uint32_t SharedExecutors::first_idle() const noexcept {
    for (uint32_t e = 0, n = count(); e < n; ++e)
        if (!executors_[e].busy.load(std::memory_order_relaxed)) return e;
    return NONE;
}

void SharedExecutors::started(uint32_t executor, int64_t now_ns, int64_t expected_ns, int64_t high_ns) noexcept {
    ENGINE_ASSERT(executor < EXECUTORS_MAX, "an executor's number is below their bound");
    ENGINE_ASSERT(expected_ns >= 0 && high_ns >= expected_ns,
                  "a batch takes some time, and its high estimate is no less");
    Executor& it = executors_[executor];
    ENGINE_ASSERT(!it.busy.load(std::memory_order_relaxed), "an executor begins a batch when it has none");
    latest_start_ns_.store(now_ns, std::memory_order_relaxed);
    it.started_ns.store(now_ns, std::memory_order_relaxed);
    if (const GilCall* gil = it.gil.load(std::memory_order_relaxed))
        it.gil_waited_ns.store(gil->waited_ns(now_ns), std::memory_order_relaxed);
    it.expected_ns.store(expected_ns, std::memory_order_relaxed);
    it.high_ns.store(high_ns, std::memory_order_relaxed);
    it.busy.store(true, std::memory_order_relaxed);
}

void SharedExecutors::finished(uint32_t executor) noexcept {
    ENGINE_ASSERT(executor < EXECUTORS_MAX, "an executor's number is below their bound");
    ENGINE_ASSERT(executors_[executor].busy.load(std::memory_order_relaxed), "an executor ends the batch that it has");
    executors_[executor].busy.store(false, std::memory_order_relaxed);
}

int64_t SharedExecutors::first_free_ns(int64_t now_ns, uint32_t* working) const noexcept {
    int64_t first = NEVER_NS;
    *working = 0;
    for (uint32_t e = 0, n = count(); e < n; ++e) {
        const Executor& it = executors_[e];
        int64_t free_ns = now_ns;
        if (!it.busy.load(std::memory_order_relaxed)) {
            ++*working;
        } else {
            const int64_t started = started_ns(e, now_ns);
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
    for (uint32_t e = 0, n = count(); e < n; ++e) {
        const Executor& it = executors_[e];
        if (!it.busy.load(std::memory_order_relaxed)) return false;
        const int64_t high = it.high_ns.load(std::memory_order_relaxed);
        if (now_ns <= started_ns(e, now_ns) + 2 * high) return false;
    }
    return true;
}

bool SharedExecutors::idle_for(int64_t now_ns, int64_t idle_ns_min) const noexcept {
    for (uint32_t e = 0, n = count(); e < n; ++e)
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
    share.active_weight = share.weight.load(std::memory_order_relaxed);
    ENGINE_ASSERT(share.active_weight > 0.0, "every model has a weight");
    // A model saves up no share while it has no work.
    const int64_t now = virtual_ns_.load(std::memory_order_relaxed);
    share.served.store(std::max(share.served.load(std::memory_order_relaxed), now), std::memory_order_relaxed);
    active_weight_.store(active_weight_.load(std::memory_order_relaxed) + share.active_weight,
                         std::memory_order_relaxed);
}

void SharedExecutors::deactivate(Share& share) noexcept {
    if (!share.active.load(std::memory_order_relaxed)) return;
    share.active.store(false, std::memory_order_relaxed);
    active_weight_.store(std::max(0.0, active_weight_.load(std::memory_order_relaxed) - share.active_weight),
                         std::memory_order_relaxed);
}

void SharedExecutors::charge(Share& share, int64_t ns) noexcept {
    ENGINE_ASSERT(ns >= 0, "time on an executor is never below zero");
    const double weight = share.weight.load(std::memory_order_relaxed);
    const double others = active_weight_.load(std::memory_order_relaxed) -
                          (share.active.load(std::memory_order_relaxed) ? share.active_weight : 0.0);
    const int64_t served =
        share.served.load(std::memory_order_relaxed) + static_cast<int64_t>(static_cast<double>(ns) / weight);
    share.served.store(served, std::memory_order_relaxed);
    // Where no other model wanted the time, virtual time catches up, so the model runs no debt.
    const int64_t before = virtual_ns_.load(std::memory_order_relaxed);
    const int64_t now = others < weight * 1e-9
                            ? std::max(before, served)
                            : before + static_cast<int64_t>(static_cast<double>(ns) / (weight + others));
    ENGINE_ASSERT(now >= before, "virtual time never goes back");
    virtual_ns_.store(now, std::memory_order_relaxed);
}

bool SharedExecutors::eligible(const Share& share) const noexcept {
    return share.served.load(std::memory_order_relaxed) <= virtual_ns_.load(std::memory_order_relaxed) + LAG_NS_MAX;
}

double SharedExecutors::entitled(const Share& share) const noexcept {
    const double weight = share.weight.load(std::memory_order_relaxed);
    const double others =
        active_weight_.load(std::memory_order_relaxed) - (share.active.load(std::memory_order_relaxed) ? weight : 0.0);
    const double entitled = weight / (weight + std::max(others, 0.0));
    ENGINE_ASSERT(entitled > 0.0 && entitled <= 1.0, "a model is entitled to a part of the executors");
    return entitled;
}

}  // namespace engine::scheduler
