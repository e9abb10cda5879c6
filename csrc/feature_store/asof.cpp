#include "feature_store/asof.hpp"

#include <algorithm>
#include <new>
#include <vector>

#include "base/assert.hpp"

namespace engine::feature_store {
namespace {

struct Row {
    int64_t time_ns;
    int64_t place;
};

// The rows sorted by group, within a group by time, created time and place. Group g is [begins[g], begins[g + 1]).
struct Sorted {
    std::vector<size_t> begins;
    std::vector<Row> rows;
};

Sorted sorted(const Instants& rows, std::span<const int64_t> created, int64_t n_groups) {
    Sorted found{std::vector<size_t>(static_cast<size_t>(n_groups) + 2), {}};
    // Counted one group further on, so that filling the groups turns their ends into their beginnings.
    for (const int64_t group : rows.groups) {
        ENGINE_ASSERT(group < n_groups, "a group is below their number");
        if (group >= 0) ++found.begins[static_cast<size_t>(group) + 2];
    }
    for (size_t group = 2; group < found.begins.size(); ++group) found.begins[group] += found.begins[group - 1];
    found.rows.resize(found.begins.back());
    for (size_t place = 0; place < rows.groups.size(); ++place) {
        const int64_t group = rows.groups[place];
        if (group < 0) continue;
        const size_t at = found.begins[static_cast<size_t>(group) + 1]++;
        found.rows[at] = {rows.times_ns[place], static_cast<int64_t>(place)};
    }
    found.begins.pop_back();
    const auto earlier = [&](const Row& a, const Row& b) noexcept {
        if (a.time_ns != b.time_ns || created.empty()) return a.time_ns < b.time_ns;
        return created[static_cast<size_t>(a.place)] < created[static_cast<size_t>(b.place)];
    };
    // Sources are often sorted by time already. A stable sort leaves rows of equal times in their places' order.
    for (size_t group = 0; group + 1 < found.begins.size(); ++group) {
        const auto begin = found.rows.begin() + static_cast<std::ptrdiff_t>(found.begins[group]);
        const auto end = found.rows.begin() + static_cast<std::ptrdiff_t>(found.begins[group + 1]);
        if (!std::is_sorted(begin, end, earlier)) std::stable_sort(begin, end, earlier);
    }
    return found;
}

void join(const Instants& rows, std::span<const int64_t> created, const Instants& labels, int64_t n_groups,
          std::span<int64_t> places) {
    const Sorted found = sorted(rows, created, n_groups);
    for (size_t label = 0; label < labels.groups.size(); ++label) {
        const int64_t group = labels.groups[label];
        places[label] = -1;
        if (group < 0) continue;
        ENGINE_ASSERT(group < n_groups, "a group is below their number");
        const size_t begin = found.begins[static_cast<size_t>(group)];
        size_t left = found.begins[static_cast<size_t>(group) + 1] - begin;
        const Row* at = found.rows.data() + begin;
        const Row* const first = at;
        // The first row that is later, by halving without a branch: half of them would be mispredicted.
        while (left > 0) {
            const size_t half = left / 2;
            const bool not_later = at[half].time_ns <= labels.times_ns[label];
            at = not_later ? at + half + 1 : at;
            left = not_later ? left - half - 1 : half;
        }
        if (at != first) places[label] = at[-1].place;
    }
}

}  // namespace

bool newest_before(const Instants& rows, std::span<const int64_t> created, const Instants& labels, int64_t n_groups,
                   std::span<int64_t> places) noexcept {
    ENGINE_ASSERT(rows.times_ns.size() == rows.groups.size(), "a time for each row");
    ENGINE_ASSERT(created.empty() || created.size() == rows.groups.size(), "a created time for each row, or for none");
    ENGINE_ASSERT(labels.times_ns.size() == labels.groups.size(), "a time for each label");
    ENGINE_ASSERT(places.size() == labels.groups.size(), "a place for each label");
    ENGINE_ASSERT(n_groups >= 0, "a number of groups");
    try {
        join(rows, created, labels, n_groups, places);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

}  // namespace engine::feature_store
