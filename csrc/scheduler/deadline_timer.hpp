// The fallback timer of requests whose caller is an event loop, which cannot wait with a timer of its own. One thread
// serves all engines on the same executors. It also checks executors that may be stuck.
//
// Order. A caller adds a timer to the inbox and then reads wakes_ns_, the instant until which the thread may sleep; it
// wakes the thread only where its timer is due before that. The thread, before it sleeps, stores wakes_ns_ and then
// looks at the inbox once more. Both are sequentially consistent and the inbox has a lock: either the caller sees the
// new instant and compares with it, or the thread sees the timer and does not sleep. While the thread works, wakes_ns_
// is NEVER_NS, so that a caller that adds a timer after its look at the inbox changes word_; the thread read word_
// before that look, and its futex wait returns at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/mutex.hpp"
#include "scheduler/fallback_handler.hpp"

namespace engine::scheduler {

class DeadlineTimer {
public:
    struct Timer {
        int64_t at_ns;
        FallbackHandler* handler;  // null: check the executors
        uint32_t slot;
        uint32_t generation;
    };

    // check_executors(now) -> when to check again, NEVER_NS for not before the next suspicion.
    explicit DeadlineTimer(std::function<int64_t(int64_t)> check_executors)
        : check_executors_(std::move(check_executors)) {}
    ~DeadlineTimer() { stop(); }
    DeadlineTimer(const DeadlineTimer&) = delete;
    DeadlineTimer& operator=(const DeadlineTimer&) = delete;

    // Throws std::system_error where the system refuses a thread.
    void start();
    void stop() noexcept;
    std::thread::native_handle_type native_handle() noexcept { return thread_.native_handle(); }

    // Any thread.
    void add(const Timer& timer) noexcept;
    // Fires the handler's timers at once, and returns when none of them is left. The handler must be closing, so that
    // it answers requests of its own that come after this.
    void forget(FallbackHandler& handler) noexcept;

private:
    static bool later(const Timer& a, const Timer& b) noexcept { return a.at_ns > b.at_ns; }
    void loop();
    void work(int64_t& now);
    void accept(int64_t now);
    void forget_requested();
    void fire(const Timer& timer, int64_t now);
    void push(const Timer& timer);
    void pop() noexcept;
    void drop_answered() noexcept;
    int64_t next_wake(int64_t now) noexcept;
    bool must_not_sleep(int64_t wake_ns) noexcept;
    void wake_thread() noexcept;

    std::function<int64_t(int64_t)> check_executors_;
    Mutex lock_;
    std::vector<Timer> inbox_;                 // lock
    std::vector<FallbackHandler*> to_forget_;  // lock
    std::atomic<uint32_t> forgotten_{0};       // futex; counts rounds of forgetting
    std::atomic<uint32_t> word_{0};            // futex; changes whenever the thread should look
    std::atomic<int64_t> wakes_ns_{0};         // a timer due before this must wake the thread
    std::atomic<bool> stopping_{false}, running_{false};
    std::thread thread_;

    // The thread's own.
    std::vector<Timer> timers_, arrived_;  // timers_ is a heap, the earliest on top
    int64_t shortest_ns_ = 0;              // the shortest time to its timer that a recent request came with
    int quiet_patrols_ = 0;                // wake-ups in a row that found no new timer
};

}  // namespace engine::scheduler
