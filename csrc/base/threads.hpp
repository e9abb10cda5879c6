// Threads are made here, so that the system's refusal of one is a case like any other, and can be tested.
//
// The system refuses a thread where the process, its user or its container has as many as its limit allows (EAGAIN), or
// where there is no memory for a stack.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

namespace engine {

// For tests: while it is set and returns true, no thread can be made.
inline std::atomic<bool (*)() noexcept> refuse_threads{nullptr};

// A running thread; `name` has at most 15 letters. Throws std::system_error where the system refuses it.
template <class Body>
std::thread make_thread(const char* name, Body&& body) {
    if (const auto refuses = refuse_threads.load(std::memory_order_relaxed); refuses != nullptr && refuses())
        throw std::system_error(EAGAIN, std::generic_category(), name);
    std::thread thread(std::forward<Body>(body));
    pthread_setname_np(thread.native_handle(), name);
    return thread;
}

}  // namespace engine
