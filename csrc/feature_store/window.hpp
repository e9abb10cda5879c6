// Aggregates over trailing windows of one entity's events, exact: the bits of a result depend on the values in the
// window alone, never on earlier rows or on how the rows were split, and those of a sum or a spread not on the order of
// the values. Features computed over years for training and over a week for serving must be the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace engine::feature_store {

// Sorted events: `groups` and `times_ns` ascend together, groups first, and are equally long.
struct Events {
    std::span<const int64_t> groups;
    std::span<const int64_t> times_ns;
};

// The window of a row is (time - length, time] of its group, so rows with equal group and time see each other; or with
// `before` it is [time - length, time), and they do not. The length is above zero.
struct Window {
    int64_t length_ns = 0;
    bool before = false;
};

// The aggregates of each row over its window. NaN is a missing value: it does not count. Over no values sum, least and
// greatest are NaN.
struct WindowResult {
    int64_t* count;
    double* sum;  // rounded once, to nearest, ties to even
    double* least;
    double* greatest;
};

// In each function all spans and the results' arrays have the length of the events. Time grows with the rows (for the
// quantile times the logarithm of a group's rows), memory with the largest window, group or number of codes. Each
// returns false if memory ran out; then the result is unspecified.
bool window_aggregate(const Events& events, std::span<const double> values, const Window& window,
                      const WindowResult& result) noexcept;

// The first and the last row of each window that is `present` (not zero); -1 without one.
bool window_ends(const Events& events, std::span<const uint8_t> present, const Window& window, int64_t* first,
                 int64_t* last) noexcept;

// The number of different codes in each window. A code is below `n_codes`; one below zero is a missing value.
bool window_distinct(const Events& events, std::span<const int64_t> codes, int64_t n_codes, const Window& window,
                     int64_t* count) noexcept;

// The number of values in each window that are no NaN, and their sample standard deviation as ExactSpread has it.
bool window_spread(const Events& events, std::span<const double> values, const Window& window, int64_t* count,
                   double* spread) noexcept;

// The number of values in each window that are no NaN, and their quantile `q`, from 0 to 1: of n sorted values the one
// at (n - 1) * q, between two of them a + (b - a) * part. NaN over no values.
bool window_quantile(const Events& events, std::span<const double> values, const Window& window, double q,
                     int64_t* count, double* quantile) noexcept;

}  // namespace engine::feature_store
