// The rescue thread: for requests whose asker is an event loop, which cannot wait with a timer of its own.
#include <algorithm>

#include "detail/futex.hpp"
#include "engine/runtime.hpp"

namespace engine {

namespace {

// How long the thread sleeps at most while requests keep coming, as a share of their shortest remaining time. A new
// request then finds it due to wake before the request's own time, and needs no system call to tell it so.
constexpr int64_t PATROL_DIVISOR = 2;
constexpr int64_t PATROL_MIN_NS = 100'000, PATROL_MAX_NS = 20'000'000;

}  // namespace

void Runtime::watch(const Timer& timer) noexcept {
    {
        const std::lock_guard<std::mutex> lock(timers_lock_);
        // Bounded by the slots in flight and those that finished since the last patrol; beyond the reserve it grows.
        timers_inbox_.push_back(timer);
    }
    if (timer.at_ns >= rescue_wakes_ns_.load(std::memory_order_seq_cst)) return;
    timers_word_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(timers_word_, 1);
}

bool Runtime::is_watched_live(const Timer& timer) noexcept {
    const uint32_t word = slots_[timer.slot].word.load(std::memory_order_acquire);
    return generation_of(word) == timer.generation && is_live(word);
}

void Runtime::rescue_loop() {
    const detail::PreciseTimers precise;
    const auto later = [](const Timer& a, const Timer& b) { return a.at_ns > b.at_ns; };
    std::vector<Timer> timers, arrived;
    timers.reserve(2 * size_t{limits_.slots});
    arrived.reserve(2 * size_t{limits_.slots});
    const auto pop = [&] {
        std::pop_heap(timers.begin(), timers.end(), later);
        timers.pop_back();
    };
    int64_t shortest = 2 * PATROL_MAX_NS;
    int quiet_patrols = 0;
    for (;;) {
        // Announce an early wake-up before looking at the inbox, so that whoever adds to it after our look either is
        // seen now or sees that it must wake us.
        const uint32_t seen = timers_word_.load(std::memory_order_seq_cst);
        rescue_wakes_ns_.store(NEVER_NS, std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(timers_lock_);
            arrived.swap(timers_inbox_);
        }
        int64_t now = now_ns();
        quiet_patrols = arrived.empty() ? quiet_patrols + 1 : 0;
        for (const Timer& timer : arrived) {
            if (!is_watched_live(timer)) continue;
            shortest = std::min(shortest, timer.at_ns - now);
            timers.push_back(timer);
            std::push_heap(timers.begin(), timers.end(), later);
        }
        arrived.clear();
        const bool last_call = last_call_.load(std::memory_order_seq_cst);
        while (!timers.empty() &&
               (last_call || timers.front().at_ns <= now || !is_watched_live(timers.front()))) {
            const Timer timer = timers.front();
            pop();
            rescue(timer.slot, timer.generation, last_call ? Reason::closing : Reason::timeout);
            now = now_ns();
        }
        if (last_call) return;
        const int64_t patrol = std::clamp(shortest / PATROL_DIVISOR, PATROL_MIN_NS, PATROL_MAX_NS);
        const int64_t due = timers.empty() ? NEVER_NS : timers.front().at_ns;
        // Several empty patrols in a row: nobody is asking, sleep until somebody does.
        const int64_t wake = std::min(due, quiet_patrols > 8 ? NEVER_NS : now + patrol);
        if (quiet_patrols > 8) shortest = 2 * PATROL_MAX_NS;
        rescue_wakes_ns_.store(wake, std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(timers_lock_);
            const bool urgent = std::any_of(timers_inbox_.begin(), timers_inbox_.end(),
                                            [&](const Timer& timer) { return timer.at_ns < wake; });
            if (urgent) continue;
        }
        if (detail::futex_wait_until(timers_word_, seen, wake) == detail::Wait::timed_out && wake == due) {
            const int64_t woke = now_ns();
            async_guard_.timer_overshot(woke - due, woke);
        }
    }
}

}  // namespace engine
