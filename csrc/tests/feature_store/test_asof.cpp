#include <cstdint>
#include <limits>
#include <vector>

#include "feature_store/asof.hpp"
#include "tests/check.hpp"

namespace {

std::vector<int64_t> run(const std::vector<int64_t>& groups, const std::vector<int64_t>& times,
                         const std::vector<int64_t>& created, const std::vector<int64_t>& label_groups,
                         const std::vector<int64_t>& label_times, int64_t n_groups = 3) {
    std::vector<int64_t> places(label_groups.size(), -7);
    CHECK(
        engine::feature_store::newest_before({groups, times}, created, {label_groups, label_times}, n_groups, places));
    return places;
}

}  // namespace

TEST(the_newest_row_that_is_not_later) {
    const std::vector<int64_t> groups{2, 0, 0, 2, -1}, times{30, 20, 10, 5, 1};
    CHECK((run(groups, times, {}, {0, 0, 0, 2, 2, 1, -1}, {9, 10, 25, 29, 30, 99, 99}) ==
           std::vector<int64_t>{-1, 2, 1, 3, 0, -1, -1}));
}

TEST(of_equal_times_the_row_that_was_created_last_then_the_later_one) {
    const std::vector<int64_t> groups{1, 1, 1}, times{5, 5, 5};
    CHECK((run(groups, times, {}, {1}, {5}) == std::vector<int64_t>{2}));
    CHECK((run(groups, times, {7, 9, 8}, {1}, {5}) == std::vector<int64_t>{1}));
    CHECK((run(groups, times, {7, 9, 9}, {1}, {5}) == std::vector<int64_t>{2}));
}

TEST(both_ends_of_the_clock) {
    const int64_t least = std::numeric_limits<int64_t>::min(), greatest = std::numeric_limits<int64_t>::max();
    CHECK((run({0, 0}, {greatest, least}, {}, {0, 0}, {greatest, least}) == std::vector<int64_t>{0, 1}));
}

TEST(many_rows_are_found_as_one_by_one) {
    uint64_t state = 7;
    const auto draw = [&](uint64_t below) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<int64_t>((state >> 33) % below);
    };
    for (const uint64_t span : {1ULL, 50ULL, 100000ULL, 1ULL << 30}) {
        std::vector<int64_t> groups, times, label_groups, label_times;
        for (int i = 0; i < 700; ++i) {
            groups.push_back(draw(4) - 1);
            // Half of them crowd at the beginning.
            times.push_back(i % 2 == 0 ? draw(3) : draw(span));
        }
        for (int i = 0; i < 700; ++i) {
            label_groups.push_back(draw(4) - 1);
            label_times.push_back(draw(span + 4) - 2);
        }
        const auto found = run(groups, times, {}, label_groups, label_times);
        for (size_t label = 0; label < found.size(); ++label) {
            int64_t newest = -1;
            for (size_t row = 0; row < groups.size(); ++row) {
                const bool fits = groups[row] >= 0 && groups[row] == label_groups[label];
                if (fits && times[row] <= label_times[label] && (newest < 0 || times[row] >= times[newest]))
                    newest = static_cast<int64_t>(row);
            }
            CHECK(found[label] == newest);
        }
    }
}

TEST(nothing_to_join) {
    CHECK(run({}, {}, {}, {}, {}, 0).empty());
    CHECK((run({}, {}, {}, {0}, {5}) == std::vector<int64_t>{-1}));
}

CHECK_MAIN()
