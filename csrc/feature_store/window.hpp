// Aggregates over trailing windows of one entity's events, exact: the bits of a sum depend on the values in the window
// alone, never on earlier rows, on the order of the values or on how the rows were split. Features computed over years
// for training and over a week for serving must be the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace engine::feature_store {

// The aggregates of each row, over the values of its group in (time - window, time]. NaN is a missing value: it does
// not count. Over no values sum, least and greatest are NaN.
struct WindowResult {
    int64_t* count;
    double* sum;  // rounded once, to nearest, ties to even
    double* least;
    double* greatest;
};

// `groups` and `times_ns` ascend together, groups first. All spans and the result's arrays have the same length. The
// window is above zero. Rows with equal group and time see each other. Time grows with the rows, memory with the
// largest window. Returns false if memory ran out; then the result is unspecified.
bool window_aggregate(std::span<const int64_t> groups, std::span<const int64_t> times_ns,
                      std::span<const double> values, int64_t window_ns, const WindowResult& result) noexcept;

}  // namespace engine::feature_store
