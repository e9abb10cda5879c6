// Linux futexes on a 32-bit atomic, private to the process, timed on CLOCK_MONOTONIC by absolute instants.
#pragma once

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "base/clock.hpp"

namespace engine::detail {

enum class Wait : uint8_t { woken, timed_out, interrupted };

inline uint32_t* word(std::atomic<uint32_t>& value) noexcept { return reinterpret_cast<uint32_t*>(&value); }

// Sleeps while *value is `seen`. A change of value that nobody announces is not noticed until the wait ends.
inline Wait futex_wait_until(std::atomic<uint32_t>& value, uint32_t seen, int64_t until_ns) noexcept {
    timespec until{until_ns / 1'000'000'000, until_ns % 1'000'000'000};
    const timespec* limit = until_ns >= NEVER_NS ? nullptr : &until;
    const long result = syscall(SYS_futex, word(value), FUTEX_WAIT_BITSET_PRIVATE, seen, limit, nullptr,
                                FUTEX_BITSET_MATCH_ANY);
    if (result == 0 || errno == EAGAIN) return Wait::woken;
    return errno == ETIMEDOUT ? Wait::timed_out : Wait::interrupted;
}

inline void futex_wake(std::atomic<uint32_t>& value, int count) noexcept {
    syscall(SYS_futex, word(value), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

// Timers of this thread fire within a nanosecond's slack while one of these lives; the thread's own slack, 50 us by
// default, is put back afterwards.
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

}  // namespace engine::detail
