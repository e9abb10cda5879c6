#include "scheduler/deadline_timer.hpp"

#include <pthread.h>

#include <algorithm>

#include "base/futex.hpp"
#include "scheduler/runtime.hpp"

namespace engine {

namespace {

// How long the thread sleeps at most while requests keep coming, as a share of their shortest remaining time. A new
// request then finds it due to wake before the request's own time, and needs no system call to tell it so.
constexpr int64_t PATROL_DIVISOR = 2;
constexpr int64_t PATROL_MIN_NS = 100'000, PATROL_MAX_NS = 20'000'000;
// So many empty patrols in a row: nobody is asking, sleep until somebody does.
constexpr int QUIET_PATROLS = 8;
constexpr size_t TIMERS_RESERVE = 4096;

}  // namespace

void Rescuer::start() {
    if (running_.exchange(true)) return;
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), "engine-rescue");
}

void Rescuer::stop() noexcept {
    if (!thread_.joinable()) return;
    stopping_.store(true, std::memory_order_seq_cst);
    word_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(word_, 1);
    thread_.join();
    running_.store(false);
}

void Rescuer::watch(const Timer& timer) noexcept {
    {
        const std::lock_guard<std::mutex> lock(lock_);
        // Bounded by the slots in flight and those that finished since the last patrol; beyond the reserve it grows.
        inbox_.push_back(timer);
    }
    if (timer.at_ns >= wakes_ns_.load(std::memory_order_seq_cst)) return;
    word_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(word_, 1);
}

void Rescuer::forget(Runtime& runtime) noexcept {
    if (!running_.load()) return;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        to_forget_.push_back(&runtime);
    }
    for (;;) {
        const uint32_t seen = forgotten_.load(std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(lock_);
            if (std::find(to_forget_.begin(), to_forget_.end(), &runtime) == to_forget_.end()) return;
        }
        word_.fetch_add(1, std::memory_order_seq_cst);
        detail::futex_wake(word_, 1);
        detail::futex_wait_until(forgotten_, seen, NEVER_NS);
    }
}

void Rescuer::pop() noexcept {
    std::pop_heap(timers_.begin(), timers_.end(), later);
    timers_.pop_back();
}

// New timers into the heap, but for those whose request has been answered already.
void Rescuer::take_in(int64_t now) {
    quiet_patrols_ = arrived_.empty() ? quiet_patrols_ + 1 : 0;
    for (const Timer& timer : arrived_) {
        if (timer.runtime != nullptr) {
            if (!timer.runtime->is_live(timer.slot, timer.generation)) continue;
            shortest_ns_ = std::min(shortest_ns_, timer.at_ns - now);
        }
        timers_.push_back(timer);
        std::push_heap(timers_.begin(), timers_.end(), later);
    }
    arrived_.clear();
}

// The inbox has been taken in under the same lock as to_forget_ was read, so nothing of these runtimes can follow: they
// are closing, and whoever submits to a closing runtime rescues its request itself.
void Rescuer::forget_asked() {
    std::vector<Runtime*> asked;
    {
        const std::lock_guard<std::mutex> lock(lock_);
        if (to_forget_.empty()) return;
        asked = to_forget_;
        arrived_.swap(inbox_);
    }
    take_in(now_ns());
    std::erase_if(timers_, [&](const Timer& timer) {
        if (std::find(asked.begin(), asked.end(), timer.runtime) == asked.end()) return false;
        timer.runtime->rescue(timer.slot, timer.generation, Reason::closing);
        return true;
    });
    std::make_heap(timers_.begin(), timers_.end(), later);
    {
        const std::lock_guard<std::mutex> lock(lock_);
        std::erase_if(to_forget_, [&](Runtime* it) { return std::find(asked.begin(), asked.end(), it) != asked.end(); });
    }
    forgotten_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(forgotten_, INT32_MAX);
}

void Rescuer::ring(const Timer& timer, int64_t now) {
    if (timer.runtime != nullptr) return timer.runtime->rescue(timer.slot, timer.generation, Reason::timeout);
    const int64_t again = look_after_(now);
    if (again >= NEVER_NS) return;
    timers_.push_back({again, nullptr, 0, 0});
    std::push_heap(timers_.begin(), timers_.end(), later);
}

void Rescuer::drop_answered() noexcept {
    while (!timers_.empty() && timers_.front().runtime != nullptr &&
           !timers_.front().runtime->is_live(timers_.front().slot, timers_.front().generation))
        pop();
}

int64_t Rescuer::next_wake(int64_t now) noexcept {
    const int64_t due = timers_.empty() ? NEVER_NS : timers_.front().at_ns;
    if (quiet_patrols_ > QUIET_PATROLS) {
        shortest_ns_ = 2 * PATROL_MAX_NS;
        return due;
    }
    return std::min(due, now + std::clamp(shortest_ns_ / PATROL_DIVISOR, PATROL_MIN_NS, PATROL_MAX_NS));
}

void Rescuer::loop() {
    const detail::PreciseTimers precise;
    timers_.reserve(TIMERS_RESERVE);
    arrived_.reserve(TIMERS_RESERVE);
    shortest_ns_ = 2 * PATROL_MAX_NS;
    for (;;) {
        // Announce an early wake-up before looking at the inbox, so that whoever adds to it after our look either is
        // seen now or sees that it must wake us.
        const uint32_t seen = word_.load(std::memory_order_seq_cst);
        wakes_ns_.store(NEVER_NS, std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(lock_);
            arrived_.swap(inbox_);
        }
        int64_t now = now_ns();
        take_in(now);
        forget_asked();
        for (drop_answered(); !timers_.empty() && timers_.front().at_ns <= now; drop_answered()) {
            const Timer timer = timers_.front();
            pop();
            ring(timer, now);
            now = now_ns();
        }
        if (stopping_.load(std::memory_order_seq_cst)) return;
        const int64_t wake = next_wake(now);
        wakes_ns_.store(wake, std::memory_order_seq_cst);
        {
            const std::lock_guard<std::mutex> lock(lock_);
            const bool urgent =
                std::any_of(inbox_.begin(), inbox_.end(), [&](const Timer& timer) { return timer.at_ns < wake; });
            if (urgent || !to_forget_.empty()) continue;
        }
        const bool due = !timers_.empty() && timers_.front().at_ns == wake;
        if (detail::futex_wait_until(word_, seen, wake) == detail::Wait::timed_out && due) {
            const int64_t woke = now_ns();
            if (Runtime* runtime = timers_.front().runtime) runtime->timer_overshot(woke - wake, woke);
        }
    }
}

}  // namespace engine
