// Log-linear histograms of durations: 16 buckets a power of two, so a reported quantile is at most 6.25 % above the
// truth. Recording is one increment; reading walks the buckets. The layout is HdrHistogram's, without its resizing.
//
// All loads and stores are relaxed. Each count stands alone: no reader takes one count as proof of another, and nothing
// else is published through them. A reader may see a record in a bucket and not yet in a total, and is then off by the
// few records under way, as it would be had it come a moment earlier.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"

namespace engine {

struct LogBuckets {
    static constexpr int SUB_BITS = 4;
    static constexpr uint64_t SUB_COUNT = uint64_t{1} << SUB_BITS;
    static constexpr int MAX_BITS = 44;  // 2^44 ns is 4.9 hours; a longer duration counts as 4.9 hours
    static constexpr size_t COUNT = (MAX_BITS - SUB_BITS + 1) * SUB_COUNT;

    static size_t index(int64_t value) noexcept {
        if (value < 0) value = 0;
        uint64_t bits = static_cast<uint64_t>(value);
        if (bits < SUB_COUNT) return bits;
        if (bits >= uint64_t{1} << MAX_BITS) bits = (uint64_t{1} << MAX_BITS) - 1;
        // Five bits from the top: the first is always set, the other four number the bucket within its power of two.
        const int shift = std::bit_width(bits) - SUB_BITS - 1;
        const size_t at = (shift + 1) * SUB_COUNT + (bits >> shift) - SUB_COUNT;
        ENGINE_ASSERT(at < COUNT, "every duration has a bucket");
        return at;
    }

    // The largest value in bucket `index`. Quantiles report it, so that they err to the late side.
    static int64_t upper(size_t index) noexcept {
        ENGINE_ASSERT(index < COUNT, "a bucket's number lies inside the table");
        if (index < SUB_COUNT) return static_cast<int64_t>(index);
        const int shift = static_cast<int>(index / SUB_COUNT) - 1;
        return static_cast<int64_t>(((SUB_COUNT + index % SUB_COUNT + 1) << shift) - 1);
    }
};

// Counts for ever. Any thread may record or read.
class Histogram {
public:
    void record(int64_t value) noexcept { counts_[LogBuckets::index(value)].fetch_add(1, std::memory_order_relaxed); }
    uint64_t count() const noexcept;
    // The value that a share `quantile` of the records does not exceed; 0 when empty.
    int64_t quantile(double quantile) const noexcept;

private:
    std::array<std::atomic<uint64_t>, LogBuckets::COUNT> counts_{};
};

// One quantile of recent records. After `window` records, or after `halve_every_ns`, it halves every count: a lone
// outlier is gone after one halving, and a lasting change wins within two.
class DecayingQuantile {
public:
    DecayingQuantile(double quantile, uint32_t window, int64_t halve_every_ns = 2'000'000'000) noexcept
        : quantile_(quantile), window_(window), halve_every_ns_(halve_every_ns) {}

    // Any thread.
    void record(int64_t value, int64_t now_ns) noexcept;
    // Any thread. Forgets by time alone, for a quantile that gets no records. The last REMEMBERED_MIN records stay.
    void age(int64_t now_ns) noexcept {
        const int64_t halved = halved_ns_.load(std::memory_order_relaxed);
        if (halved != 0 && now_ns - halved > halve_every_ns_) forget(now_ns);
    }
    int64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

private:
    void forget(int64_t now_ns) noexcept;
    void refresh() noexcept;
    void halve() noexcept;

    // busy_ admits one thread at a time to halve and refresh; a second thread goes on without waiting, because the
    // first sees its record or the next refresh does. Taking busy_ is an acquire and giving it back a release, so one
    // refresh sees the counts and the halving of the one before it. value_ is read on its own: it is the whole result.
    double quantile_;
    uint32_t window_;
    int64_t halve_every_ns_;
    std::atomic<int64_t> value_{0};
    std::atomic<int64_t> halved_ns_{0};
    std::atomic<uint32_t> total_{0};
    std::atomic<uint32_t> since_refresh_{0};
    std::atomic_flag busy_;
    std::array<std::atomic<uint32_t>, LogBuckets::COUNT> counts_{};
};

}  // namespace engine
