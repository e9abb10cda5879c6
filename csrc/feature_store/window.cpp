#include "feature_store/window.hpp"

#include <cmath>
#include <deque>
#include <limits>
#include <new>

#include "base/assert.hpp"
#include "feature_store/exact_sum.hpp"

namespace engine::feature_store {
namespace {

// The rows of the window that may still become its least or greatest, oldest first. A row is dropped as soon as a later
// one is at least as extreme, so each row enters and leaves once, and the front row is the extreme one.
class Extreme {
public:
    explicit Extreme(bool greatest) : greatest_(greatest) {}

    void clear() noexcept { rows_.clear(); }
    bool empty() const noexcept { return rows_.empty(); }

    void enter(size_t row, std::span<const double> values) {
        ENGINE_ASSERT(rows_.empty() || rows_.back() < row, "rows enter in their order");
        while (!rows_.empty() && !beats(values[rows_.back()], values[row])) rows_.pop_back();
        rows_.push_back(row);
    }

    void leave(size_t row) noexcept {
        ENGINE_ASSERT(rows_.empty() || rows_.front() >= row, "a row that left earlier is not in the window");
        if (!rows_.empty() && rows_.front() == row) rows_.pop_front();
    }

    double value(std::span<const double> values) const noexcept {
        return rows_.empty() ? std::numeric_limits<double>::quiet_NaN() : values[rows_.front()];
    }

private:
    bool beats(double one, double other) const noexcept { return greatest_ ? one > other : one < other; }

    bool greatest_;
    std::deque<size_t> rows_;
};

struct Window {
    ExactSum sum;
    Extreme least{false}, greatest{true};
    int64_t count = 0;

    void clear() noexcept {
        sum.clear();
        least.clear();
        greatest.clear();
        count = 0;
    }

    void enter(size_t row, std::span<const double> values) {
        if (std::isnan(values[row])) return;
        sum.add(values[row]);
        least.enter(row, values);
        greatest.enter(row, values);
        ++count;
    }

    void leave(size_t row, std::span<const double> values) noexcept {
        if (std::isnan(values[row])) return;
        sum.remove(values[row]);
        least.leave(row);
        greatest.leave(row);
        --count;
        ENGINE_ASSERT(count >= 0, "no more values leave than entered");
    }

    // Whether the extremes are there exactly if there are values.
    bool holds() const noexcept { return (count == 0) == least.empty() && (count == 0) == greatest.empty(); }
};

void aggregate(std::span<const int64_t> groups, std::span<const int64_t> times_ns, std::span<const double> values,
               int64_t window_ns, const WindowResult& result) {
    ENGINE_ASSERT(times_ns.size() == groups.size() && values.size() == groups.size(),
                  "a time and a value for each row");
    ENGINE_ASSERT(window_ns > 0, "a window is above zero, so that a row lies in its own");
    Window window;
    // The window of a row is the rows [begin, end) of its group.
    size_t begin = 0, end = 0;
    for (size_t row = 0; row < groups.size(); ++row) {
        if (row == 0 || groups[row] != groups[row - 1]) {
            window.clear();
            begin = end = row;
        } else {
            ENGINE_ASSERT(times_ns[row] >= times_ns[row - 1], "the times of a group ascend");
        }
        ENGINE_ASSERT(row == 0 || groups[row] >= groups[row - 1], "the groups ascend");
        // Every row sees all rows of its own instant.
        for (; end < groups.size() && groups[end] == groups[row] && times_ns[end] == times_ns[row]; ++end) {
            window.enter(end, values);
        }
        // The difference of two int64 instants is exact as unsigned, because the times ascend.
        const auto age = [&](size_t at) noexcept {
            return static_cast<uint64_t>(times_ns[row]) - static_cast<uint64_t>(times_ns[at]);
        };
        for (; age(begin) >= static_cast<uint64_t>(window_ns); ++begin) window.leave(begin, values);
        ENGINE_ASSERT(begin <= row && row < end, "a row lies in its own window");
        ENGINE_ASSERT(window.count <= static_cast<int64_t>(end - begin), "no more values than rows are in a window");
        ENGINE_ASSERT(window.holds(), "a window with values has a least and a greatest one");
        result.count[row] = window.count;
        result.sum[row] = window.count == 0 ? std::numeric_limits<double>::quiet_NaN() : window.sum.value();
        result.least[row] = window.least.value(values);
        result.greatest[row] = window.greatest.value(values);
    }
}

}  // namespace

bool window_aggregate(std::span<const int64_t> groups, std::span<const int64_t> times_ns,
                      std::span<const double> values, int64_t window_ns, const WindowResult& result) noexcept {
    try {
        aggregate(groups, times_ns, values, window_ns, result);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace engine::feature_store
