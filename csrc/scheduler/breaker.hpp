// The circuit breaker of one model: after many failures the model rests, and one probe at a time finds out whether it
// has recovered (Nygard, Release It!, 2007). Time is handed in.
//
// It opens after a run of failed calls, or when a share of recent rows failed. While it is open every request goes to
// the fallback at once. When a rest is over it admits one call, the probe: if the probe succeeds the breaker closes, if
// not the next rest is twice as long, up to a bound.
//
// Order. All loads and stores are relaxed: the breaker guards no data, only the decision to call. rests_until_ns_ is
// that decision, in one word; only the exchange that moves it grants a probe, so two threads never both get one. The
// counts beside it may be a moment old in another thread, which then decides as it would have a moment earlier. Two
// threads that trip it at once may both set the first rest; they set it to the same length from about the same instant.
#pragma once

#include <atomic>
#include <cstdint>

namespace engine::scheduler {

struct BreakerLimits {
    bool enabled = true;
    uint32_t calls_in_a_row = 10;  // it opens after this many failed calls in a row
    double rows_share = 0.5;       // … or when this share of a window's rows failed
    uint32_t rows_min = 100;       // … and the window has at least this many rows
    int64_t window_ns = 10'000'000'000;
    int64_t rest_ns = 100'000'000;  // the first rest
    int64_t rest_ns_max = 5'000'000'000;
};

class Breaker {
public:
    explicit Breaker(const BreakerLimits& limits = {}) noexcept : limits_(limits) {}

    // Any thread. Whether the model may be called now. After a rest one caller gets a yes, and its call is the probe.
    bool allows(int64_t now_ns) noexcept {
        const int64_t until = rests_until_ns_.load(std::memory_order_relaxed);
        return until == 0 || probe(now_ns, until);
    }
    // Any thread. A call of `rows` rows ended; `failed` of them got no usable answer.
    void record(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept;
    // Closed, and the last call succeeded: a success changes nothing but the row counts, so record() may be called for
    // many rows at once.
    bool untroubled() const noexcept { return failed_in_a_row_.load(std::memory_order_relaxed) == 0 && !open(); }
    // Opens it at once: an executor is stuck in the model.
    void trip(int64_t now_ns) noexcept;
    // A lost call has come back after all, so the stall is over and the next request may be the probe. A stall of 200
    // ms then costs no rest on top.
    void came_back(int64_t now_ns) noexcept;

    // Open, and not yet due for a probe.
    bool resting(int64_t now_ns) const noexcept { return now_ns < rests_until_ns_.load(std::memory_order_relaxed); }
    bool open() const noexcept { return rests_until_ns_.load(std::memory_order_relaxed) != 0; }
    uint64_t openings() const noexcept { return openings_.load(std::memory_order_relaxed); }
    uint64_t probes() const noexcept { return probes_.load(std::memory_order_relaxed); }

private:
    bool probe(int64_t now_ns, int64_t until_ns) noexcept;
    void count(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept;
    void rest(int64_t now_ns, int64_t length_ns) noexcept;
    void close() noexcept;

    BreakerLimits limits_;
    std::atomic<int64_t> rests_until_ns_{0};  // 0 while closed
    std::atomic<int64_t> resting_ns_{0};      // length of the present rest
    std::atomic<bool> probing_{false};        // a probe is out
    std::atomic<uint32_t> failed_in_a_row_{0};
    std::atomic<uint64_t> openings_{0}, probes_{0};
    std::atomic<int64_t> window_began_ns_{0};
    std::atomic<uint32_t> rows_{0}, failed_{0};
};

}  // namespace engine::scheduler
