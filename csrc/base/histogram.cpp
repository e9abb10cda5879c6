#include "base/histogram.hpp"

#include <cmath>

namespace engine {

namespace {

template <class Counts>
int64_t quantile_of(const Counts& counts, double quantile) noexcept {
    uint64_t total = 0;
    for (const auto& count : counts) total += count.load(std::memory_order_relaxed);
    if (total == 0) return 0;
    ENGINE_ASSERT(quantile >= 0.0 && quantile <= 1.0, "a quantile is a share");
    const double exact = std::ceil(quantile * static_cast<double>(total));
    const uint64_t rank = exact < 1.0 ? 1 : static_cast<uint64_t>(exact);
    uint64_t seen = 0;
    size_t last = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
        const uint64_t here = counts[i].load(std::memory_order_relaxed);
        if (here == 0) continue;
        last = i;
        seen += here;
        if (seen >= rank) break;
    }
    return LogBuckets::upper(last);
}

// Recompute after this many records. The first REFRESH_EVERY records recompute every time.
constexpr uint32_t REFRESH_EVERY = 64;
// Time alone never forgets below this many records, because fewer tell next to nothing.
constexpr uint32_t REMEMBERED_MIN = 32;

}  // namespace

uint64_t Histogram::count() const noexcept {
    uint64_t total = 0;
    for (const auto& count : counts_) total += count.load(std::memory_order_relaxed);
    return total;
}

int64_t Histogram::quantile(double quantile) const noexcept { return quantile_of(counts_, quantile); }

void DecayingQuantile::record(int64_t value, int64_t now_ns) noexcept {
    counts_[LogBuckets::index(value)].fetch_add(1, std::memory_order_relaxed);
    const uint32_t total = total_.fetch_add(1, std::memory_order_relaxed) + 1;
    const uint32_t since = since_refresh_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (since < REFRESH_EVERY && total > REFRESH_EVERY && value <= value_.load(std::memory_order_relaxed)) return;
    if (busy_.test_and_set(std::memory_order_acquire)) return;
    const int64_t halved = halved_ns_.load(std::memory_order_relaxed);
    if (halved == 0) halved_ns_.store(now_ns, std::memory_order_relaxed);
    if (total >= window_ || (halved != 0 && now_ns - halved > halve_every_ns_ && total > REFRESH_EVERY)) {
        halve();
        halved_ns_.store(now_ns, std::memory_order_relaxed);
    }
    refresh();
    busy_.clear(std::memory_order_release);
}

void DecayingQuantile::forget(int64_t now_ns) noexcept {
    if (busy_.test_and_set(std::memory_order_acquire)) return;
    uint32_t rest = 0;
    for (const auto& count : counts_) rest += count.load(std::memory_order_relaxed) / 2;
    if (rest >= REMEMBERED_MIN) halve();
    halved_ns_.store(now_ns, std::memory_order_relaxed);
    refresh();
    busy_.clear(std::memory_order_release);
}

void DecayingQuantile::halve() noexcept {
    uint32_t total = 0;
    for (auto& count : counts_) {
        const uint32_t here = count.load(std::memory_order_relaxed);
        if (here == 0) continue;
        // Subtract instead of storing the half, because another thread may have recorded since the load.
        [[maybe_unused]] const uint32_t before = count.fetch_sub(here - here / 2, std::memory_order_relaxed);
        ENGINE_ASSERT(before >= here, "only the thread that has busy_ takes from a count");
        total += here / 2;
    }
    total_.store(total, std::memory_order_relaxed);
}

void DecayingQuantile::refresh() noexcept {
    since_refresh_.store(0, std::memory_order_relaxed);
    value_.store(quantile_of(counts_, quantile_), std::memory_order_relaxed);
}

}  // namespace engine
