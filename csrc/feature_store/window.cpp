#include "feature_store/window.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <limits>
#include <new>
#include <vector>

#include "base/assert.hpp"
#include "feature_store/exact_spread.hpp"
#include "feature_store/exact_sum.hpp"

namespace engine::feature_store {
namespace {

constexpr double MISSING = std::numeric_limits<double>::quiet_NaN();

// Moves a window over the events. `state` is told of each row that enters and leaves it, in their order, and of the
// rows [begin, end) of each new group; then `row` says that the window of a row is complete.
template <class State>
void slide(const Events& events, const Window& window, State& state) {
    const std::span<const int64_t> groups = events.groups, times = events.times_ns;
    ENGINE_ASSERT(times.size() == groups.size(), "a time for each row");
    ENGINE_ASSERT(window.length_ns > 0, "a window is above zero");
    // The window of a row is the rows [begin, end) of its group, which goes on to group_end.
    size_t begin = 0, end = 0, group_end = 0;
    for (size_t row = 0; row < groups.size(); ++row) {
        if (row == group_end) {
            for (; begin < end; ++begin) state.leave(begin);
            while (group_end < groups.size() && groups[group_end] == groups[row]) ++group_end;
            ENGINE_ASSERT(group_end == groups.size() || groups[group_end] > groups[row], "the groups ascend");
            begin = end = row;
            state.begin(row, group_end);
        }
        ENGINE_ASSERT(begin == row || times[row] >= times[row - 1], "the times of a group ascend");
        // Without `before` every row sees all rows of its own instant.
        for (; end < group_end && (window.before ? times[end] < times[row] : times[end] <= times[row]); ++end)
            state.enter(end);
        // The difference of two int64 instants is exact as unsigned, because the times ascend.
        const auto age = [&](size_t at) noexcept {
            return static_cast<uint64_t>(times[row]) - static_cast<uint64_t>(times[at]);
        };
        const uint64_t oldest = static_cast<uint64_t>(window.length_ns) - (window.before ? 0 : 1);
        for (; begin < end && age(begin) > oldest; ++begin) state.leave(begin);
        ENGINE_ASSERT(window.before || (begin <= row && row < end), "a row lies in its own window");
        state.row(row);
    }
}

// Slides a state over the events. Returns false if memory ran out.
template <class Make>
bool slid(const Events& events, const Window& window, Make make) noexcept {
    try {
        auto state = make();
        slide(events, window, state);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// The rows of the window that may still become its least or greatest, oldest first. A row is dropped as soon as a later
// one is at least as extreme, so each row enters and leaves once, and the front row is the extreme one.
class Extreme {
public:
    explicit Extreme(bool greatest) : greatest_(greatest) {}

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
        return rows_.empty() ? MISSING : values[rows_.front()];
    }

private:
    bool beats(double one, double other) const noexcept { return greatest_ ? one > other : one < other; }

    bool greatest_;
    std::deque<size_t> rows_;
};

struct Aggregates {
    std::span<const double> values;
    WindowResult result;
    ExactSum sum{};
    Extreme least{false}, greatest{true};
    int64_t count = 0;

    void begin(size_t, size_t) noexcept { sum.clear(); }

    void enter(size_t row) {
        if (std::isnan(values[row])) return;
        sum.add(values[row]);
        least.enter(row, values);
        greatest.enter(row, values);
        ++count;
    }

    void leave(size_t row) noexcept {
        if (std::isnan(values[row])) return;
        sum.remove(values[row]);
        least.leave(row);
        greatest.leave(row);
        --count;
        ENGINE_ASSERT(count >= 0, "no more values leave than entered");
    }

    void row(size_t at) noexcept {
        ENGINE_ASSERT((count == 0) == least.empty() && (count == 0) == greatest.empty(),
                      "a window with values has a least and a greatest one");
        result.count[at] = count;
        result.sum[at] = count == 0 ? MISSING : sum.value();
        result.least[at] = least.value(values);
        result.greatest[at] = greatest.value(values);
    }
};

struct Ends {
    std::span<const uint8_t> present;
    int64_t *first, *last;
    std::deque<size_t> rows{};

    void begin(size_t, size_t) noexcept { ENGINE_ASSERT(rows.empty(), "the rows of a group have left"); }

    void enter(size_t row) {
        if (present[row] != 0) rows.push_back(row);
    }

    void leave(size_t row) noexcept {
        if (present[row] == 0) return;
        ENGINE_ASSERT(!rows.empty() && rows.front() == row, "rows leave in the order in which they entered");
        rows.pop_front();
    }

    void row(size_t at) noexcept {
        first[at] = rows.empty() ? -1 : static_cast<int64_t>(rows.front());
        last[at] = rows.empty() ? -1 : static_cast<int64_t>(rows.back());
    }
};

struct Distinct {
    std::span<const int64_t> codes;
    int64_t* result;
    std::vector<uint32_t> counts;
    int64_t distinct = 0;

    void begin(size_t, size_t) noexcept { ENGINE_ASSERT(distinct == 0, "the rows of a group have left"); }

    void enter(size_t row) noexcept {
        if (codes[row] < 0) return;
        ENGINE_ASSERT(static_cast<size_t>(codes[row]) < counts.size(), "a code is below their number");
        if (counts[static_cast<size_t>(codes[row])]++ == 0) ++distinct;
    }

    void leave(size_t row) noexcept {
        if (codes[row] < 0) return;
        ENGINE_ASSERT(counts[static_cast<size_t>(codes[row])] > 0, "only what entered leaves");
        if (--counts[static_cast<size_t>(codes[row])] == 0) --distinct;
    }

    void row(size_t at) noexcept { result[at] = distinct; }
};

struct Spread {
    std::span<const double> values;
    int64_t* counts;
    double* result;
    ExactSpread spread{};
    int64_t count = 0;

    void begin(size_t, size_t) noexcept { spread.clear(); }

    void enter(size_t row) noexcept {
        if (std::isnan(values[row])) return;
        spread.add(values[row]);
        ++count;
    }

    void leave(size_t row) noexcept {
        if (std::isnan(values[row])) return;
        spread.remove(values[row]);
        --count;
    }

    void row(size_t at) noexcept {
        counts[at] = count;
        result[at] = spread.value();
    }
};

// The values of a window, counted by their rank within the group in a Fenwick tree: a value enters, leaves or is found
// by its place in the logarithm of the group's rows.
struct Quantile {
    std::span<const double> values;
    double q;
    int64_t* counts;
    double* result;
    std::vector<size_t> ranks{};   // of each row of the group, from 1
    std::vector<double> sorted{};  // the values of the group
    std::vector<uint32_t> tree{};  // index 0 is not used
    std::vector<size_t> order{};
    size_t first = 0, steps = 0;
    int64_t count = 0;

    void begin(size_t begin, size_t end) {
        ENGINE_ASSERT(count == 0, "the rows of a group have left");
        first = begin;
        order.clear();
        for (size_t row = begin; row < end; ++row)
            if (!std::isnan(values[row])) order.push_back(row);
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
        ranks.assign(end - begin, 0);
        sorted.resize(order.size());
        for (size_t at = 0; at < order.size(); ++at) {
            ranks[order[at] - begin] = at + 1;
            sorted[at] = values[order[at]];
        }
        tree.assign(order.size() + 1, 0);
        steps = std::bit_floor(order.size());
    }

    void change(size_t row, uint32_t by) noexcept {
        if (std::isnan(values[row])) return;
        for (size_t at = ranks[row - first]; at < tree.size(); at += at & (~at + 1)) tree[at] += by;
        count += static_cast<int32_t>(by);
        ENGINE_ASSERT(count >= 0, "no more values leave than entered");
    }

    void enter(size_t row) noexcept { change(row, 1); }
    void leave(size_t row) noexcept { change(row, UINT32_MAX); }

    // The value of the window with `below` values before it in their order.
    double at(size_t below) const noexcept {
        size_t place = 0;
        for (size_t step = steps; step > 0; step >>= 1) {
            if (place + step < tree.size() && tree[place + step] <= below) {
                place += step;
                below -= tree[place];
            }
        }
        ENGINE_ASSERT(place < sorted.size(), "the window has that many values");
        return sorted[place];
    }

    void row(size_t row) noexcept {
        counts[row] = count;
        result[row] = MISSING;
        if (count == 0) return;
        const double place = static_cast<double>(count - 1) * q;
        const auto below = static_cast<size_t>(place);
        const double part = place - static_cast<double>(below);
        result[row] = at(below);
        if (part > 0.0) result[row] += (at(below + 1) - result[row]) * part;
    }
};

}  // namespace

bool window_aggregate(const Events& events, std::span<const double> values, const Window& window,
                      const WindowResult& result) noexcept {
    ENGINE_ASSERT(values.size() == events.groups.size(), "a value for each row");
    return slid(events, window, [&] { return Aggregates{values, result}; });
}

bool window_ends(const Events& events, std::span<const uint8_t> present, const Window& window, int64_t* first,
                 int64_t* last) noexcept {
    ENGINE_ASSERT(present.size() == events.groups.size(), "a mark for each row");
    return slid(events, window, [&] { return Ends{present, first, last}; });
}

bool window_distinct(const Events& events, std::span<const int64_t> codes, int64_t n_codes, const Window& window,
                     int64_t* count) noexcept {
    ENGINE_ASSERT(codes.size() == events.groups.size(), "a code for each row");
    ENGINE_ASSERT(n_codes >= 0, "a number of codes");
    return slid(events, window, [&] {
        return Distinct{codes, count, std::vector<uint32_t>(static_cast<size_t>(n_codes))};
    });
}

bool window_spread(const Events& events, std::span<const double> values, const Window& window, int64_t* count,
                   double* spread) noexcept {
    ENGINE_ASSERT(values.size() == events.groups.size(), "a value for each row");
    return slid(events, window, [&] { return Spread{values, count, spread}; });
}

bool window_quantile(const Events& events, std::span<const double> values, const Window& window, double q,
                     int64_t* count, double* quantile) noexcept {
    ENGINE_ASSERT(values.size() == events.groups.size(), "a value for each row");
    ENGINE_ASSERT(q >= 0.0 && q <= 1.0, "a quantile is from 0 to 1");
    return slid(events, window, [&] { return Quantile{values, q, count, quantile}; });
}

}  // namespace engine::feature_store
