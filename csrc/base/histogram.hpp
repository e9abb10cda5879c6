// Log-linear histograms of durations: 16 buckets a power of two, so a reported quantile lies within 6.25 % of the truth.
// Recording is one relaxed increment; reading walks the buckets. After HdrHistogram's layout, without its resizing.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace engine {

struct LogBuckets {
    static constexpr int SUB_BITS = 4;
    static constexpr uint64_t SUB_COUNT = uint64_t{1} << SUB_BITS;
    static constexpr int MAX_BITS = 44;  // 2^44 ns is 4.9 hours; longer durations count as that
    static constexpr size_t COUNT = (MAX_BITS - SUB_BITS + 1) * SUB_COUNT;

    static size_t index(int64_t value) noexcept {
        if (value < 0) value = 0;
        uint64_t bits = static_cast<uint64_t>(value);
        if (bits < SUB_COUNT) return bits;
        if (bits >= uint64_t{1} << MAX_BITS) bits = (uint64_t{1} << MAX_BITS) - 1;
        const int shift = std::bit_width(bits) - SUB_BITS - 1;
        return (shift + 1) * SUB_COUNT + (bits >> shift) - SUB_COUNT;
    }

    // The largest value that falls into bucket `index`: a quantile errs to the late side.
    static int64_t upper(size_t index) noexcept {
        if (index < SUB_COUNT) return static_cast<int64_t>(index);
        const int shift = static_cast<int>(index / SUB_COUNT) - 1;
        return static_cast<int64_t>(((SUB_COUNT + index % SUB_COUNT + 1) << shift) - 1);
    }
};

// Counts for ever. Any thread may record; a reader sees some recent state.
class Histogram {
public:
    void record(int64_t value) noexcept {
        counts_[LogBuckets::index(value)].fetch_add(1, std::memory_order_relaxed);
    }
    uint64_t count() const noexcept;
    // The value below which a share `quantile` of the records lies; 0 when empty.
    int64_t quantile(double quantile) const noexcept;

private:
    std::array<std::atomic<uint64_t>, LogBuckets::COUNT> counts_{};
};

// One quantile of recent records. Forgets by halving every count once `window` records or `halve_every_ns` have gone
// by, so a lone outlier is gone after one halving and a lasting change wins within two.
class DecayingQuantile {
public:
    DecayingQuantile(double quantile, uint32_t window, int64_t halve_every_ns = 2'000'000'000) noexcept
        : quantile_(quantile), window_(window), halve_every_ns_(halve_every_ns) {}

    // Any thread.
    void record(int64_t value, int64_t now_ns) noexcept;
    // Any thread. Forgets as time goes by without records too, down to the last few, which are better than nothing.
    void age(int64_t now_ns) noexcept {
        const int64_t halved = halved_ns_.load(std::memory_order_relaxed);
        if (halved != 0 && now_ns - halved > halve_every_ns_) forget(now_ns);
    }
    int64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

private:
    void forget(int64_t now_ns) noexcept;
    void refresh() noexcept;
    void halve() noexcept;

    double quantile_;
    uint32_t window_;
    int64_t halve_every_ns_;
    std::atomic<int64_t> value_{0};
    std::atomic<int64_t> halved_ns_{0};
    std::atomic<uint32_t> total_{0};
    std::atomic<uint32_t> since_refresh_{0};
    std::atomic_flag busy_;  // one thread at a time halves or refreshes; the others go on
    std::array<std::atomic<uint32_t>, LogBuckets::COUNT> counts_{};
};

}  // namespace engine
