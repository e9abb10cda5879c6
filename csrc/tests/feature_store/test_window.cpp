#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "feature_store/exact_sum.hpp"
#include "feature_store/window.hpp"
#include "tests/check.hpp"

using engine::feature_store::ExactSum;
using engine::feature_store::window_aggregate;
using engine::feature_store::WindowResult;

namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr double MISSING = std::numeric_limits<double>::quiet_NaN();

double total(const std::vector<double>& values) {
    ExactSum sum;
    for (double value : values) sum.add(value);
    return sum.value();
}

struct Result {
    std::vector<int64_t> count;
    std::vector<double> sum, least, greatest;
};

Result run(const std::vector<int64_t>& groups, const std::vector<int64_t>& times, const std::vector<double>& values,
           int64_t window, bool before = false) {
    const size_t n = groups.size();
    Result r{std::vector<int64_t>(n), std::vector<double>(n), std::vector<double>(n), std::vector<double>(n)};
    const WindowResult result{r.count.data(), r.sum.data(), r.least.data(), r.greatest.data()};
    CHECK(window_aggregate({groups, times}, values, {window, before}, result));
    return r;
}

}  // namespace

TEST(a_sum_is_rounded_once) {
    CHECK(total({}) == 0.0);
    CHECK(total({1e308, 1e308, -1e308}) == 1e308);
    CHECK(total({1e16, 1.0, -1e16}) == 1.0);
    CHECK(total({0.1, 0.2, 0.3, -0.6}) == 0x1p-55);
    CHECK(total({1e308, 1e308}) == INFINITE);
    CHECK(total({-1e308, -1e308}) == -INFINITE);
    // Halfway between two doubles goes to the even one; the least thing more goes up.
    CHECK(total({0x1p53, 1.0}) == 0x1p53);
    CHECK(total({0x1p53, 1.0, 5e-324}) == 0x1p53 + 2);
    CHECK(total({-0x1p53, -1.0, -5e-324}) == -0x1p53 - 2);
    CHECK(total({0x1p53 + 2, 1.0}) == 0x1p53 + 4);
}

TEST(subnormal_sums_are_exact) {
    CHECK(total({5e-324}) == 5e-324);
    CHECK(total({5e-324, 5e-324, 5e-324}) == 1.5e-323);
    CHECK(total({0x1p-1022, -5e-324}) == 0x1p-1022 - 5e-324);
    CHECK(total({-5e-324, 5e-324}) == 0.0);
}

TEST(infinities_can_be_taken_back) {
    ExactSum sum;
    sum.add(INFINITE);
    sum.add(2.0);
    CHECK(sum.value() == INFINITE);
    sum.add(-INFINITE);
    CHECK(std::isnan(sum.value()));
    sum.remove(INFINITE);
    CHECK(sum.value() == -INFINITE);
    sum.remove(-INFINITE);
    CHECK(sum.value() == 2.0);
}

TEST(what_is_removed_leaves_nothing_behind) {
    ExactSum sum;
    sum.add(0.25);
    for (int i = 0; i < 10000; ++i) sum.add(std::ldexp(1.1, i % 600 - 300));
    for (int i = 0; i < 10000; ++i) sum.remove(std::ldexp(1.1, i % 600 - 300));
    CHECK(sum.value() == 0.25);
}

TEST(a_window_is_open_at_its_old_end) {
    const Result r = run({1, 1, 1, 1}, {0, 10, 20, 30}, {1, 2, 4, 8}, 20);
    CHECK((r.count == std::vector<int64_t>{1, 2, 2, 2}));
    CHECK((r.sum == std::vector<double>{1, 3, 6, 12}));
    CHECK((r.least == std::vector<double>{1, 1, 2, 4}));
    CHECK((r.greatest == std::vector<double>{1, 2, 4, 8}));
}

TEST(events_of_one_instant_see_each_other_and_groups_do_not) {
    const Result r = run({1, 1, 2, 2}, {5, 5, 5, 6}, {1, 2, 40, 30}, 100);
    CHECK((r.count == std::vector<int64_t>{2, 2, 1, 2}));
    CHECK((r.sum == std::vector<double>{3, 3, 40, 70}));
    CHECK((r.least == std::vector<double>{1, 1, 40, 30}));
}

TEST(missing_values_do_not_count) {
    const Result r = run({1, 1, 1}, {0, 1, 2}, {MISSING, 3, MISSING}, 2);
    CHECK((r.count == std::vector<int64_t>{0, 1, 1}));
    CHECK(std::isnan(r.sum[0]));
    CHECK(std::isnan(r.least[0]));
    CHECK(r.sum[1] == 3 && r.sum[2] == 3);
    const Result none = run({}, {}, {}, 5);
    CHECK(none.count.empty());
}

TEST(instants_at_both_ends_of_the_clock_do_not_overflow) {
    const int64_t least = std::numeric_limits<int64_t>::min() + 1;
    const int64_t greatest = std::numeric_limits<int64_t>::max();
    const Result r = run({1, 1}, {least, greatest}, {1, 2}, greatest);
    CHECK((r.count == std::vector<int64_t>{1, 1}));
}

CHECK_MAIN()
