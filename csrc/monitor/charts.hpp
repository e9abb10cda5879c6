// Adds a block's counts to the evidence of all columns at once: cumulative sums that never fall below 0.
//
// A chart is a weighted sum over the places of a column: its bins, then missing values, then strange values (new codes,
// infinite numbers). Every block adds sum(weight * count) to the chart, as a share of its threshold. A chart stays
// between 0 and 1; it alarms at 1, and goes on until it has fallen to `cleared`.
//
// One more chart a column, the last, is the length of the current run of one value, as a share of its limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine::monitor {

// What a block holds of some columns, and where its evidence goes. All arrays belong to the caller.
struct Evidence {
    size_t columns = 0;
    size_t bins = 0;    // of `counts`
    size_t charts = 0;  // of a column, without the one of the run
    double cleared = 0.25;

    const double* weights = nullptr;     // [columns, bins + 2, charts], of a row, as shares of the thresholds
    const double* run_limits = nullptr;  // [columns], rows
    double* level = nullptr;             // [columns, charts + 1]
    uint8_t* alarmed = nullptr;          // [columns, charts + 1]
    int64_t* since = nullptr;            // [columns, charts + 1]: the row at which the chart last left 0
    int64_t* until = nullptr;            // [columns, charts + 1]: the row at which the chart last stood at 1
    double* gathered = nullptr;          // [columns, bins]: adds the block's counts
    double* sums = nullptr;              // [columns, 6]: rows, missing, strange, sum, sum of squares, run of the block
    double* steps = nullptr;             // [columns, charts]: what the block added to each chart, before the bounds
};

struct BlockCounts {
    const uint32_t* counts = nullptr;    // [columns, bins]
    const uint32_t* missing = nullptr;   // [columns]
    const uint32_t* infinite = nullptr;  // [columns]
    const uint32_t* unseen = nullptr;    // [columns]
    const uint32_t* runs = nullptr;      // [columns], the longest run of one value that ends in the block
    const double* sums = nullptr;        // [columns, 2]
};

// Adds a block of `rows` rows that begins after `before` rows. Returns whether any chart is alarmed.
bool add_evidence(const Evidence& to, const BlockCounts& block, uint64_t rows, int64_t before) noexcept;

}  // namespace engine::monitor
