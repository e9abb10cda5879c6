#include "simulator/simulator.hpp"

#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;
using namespace engine::simulator;

namespace {

uint64_t violations(const SimulationResult& r) {
    uint64_t all = 0;
    for (const uint64_t n : r.violations) all += n;
    if (all > 0) std::fprintf(stderr, "first: %s\n", r.first_violation.c_str());
    return all;
}

constexpr int64_t MS = 1'000'000;

SimulatedFault fault(FaultKind kind, int64_t from_ns = 0, int64_t until_ns = NEVER_NS) {
    SimulatedFault made;
    made.kind = kind;
    made.from_ns = from_ns;
    made.until_ns = until_ns;
    return made;
}

SimulatedFault sharing(FaultKind kind, double share) {
    SimulatedFault made = fault(kind);
    made.share = share;
    return made;
}

SimulatedFault stall(int64_t length_ns, int64_t every_ns) {
    SimulatedFault made = fault(FaultKind::stalling);
    made.length_ns = length_ns;
    made.every_ns = every_ns;
    return made;
}

SimulatedFault hang_of_first(int64_t from_ns) {
    SimulatedFault made = fault(FaultKind::hanging, from_ns);
    made.executor = 0;
    return made;
}

uint64_t count(const std::array<uint64_t, SOURCES>& counts, Source source) {
    return counts[static_cast<size_t>(source)];
}

uint64_t count(const SimulationResult& r, Reason reason) { return r.by_reason[static_cast<size_t>(reason)]; }

// Nothing random but the arrivals: one executor, a batch costs 1 ms whatever its rows, a fallback 10 us.
SimulationPlan quiet() {
    SimulationPlan plan;
    plan.requests = 2'000;
    plan.rate_per_s = 100.0;
    plan.batch_base_ns = 1'000'000;
    plan.batch_row_ns = 0;
    plan.batch_noise = plan.fallback_noise = 0.0;
    plan.overshoot_ns = 0;
    plan.overshoot_tail_share = 0.0;
    return plan;
}

}  // namespace

TEST(an_idle_primary_answers_everything_in_its_own_time) {
    const SimulationResult r = simulate(quiet());
    CHECK(violations(r) == 0);
    CHECK(count(r.by_source, Source::primary) == 2'000);
    CHECK(count(r.in_time, Source::primary) == 2'000);
    // 1 ms, to the 6.25 % of a histogram bucket.
    CHECK(r.latency_ns_p50 >= 1'000'000 && r.latency_ns_p50 <= 1'062'500);
}

TEST(a_request_that_has_expired_when_it_comes_gets_the_default) {
    SimulationPlan plan = quiet();
    plan.deadlines = {{0, 1.0}};
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.batches == 0);
    CHECK(count(r, Reason::expired) == 2'000);
    CHECK(count(r.in_time, Source::default_value) == 2'000);
}

TEST(a_deadline_shorter_than_the_fallback_gets_the_default) {
    SimulationPlan plan = quiet();
    plan.deadlines = {{5'000, 1.0}};
    const SimulationResult r = simulate(plan);
    CHECK(count(r, Reason::no_time) == 2'000);
    CHECK(count(r.in_time, Source::default_value) == 2'000);
}

TEST(a_primary_slower_than_the_deadline_is_only_probed) {
    SimulationPlan plan = quiet();
    plan.batch_base_ns = 20'000'000;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.batches == r.batch_rows && r.batches == r.late_dropped);
    // 50 ms lie between two probes, and at 100 requests a second one comes soon after that.
    const auto probes_max = static_cast<uint64_t>(r.elapsed_ns / 50'000'000 + 1);
    CHECK(r.batches > probes_max / 2 && r.batches <= probes_max);
    CHECK(count(r.in_time, Source::fallback) == 2'000);
}

TEST(a_stall_before_anything_is_known_is_unlearned) {
    SimulationPlan plan = quiet();
    plan.calibrated = false;
    plan.requests = 20'000;
    plan.rate_per_s = 1'000.0;
    plan.faults.push_back(stall(200'000'000, 2'000'000'000));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    // Nine tenths of the time, but for the first seconds. Requests that expire before a fallback has ever run are late.
    CHECK(count(r.in_time, Source::primary) > 15'000);
}

TEST(a_primary_that_was_slow_for_a_while_comes_back) {
    // Five stalls of 3 s each hold up all four executors; one second later the primary is as fast as before.
    SimulationPlan plan = quiet();
    plan.executors = 4;
    plan.requests = 20'000;
    plan.rate_per_s = 1'000.0;
    plan.faults.push_back(stall(3'000'000'000, 4'000'000'000));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(count(r.in_time, Source::primary) > 20'000 / 5);  // a quarter of the time it can
    CHECK(count(r.in_time, Source::primary) + count(r.in_time, Source::fallback) == 20'000);
}

TEST(a_single_executor_that_hangs_leaves_everything_to_the_fallback) {
    SimulationPlan plan = quiet();
    plan.replace_hung = false;
    plan.faults.push_back(hang_of_first(0));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.batches == 1);
    CHECK(count(r.by_source, Source::primary) == 0);
    CHECK(count(r.in_time, Source::fallback) == 2'000);
}

TEST(a_batch_that_crashes_is_answered_by_the_fallback) {
    SimulationPlan plan = quiet();
    plan.faults.push_back(sharing(FaultKind::failing, 1.0));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(count(r, Reason::primary_error) + count(r, Reason::breaker_open) == 2'000);
    CHECK(r.breaker_openings == 1);
    CHECK(count(r.in_time, Source::fallback) == 2'000);
}

TEST(cancelled_requests_have_one_outcome_and_no_work) {
    SimulationPlan plan = quiet();
    plan.faults.push_back(sharing(FaultKind::cancelling, 1.0));
    plan.faults.push_back(hang_of_first(0));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.cancelled > 0);
    CHECK(r.cancelled + count(r.by_source, Source::fallback) == 2'000);
}

TEST(a_seed_is_a_trace) {
    SimulationPlan plan = quiet();
    plan.batch_noise = 0.3;
    plan.rate_per_s = 2'000.0;
    const uint64_t first = simulate(plan).trace_hash;
    CHECK(simulate(plan).trace_hash == first);
    plan.seed = 2;
    CHECK(simulate(plan).trace_hash != first);
}

TEST(every_fault_at_once_keeps_the_invariants) {
    SimulationPlan plan;
    plan.requests = 20'000;
    plan.rate_per_s = 20'000.0;
    plan.deadlines = {{2'000'000, 1.0}, {10'000'000, 2.0}, {100'000'000, 1.0}, {0, 0.1}};
    plan.executors = 3;
    plan.faults.push_back(fault(FaultKind::bursting));
    plan.faults.back().every_ns = 50 * MS;
    plan.faults.back().count = 300;
    plan.queue_rows_max = 128;
    plan.batch_noise = 0.5;
    plan.overshoot_tail_share = 0.01;
    plan.faults.push_back(stall(60'000'000, 300'000'000));
    plan.faults.push_back(fault(FaultKind::slow, 500 * MS));
    plan.faults.back().factor = 3.0;
    plan.faults.push_back(hang_of_first(400'000'000));
    plan.faults.push_back(sharing(FaultKind::failing, 0.02));
    plan.faults.push_back(sharing(FaultKind::corrupting, 0.01));
    plan.faults.push_back(sharing(FaultKind::cancelling, 0.05));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.late_dropped > 0);
    CHECK(count(r, Reason::primary_not_finite) > 0);
    CHECK(r.queue_depth_max <= 128);
}

TEST(each_fault_keeps_the_invariants_and_ends) {
    for (size_t kind = 0; kind + 1 < FAULT_KINDS; ++kind) {  // all but sabotage, the last
        SimulationPlan plan;
        plan.requests = 5'000;
        plan.rate_per_s = 8'000.0;
        plan.executors = 2;
        SimulatedFault made = fault(static_cast<FaultKind>(kind), 100 * MS, 300 * MS);
        made.length_ns = 20 * MS;
        made.every_ns = 50 * MS;
        made.factor = 3.0;
        made.count = 200;
        made.share = 0.5;
        plan.faults.push_back(made);
        const SimulationResult r = simulate(plan);
        if (violations(r) > 0) std::fprintf(stderr, "under %s\n", FAULT_NAMES[kind]);
        CHECK(violations(r) == 0);
        CHECK(count(r.by_source, Source::primary) > 0);
    }
}

TEST(poisoned_rows_take_few_neighbours_along) {
    for (const double share : {0.02, 0.1, 0.3}) {
        SimulationPlan plan;
        plan.requests = 20'000;
        plan.rate_per_s = 1'000.0;
        plan.batch_base_ns = 100'000;
        plan.batch_row_ns = 20'000;
        plan.faults.push_back(sharing(FaultKind::poisoning, share));
        const SimulationResult r = simulate(plan);
        CHECK(violations(r) == 0);
        CHECK(r.breaker_openings == 0);
        const double good = (1.0 - share) * 20'000.0;
        const auto answered = static_cast<double>(count(r.by_source, Source::primary));
        CHECK(answered > 0.99 * good && answered < 1.05 * good);
        CHECK(static_cast<double>(count(r, Reason::primary_error)) > 0.9 * share * 20'000.0);
    }
}

TEST(every_invariant_is_watched) {
    for (size_t broken = 0; broken < INVARIANTS; ++broken) {
        SimulationPlan plan = quiet();
        plan.faults.push_back(fault(FaultKind::sabotaging, 10 * MS));
        plan.faults.back().broken = static_cast<Invariant>(broken);
        const SimulationResult r = simulate(plan);
        if (r.violations[broken] == 0) std::fprintf(stderr, "unseen: %s\n", INVARIANT_NAMES[broken]);
        CHECK(r.violations[broken] > 0);
        CHECK(!r.first_violation.empty());
    }
}

TEST(a_swap_mixes_no_versions_and_frees_the_old_ones) {
    SimulationPlan plan = quiet();
    plan.rate_per_s = 300.0;  // a batch around a swap takes two calls
    plan.faults.push_back(fault(FaultKind::swapping));
    plan.faults.back().every_ns = 1 * MS;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.versions > 500 && r.versions_freed == r.versions - 1);
    CHECK(count(r.by_source, Source::primary) > 1'900);
}

TEST(a_jump_of_the_clock_delays_what_was_under_way) {
    SimulationPlan plan = quiet();
    plan.requests = 1;
    plan.deadlines = {{100 * MS, 1.0}};
    plan.rate_per_s = 1'000'000.0;
    const SimulationResult before = simulate(plan);
    plan.faults.push_back(fault(FaultKind::jumping, before.elapsed_ns - 500'000));
    plan.faults.back().length_ns = 20 * MS;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.elapsed_ns == before.elapsed_ns + 20 * MS);
}

TEST(a_stuck_executor_is_replaced_and_its_batch_answered) {
    SimulationPlan plan = quiet();
    plan.executors = 2;
    plan.faults.push_back(hang_of_first(0));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.replaced == 1);
    CHECK(count(r.by_source, Source::primary) > 1'900);
}

TEST(models_on_shared_executors_are_told_apart) {
    SimulationPlan plan = quiet();
    plan.rate_per_s = 5'000.0;
    plan.models = {{1.0, 1.0, 1.0}, {2.0, 3.0, 0.5}, {0.0, 1.0, 1.0}};
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.by_model[0].arrived + r.by_model[1].arrived == 2'000 && r.by_model[2].arrived == 0);
    CHECK(r.by_model[0].primary_in_time > 500 && r.by_model[1].primary_in_time > 1'000);
}

SimulationPlan with_canary(double cost_factor) {
    SimulationPlan plan;
    plan.requests = 20'000;
    plan.rate_per_s = 500.0;
    plan.batch_base_ns = 1'000'000;
    plan.batch_row_ns = 0;
    plan.models = {{0.9, 1.0, 1.0}, {0.1, 1.0, cost_factor, true}};
    return plan;
}

double served(const SimulatedFate& fate) {
    return static_cast<double>(fate.primary_in_time) / static_cast<double>(fate.arrived);
}

TEST(a_slow_canary_takes_nothing_from_the_live_version) {
    const double alone = served(simulate(with_canary(1.0)).by_model[0]);
    CHECK(alone > 0.99);
    for (const double factor : {2.0, 4.0, 8.0, 15.0, 40.0}) {
        const SimulationResult r = simulate(with_canary(factor));
        CHECK(violations(r) == 0);
        if (served(r.by_model[0]) < alone - 0.01)
            std::fprintf(stderr, "live %f at %f\n", served(r.by_model[0]), factor);
        CHECK(served(r.by_model[0]) >= alone - 0.01);
        CHECK(served(r.by_model[1]) > (factor < 5.0 ? 0.8 : -1.0));
    }
}

TEST(a_canary_gets_its_share_while_there_is_not_enough_for_both) {
    SimulationPlan plan = with_canary(1.0);
    plan.batch_base_ns = 0;
    plan.batch_row_ns = 1'000'000;
    plan.rate_per_s = 3'000.0;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(served(r.by_model[0]) > 0.2 && served(r.by_model[1]) > 0.1);
}

TEST(one_stuck_executor_rests_no_model) {
    SimulationPlan plan = quiet();
    plan.rate_per_s = 1'000.0;
    plan.executors = 2;
    plan.faults.push_back(hang_of_first(500 * MS));
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.replaced == 1 && r.breaker_openings == 0);
    CHECK(count(r.by_source, Source::primary) > 1'990);
}

TEST(where_there_is_no_time_to_search_groups_are_given_up) {
    // A call takes 2 ms whatever its rows, and three rows in ten are bad: a search needs 0.9 calls a row.
    for (const auto& [share, least] : {std::pair{0.1, 0.94}, {0.3, 0.66}}) {
        SimulationPlan plan;
        plan.requests = 20'000;
        plan.rate_per_s = 1'000.0;
        plan.deadlines = {{50 * MS, 1.0}};
        plan.budget_ns = 50 * MS;
        plan.batch_base_ns = 2'000'000;
        plan.batch_row_ns = 0;
        plan.faults.push_back(sharing(FaultKind::poisoning, share));
        const SimulationResult r = simulate(plan);
        CHECK(violations(r) == 0);
        CHECK(r.breaker_openings == 0);
        const double good = static_cast<double>(count(r.by_source, Source::primary)) / ((1.0 - share) * 20'000.0);
        if (good < least) std::fprintf(stderr, "%f of the good rows at %f bad\n", good, share);
        CHECK(good >= least);
    }
}

// A batch of one row takes 1 ms; the device works on four at once.
SimulationPlan on_device(uint32_t seats) {
    SimulationPlan plan = quiet();
    plan.requests = 6'000;
    plan.rate_per_s = 3'000.0;
    plan.batch_rows_max = 1;
    plan.models[0].seats = seats;
    return plan;
}

TEST(a_device_with_four_lanes_is_four_seats) {
    const SimulationResult r = simulate(on_device(4));
    CHECK(violations(r) == 0);
    CHECK(r.in_flight_max == 4 && r.replaced == 0 && r.abandoned == 0);
    CHECK(count(r.by_source, Source::primary) > 5'900);  // three of four seats are busy on the average
    SimulationPlan called = on_device(0);
    const SimulationResult alone = simulate(called);
    CHECK(violations(alone) == 0 && alone.in_flight_max == 0);
    CHECK(count(alone.by_source, Source::primary) < 2'200);  // a thousand a second for two seconds
}

TEST(a_serial_device_gains_nothing_by_its_lanes_and_learns_that) {
    SimulationPlan plan = on_device(4);
    plan.models[0].serial = true;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    const uint64_t primary = count(r.by_source, Source::primary);
    CHECK(primary > 1'700 && primary < 2'200);
    CHECK(r.late_dropped < 100);  // admission sees how long batches really take
}

TEST(a_hung_seat_is_abandoned_and_comes_back) {
    SimulationPlan plan = on_device(2);
    plan.rate_per_s = 500.0;
    plan.faults = {hang_of_first(200 * MS)};
    plan.faults[0].until_ns = 2'000 * MS;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);
    CHECK(r.abandoned >= 1 && r.replaced == 0);
    CHECK(r.in_flight_max == 2);
    CHECK(count(r.by_source, Source::primary) > 5'000);  // the other seat goes on
    plan.faults[0].until_ns = NEVER_NS;
    const SimulationResult never = simulate(plan);
    CHECK(violations(never) == 0);
    CHECK(never.abandoned >= 1 && count(never.by_source, Source::primary) > 5'000);
}

TEST(a_batch_on_a_device_has_no_more_rows_than_it_takes) {
    SimulationPlan plan = on_device(2);
    plan.batch_rows_max = 64;
    plan.models[0].rows_max = 3;
    plan.rate_per_s = 20'000.0;
    const SimulationResult r = simulate(plan);
    CHECK(violations(r) == 0);  // bounded_batch is one
    CHECK(r.batch_rows <= 3 * r.batches && r.batch_rows > 2 * r.batches);
}

TEST(devices_keep_every_invariant_whatever_fails) {
    for (uint64_t seed = 1; seed <= 40; ++seed) {
        SimulationPlan plan = on_device(1 + seed % 4);
        plan.seed = seed;
        plan.batch_rows_max = seed % 3 == 0 ? 1 : 16;
        plan.models[0].serial = seed % 2 == 0;
        plan.models.push_back({0.5, 2.0, 0.5});
        if (seed % 5 == 0) plan.models.push_back({0.2, 1.0, 1.0, true, 1});
        plan.executors = 1 + seed % 2;
        plan.batch_noise = 0.3;
        plan.rate_per_s = 1'000.0 * static_cast<double>(1 + seed % 6);
        plan.faults = {sharing(FaultKind::failing, 0.03), sharing(FaultKind::corrupting, 0.02),
                       sharing(FaultKind::poisoning, seed % 7 == 0 ? 0.2 : 0.0), stall(20 * MS, 300 * MS)};
        plan.faults.push_back(fault(FaultKind::hanging, 300 * MS, 340 * MS));
        plan.faults.push_back(hang_of_first(700 * MS));
        plan.faults.back().until_ns = seed % 4 == 0 ? NEVER_NS : 900 * MS;
        plan.faults.push_back(fault(FaultKind::swapping, 400 * MS));
        plan.faults.back().every_ns = 150 * MS;
        plan.faults.push_back(sharing(FaultKind::cancelling, 0.05));
        if (seed % 3 == 1) plan.faults.push_back(fault(FaultKind::dying, 500 * MS, 550 * MS));
        const SimulationResult r = simulate(plan);
        if (violations(r) != 0) std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
        CHECK(violations(r) == 0);
        CHECK(simulate(plan).trace_hash == r.trace_hash);
    }
}

CHECK_MAIN()
