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
// Times lie apart from places, because a search reads times alone and half as many lines of the cache are then read.
struct Sorted {
    std::vector<size_t> begins;
    std::vector<int64_t> times_ns;
    std::vector<int64_t> places;
};

Sorted sorted(const Instants& rows, std::span<const int64_t> created, int64_t n_groups) {
    Sorted found{std::vector<size_t>(static_cast<size_t>(n_groups) + 2), {}, {}};
    // Counted one group further on, so that filling the groups turns their ends into their beginnings.
    for (const int64_t group : rows.groups) {
        ENGINE_ASSERT(group < n_groups, "a group is below their number");
        if (group >= 0) ++found.begins[static_cast<size_t>(group) + 2];
    }
    for (size_t group = 2; group < found.begins.size(); ++group) found.begins[group] += found.begins[group - 1];
    found.times_ns.resize(found.begins.back());
    found.places.resize(found.begins.back());
    for (size_t place = 0; place < rows.groups.size(); ++place) {
        const int64_t group = rows.groups[place];
        if (group < 0) continue;
        const size_t at = found.begins[static_cast<size_t>(group) + 1]++;
        found.times_ns[at] = rows.times_ns[place];
        found.places[at] = static_cast<int64_t>(place);
    }
    found.begins.pop_back();
    const auto earlier = [&](const Row& a, const Row& b) noexcept {
        if (a.time_ns != b.time_ns || created.empty()) return a.time_ns < b.time_ns;
        return created[static_cast<size_t>(a.place)] < created[static_cast<size_t>(b.place)];
    };
    const auto row = [&](size_t at) noexcept { return Row{found.times_ns[at], found.places[at]}; };
    std::vector<Row> group_rows;
    for (size_t group = 0; group + 1 < found.begins.size(); ++group) {
        const size_t begin = found.begins[group], end = found.begins[group + 1];
        // Sources are often sorted by time already.
        bool ascends = true;
        for (size_t at = begin + 1; ascends && at < end; ++at) ascends = !earlier(row(at), row(at - 1));
        if (ascends) continue;
        group_rows.clear();
        for (size_t at = begin; at < end; ++at) group_rows.push_back(row(at));
        // A stable sort leaves rows of equal times in the order of their places.
        std::stable_sort(group_rows.begin(), group_rows.end(), earlier);
        for (size_t at = begin; at < end; ++at) {
            found.times_ns[at] = group_rows[at - begin].time_ns;
            found.places[at] = group_rows[at - begin].place;
        }
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
        size_t at = begin;
        // The first row that is later, by halving without a branch: half of them would be mispredicted.
        while (left > 0) {
            const size_t half = left / 2;
            const bool not_later = found.times_ns[at + half] <= labels.times_ns[label];
            at = not_later ? at + half + 1 : at;
            left = not_later ? left - half - 1 : half;
        }
        if (at != begin) places[label] = found.places[at - 1];
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
