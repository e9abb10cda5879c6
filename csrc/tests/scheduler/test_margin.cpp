#include "scheduler/margin.hpp"

#include "tests/check.hpp"

using namespace engine;

namespace {

// Values below 16 have a bucket each, so the terms are exact.
void learn(Guard& guard) {
    guard.timer_overshot(15, 1);
    guard.returned_after(7, 1);
    guard.fallback_took(10, 1);
}

}  // namespace

TEST(terms_are_what_was_recorded) {
    Guard guard(0.001, 2);
    learn(guard);
    const GuardTerms terms = guard.terms();
    CHECK(terms.timer_ns == 15 && terms.return_ns == 7 && terms.fallback_ns == 10);
}

TEST(nothing_learned_sets_nothing_aside) {
    const Guard guard(0.001, 2);
    CHECK(guard.rescue_at(0, 1'000, 5) == 1'000);
}

TEST(the_rescue_comes_before_the_deadline_by_all_terms_and_the_crowds_share_of_the_cores) {
    Guard guard(0.001, 2);
    learn(guard);
    CHECK(guard.rescue_at(0, 1'000, 0) == 968);   // 1000 - 15 - 7 - 10
    CHECK(guard.rescue_at(0, 1'000, 4) == 948);   // and 4 fallbacks on 2 cores: 20
    CHECK(guard.rescue_at(500, 1'500, 4) == 1'448);
}

TEST(noise_never_eats_more_than_its_share_of_the_budget_but_the_fallback_is_set_aside_whole) {
    Guard guard(0.001, 2);
    learn(guard);
    CHECK(guard.rescue_at(0, 100, 4) == 60);      // 100 - 10 - min(42, 30)
    CHECK(guard.rescue_at(0, 100, 1'000) == 60);
    CHECK(guard.rescue_at(0, 10, 0) == -3);       // no time for the primary at all: 10 - 10 - 3
}

TEST(time_for_a_fallback_counts_the_rounds_before_it) {
    Guard guard(0.001, 2);
    learn(guard);
    CHECK(guard.time_for_fallback(100, 110, 0));
    CHECK(!guard.time_for_fallback(101, 110, 0));
    CHECK(guard.time_for_fallback(100, 110, 1));   // the other core is free
    CHECK(!guard.time_for_fallback(100, 110, 2));
    CHECK(guard.time_for_fallback(100, 120, 3));
}

TEST(one_late_timer_is_forgotten_though_no_other_wait_is_timed) {
    Guard guard(0.001, 2);
    constexpr int64_t second = 1'000'000'000;
    for (int i = 0; i < 256; ++i) guard.timer_overshot(10, second);
    guard.timer_overshot(5'000'000, second);
    CHECK(guard.terms().timer_ns >= 5'000'000);
    guard.rescue_at(2 * second, 2 * second + 10'000'000, 0);
    CHECK(guard.terms().timer_ns >= 5'000'000);
    guard.rescue_at(4 * second, 4 * second + 10'000'000, 0);
    CHECK(guard.terms().timer_ns == 10);
    // What it knows of ordinary ones it does not lose, however long nothing happens.
    for (int64_t t = 5; t < 100; ++t) guard.rescue_at(t * second, t * second + 10'000'000, 0);
    CHECK(guard.terms().timer_ns == 10);
}

CHECK_MAIN()
