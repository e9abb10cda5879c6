// The point-in-time join on whole numbers: for each label the newest row of its group that is not later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace engine::feature_store {

// Rows or labels in any order. A group is a code below `n_groups`; a row or label with a code below zero has none.
struct Instants {
    std::span<const int64_t> groups;
    std::span<const int64_t> times_ns;
};

// For each label the place of the newest row of its group with time <= the label's: by time, then by `created` where it
// is not empty (one for each row), then by place; -1 without one. Takes 16 bytes a row. Returns false if memory ran
// out; then the result is unspecified.
bool newest_before(const Instants& rows, std::span<const int64_t> created, const Instants& labels, int64_t n_groups,
                   std::span<int64_t> places) noexcept;

}  // namespace engine::feature_store
