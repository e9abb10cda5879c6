#include "scheduler/deadline_timer.hpp"

#include <algorithm>

#include "base/futex.hpp"
#include "base/threads.hpp"

namespace engine::scheduler {

namespace {

// While requests keep coming the thread sleeps no longer than half of their shortest remaining time (a patrol). A new
// request then finds it due to wake before the request's own time, and needs no system call to wake it.
constexpr int64_t PATROL_DIVISOR = 2;
constexpr int64_t PATROL_MIN_NS = 100'000, PATROL_MAX_NS = 20'000'000;
// After this many empty patrols in a row the thread sleeps until the next timer or the next request.
constexpr int QUIET_PATROLS = 8;
constexpr size_t TIMERS_RESERVE = 4096;

}  // namespace

void DeadlineTimer::start() {
    if (running_.exchange(true)) return;
    stopping_.store(false, std::memory_order_seq_cst);
    try {
        thread_ = make_thread("engine-rescue", [this] { loop(); });
    } catch (...) {
        running_.store(false);
        throw;
    }
}

void DeadlineTimer::stop() noexcept {
    if (!thread_.joinable()) return;
    stopping_.store(true, std::memory_order_seq_cst);
    wake_thread();
    thread_.join();
    running_.store(false);
}

void DeadlineTimer::wake_thread() noexcept {
    word_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(word_, 1);
}

void DeadlineTimer::add(const Timer& timer) noexcept {
    {
        const MutexLock lock(lock_);
        // Bounded by the slots in flight and those that finished since the last patrol; beyond the reserve it grows.
        inbox_.push_back(timer);
    }
    if (timer.at_ns < wakes_ns_.load(std::memory_order_seq_cst)) wake_thread();
}

void DeadlineTimer::forget(FallbackHandler& handler) noexcept {
    if (!running_.load()) return;
    {
        const MutexLock lock(lock_);
        to_forget_.push_back(&handler);
    }
    for (;;) {
        const uint32_t seen = forgotten_.load(std::memory_order_seq_cst);
        {
            const MutexLock lock(lock_);
            if (std::find(to_forget_.begin(), to_forget_.end(), &handler) == to_forget_.end()) return;
        }
        wake_thread();
        futex_wait_until(forgotten_, seen, NEVER_NS);
    }
}

void DeadlineTimer::push(const Timer& timer) {
    timers_.push_back(timer);
    std::push_heap(timers_.begin(), timers_.end(), later);
}

void DeadlineTimer::pop() noexcept {
    ENGINE_ASSERT(!timers_.empty(), "a timer that fires was in the heap");
    [[maybe_unused]] const int64_t at = timers_.front().at_ns;
    std::pop_heap(timers_.begin(), timers_.end(), later);
    timers_.pop_back();
    ENGINE_ASSERT(timers_.empty() || timers_.front().at_ns >= at, "the earliest timer is on top of the heap");
}

// Moves new timers into the heap, except timers of requests that are answered already.
void DeadlineTimer::accept(int64_t now) {
    quiet_patrols_ = arrived_.empty() ? quiet_patrols_ + 1 : 0;
    for (const Timer& timer : arrived_) {
        if (timer.handler != nullptr) {
            if (!timer.handler->is_live(timer.slot, timer.generation)) continue;
            shortest_ns_ = std::min(shortest_ns_, timer.at_ns - now);
        }
        push(timer);
    }
    arrived_.clear();
}

// Fires the timers of handlers that want to be forgotten. The inbox is taken under the same lock as their list, so no
// timer of theirs can follow: a thread that submits to a closing runtime answers its request itself.
void DeadlineTimer::forget_requested() {
    std::vector<FallbackHandler*> leaving;
    {
        const MutexLock lock(lock_);
        if (to_forget_.empty()) return;
        leaving = to_forget_;
        ENGINE_ASSERT(arrived_.empty(), "accepted timers are in the heap");
        arrived_.swap(inbox_);
    }
    const auto leaves = [&](const FallbackHandler* it) {
        return std::find(leaving.begin(), leaving.end(), it) != leaving.end();
    };
    accept(now_ns());
    std::erase_if(timers_, [&](const Timer& timer) {
        if (!leaves(timer.handler)) return false;
        timer.handler->fall_back(timer.slot, timer.generation, Reason::closing);
        return true;
    });
    std::make_heap(timers_.begin(), timers_.end(), later);
    {
        const MutexLock lock(lock_);
        std::erase_if(to_forget_, leaves);
    }
    forgotten_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(forgotten_, INT32_MAX);
}

void DeadlineTimer::fire(const Timer& timer, int64_t now) {
    ENGINE_ASSERT(timer.at_ns <= now, "a timer fires when it is due");
    if (timer.handler != nullptr) return timer.handler->fall_back(timer.slot, timer.generation, Reason::timeout);
    const int64_t again = check_executors_(now);
    if (again < NEVER_NS) push({again, nullptr, 0, 0});
}

void DeadlineTimer::drop_answered() noexcept {
    while (!timers_.empty() && timers_.front().handler != nullptr &&
           !timers_.front().handler->is_live(timers_.front().slot, timers_.front().generation))
        pop();
}

int64_t DeadlineTimer::next_wake(int64_t now) noexcept {
    const int64_t due = timers_.empty() ? NEVER_NS : timers_.front().at_ns;
    if (quiet_patrols_ > QUIET_PATROLS) {
        shortest_ns_ = 2 * PATROL_MAX_NS;
        return due;
    }
    return std::min(due, now + std::clamp(shortest_ns_ / PATROL_DIVISOR, PATROL_MIN_NS, PATROL_MAX_NS));
}

// The last look at the inbox, after wakes_ns_ was stored.
bool DeadlineTimer::must_not_sleep(int64_t wake_ns) noexcept {
    const MutexLock lock(lock_);
    return !to_forget_.empty() ||
           std::any_of(inbox_.begin(), inbox_.end(), [&](const Timer& timer) { return timer.at_ns < wake_ns; });
}

// One round: takes new timers in, and fires those that are due.
void DeadlineTimer::work(int64_t& now) {
    {
        const MutexLock lock(lock_);
        arrived_.swap(inbox_);
    }
    now = now_ns();
    accept(now);
    forget_requested();
    for (drop_answered(); !timers_.empty() && timers_.front().at_ns <= now; drop_answered()) {
        const Timer timer = timers_.front();
        pop();
        fire(timer, now);
        now = now_ns();
    }
}

void DeadlineTimer::loop() {
    const PreciseTimers precise;
    timers_.reserve(TIMERS_RESERVE);
    arrived_.reserve(TIMERS_RESERVE);
    shortest_ns_ = 2 * PATROL_MAX_NS;
    for (;;) {
        // Before the look at the inbox, in this order (see the top of the header).
        const uint32_t seen = word_.load(std::memory_order_seq_cst);
        wakes_ns_.store(NEVER_NS, std::memory_order_seq_cst);
        int64_t now;
        work(now);
        if (stopping_.load(std::memory_order_seq_cst)) return;
        const int64_t wake = next_wake(now);
        wakes_ns_.store(wake, std::memory_order_seq_cst);
        if (must_not_sleep(wake)) continue;
        const bool due = !timers_.empty() && timers_.front().at_ns == wake;
        if (futex_wait_until(word_, seen, wake) != Wait::timed_out || !due) continue;
        const int64_t woke = now_ns();
        ENGINE_ASSERT(woke >= wake, "a timed wait never ends early");
        if (FallbackHandler* handler = timers_.front().handler) handler->timer_overshot(woke - wake, woke);
    }
}

}  // namespace engine::scheduler
