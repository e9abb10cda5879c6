#include "scheduler/cost.hpp"

#include <cmath>

#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;

TEST(knots) {
    const uint32_t expected[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
    for (size_t knot = 0; knot < 12; ++knot) CHECK(CostModel::knot_rows(knot) == expected[knot]);
}

TEST(nothing_known_costs_nothing) {
    const CostModel cost(8);
    CHECK(cost.expected_ns(1) == 0 && cost.expected_ns(8) == 0);
    CHECK(cost.rows_within(0) == 8);
    CHECK(cost.efficient_rows() == 1);
}

TEST(between_two_measured_sizes_it_is_linear) {
    CostModel cost(8);
    cost.prime(1, 100);
    cost.prime(8, 1'500);
    CHECK(cost.expected_ns(0) == 0);
    CHECK(cost.expected_ns(1) == 100);
    CHECK(cost.expected_ns(2) == 300);
    CHECK(cost.expected_ns(4) == 700);
    CHECK(cost.expected_ns(5) == 900);  // between the knots 4 and 6
    CHECK(cost.expected_ns(7) == 1'300);
    CHECK(cost.expected_ns(16) == 3'000);  // past the last knot: in proportion
}

TEST(below_the_first_measured_size_it_is_flat_and_above_the_last_in_proportion) {
    CostModel cost(8);
    cost.prime(4, 400);
    CHECK(cost.expected_ns(1) == 400 && cost.expected_ns(3) == 400);
    CHECK(cost.expected_ns(6) == 600 && cost.expected_ns(8) == 800);
}

TEST(a_size_that_is_no_knot_primes_the_knot_below_in_proportion) {
    CostModel cost(8);
    cost.prime(5, 500);
    CHECK(cost.expected_ns(4) == 400);
}

TEST(the_first_observation_of_a_fresh_model_is_taken_whole) {
    CostModel cost(8);
    cost.observe(2, 200);
    CHECK(cost.expected_ns(2) == 200 && cost.expected_ns(8) == 800);
    cost.observe(0, 500);
    cost.observe(2, 0);
    CHECK(cost.expected_ns(2) == 200);
}

TEST(rows_within_a_budget) {
    CostModel cost(8);
    cost.prime(1, 100);
    cost.prime(8, 800);
    CHECK(cost.high_ns(4) == 500);  // spread 1.25 before anything has been observed
    CHECK(cost.rows_within(500) == 4);
    CHECK(cost.rows_within(499) == 3);
    CHECK(cost.rows_within(125) == 1);
    CHECK(cost.rows_within(124) == 0);
    CHECK(cost.rows_within(-1) == 0);
    CHECK(cost.rows_within(1'000'000) == 8);
}

TEST(an_observation_moves_its_knot_by_a_tenth_of_the_way) {
    CostModel cost(4);
    cost.prime(1, 1'000);
    cost.prime(4, 4'000);
    cost.observe(1, 1'100);
    CHECK(cost.expected_ns(1) == 1'010);
    CHECK(cost.expected_ns(4) == 4'000);
}

TEST(sizes_that_never_run_follow_a_lasting_change_of_speed) {
    CostModel cost(64);
    cost.prime(1, 1'000);
    cost.prime(64, 64'000);
    for (int i = 0; i < 2'000; ++i) cost.observe(4, 6'000);
    CHECK(cost.expected_ns(4) > 5'990 && cost.expected_ns(4) <= 6'000);
    // A small part of it is taken for what every batch has come to carry.
    CHECK(cost.expected_ns(64) > 93'000 && cost.expected_ns(64) <= 96'000);
    CHECK(cost.expected_ns(1) > 1'480 && cost.expected_ns(1) <= 1'620);
}

TEST(a_cost_that_every_batch_has_come_to_carry_makes_larger_ones_worth_a_try) {
    CostModel cost(64);
    for (uint32_t rows = 1; rows <= 64; rows *= 2) cost.prime(rows, 5'000 + 120'000 * rows);
    CHECK(cost.efficient_rows() == 1);
    for (int i = 0; i < 100; ++i) cost.observe(1, 2'125'000);
    CHECK(cost.efficient_rows() >= 8);
    const uint32_t tried = cost.efficient_rows();
    for (int i = 0; i < 200; ++i) {
        cost.observe(tried, 2'005'000 + 120'000 * tried);
        cost.observe(1, 2'125'000);
    }
    CHECK(cost.expected_ns(64) < 3 * (2'005'000 + 120'000 * 64));
    CHECK(cost.efficient_rows() >= tried);
}

TEST(a_change_of_speed_that_looks_like_such_a_cost_is_told_from_it_by_the_next_size) {
    CostModel cost(64);
    for (uint32_t rows = 1; rows <= 64; rows *= 2) cost.prime(rows, 5'000 + 120'000 * rows);
    for (int i = 0; i < 100; ++i) cost.observe(1, 1'250'000);
    CHECK(cost.expected_ns(16) < 19'250'000);
    for (int i = 0; i < 200; ++i) {
        cost.observe(16, 19'250'000);
        cost.observe(1, 1'250'000);
    }
    CHECK(cost.expected_ns(16) > 18'900'000);
    CHECK(cost.expected_ns(64) > 0.8 * 10 * (5'000 + 120'000 * 64));
    CHECK(cost.efficient_rows() < 16);
}

TEST(sizes_that_never_run_are_told_from_one_calibration_after_the_other_that_was_too_high) {
    CostModel cost(8);
    for (int calibrations = 0; calibrations < 500; ++calibrations) {
        for (uint32_t rows = 1; rows <= 8; rows *= 2) cost.prime(rows, 120'000 + 480'000 * rows);
        for (int i = 0; i < 200; ++i) {
            cost.observe(1, 500'000);
            cost.observe(2, 900'000);
        }
        CHECK(cost.expected_ns(4) > 1'650'000 && cost.expected_ns(4) < 1'750'000);
        CHECK(cost.expected_ns(8) > 3'200'000 && cost.expected_ns(8) < 3'400'000);
    }
}

TEST(no_size_is_ever_free_whatever_is_observed) {
    for (uint64_t seed = 1; seed <= 500; ++seed) {
        uint64_t random = seed;
        const auto below = [&random](uint64_t limit) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            return (random >> 33) % limit;
        };
        CostModel cost(64);
        for (uint32_t rows = 1; rows <= 64; rows *= 2)
            cost.prime(rows, static_cast<int64_t>(1'000 + below(2'000'000) + below(200'000) * rows));
        for (int i = 0; i < 60; ++i) {
            const auto rows = static_cast<uint32_t>(1 + below(64));
            // From a hundredth of what is expected to thirty times as much, several in a row.
            const double factor = 0.01 * std::exp2(static_cast<double>(below(1'160)) / 100.0);
            const auto ns = static_cast<int64_t>(static_cast<double>(cost.expected_ns(rows)) * factor) + 1;
            for (uint64_t calls = 1 + below(12); calls > 0; --calls) cost.observe(rows, ns);
            for (uint32_t each = 1; each <= 64; ++each) CHECK(cost.expected_ns(each) > 0);
        }
    }
}

TEST(costs_stay_below_five_hours_whatever_is_observed) {
    CostModel cost(64);
    cost.prime(1, 1);
    cost.prime(64, 1'000'000'000'000);
    for (int i = 0; i < 1'000; ++i) cost.observe(1, INT64_MAX / 4);  // far past four stalls in a row
    for (uint32_t rows = 1; rows <= 64; ++rows) {
        CHECK(cost.expected_ns(rows) > 0 && cost.expected_ns(rows) <= int64_t{1} << 44);
        CHECK(cost.high_ns(rows) >= cost.expected_ns(rows));
    }
}

TEST(sizes_that_never_run_do_not_drift_with_the_noise) {
    CostModel cost(64);
    for (uint32_t rows = 1; rows <= 64; rows *= 2) cost.prime(rows, 50'000 + 120'000 * rows);
    uint64_t random = 1;
    for (int i = 0; i < 300'000; ++i) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const auto factor = 0.9 + 0.2 * static_cast<double>(random >> 33) / 2147483648.0;  // uniform about 1
        cost.observe(8, static_cast<int64_t>(1'010'000 * factor));
    }
    CHECK(cost.efficient_rows() == 8);
    CHECK(cost.expected_ns(64) > 7'730'000 * 0.97 && cost.expected_ns(64) < 7'730'000 * 1.03);
}

TEST(without_calibration_the_shape_grows_from_what_is_observed) {
    CostModel cost(8);
    cost.observe(1, 1'000);
    CHECK(cost.expected_ns(8) == 8'000);  // one row is all that is known
    cost.observe(4, 1'300);
    CHECK(cost.expected_ns(1) == 1'000 && cost.expected_ns(2) == 1'100 && cost.expected_ns(4) == 1'300);
    CHECK(cost.expected_ns(8) == 2'600);
}

TEST(a_larger_batch_never_looks_cheaper) {
    CostModel cost(2);
    cost.prime(1, 100);
    cost.prime(2, 100);
    cost.observe(1, 200);
    CHECK(cost.expected_ns(1) == 110);
    CHECK(cost.expected_ns(2) == 110);
}

TEST(a_stall_is_no_cost_until_the_fourth_in_a_row) {
    CostModel cost(1);
    cost.prime(1, 100);
    CHECK(!cost.is_stall(1, 400) && cost.is_stall(1, 401));
    for (int i = 0; i < 3; ++i) cost.observe(1, 1'000);
    CHECK(cost.expected_ns(1) == 100 && cost.stalls() == 3);
    cost.observe(1, 100);
    for (int i = 0; i < 3; ++i) cost.observe(1, 1'000);
    CHECK(cost.expected_ns(1) == 100 && cost.stalls() == 6);
    cost.observe(1, 1'000);
    CHECK(cost.expected_ns(1) == 550);  // half of the way
}

TEST(one_batch_far_faster_than_expected_is_believed_at_once) {
    CostModel cost(1);
    cost.prime(1, 200'000'000);
    for (int i = 0; i < 5; ++i) cost.observe(1, 100'000);
    CHECK(cost.expected_ns(1) > 6'000'000 && cost.expected_ns(1) < 7'000'000);  // 200 ms / 2^5 and a little
}

TEST(the_spread_settles_near_the_98th_percentile_of_the_ratio) {
    CostModel cost(1);
    cost.prime(1, 1'000);
    // One observation in ten takes 1.5 times as long as the rest, so the 98th percentile is one of them.
    for (int i = 0; i < 20'000; ++i) cost.observe(1, i % 10 ? 952 : 1'428);
    CHECK(cost.expected_ns(1) > 950 && cost.expected_ns(1) < 1'050);
    CHECK(cost.spread() > 1.3 && cost.spread() < 1.6);
}

TEST(efficient_is_the_smallest_batch_within_five_percent_of_the_best_rate) {
    CostModel steep(64), flat(64), linear(64);
    for (uint32_t rows = 1; rows <= 64; rows *= 2) {
        steep.prime(rows, 50'000 + 120'000 * rows);  // 64 rows at 8.28 a ms; 8 at 7.92, within 5 %; 6 at 7.79, not
        flat.prime(rows, 1'000'000);
        linear.prime(rows, 1'000 * rows);
    }
    CHECK(steep.efficient_rows() == 8);
    CHECK(flat.efficient_rows() == 64);
    CHECK(linear.efficient_rows() == 1);
}

CHECK_MAIN()
