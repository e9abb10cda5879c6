#include "scheduler/breaker.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace engine::scheduler {

bool Breaker::probe(int64_t now_ns, int64_t until_ns) noexcept {
    if (now_ns < until_ns) return false;
    // The thread that moves the end of the rest is the probe. Should it never come back, another probe follows after
    // one more rest.
    const int64_t next = now_ns + std::max(resting_ns_.load(std::memory_order_relaxed), limits_.rest_ns);
    if (!rests_until_ns_.compare_exchange_strong(until_ns, next, std::memory_order_relaxed)) return false;
    probing_.store(true, std::memory_order_relaxed);
    probes_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

void Breaker::record(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept {
    ENGINE_ASSERT(rows > 0 && failed <= rows, "a call has rows, and no more failures than rows");
    if (!limits_.enabled) return;
    if (failed < rows) {
        if (failed_in_a_row_.load(std::memory_order_relaxed) != 0) failed_in_a_row_.store(0, std::memory_order_relaxed);
        // A call that was under way when the breaker opened proves nothing; a success while a probe is out does.
        if (open() && probing_.load(std::memory_order_relaxed)) close();
    } else if (failed_in_a_row_.fetch_add(1, std::memory_order_relaxed) + 1 >= limits_.calls_in_a_row) {
        return trip(now_ns);
    }
    count(rows, failed, now_ns);
}

void Breaker::count(uint32_t rows, uint32_t failed, int64_t now_ns) noexcept {
    int64_t began = window_began_ns_.load(std::memory_order_relaxed);
    if (now_ns - began > limits_.window_ns &&
        window_began_ns_.compare_exchange_strong(began, now_ns, std::memory_order_relaxed)) {
        rows_.store(0, std::memory_order_relaxed);
        failed_.store(0, std::memory_order_relaxed);
    }
    const uint32_t all = rows_.fetch_add(rows, std::memory_order_relaxed) + rows;
    if (failed == 0) return;
    const uint32_t bad = failed_.fetch_add(failed, std::memory_order_relaxed) + failed;
    if (all >= limits_.rows_min && bad >= limits_.rows_share * all) trip(now_ns);
}

void Breaker::trip(int64_t now_ns) noexcept {
    if (!limits_.enabled) return;
    if (!open()) {
        openings_.fetch_add(1, std::memory_order_relaxed);
        rest(now_ns, limits_.rest_ns);
    } else if (probing_.exchange(false, std::memory_order_relaxed)) {
        rest(now_ns, std::min(2 * resting_ns_.load(std::memory_order_relaxed), limits_.rest_ns_max));
    }
    rows_.store(0, std::memory_order_relaxed);
    failed_.store(0, std::memory_order_relaxed);
}

void Breaker::came_back(int64_t now_ns) noexcept {
    int64_t until = rests_until_ns_.load(std::memory_order_relaxed);
    // Where the exchange fails, a probe went out or another rest began this moment, and that one decides.
    if (until > now_ns) rests_until_ns_.compare_exchange_strong(until, now_ns, std::memory_order_relaxed);
}

void Breaker::rest(int64_t now_ns, int64_t length_ns) noexcept {
    ENGINE_ASSERT(length_ns > 0, "a rest has a length");
    resting_ns_.store(length_ns, std::memory_order_relaxed);
    rests_until_ns_.store(now_ns + length_ns, std::memory_order_relaxed);
}

void Breaker::close() noexcept {
    failed_in_a_row_.store(0, std::memory_order_relaxed);
    rows_.store(0, std::memory_order_relaxed);
    failed_.store(0, std::memory_order_relaxed);
    probing_.store(false, std::memory_order_relaxed);
    rests_until_ns_.store(0, std::memory_order_relaxed);
}

}  // namespace engine::scheduler
