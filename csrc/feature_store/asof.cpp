#include "feature_store/asof.hpp"

#include <algorithm>
#include <bit>
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

// Where a search begins: a group's span of time is cut into equal buckets of a power of two, some sixteen rows each.
// A label looks through the rows of its own bucket. Labels come in any order, so a search through a whole group would
// miss the cache at most of its steps; here it misses two or three times. Rows that crowd into few buckets cost steps.
class Buckets {
public:
    explicit Buckets(const Sorted& sorted) : sorted_(sorted), groups_(sorted.begins.size() - 1) {
        for (size_t group = 0; group < groups_.size(); ++group) {
            const size_t begin = sorted.begins[group], end = sorted.begins[group + 1];
            if (begin == end) continue;
            Group& made = groups_[group];
            made.first = firsts_.size();
            const uint64_t span = since(group, sorted.times_ns[end - 1]);
            const size_t wanted = std::bit_floor((end - begin) / ROWS_PER_BUCKET + 1);
            made.shift = std::clamp(width(span) - width(wanted) + 1, 0, 63);
            const uint64_t buckets = (span >> made.shift) + 1;
            ENGINE_ASSERT(buckets <= wanted + 1 || made.shift == 0, "no more buckets than wanted");
            for (size_t at = begin; at < end; ++at) {
                const uint64_t bucket = since(group, sorted.times_ns[at]) >> made.shift;
                while (firsts_.size() - made.first <= bucket) firsts_.push_back(at);
            }
            firsts_.push_back(end);
            ENGINE_ASSERT(firsts_.size() - made.first == buckets + 1, "a first row for each bucket, and the end");
        }
    }

    // The place of the newest row of the group that is not later; -1 without one.
    int64_t newest_before(size_t group, int64_t time_ns) const noexcept {
        const size_t begin = sorted_.begins[group], end = sorted_.begins[group + 1];
        if (begin == end || time_ns < sorted_.times_ns[begin]) return -1;
        if (time_ns >= sorted_.times_ns[end - 1]) return sorted_.places[end - 1];
        const size_t* const first =
            firsts_.data() + groups_[group].first + (since(group, time_ns) >> groups_[group].shift);
        // The first row that is later lies in the bucket, or right behind it.
        size_t at = first[0], left = first[1] - first[0];
        while (left > 0) {
            const size_t half = left / 2;
            const bool not_later = sorted_.times_ns[at + half] <= time_ns;
            at = not_later ? at + half + 1 : at;
            left = not_later ? left - half - 1 : half;
        }
        ENGINE_ASSERT(at > begin && at < end, "the first row is not later, and the last one is");
        return sorted_.places[at - 1];
    }

private:
    static constexpr size_t ROWS_PER_BUCKET = 16;

    struct Group {
        size_t first = 0;  // of its buckets in firsts_
        int shift = 0;
    };

    static int width(uint64_t number) noexcept { return static_cast<int>(std::bit_width(number)); }

    // Unsigned, because the two ends of the clock are further apart than an int64 reaches.
    uint64_t since(size_t group, int64_t time_ns) const noexcept {
        return static_cast<uint64_t>(time_ns) - static_cast<uint64_t>(sorted_.times_ns[sorted_.begins[group]]);
    }

    const Sorted& sorted_;
    std::vector<Group> groups_;
    std::vector<size_t> firsts_;  // of each bucket: its first row, or that of the next one that has any
};

void join(const Instants& rows, std::span<const int64_t> created, const Instants& labels, int64_t n_groups,
          std::span<int64_t> places) {
    const Sorted found = sorted(rows, created, n_groups);
    const Buckets buckets(found);
    for (size_t label = 0; label < labels.groups.size(); ++label) {
        const int64_t group = labels.groups[label];
        ENGINE_ASSERT(group < n_groups, "a group is below their number");
        places[label] = group < 0 ? -1 : buckets.newest_before(static_cast<size_t>(group), labels.times_ns[label]);
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
