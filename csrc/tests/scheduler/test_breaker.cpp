#include "scheduler/breaker.hpp"

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {
constexpr int64_t NOW = 1'000'000'000'000;
constexpr int64_t MS = 1'000'000;

BreakerLimits limits() {
    BreakerLimits limits;
    limits.calls_in_a_row = 5;
    limits.rows_min = 20;
    return limits;
}

Breaker& opened(Breaker& breaker, int64_t now) {
    for (int i = 0; i < 5; ++i) breaker.record(1, 1, now);
    return breaker;
}
}  // namespace

TEST(a_run_of_failed_calls_opens_it) {
    Breaker breaker(limits());
    for (int i = 0; i < 4; ++i) breaker.record(1, 1, NOW);
    CHECK(!breaker.open() && breaker.allows(NOW));
    breaker.record(1, 1, NOW);
    CHECK(breaker.open() && !breaker.allows(NOW) && breaker.openings() == 1);
}

TEST(a_success_in_between_starts_the_run_anew) {
    Breaker breaker(limits());
    for (int i = 0; i < 100; ++i) breaker.record(1, i % 5 == 4 ? 0 : 1, NOW + i * 60'000 * MS);
    CHECK(!breaker.open());
}

TEST(a_share_of_failed_rows_opens_it_once_there_are_enough) {
    Breaker few(limits()), many(limits()), some(limits());
    for (int i = 0; i < 9; ++i) few.record(2, 1, NOW);
    CHECK(!few.open());
    for (int i = 0; i < 10; ++i) many.record(2, 1, NOW);
    CHECK(many.open());
    for (int i = 0; i < 1'000; ++i) some.record(100, 49, NOW);
    CHECK(!some.open());
}

TEST(failures_of_long_ago_do_not_count) {
    Breaker breaker(limits());
    for (int i = 0; i < 1'000; ++i) breaker.record(3, i % 2 ? 3 : 0, NOW + i * 2'000 * MS);  // five calls a window
    CHECK(!breaker.open());
}

TEST(one_probe_a_rest_and_rests_double_up_to_a_bound) {
    Breaker breaker(limits());
    opened(breaker, NOW);
    int64_t now = NOW, rest = 100 * MS;
    for (int i = 0; i < 10; ++i) {
        CHECK(!breaker.allows(now + rest - 1));
        now += rest;
        CHECK(breaker.allows(now) && !breaker.allows(now));
        breaker.record(1, 1, now);
        rest = std::min<int64_t>(2 * rest, 5'000 * MS);
    }
    now += rest;
    CHECK(breaker.allows(now));
    breaker.record(1, 0, now);
    CHECK(!breaker.open() && breaker.allows(now) && breaker.openings() == 1);
}

TEST(calls_under_way_when_it_opened_prove_nothing) {
    Breaker breaker(limits());
    opened(breaker, NOW);
    breaker.record(1, 0, NOW + MS);
    CHECK(breaker.open());
    breaker.record(1, 1, NOW + 2 * MS);
    CHECK(breaker.allows(NOW + 100 * MS));  // not put off either
}

TEST(a_probe_that_never_comes_back_gives_way_to_the_next) {
    Breaker breaker(limits());
    opened(breaker, NOW);
    CHECK(breaker.allows(NOW + 100 * MS));
    CHECK(!breaker.allows(NOW + 199 * MS));
    CHECK(breaker.allows(NOW + 200 * MS));
}

TEST(a_lost_call_that_comes_back_ends_the_rest) {
    Breaker breaker(limits());
    breaker.came_back(NOW);  // closed: nothing to end
    CHECK(!breaker.open());
    breaker.trip(NOW);
    CHECK(!breaker.allows(NOW + 1 * MS));
    breaker.came_back(NOW + 2 * MS);
    CHECK(breaker.allows(NOW + 2 * MS));   // the probe
    CHECK(!breaker.allows(NOW + 2 * MS));  // and no other
    breaker.record(1, 0, NOW + 3 * MS);
    CHECK(!breaker.open());
}

TEST(disabled_it_never_opens) {
    BreakerLimits off = limits();
    off.enabled = false;
    Breaker breaker(off);
    opened(breaker, NOW).trip(NOW);
    CHECK(breaker.allows(NOW) && breaker.openings() == 0);
}

TEST(many_threads_find_one_probe) {
    Breaker breaker(limits());
    opened(breaker, NOW);
    std::atomic<int> probes{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 1'000; ++i) probes += breaker.allows(NOW + 100 * MS);
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(probes.load() == 1);
}

CHECK_MAIN()
