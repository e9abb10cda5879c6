// The one place that reads time. Every instant is in nanoseconds on CLOCK_MONOTONIC, the clock of time.monotonic_ns().
#pragma once

#include <cstdint>
#include <ctime>

namespace engine {

// No deadline. Near enough that adding a length of time to it never overflows.
inline constexpr int64_t NEVER_NS = INT64_MAX / 4;

inline int64_t now_ns() noexcept {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace engine
