#include "scheduler/margin.hpp"

#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

// Values below 16 have a bucket each, so the terms are exact.
void learn(SafetyMargin& margin) {
    margin.timer_overshot(15, 1);
    margin.returned_after(7, 1);
    margin.fallback_took(10, 1);
}

}  // namespace

TEST(terms_are_what_was_recorded) {
    SafetyMargin margin(0.001, 2);
    learn(margin);
    const MarginTerms terms = margin.terms();
    CHECK(terms.timer_ns == 15 && terms.return_ns == 7 && terms.fallback_ns == 10);
}

TEST(nothing_learned_sets_nothing_aside) {
    const SafetyMargin margin(0.001, 2);
    CHECK(margin.fallback_at(0, 1'000, 5) == 1'000);
}

TEST(the_fallback_starts_before_the_deadline_by_all_terms_and_the_crowds_share_of_the_cores) {
    SafetyMargin margin(0.001, 2);
    learn(margin);
    CHECK(margin.fallback_at(0, 1'000, 0) == 968);  // 1000 - 15 - 7 - 10
    CHECK(margin.fallback_at(0, 1'000, 4) == 948);  // and 4 fallbacks on 2 cores: 20
    CHECK(margin.fallback_at(500, 1'500, 4) == 1'448);
}

TEST(noise_never_eats_more_than_its_share_of_the_budget_but_the_fallback_is_set_aside_whole) {
    SafetyMargin margin(0.001, 2);
    learn(margin);
    CHECK(margin.fallback_at(0, 100, 4) == 60);  // 100 - 10 - min(42, 30)
    CHECK(margin.fallback_at(0, 100, 1'000) == 60);
    CHECK(margin.fallback_at(0, 10, 0) == -3);  // no time for the primary at all: 10 - 10 - 3
}

TEST(time_for_a_fallback_counts_the_rounds_before_it) {
    SafetyMargin margin(0.001, 2);
    learn(margin);
    CHECK(margin.time_for_fallback(100, 110, 0));
    CHECK(!margin.time_for_fallback(101, 110, 0));
    CHECK(margin.time_for_fallback(100, 110, 1));  // the other core is free
    CHECK(!margin.time_for_fallback(100, 110, 2));
    CHECK(margin.time_for_fallback(100, 120, 3));
}

TEST(one_late_timer_is_forgotten_though_no_other_wait_is_timed) {
    SafetyMargin margin(0.001, 2);
    constexpr int64_t second = 1'000'000'000;
    for (int i = 0; i < 256; ++i) margin.timer_overshot(10, second);
    margin.timer_overshot(5'000'000, second);
    CHECK(margin.terms().timer_ns >= 5'000'000);
    margin.fallback_at(2 * second, 2 * second + 10'000'000, 0);
    CHECK(margin.terms().timer_ns >= 5'000'000);
    margin.fallback_at(4 * second, 4 * second + 10'000'000, 0);
    CHECK(margin.terms().timer_ns == 10);
    // Records of ordinary timers stay, however long nothing happens.
    for (int64_t t = 5; t < 100; ++t) margin.fallback_at(t * second, t * second + 10'000'000, 0);
    CHECK(margin.terms().timer_ns == 10);
}

CHECK_MAIN()
