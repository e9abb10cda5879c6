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

TEST(nothing_to_join) {
    CHECK(run({}, {}, {}, {}, {}, 0).empty());
    CHECK((run({}, {}, {}, {0}, {5}) == std::vector<int64_t>{-1}));
}

CHECK_MAIN()
