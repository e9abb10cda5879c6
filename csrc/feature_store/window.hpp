// Aggregates over trailing windows of one entity's events, exact: the bits of a sum depend on the values in the window
// alone, never on what lies before it, on their order or on how the rows were split. Features computed for training
// over years and for serving over a week must be the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace engine {

// What comes out for each row, over the values of its group in (time - window, time]. NaN is a missing value: it is
// not counted, and it is what sum, least and greatest are over no values.
struct WindowResult {
    std::int64_t* count;
    double* sum;       // rounded once, to nearest, ties to even
    double* least;
    double* greatest;
};

// `groups` and `times_ns` are ascending together (groups first); all spans have the same length, and the result's
// arrays have it too. Rows with equal group and time see each other. Time is linear in the rows, memory in the largest
// window. Returns false when memory ran out, and the result is then unspecified.
bool window_aggregate(std::span<const std::int64_t> groups, std::span<const std::int64_t> times_ns,
                      std::span<const double> values, std::int64_t window_ns, const WindowResult& result) noexcept;

}  // namespace engine
