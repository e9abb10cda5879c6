#include "scheduler/policy.hpp"

#include <atomic>
#include <thread>

#include "tests/check.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr int64_t NOW = 1'000'000'000;

// Costs 700 + 100 ns a row, at most 8 rows; high_ns is 1.25 of that before anything has been observed. One executor,
// which has just run, so that no probe is due.
struct Bench {
    CostModel cost{8};
    Policy policy;
    Entry batch[8];
    std::vector<uint32_t> dropped;

    explicit Bench(uint32_t executors = 1, uint32_t queue_rows_max = 4096)
        : policy({8, queue_rows_max, executors}, primed(cost)) {
        policy.started(0, 1, NOW - 1);
        policy.finished(0, 1, NOW, false);
    }
    static CostModel& primed(CostModel& cost) {
        for (uint32_t rows : {1u, 2u, 3u, 4u, 6u, 8u}) cost.prime(rows, 700 + 100 * rows);
        return cost;
    }
    void push(uint32_t slot, int64_t finish_by_ns, int64_t now_ns = NOW) {
        policy.push({finish_by_ns, slot, 0}, now_ns);
    }
    BatchPlan form(int64_t now_ns = NOW) {
        return policy.form(
            now_ns, batch, [](const Entry&) { return Claim::taken; },
            [this](const Entry& entry) { dropped.push_back(entry.slot); });
    }
};

}  // namespace

TEST(batches_are_in_order_of_finish_by) {
    Bench b;
    b.push(0, NOW + 30'000);
    b.push(1, NOW + 10'000);
    b.push(2, NOW + 20'000);
    const BatchPlan plan = b.form();
    CHECK(plan.rows == 3 && !plan.holding);
    CHECK(b.batch[0].slot == 1 && b.batch[1].slot == 2 && b.batch[2].slot == 0);
    CHECK(b.policy.depth() == 0);
}

TEST(an_empty_queue_forms_nothing) {
    Bench b;
    const BatchPlan plan = b.form();
    CHECK(plan.rows == 0 && !plan.holding && plan.wait_until_ns == NEVER_NS);
}

TEST(what_cannot_finish_is_dropped_and_never_claimed) {
    Bench b;
    b.push(0, NOW - 1);
    b.push(1, NOW);
    b.push(2, NOW + 999);  // high_ns(1) is 1000
    b.push(3, NOW + 1'000);
    const BatchPlan plan = b.form();
    CHECK(plan.rows == 1 && b.batch[0].slot == 3);
    CHECK((b.dropped == std::vector<uint32_t>{0, 1, 2}));
}

TEST(requests_answered_meanwhile_are_passed_over) {
    Bench b;
    for (uint32_t slot = 0; slot < 4; ++slot) b.push(slot, NOW + 10'000 + slot);
    const BatchPlan plan = b.policy.form(
        NOW, b.batch, [](const Entry& entry) { return entry.slot % 2 ? Claim::taken : Claim::gone; },
        [](const Entry&) {});
    CHECK(plan.rows == 2 && b.batch[0].slot == 1 && b.batch[1].slot == 3);
}

TEST(the_batch_is_no_larger_than_its_most_urgent_member_can_wait_for) {
    Bench b;
    b.push(0, NOW + 1'250);  // high_ns(3) is 1250
    for (uint32_t slot = 1; slot < 8; ++slot) b.push(slot, NOW + 100'000);
    CHECK(b.form().rows == 3);
    CHECK(b.batch[0].slot == 0);
}

TEST(a_head_is_dropped_only_while_there_are_rejections) {
    for (const int64_t rejected_ago_ns : {int64_t{-1}, int64_t{1'000}, int64_t{20'000'001}}) {
        Bench b;
        b.push(0, NOW + 1'100);  // time for one row alone
        for (uint32_t slot = 1; slot <= 8; ++slot) b.push(slot, NOW + 100'000);
        if (rejected_ago_ns >= 0) b.policy.rejected(NOW - rejected_ago_ns);
        const BatchPlan plan = b.form();
        if (rejected_ago_ns == 1'000) {
            CHECK(plan.rows == 8);  // 8 rows in 1500 ns rather than 1 in 800
            CHECK(b.dropped == std::vector<uint32_t>{0});
        } else {
            CHECK(plan.rows == 1 && b.batch[0].slot == 0);
            CHECK(b.dropped.empty());
        }
    }
}

TEST(holding_is_bounded_by_the_batch_that_fills_by_patience_and_by_the_deadline) {
    for (const bool urgent : {false, true}) {
        Bench b(2);
        // An arrival every 100 ns is more than single rows of 800 ns could keep up with.
        int64_t now = NOW;
        for (int i = 0; i < 2'000; ++i, now += 100) {
            b.push(0, now + 1'000'000, now);
            if (i % 8 == 7) CHECK(b.form(now).rows == 8);
        }
        const int64_t finish_by = urgent ? now + 1'875 + 50 : now + 1'000'000;  // high_ns(8) is 1875
        b.push(1, finish_by, now);
        BatchPlan plan = b.form(now);
        CHECK(plan.holding && plan.rows == 0);
        if (urgent) {
            CHECK(plan.wait_until_ns == now + 50);
        } else {
            // Seven more at one every 100 ns would fill the batch, as would half of its own 1500 ns.
            CHECK(plan.wait_until_ns >= now + 650 && plan.wait_until_ns <= now + 750);
            plan = b.form(plan.wait_until_ns);
            if (plan.rows == 0) CHECK(plan.wait_until_ns == now + 750);
        }
        if (plan.rows == 0) plan = b.form(plan.wait_until_ns);
        CHECK(plan.rows == 1 && b.batch[0].slot == 1);
    }
}

TEST(a_slow_stream_and_a_single_executor_are_not_held) {
    for (const uint32_t executors : {1u, 2u}) {
        Bench b(executors);
        int64_t now = NOW;
        for (int i = 0; i < 2'000; ++i, now += executors == 1 ? 100 : 100'000) {
            b.push(0, now + 1'000'000, now);
            CHECK(b.form(now).rows == 1);
        }
    }
}

TEST(prediction_adds_up_the_running_batch_the_queue_and_ones_own_row) {
    Bench b;
    CHECK(b.policy.predicted_finish_ns(NOW, NOW + 100'000) == NOW + 800);
    b.policy.started(0, 8, NOW);  // due at 1500
    CHECK(b.policy.predicted_finish_ns(NOW + 100, NOW + 100'000) == NOW + 1'500 + 800);
    for (int i = 0; i < 7; ++i) b.policy.enter(NOW, NOW + 50'000);
    CHECK(b.policy.predicted_finish_ns(NOW + 100, NOW + 100'000) == NOW + 1'500 + 1'500);
    b.policy.enter(NOW, NOW + 50'000);  // behind a full batch it will itself be in a full one
    CHECK(b.policy.predicted_finish_ns(NOW + 100, NOW + 100'000) == NOW + 1'500 + 1'500 + 1'500);
}

TEST(an_overdue_executor_is_taken_to_need_as_long_again) {
    Bench b;
    b.policy.started(0, 1, NOW);  // due at 800, surely at 1000
    CHECK(b.policy.predicted_finish_ns(NOW + 900, NOW + 100'000) == NOW + 900 + 800);
    CHECK(b.policy.predicted_finish_ns(NOW + 1'500, NOW + 100'000) == NOW + 1'500 + 1'500 + 800);
}

TEST(verdicts) {
    Bench b(1, 2);
    CHECK(b.policy.admit(NOW, NOW + 800) == Verdict::admit);
    CHECK(b.policy.admit(NOW, NOW + 799) == Verdict::late);
    b.policy.started(0, 1, NOW);
    CHECK(b.policy.admit(NOW + 2'000, NOW + 3'000) == Verdict::late);
    CHECK(b.policy.admit(NOW + 2'001, NOW + 3'000) == Verdict::stalled);  // twice the 1000 it surely needs
    CHECK(b.policy.admit(NOW + 2'001, NOW + 100'000) == Verdict::admit);
    const Ticket first = b.policy.enter(NOW, NOW + 100'000);
    b.policy.enter(NOW, NOW + 100'000);
    CHECK(b.policy.admit(NOW, NOW + 100'000) == Verdict::full);
    b.policy.leave(first);
    CHECK(b.policy.admit(NOW, NOW + 100'000) == Verdict::admit);
}

TEST(the_learned_margin_is_bounded_by_one_batch_and_a_quarter_of_the_slack) {
    Bench b;
    b.policy.missed_prediction_by(1'000'000'000, NOW);
    CHECK(b.policy.prediction_error_ns() == 1'535);            // 1500 in its bucket, 1472 to 1535
    CHECK(b.policy.admit(NOW, NOW + 1'065) == Verdict::late);  // 800 and a quarter, 266, are 1066
    CHECK(b.policy.admit(NOW, NOW + 1'066) == Verdict::admit);
}

TEST(one_stall_of_all_executors_is_one_stall) {
    Bench b(4);
    for (uint32_t e = 0; e < 4; ++e) b.policy.started(e, 1, NOW);
    for (uint32_t e = 0; e < 4; ++e) b.policy.finished(e, 1, NOW + 200'000'000 + e, true);
    CHECK(b.cost.stalls() == 1);
    CHECK(b.cost.expected_ns(1) == 800);
}

TEST(a_crash_teaches_no_cost) {
    Bench b;
    b.policy.started(0, 1, NOW);
    b.policy.finished(0, 1, NOW + 10, false);
    CHECK(b.cost.expected_ns(1) == 800);
}

TEST(an_idle_primary_that_seems_too_slow_is_probed_now_and_then) {
    Bench b;
    const int64_t later = NOW + 60'000'000;
    CHECK(b.policy.admit(NOW + 1'000, NOW + 1'500) == Verdict::late);
    CHECK(b.policy.admit(later, later) == Verdict::late);  // expired
    CHECK(b.policy.admit(later, later + 500) == Verdict::admit);
    b.push(0, later, later);
    b.push(1, later + 500, later);
    b.push(2, later + 600, later);
    CHECK(b.form(later).rows == 1 && b.batch[0].slot == 1);
    CHECK(b.dropped == std::vector<uint32_t>{0});
    b.policy.started(0, 1, later);
    CHECK(b.policy.admit(later + 100, later + 500) == Verdict::late);
    b.policy.finished(0, 1, later + 800, true);
    CHECK(b.policy.admit(later + 900, later + 1'400) == Verdict::late);
    CHECK(b.form(later + 550).rows == 0);
    CHECK((b.dropped == std::vector<uint32_t>{0, 2}));
}

TEST(finish_counts_by_bucket) {
    constexpr int64_t BUCKET = int64_t{1} << FinishCounts::SHIFT;
    FinishCounts counts;
    CHECK(counts.before(0, BUCKET) == 0);
    CHECK(FinishCounts::bucket(0, BUCKET) == 1);
    CHECK(FinishCounts::bucket(0, 510 * BUCKET) == 510);
    CHECK(FinishCounts::bucket(0, 511 * BUCKET) == FinishCounts::FAR);
    counts.add(1, 1);
    CHECK(counts.before(0, BUCKET - 1) == 0 && counts.before(0, BUCKET) == 1);
    counts.add(510, 1);
    counts.add(FinishCounts::FAR, 5);
    CHECK(counts.total() == 7);
    CHECK(counts.before(0, 510 * BUCKET) == 2);
    CHECK(counts.before(0, 511 * BUCKET) == 7);  // past the horizon everything is before
    counts.remove(1, 1);
    counts.remove(510, 1);
    counts.remove(FinishCounts::FAR, 5);
    CHECK(counts.total() == 0 && counts.before(0, 1'000 * BUCKET) == 0);
}

TEST(finish_counts_go_round_their_ring) {
    constexpr int64_t BUCKET = int64_t{1} << FinishCounts::SHIFT;
    FinishCounts counts;
    CHECK(FinishCounts::bucket(600 * BUCKET, 610 * BUCKET) == 98);  // 610 - 512
    counts.add(98, 1);
    CHECK(counts.before(600 * BUCKET, 609 * BUCKET) == 0);
    CHECK(counts.before(600 * BUCKET, 610 * BUCKET) == 1);
}

TEST(classes_make_no_difference_while_there_is_time_for_all) {
    Bench b;
    b.policy.push({NOW + 20'000, 0, 0, Priority::critical}, NOW);
    b.policy.push({NOW + 10'000, 1, 0, Priority::sheddable}, NOW);
    b.policy.push({NOW + 15'000, 2, 0, Priority::normal}, NOW);
    CHECK(b.form().rows == 3);
    CHECK(b.batch[0].slot == 1 && b.batch[1].slot == 2 && b.batch[2].slot == 0);
}

// The executor is busy until NOW + 1500, and 8 rows of `lower` that are due earlier are queued.
struct Crowd : Bench {
    explicit Crowd(Priority lower) {
        policy.started(0, 8, NOW);
        for (uint32_t slot = 0; slot < 8; ++slot) {
            policy.enter(NOW, NOW + 3'200, lower);
            policy.push({NOW + 3'200, slot, 0, lower}, NOW);
        }
    }
};

TEST(a_more_important_request_takes_the_place_of_others) {
    // Behind the eight it would be done at 3800, and its time is up at 3500: too late, unless some of them give way.
    for (const auto& [lower, upper] :
         {std::pair{Priority::sheddable, Priority::normal}, std::pair{Priority::normal, Priority::critical}}) {
        Crowd b(lower);
        CHECK(b.policy.admit(NOW, NOW + 3'500, lower) == Verdict::late);
        CHECK(b.policy.admit(NOW, NOW + 3'500, upper) == Verdict::admit);
        b.policy.push({NOW + 3'500, 100, 0, upper}, NOW);
        CHECK(b.policy.admit(NOW, NOW + 2'000, Priority::sheddable) == Verdict::shed);
        b.policy.finished(0, 8, NOW + 1'500, true);
        // A batch of all nine would not be done before 3200: it is formed around the important one.
        CHECK(b.form(NOW + 1'500).rows >= 1);
        CHECK(b.batch[0].slot == 100);
    }
}

TEST(a_lower_class_that_cannot_wait_for_a_filled_batch_gives_way) {
    Crowd b(Priority::sheddable);
    CHECK(b.policy.admit(NOW, NOW + 3'500, Priority::critical) == Verdict::admit);
    for (uint32_t slot = 100; slot < 104; ++slot) b.policy.push({NOW + 30'000, slot, 0, Priority::critical}, NOW);
    b.policy.finished(0, 8, NOW + 1'500, true);
    const BatchPlan plan = b.form(NOW + 1'500);  // a batch of eight ends at 3000, or 3375 at the worst
    CHECK(plan.rows == 4 && b.batch[0].slot == 100);
    CHECK(b.dropped.size() == 8);
}

TEST(critical_requests_are_never_shed_for_others) {
    Crowd b(Priority::critical);
    CHECK(b.policy.admit(NOW, NOW + 3'500, Priority::critical) == Verdict::late);
    CHECK(b.policy.admit(NOW, NOW + 3'500, Priority::sheddable) == Verdict::late);
}

TEST(admission_needs_no_lock) {
    Bench b;
    std::atomic<int> shed{0};
    const auto visit = [&b, &shed] {
        for (int i = 0; i < 5'000; ++i) {
            const int64_t now = NOW + i * 1'000;
            const Verdict verdict = b.policy.admit(now, now + 3'000);
            if (verdict == Verdict::admit) b.policy.leave(b.policy.enter(now, now + 3'000));
            else b.policy.rejected(now);
            shed += verdict == Verdict::shed;
            b.policy.missed_prediction_by(i, now);
        }
    };
    std::thread one(visit), two(visit);
    for (int i = 0; i < 2'000; ++i) {
        const int64_t now = NOW + i * 1'000;
        b.push(0, now + 100'000, now);
        const uint32_t rows = b.form(now).rows;
        if (rows == 0) continue;
        b.policy.started(0, rows, now);
        b.policy.finished(0, rows, now + 700 + 100 * rows, true);
    }
    one.join();
    two.join();
    CHECK(b.policy.live() == 0);
    CHECK(shed.load() == 0);  // all are of one class, whatever the others do between two looks
}

CHECK_MAIN()
