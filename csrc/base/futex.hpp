// Linux futexes on a 32-bit atomic, private to the process, timed on CLOCK_MONOTONIC by absolute instants.
//
// A futex sleeps only while the word still holds the value that the sleeper saw; the kernel compares and enqueues under
// its own lock. So the order for every user is: the waker changes the word, then wakes; the sleeper reads the word,
// looks for work, then waits on the value that it read. A change between the two makes the wait return at once.
#pragma once

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "base/assert.hpp"
#include "base/clock.hpp"

namespace engine {

enum class Wait : uint8_t { woken, timed_out, interrupted };

inline uint32_t* futex_word(std::atomic<uint32_t>& value) noexcept {
    static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free,
                  "the kernel reads the atomic as a plain word");
    return reinterpret_cast<uint32_t*>(&value);
}

// Sleep while `value` is `seen`. The wait does not notice a change of value without a wake-up.
inline Wait futex_wait_until(std::atomic<uint32_t>& value, uint32_t seen, int64_t until_ns) noexcept {
    // An instant before the clock's zero has passed; the kernel would reject it and the caller would spin.
    if (until_ns < 0) until_ns = 0;
    timespec until{until_ns / 1'000'000'000, until_ns % 1'000'000'000};
    const timespec* limit = until_ns >= NEVER_NS ? nullptr : &until;
    const long result =
        syscall(SYS_futex, futex_word(value), FUTEX_WAIT_BITSET_PRIVATE, seen, limit, nullptr, FUTEX_BITSET_MATCH_ANY);
    if (result == 0 || errno == EAGAIN) return Wait::woken;
    ENGINE_ASSERT(errno == ETIMEDOUT || errno == EINTR, "a futex wait ends by a wake-up, its time or a signal");
    return errno == ETIMEDOUT ? Wait::timed_out : Wait::interrupted;
}

// Wake up to `count` sleepers. The word may be gone already: the kernel takes only its address.
inline void futex_wake(std::atomic<uint32_t>& value, int count) noexcept {
    ENGINE_ASSERT(count > 0, "a wake-up is for somebody");
    syscall(SYS_futex, futex_word(value), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

// While one of these lives, timers of this thread fire within a nanosecond's slack. The destructor restores the
// thread's own slack, 50 us by default.
class PreciseTimers {
public:
    PreciseTimers() noexcept : before_(prctl(PR_GET_TIMERSLACK)) {
        if (before_ > 1) prctl(PR_SET_TIMERSLACK, 1UL);
    }
    ~PreciseTimers() {
        if (before_ > 1) prctl(PR_SET_TIMERSLACK, static_cast<unsigned long>(before_));
    }
    PreciseTimers(const PreciseTimers&) = delete;
    PreciseTimers& operator=(const PreciseTimers&) = delete;

private:
    int before_;
};

}  // namespace engine
