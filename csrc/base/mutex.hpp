// A mutex that knows its owner in builds with assertions, so that code that needs the lock can assert it.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "base/assert.hpp"

namespace engine {

class Mutex {
public:
    Mutex() = default;
    Mutex(const Mutex&) = delete;
    Mutex& operator=(const Mutex&) = delete;

    void lock() {
        mutex_.lock();
#ifdef ENGINE_ASSERTIONS
        ENGINE_ASSERT(owner_.load(std::memory_order_relaxed) == std::thread::id(), "a free mutex has no owner");
        owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
#endif
    }
    void unlock() {
#ifdef ENGINE_ASSERTIONS
        ENGINE_ASSERT(held_by_this_thread(), "only its owner unlocks a mutex");
        owner_.store(std::thread::id(), std::memory_order_relaxed);
#endif
        mutex_.unlock();
    }
    // For ENGINE_ASSERT alone: without assertions nobody writes the owner. Relaxed is enough, because a thread always
    // sees its own latest store, and no other thread stores this thread's id.
    bool held_by_this_thread() const noexcept {
        return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id();
    }

private:
    std::mutex mutex_;
    // In every build, so that objects compiled with and without assertions agree on the layout.
    std::atomic<std::thread::id> owner_{};
};

using MutexLock = std::lock_guard<Mutex>;

}  // namespace engine
