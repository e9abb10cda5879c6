// The one place that reads time. Every instant is nanoseconds on CLOCK_MONOTONIC, the clock of time.monotonic_ns().
#pragma once

#include <cstdint>
#include <ctime>

namespace engine {

// Far enough to mean "no deadline", near enough that adding to it never overflows.
inline constexpr int64_t NEVER_NS = INT64_MAX / 4;

inline int64_t now_ns() noexcept {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace engine
