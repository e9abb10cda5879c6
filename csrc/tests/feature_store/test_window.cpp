#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "feature_store/exact_sum.hpp"
#include "feature_store/window.hpp"
#include "tests/check.hpp"

using engine::feature_store::ExactSum;
using engine::feature_store::window_aggregate;
using engine::feature_store::window_distinct;
using engine::feature_store::window_ends;
using engine::feature_store::window_quantile;
using engine::feature_store::window_spread;
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

TEST(a_window_that_is_closed_on_the_left_leaves_out_its_own_instant) {
    const Result r = run({1, 1, 1, 1, 2}, {0, 10, 10, 20, 20}, {1, 2, 4, 8, 16}, 10, true);
    CHECK((r.count == std::vector<int64_t>{0, 1, 1, 2, 0}));
    CHECK(std::isnan(r.sum[0]) && r.sum[1] == 1 && r.sum[2] == 1 && r.sum[3] == 6 && std::isnan(r.sum[4]));
}

TEST(the_first_and_the_last_present_row) {
    std::vector<int64_t> groups{1, 1, 1, 2}, times{0, 5, 10, 10}, first(4), last(4);
    std::vector<uint8_t> present{1, 0, 1, 0};
    CHECK(window_ends({groups, times}, present, {10, false}, first.data(), last.data()));
    CHECK((first == std::vector<int64_t>{0, 0, 2, -1}));
    CHECK((last == std::vector<int64_t>{0, 0, 2, -1}));
}

TEST(different_codes_are_counted_once) {
    std::vector<int64_t> groups{1, 1, 1, 1, 2}, times{0, 1, 2, 3, 3}, codes{0, 1, 0, -1, 1}, count(5);
    CHECK(window_distinct({groups, times}, codes, 2, {2, false}, count.data()));
    CHECK((count == std::vector<int64_t>{1, 2, 2, 1, 1}));
}

namespace {

std::vector<double> spreads(const std::vector<double>& values, int64_t window) {
    std::vector<int64_t> groups(values.size(), 1), times, count(values.size());
    for (size_t i = 0; i < values.size(); ++i) times.push_back(static_cast<int64_t>(i));
    std::vector<double> found(values.size());
    CHECK(window_spread({groups, times}, values, {window, false}, count.data(), found.data()));
    return found;
}

}  // namespace

TEST(a_spread_is_exact) {
    const auto few = spreads({1, 2, 4}, 100);
    CHECK(std::isnan(few[0]) && few[1] == std::sqrt(0.5) && few[2] == std::sqrt(14.0 / 6.0));
    // The mean is a hundred million times the spread.
    CHECK(spreads({1e16, 1e16 + 2}, 100)[1] == std::sqrt(2.0));
    CHECK(spreads({0.1, 0.1, 0.1}, 100)[2] == 0.0);
    CHECK(spreads({1e300, -1e300}, 100)[1] == std::sqrt(2.0) * 1e300);
    CHECK(spreads({5e-324, 0.0}, 100)[1] == 5e-324);
    CHECK(std::isnan(spreads({INFINITE, 1, 2}, 2)[1]) && spreads({INFINITE, 1, 2}, 2)[2] == std::sqrt(0.5));
    CHECK(spreads({7, 1e100, 3, 5}, 2)[3] == std::sqrt(2.0));
}

TEST(quantiles_are_interpolated) {
    std::vector<int64_t> groups{1, 1, 1, 1, 2}, times{0, 1, 2, 3, 3}, count(5);
    std::vector<double> values{3, MISSING, 1, 2, 9}, found(5);
    CHECK(window_quantile({groups, times}, values, {3, false}, 0.75, count.data(), found.data()));
    CHECK((count == std::vector<int64_t>{1, 1, 2, 2, 1}));
    CHECK((found == std::vector<double>{3, 3, 2.5, 1.75, 9}));
    CHECK(window_quantile({groups, times}, values, {100, false}, 1.0, count.data(), found.data()));
    CHECK(found[3] == 3);
    CHECK(window_quantile({groups, times}, values, {100, false}, 0.0, count.data(), found.data()));
    CHECK(found[3] == 1);
}

CHECK_MAIN()
