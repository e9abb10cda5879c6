// The search for rows that make calls fail: who is blamed, and how many calls it takes.
#include "scheduler/row_failures.hpp"
#include "scheduler/row_search.hpp"

#include <set>
#include <string>
#include <vector>

#include "tests/check.hpp"

using namespace engine::scheduler;

namespace {

struct Searched {
    std::set<uint32_t> blamed, answered;
    std::vector<uint32_t> calls;  // rows of each
};

// Searches `rows` rows, where a call fails that has a bad one.
Searched search(uint32_t rows, const std::set<uint32_t>& bad, uint32_t most = UINT32_MAX) {
    Searched result;
    for (RowSearch it(rows); !it.done();) {
        const uint32_t at = it.at(), n = it.next(most);
        result.calls.push_back(n);
        const auto first = bad.lower_bound(at);
        if (first != bad.end() && *first < at + n) {
            if (n == 1) result.blamed.insert(at);
            it.failed(n);
        } else {
            for (uint32_t i = at; i < at + n; ++i) result.answered.insert(i);
            it.passed(n);
        }
    }
    return result;
}

std::set<uint32_t> all_but(uint32_t rows, const std::set<uint32_t>& bad) {
    std::set<uint32_t> rest;
    for (uint32_t i = 0; i < rows; ++i)
        if (!bad.contains(i)) rest.insert(i);
    return rest;
}

}  // namespace

TEST(a_call_that_passes_is_the_only_one) { CHECK(search(64, {}).calls == std::vector<uint32_t>{64}); }

TEST(one_bad_row_is_found_by_halves) {
    const Searched r = search(8, {5});
    CHECK(r.blamed == (std::set<uint32_t>{5}));
    CHECK(r.answered == all_but(8, {5}));
    // All; the first half is good; of the second, a half of two fails; its first row is good, its second is bad alone;
    // the last two, of which nothing is known any more, go together.
    CHECK(r.calls == (std::vector<uint32_t>{8, 4, 2, 1, 1, 2}));
}

TEST(only_bad_rows_are_blamed_wherever_they_are) {
    for (uint32_t bits = 0; bits < 1u << 9; ++bits) {
        std::set<uint32_t> bad;
        for (uint32_t i = 0; i < 9; ++i)
            if (bits >> i & 1) bad.insert(i);
        for (const uint32_t most : {1u, 2u, 3u, 9u}) {
            const Searched r = search(9, bad, most);
            CHECK(r.blamed == bad);
            CHECK(r.answered == all_but(9, bad));
        }
    }
}

TEST(a_bad_row_costs_a_logarithm_of_calls) {
    for (uint32_t at = 0; at < 64; ++at) CHECK(search(64, {at}).calls.size() <= 1 + 6 + 1 + 1);
}

TEST(a_failure_that_was_an_accident_blames_nobody) {
    RowSearch it(4);
    it.failed(4);
    std::vector<uint32_t> calls;
    while (!it.done()) {
        calls.push_back(it.next(UINT32_MAX));
        it.passed(calls.back());
    }
    CHECK(calls == (std::vector<uint32_t>{2, 1, 1}));
}

TEST(rows_that_were_in_a_failed_call_are_told_from_others) {
    RowSearch it(4);
    CHECK(!it.tried());
    it.failed(2);
    CHECK(it.tried());
    it.skip();
    CHECK(it.tried());
    it.skip();
    CHECK(!it.tried() && it.at() == 2 && it.next(8) == 2);
}

TEST(groups_shrink_to_what_succeeds_half_of_the_time) {
    RowFailures failures;
    CHECK(failures.group_rows() == UINT32_MAX);
    const float row = 1.0f;
    for (int i = 0; i < 2000; ++i) {  // three bad rows in ten
        if (i % 10 < 3) failures.call_failed(), failures.row_failed(&row, sizeof row, 0);
        else failures.call_passed(1);
    }
    CHECK(failures.group_rows() == 2);
    for (int i = 0; i < 2000; ++i) failures.call_passed(1);
    CHECK(failures.group_rows() == UINT32_MAX);
}

TEST(where_nothing_succeeds_the_rows_are_not_to_blame) {
    RowFailures failures;
    const float row = 1.0f;
    for (int i = 0; i < 15; ++i) failures.call_failed(), failures.row_failed(&row, sizeof row, 0);
    CHECK(!failures.hopeless());
    failures.call_failed();
    CHECK(failures.hopeless() && failures.group_rows() == UINT32_MAX);
    failures.call_passed(1);
    CHECK(!failures.hopeless() && failures.group_rows() < 10);
}

TEST(a_row_that_failed_alone_is_remembered_for_a_second) {
    RowFailures failures;
    const float bad[2] = {-1.0f, 0.0f}, good[2] = {1.0f, 0.0f};
    CHECK(!failures.remembers(5));
    failures.call_failed();
    failures.row_failed(bad, sizeof bad, 5);
    CHECK(failures.remembers(6));
    CHECK(failures.remembers(bad, sizeof bad, 6));
    CHECK(!failures.remembers(good, sizeof good, 6));
    CHECK(failures.remembers(bad, sizeof bad, 4 + RowFailures::REMEMBER_NS));
    CHECK(!failures.remembers(bad, sizeof bad, 5 + RowFailures::REMEMBER_NS));
    failures.row_failed(bad, sizeof bad, 5);
    failures.forget(bad, sizeof bad);
    CHECK(!failures.remembers(bad, sizeof bad, 6));
}

TEST(a_hurried_search_takes_as_many_rows_a_call_as_there_is_time_for) {
    RowFailures failures;
    CostModel cost(64);
    cost.prime(1, 2'000'000);
    cost.prime(64, 2'000'000);
    CHECK(failures.hurried_rows(100, cost, 50'000'000) == UINT32_MAX && failures.calls_per_row() == 0.0);
    CHECK(failures.search_pays(8, 100) && !failures.is_hurried(1000, cost, 50'000'000));
    const float row = 1.0f;
    for (int i = 0; i < 2000; ++i) {  // three bad rows in ten
        if (i % 10 < 3) failures.call_failed(), failures.row_failed(&row, sizeof row, 0);
        else failures.call_passed(1);
    }
    // Twelve calls fit into half of a deadline, and four rows of which one is bad are the most worth a call.
    CHECK(failures.is_hurried(20, cost, 50'000'000) && !failures.is_hurried(10, cost, 50'000'000));
    CHECK(failures.hurried_rows(12, cost, 50'000'000) == 1);
    CHECK(failures.hurried_rows(20, cost, 50'000'000) == 2);
    CHECK(failures.hurried_rows(200, cost, 50'000'000) >= 3 && failures.hurried_rows(200, cost, 50'000'000) <= 4);
    CHECK(failures.calls_per_row() > 0.8 && failures.calls_per_row() < 0.95);
    CHECK(!failures.search_pays(3, 3));
    CHECK(failures.search_pays(3, 0));
}

TEST(the_share_of_bad_rows_is_learned_from_groups_that_nobody_searches) {
    RowFailures failures;
    const float row = 1.0f;
    for (int i = 0; i < 100; ++i) failures.call_failed(), failures.row_failed(&row, sizeof row, 0);
    // Groups of three with one bad row in ten: seven in ten pass (0.9 cubed is 0.729).
    for (int i = 0; i < 4000; ++i) {
        if (i % 11 % 4 == 3 || i % 11 == 10) failures.group_failed(3);  // three in eleven
        else failures.call_passed(3);
    }
    CostModel cost(64);
    cost.prime(64, 2'000'000);
    const uint32_t rows = failures.hurried_rows(10'000, cost, 1);
    CHECK(rows >= 7 && rows <= 14);
}

CHECK_MAIN()
