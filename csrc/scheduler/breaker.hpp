// The circuit breaker of one model: after many failures it rests, and one probe at a time finds out whether it has
// recovered (Nygard, Release It!, 2007). Pure but for its atomics: time is handed in.
//
// It opens after a run of failed calls, or where a share of recent rows failed. While it is open every request goes to
// the fallback at once. When a rest is over one call is let through: if it succeeds the breaker closes, if not it rests
// twice as long, up to a bound.
#pragma once

#include <atomic>
#include <cstdint>

namespace engine::scheduler {

struct BreakerLimits {
    bool enabled = true;
    uint32_t calls_in_a_row = 10;       // failed calls, one after the other
    double rows_share = 0.5;            // … or this share of the rows of a window
    uint32_t rows_min = 100;            // … of at least so many
    int64_t window_ns = 10'000'000'000;
    int64_t rest_ns = 100'000'000;      // the first rest
    int64_t rest_ns_max = 5'000'000'000;
};

class Breaker {
public:
    explicit Breaker(const BreakerLimits& limits = {}) noexcept : limits_(limits) {}

    // Any thread. Whether the model may be called now. After a rest it says so to one caller, whose call is the probe.
    bool allows(int64_t now_ns) noexcept {
        const int64_t until = rests_until_ns_.load(std::memory_order_relaxed);
        return until == 0 || probe(now_ns, until);
    }
    // Any thread. A call ended: of its rows `failed` got no usable answer.
    void record(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept;
    // Whether a success has anything to tell but that it was one: then called() may be left out for most of them, and
    // made for many rows at once.
    bool untroubled() const noexcept {
        return failed_in_a_row_.load(std::memory_order_relaxed) == 0 && !open();
    }
    // Opens it at once: an executor is stuck in the model.
    void trip(int64_t now_ns) noexcept;
    // A call that was given up for lost has come back after all: what held it up is over, so the next request may be the
    // probe. A stall of 200 ms then costs no rest on top.
    void came_back(int64_t now_ns) noexcept;

    // Open, and not yet due for a probe.
    bool resting(int64_t now_ns) const noexcept { return now_ns < rests_until_ns_.load(std::memory_order_relaxed); }
    bool open() const noexcept { return rests_until_ns_.load(std::memory_order_relaxed) != 0; }
    uint64_t openings() const noexcept { return openings_.load(std::memory_order_relaxed); }

private:
    bool probe(int64_t now_ns, int64_t until_ns) noexcept;
    void count(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept;
    void rest(int64_t now_ns, int64_t length_ns) noexcept;
    void close() noexcept;

    BreakerLimits limits_;
    std::atomic<int64_t> rests_until_ns_{0};  // 0 while closed
    std::atomic<int64_t> resting_ns_{0};      // how long the present rest is
    std::atomic<bool> probing_{false};        // a probe is out
    std::atomic<uint32_t> failed_in_a_row_{0};
    std::atomic<uint64_t> openings_{0};
    std::atomic<int64_t> window_began_ns_{0};
    std::atomic<uint32_t> rows_{0}, failed_{0};
};

}  // namespace engine::scheduler
