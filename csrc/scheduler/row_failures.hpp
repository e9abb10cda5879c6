// What a primary has shown about the rows on which it fails: how many of them there are, which rows failed alone of
// late, and whether anything succeeds at all. It tells the lanes how many rows to put into one call, so that bad rows
// take few good ones along. Time is handed in.
//
// A row that failed alone is remembered by its bytes for a second. Rows like it are scored last and together, so they
// cost the others nothing, and the primary is asked all the same.
//
// Order. All loads and stores are relaxed: nothing here guards data, and a count that is a moment old makes a group of
// another size. A place of the memory is two words; a reader between their two stores may take a good row for a bad
// one, which is then scored last.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "scheduler/cost.hpp"

namespace engine::scheduler {

class RowFailures {
public:
    static constexpr int64_t REMEMBER_NS = 1'000'000'000;

    // The rows of a first call: half of such calls succeed. UINT32_MAX while no row fails.
    uint32_t group_rows() const noexcept;
    // The same where more rows wait than there is time to search: as many as leave each row a call in time, but no more
    // than give the most answers a call.
    uint32_t hurried_rows(uint32_t waiting, const CostModel& cost, int64_t budget_ns) const noexcept;
    // How many calls a search costs for each row, good or bad; a bad one hides in log2 of the rows between two of them.
    double calls_per_row() const noexcept;
    // Whether a search through the waiting rows takes longer than half a deadline.
    bool is_hurried(uint32_t waiting, const CostModel& cost, int64_t budget_ns) const noexcept;
    // Whether the next call of a search in a group of `rows` that failed gives as many answers as a call on `fresh`
    // rows.
    bool search_pays(uint32_t rows, uint32_t fresh) const noexcept;
    // A call of this many rows failed, and nobody searches it.
    void group_failed(uint32_t rows) noexcept;
    // So many calls failed one after the other that the rows are not to blame.
    bool hopeless() const noexcept { return in_a_row_.load(std::memory_order_relaxed) >= HOPELESS_CALLS; }

    void call_passed(uint32_t rows) noexcept {
        if (in_a_row_.load(std::memory_order_relaxed) != 0) in_a_row_.store(0, std::memory_order_relaxed);
        if (share_.load(std::memory_order_relaxed) > 0.0f) rows_passed(rows);
    }
    void call_failed() noexcept { in_a_row_.fetch_add(1, std::memory_order_relaxed); }
    // After call_failed(): the call had this row alone.
    void row_failed(const void* row, size_t bytes, int64_t now_ns) noexcept;

    // Whether any row is remembered.
    bool remembers(int64_t now_ns) const noexcept { return now_ns < until_ns_.load(std::memory_order_relaxed); }
    bool remembers(const void* row, size_t bytes, int64_t now_ns) const noexcept;
    // The row succeeded after all.
    void forget(const void* row, size_t bytes) noexcept;

private:
    static constexpr uint32_t HOPELESS_CALLS = 16;
    static constexpr size_t PLACES = 256;
    struct Place {
        std::atomic<uint64_t> hash{0};
        std::atomic<int64_t> until_ns{0};
    };
    void rows_passed(uint32_t rows) noexcept;
    int64_t call_ns(const CostModel& cost) const noexcept {
        return std::max<int64_t>(cost.expected_ns(std::min(group_rows(), cost.rows_max())), 1);
    }

    std::atomic<float> share_{0.0f};     // of the rows that fail alone, exponentially weighted
    std::atomic<uint32_t> in_a_row_{0};  // failed calls since the last one that passed
    std::atomic<int64_t> until_ns_{0};   // the latest of the places'
    std::array<Place, PLACES> places_;   // a row's place is its hash modulo PLACES
};

}  // namespace engine::scheduler
