// One call at a time of a scorer that is not reentrant. The lock belongs to the scorer's ctx, so the promise holds for
// every engine, shadow, swap and check of the process that uses the same model.
//
// A call may be lost: its thread is stuck in the model, perhaps for ever, and has been replaced. While one is, nobody
// waits for the lock. Neither does the thread that holds it: a model that calls itself is refused.
//
// Order. state_ is 0 while the lock is free, 1 while it is held, 2 while it is held and threads may sleep on it
// (Drepper, Futexes Are Tricky, 2011, mutex 2). Taking it is an acquire and freeing it a release, so a call sees all
// that the call before it wrote. lost_ is written before sleepers are woken, and read by each of them after it woke.
// owner_ is relaxed: a thread finds itself there only if it wrote it.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/assert.hpp"
#include "base/clock.hpp"
#include "base/futex.hpp"

namespace engine {

// The status of a scorer that was not called: it allows one call at a time, and the call before this one is still out.
inline constexpr int NOT_CALLED = INT_MIN;

class CallLock {
public:
    // The lock of this ctx, one in the process. The caller holds a reference to the scorer at least as long.
    static std::shared_ptr<CallLock> of(const void* ctx);
    // Makes `other`'s lock that of `ctx` too, for a scorer in front of another one, until forget(ctx). The caller keeps
    // the lock as long.
    static std::shared_ptr<CallLock> share(const void* ctx, const void* other);
    static void forget(const void* ctx) noexcept;

    // False where it was not to be had by until_ns, a call is lost, or this thread is inside one.
    bool lock_until(int64_t until_ns) noexcept {
        if (!take_until(until_ns)) return false;
        owner_.store(pthread_self(), std::memory_order_relaxed);
        return true;
    }
    // Whether this thread is inside a call.
    bool held_here() const noexcept { return owner_.load(std::memory_order_relaxed) == pthread_self(); }
    void unlock() noexcept {
        owner_.store(pthread_t{}, std::memory_order_relaxed);
        const uint32_t before = state_.exchange(0, std::memory_order_release);
        ENGINE_ASSERT(before != 0, "only its owner unlocks a lock");
        if (before == 2) futex_wake(state_, 1);
    }

    void call_lost() noexcept {
        lost_.fetch_add(1, std::memory_order_release);
        futex_wake(state_, INT_MAX);
    }
    void lost_call_returned() noexcept {
        [[maybe_unused]] const uint32_t before = lost_.fetch_sub(1, std::memory_order_release);
        ENGINE_ASSERT(before > 0, "a lost call returns once");
    }

private:
    bool take_until(int64_t until_ns) noexcept {
        uint32_t free = 0;
        if (lost_.load(std::memory_order_acquire) > 0) return false;
        if (state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) return true;
        if (held_here()) return false;
        while (state_.exchange(2, std::memory_order_acquire) != 0) {
            if (lost_.load(std::memory_order_acquire) > 0 || now_ns() >= until_ns) return false;
            futex_wait_until(state_, 2, until_ns);
        }
        return true;
    }

    std::atomic<uint32_t> state_{0};  // futex
    std::atomic<pthread_t> owner_{};  // the thread inside the call; no thread has the number 0
    std::atomic<uint32_t> lost_{0};
};

}  // namespace engine
