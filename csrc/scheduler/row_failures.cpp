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

uint32_t RowFailures::hurried_rows(uint32_t waiting, const CostModel& cost, int64_t budget_ns) const noexcept {
    const float share = share_.load(std::memory_order_relaxed);
    if (share <= 0.0f || hopeless()) return UINT32_MAX;
    const int64_t calls = std::max<int64_t>(budget_ns / 2 / call_ns(cost), 1);
    const auto enough = static_cast<uint32_t>((waiting + calls - 1) / calls);
    return std::clamp(enough, 1u, std::max(1u, static_cast<uint32_t>(std::lround(1.0f / share))));
}

// The entropy of one row.
double RowFailures::calls_per_row() const noexcept {
    const double bad = std::clamp<double>(share_.load(std::memory_order_relaxed), 0.0, 1.0);
    if (bad <= 0.0 || bad >= 1.0) return bad;
    return -bad * std::log2(bad) - (1.0 - bad) * std::log2(1.0 - bad);
}

bool RowFailures::is_hurried(uint32_t waiting, const CostModel& cost, int64_t budget_ns) const noexcept {
    const double calls = calls_per_row() * waiting;
    if (calls <= 0.0) return false;
    return calls * static_cast<double>(call_ns(cost)) > static_cast<double>(budget_ns) / 2;
}

bool RowFailures::search_pays(uint32_t rows, uint32_t fresh) const noexcept {
    const double good = 1.0 - std::clamp<double>(share_.load(std::memory_order_relaxed), 0.0, 1.0);
    if (good >= 1.0 || fresh == 0 || rows < 2) return true;
    const uint32_t half = rows / 2;
    const double passes = std::pow(good, half) * (1.0 - std::pow(good, rows - half)) / (1.0 - std::pow(good, rows));
    return half * passes >= fresh * std::pow(good, fresh);
}

// How many of its rows are bad is expected from the share so far, so that the share settles where that is right
// (expectation-maximisation: Dempster, Laird and Rubin, 1977).
void RowFailures::group_failed(uint32_t rows) noexcept {
    const float share = share_.load(std::memory_order_relaxed);
    if (share <= 0.0f) return;
    const float bad = share / (1.0f - std::pow(1.0f - share, static_cast<float>(rows)));
    const float weight = 1.0f - std::pow(1.0f - RATE, static_cast<float>(rows));
    share_.store(share + weight * (bad - share), std::memory_order_relaxed);
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
