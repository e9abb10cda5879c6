#include "monitor/charts.hpp"

#include <vector>

#include "tests/check.hpp"

using namespace engine::monitor;

namespace {

// One column of two bins and one chart: bin 0 adds a half of the threshold, bin 1 takes a quarter, missing takes an
// eighth, strange adds 1.
struct Held {
    std::vector<double> weights{0.5, -0.25, -0.125, 1.0};
    std::vector<double> run_limits{60.0};
    std::vector<double> level{0.0, 0.0}, gathered{0.0, 0.0}, sums = std::vector<double>(6), steps{0.0};
    std::vector<uint8_t> alarmed{0, 0};
    std::vector<int64_t> since{0, 0}, until{0, 0};

    bool add(uint32_t first, uint32_t second, uint32_t missing, uint32_t unseen, uint32_t run, int64_t before) {
        Evidence to;
        to.columns = 1;
        to.bins = 2;
        to.charts = 1;
        to.weights = weights.data();
        to.run_limits = run_limits.data();
        to.level = level.data();
        to.alarmed = alarmed.data();
        to.since = since.data();
        to.until = until.data();
        to.gathered = gathered.data();
        to.sums = sums.data();
        to.steps = steps.data();
        const uint32_t counts[] = {first, second};
        const uint32_t infinite = 0;
        const double values[] = {3.0, 9.0};
        BlockCounts block;
        block.counts = counts;
        block.missing = &missing;
        block.infinite = &infinite;
        block.unseen = &unseen;
        block.runs = &run;
        block.sums = values;
        return add_evidence(to, block, first + second + missing + unseen, before);
    }
};

}  // namespace

TEST(a_chart_adds_what_its_places_hold_and_stays_between_0_and_1) {
    Held held;
    CHECK(!held.add(1, 1, 1, 0, 1, 0));
    CHECK(held.level[0] == 0.125);
    CHECK(held.steps[0] == 0.125);
    CHECK(held.add(0, 0, 0, 1, 1, 3));
    CHECK(held.level[0] == 1.0);
    CHECK(held.until[0] == 4);
    CHECK(!held.add(0, 3, 0, 0, 1, 4));
    CHECK(held.level[0] == 0.25);
    CHECK(!held.add(0, 3, 0, 0, 1, 7));
    CHECK(held.level[0] == 0.0);
    held.add(1, 0, 0, 0, 1, 10);
    CHECK(held.since[0] == 10);
    CHECK(held.gathered[0] == 2.0 && held.gathered[1] == 7.0);
}

TEST(a_run_alarms_at_its_limit_and_says_where_it_began) {
    Held held;
    CHECK(!held.add(0, 40, 0, 0, 40, 0));
    CHECK(held.add(0, 30, 0, 0, 70, 40));
    CHECK(held.alarmed[1] == 1 && held.since[1] == 0);
    CHECK(!held.add(0, 30, 0, 0, 2, 70));
    CHECK(held.sums[5] == 2.0 && held.sums[3] == 3.0);
}

CHECK_MAIN()
