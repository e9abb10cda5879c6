#include "feature_store/window.hpp"

#include <cmath>
#include <deque>
#include <limits>
#include <new>

#include "feature_store/exact_sum.hpp"

namespace engine {
namespace {

// The rows of the window that may still be its extreme one, oldest first: a row is dropped as soon as a later one is
// at least as extreme, so each row enters and leaves once.
class Extreme {
public:
    explicit Extreme(bool greatest) : greatest_(greatest) {}

    void clear() noexcept { rows_.clear(); }

    void enter(std::size_t row, std::span<const double> values) {
        while (!rows_.empty() && !beats(values[rows_.back()], values[row])) rows_.pop_back();
        rows_.push_back(row);
    }

    void leave(std::size_t row) noexcept {
        if (!rows_.empty() && rows_.front() == row) rows_.pop_front();
    }

    double value(std::span<const double> values) const noexcept {
        return rows_.empty() ? std::numeric_limits<double>::quiet_NaN() : values[rows_.front()];
    }

private:
    bool beats(double one, double other) const noexcept { return greatest_ ? one > other : one < other; }

    bool greatest_;
    std::deque<std::size_t> rows_;
};

struct Window {
    detail::ExactSum sum;
    Extreme least{false}, greatest{true};
    std::int64_t count = 0;

    void clear() noexcept {
        sum.clear();
        least.clear();
        greatest.clear();
        count = 0;
    }

    void enter(std::size_t row, std::span<const double> values) {
        if (std::isnan(values[row])) return;
        sum.add(values[row]);
        least.enter(row, values);
        greatest.enter(row, values);
        ++count;
    }

    void leave(std::size_t row, std::span<const double> values) noexcept {
        if (std::isnan(values[row])) return;
        sum.remove(values[row]);
        least.leave(row);
        greatest.leave(row);
        --count;
    }
};

void aggregate(std::span<const std::int64_t> groups, std::span<const std::int64_t> times_ns,
               std::span<const double> values, std::int64_t window_ns, const WindowResult& result) {
    Window window;
    std::size_t begin = 0, end = 0;
    for (std::size_t row = 0; row < groups.size(); ++row) {
        if (row == 0 || groups[row] != groups[row - 1]) {
            window.clear();
            begin = end = row;
        }
        // Rows of the same instant are one instant's events: each sees all of them.
        for (; end < groups.size() && groups[end] == groups[row] && times_ns[end] == times_ns[row]; ++end) {
            window.enter(end, values);
        }
        // The difference of two int64 instants is exact as unsigned, for the times ascend.
        const auto age = [&](std::size_t at) noexcept {
            return static_cast<std::uint64_t>(times_ns[row]) - static_cast<std::uint64_t>(times_ns[at]);
        };
        for (; age(begin) >= static_cast<std::uint64_t>(window_ns); ++begin) window.leave(begin, values);
        result.count[row] = window.count;
        result.sum[row] = window.count == 0 ? std::numeric_limits<double>::quiet_NaN() : window.sum.value();
        result.least[row] = window.least.value(values);
        result.greatest[row] = window.greatest.value(values);
    }
}

}  // namespace

bool window_aggregate(std::span<const std::int64_t> groups, std::span<const std::int64_t> times_ns,
                      std::span<const double> values, std::int64_t window_ns, const WindowResult& result) noexcept {
    try {
        aggregate(groups, times_ns, values, window_ns, result);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace engine
