#include "scheduler/row_failures.hpp"

#include <algorithm>
#include <cmath>

#include "base/key_hash.hpp"

namespace engine::scheduler {

namespace {

// Weight of one row in the share of bad rows.
constexpr float RATE = 1.0f / 64;
// Below this share a batch is worth trying whole.
constexpr float SHARE_MIN = 1.0f / 512;
constexpr uint64_t SALT = 0x726f7773;

uint64_t hash_of(const void* row, size_t bytes) noexcept {
    return key_hash(static_cast<const char*>(row), bytes, SALT);
}

}  // namespace

// A group of ln 2 / share rows has no bad row half of the time: the most that a call can tell.
uint32_t RowFailures::group_rows() const noexcept {
    const float share = share_.load(std::memory_order_relaxed);
    if (share <= 0.0f || hopeless()) return UINT32_MAX;
    return std::max(1u, static_cast<uint32_t>(0.6931f / share));
}

void RowFailures::rows_passed(uint32_t rows) noexcept {
    const float share = share_.load(std::memory_order_relaxed) * std::pow(1.0f - RATE, static_cast<float>(rows));
    share_.store(share < SHARE_MIN ? 0.0f : share, std::memory_order_relaxed);
}

void RowFailures::row_failed(const void* row, size_t bytes, int64_t now_ns) noexcept {
    const float share = share_.load(std::memory_order_relaxed);
    share_.store(share + RATE * (1.0f - share), std::memory_order_relaxed);
    const uint64_t hash = hash_of(row, bytes);
    Place& place = places_[hash % PLACES];
    place.hash.store(hash, std::memory_order_relaxed);
    place.until_ns.store(now_ns + REMEMBER_NS, std::memory_order_relaxed);
    until_ns_.store(now_ns + REMEMBER_NS, std::memory_order_relaxed);
}

bool RowFailures::remembers(const void* row, size_t bytes, int64_t now_ns) const noexcept {
    const uint64_t hash = hash_of(row, bytes);
    const Place& place = places_[hash % PLACES];
    return place.hash.load(std::memory_order_relaxed) == hash &&
           now_ns < place.until_ns.load(std::memory_order_relaxed);
}

void RowFailures::forget(const void* row, size_t bytes) noexcept {
    const uint64_t hash = hash_of(row, bytes);
    Place& place = places_[hash % PLACES];
    if (place.hash.load(std::memory_order_relaxed) == hash) place.until_ns.store(0, std::memory_order_relaxed);
}

}  // namespace engine::scheduler
