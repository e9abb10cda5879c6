// The faults on an injected clock: when they strike, whom, and that nobody outlives its references.
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "fault/fault.hpp"
#include "tests/check.hpp"

using namespace engine::fault;

namespace {

constexpr int64_t ms = 1'000'000;

// Doubles the first feature of each row; counts its references.
struct Twice {
    std::atomic<int> references{1};
    std::atomic<int> calls{0};

    engine_scorer scorer() {
        return {ENGINE_SCORER_ABI,
                ENGINE_SCORER_REENTRANT | ENGINE_SCORER_NATIVE,
                2,
                1,
                this,
                score<float>,
                score<double>,
                retain,
                release};
    }
    template <class Row>
    static int score(void* ctx, const Row* rows, size_t n_rows, size_t row_stride, double* out) {
        ++static_cast<Twice*>(ctx)->calls;
        for (size_t row = 0; row < n_rows; ++row) out[row] = 2.0 * rows[row * row_stride];
        return ENGINE_SCORE_OK;
    }
    static void retain(void* ctx) { ++static_cast<Twice*>(ctx)->references; }
    static void release(void* ctx) { --static_cast<Twice*>(ctx)->references; }
};

// Time that passes only when someone sleeps or burns it.
struct ManualClock {
    int64_t at = 0;
    std::vector<int64_t> slept_to;
    int64_t burnt = 0;

    Clock clock() {
        return {[](void* self) { return static_cast<ManualClock*>(self)->at; },
                [](void* self, int64_t ns) {
                    auto* clock = static_cast<ManualClock*>(self);
                    clock->slept_to.push_back(ns);
                    clock->at = ns;
                },
                [](void* self, int64_t ns) { static_cast<ManualClock*>(self)->burnt += ns; }, this};
    }
};

int score_one(const engine_scorer& scorer, double& out) {
    const float row[2] = {21.0f, 0.0f};
    return scorer.score(scorer.ctx, row, 1, 2, &out);
}

void give_back(Handle* handle, const engine_scorer& scorer) {
    close(handle);
    scorer.release(scorer.ctx);
}

}  // namespace

TEST(windows_open_at_the_start_and_close_at_the_stall) {
    const Stall stall{200 * ms, 2000 * ms};
    CHECK(stall_end(stall, 100 * ms, 99 * ms) == 99 * ms);
    CHECK(stall_end(stall, 100 * ms, 100 * ms) == 300 * ms);
    CHECK(stall_end(stall, 100 * ms, 300 * ms - 1) == 300 * ms);
    CHECK(stall_end(stall, 100 * ms, 300 * ms) == 300 * ms);
    CHECK(stall_end(stall, 100 * ms, 2099 * ms) == 2099 * ms);
    CHECK(stall_end(stall, 100 * ms, 2100 * ms) == 2300 * ms);
    CHECK(stall_end(stall, NOT_ARMED, 5 * ms) == 5 * ms);
    CHECK(stall_end(stall, -100 * ms, 0) == 100 * ms);
}

TEST(a_call_inside_a_window_sleeps_to_its_end_then_runs) {
    Twice twice;
    ManualClock time;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Stall{200 * ms, 2000 * ms}, 0, time.clock(), scorer);
    double out = 0;
    time.at = 50 * ms;
    CHECK(score_one(scorer, out) == ENGINE_SCORE_OK);
    CHECK(out == 42.0);
    CHECK((time.slept_to == std::vector<int64_t>{200 * ms}));
    CHECK(score_one(scorer, out) == ENGINE_SCORE_OK);  // now at the window's end: no sleep
    time.at = 2001 * ms;
    CHECK(score_one(scorer, out) == ENGINE_SCORE_OK);
    CHECK((time.slept_to == std::vector<int64_t>{200 * ms, 2200 * ms}));
    CHECK(counts(handle).calls == 3);
    CHECK(counts(handle).faults == 2);
    give_back(handle, scorer);
}

TEST(disarmed_and_armed_again_at_run_time) {
    Twice twice;
    ManualClock time;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Stall{10 * ms, 20 * ms}, NOT_ARMED, time.clock(), scorer);
    double out = 0;
    score_one(scorer, out);
    CHECK(armed_since(handle) == NOT_ARMED);
    arm(handle, -5 * ms);
    score_one(scorer, out);
    disarm(handle);
    score_one(scorer, out);
    CHECK((time.slept_to == std::vector<int64_t>{5 * ms}));
    CHECK(counts(handle).faults == 1);
    give_back(handle, scorer);
}

TEST(the_share_of_failures_is_kept_and_repeats_by_seed) {
    Twice twice;
    engine_scorer first{}, second{}, other{};
    Handle* a = wrap(twice.scorer(), Failing{0.25, 7}, 0, first);
    Handle* b = wrap(twice.scorer(), Failing{0.25, 7}, 0, second);
    Handle* c = wrap(twice.scorer(), Failing{0.25, 8}, 0, other);
    int failed = 0, differ = 0;
    for (int call = 0; call < 10'000; ++call) {
        double out = 0;
        const int status = score_one(first, out);
        CHECK(status == score_one(second, out));
        differ += status != score_one(other, out);
        failed += status == ENGINE_SCORE_FAILED;
    }
    CHECK(failed > 2'300 && failed < 2'700);
    CHECK(differ > 2'000);
    CHECK(counts(a).faults == static_cast<uint64_t>(failed));
    CHECK(twice.calls == 30'000 - failed * 2 - static_cast<int>(counts(c).faults));
    give_back(a, first);
    give_back(b, second);
    give_back(c, other);
}

TEST(a_share_of_zero_never_strikes_and_of_one_always) {
    for (uint64_t call = 0; call < 1000; ++call) {
        CHECK(!chosen(1, call, 0.0));
        CHECK(chosen(1, call, 1.0));
    }
}

TEST(corrupt_answers_are_nan_in_every_value_and_no_further) {
    Twice twice;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Corrupting{1.0, 1}, 0, scorer);
    const float rows[4] = {1, 2, 3, 4};
    double out[3] = {0, 0, 5};
    CHECK(scorer.score(scorer.ctx, rows, 2, 2, out) == ENGINE_SCORE_OK);
    CHECK(std::isnan(out[0]) && std::isnan(out[1]) && out[2] == 5);
    give_back(handle, scorer);
}

TEST(slowness_is_counted_by_call_and_row) {
    Twice twice;
    ManualClock time;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Slow{100, 7}, 0, time.clock(), scorer);
    const double rows[6] = {1, 0, 2, 0, 3, 0};
    double out[3];
    CHECK(scorer.score_f64(scorer.ctx, rows, 3, 2, out) == ENGINE_SCORE_OK);
    CHECK(time.burnt == 121);
    CHECK(out[0] == 2 && out[1] == 4 && out[2] == 6);
    give_back(handle, scorer);
}

TEST(hung_calls_stay_until_the_fault_is_disarmed) {
    Twice twice;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Hanging{}, 0, scorer);
    double out[2] = {0, 0};
    std::thread threads[2] = {std::thread([&] { score_one(scorer, out[0]); }),
                              std::thread([&] { score_one(scorer, out[1]); })};
    while (counts(handle).faults < 2) std::this_thread::yield();
    CHECK(twice.calls == 0);
    arm(handle, 1);  // armed anew, another value: they hang on
    CHECK(twice.calls == 0);
    disarm(handle);
    for (std::thread& thread : threads) thread.join();
    CHECK(out[0] == 42.0 && out[1] == 42.0);
    give_back(handle, scorer);
}

TEST(shape_flags_and_row_types_are_those_of_the_wrapped_scorer) {
    Twice twice;
    engine_scorer plain = twice.scorer();
    plain.score_f64 = nullptr;
    engine_scorer scorer{};
    Handle* handle = wrap(plain, Hanging{}, NOT_ARMED, scorer);
    CHECK(scorer.flags == plain.flags);
    CHECK(scorer.n_features == 2 && scorer.n_outputs == 1);
    CHECK(scorer.score_f64 == nullptr);
    give_back(handle, scorer);
}

TEST(the_wrapped_scorer_is_kept_until_both_sides_release_it) {
    Twice twice;
    engine_scorer scorer{};
    Handle* handle = wrap(twice.scorer(), Failing{0.0, 1}, 0, scorer);
    CHECK(twice.references == 2);
    scorer.retain(scorer.ctx);
    close(handle);
    scorer.release(scorer.ctx);
    CHECK(twice.references == 2);
    scorer.release(scorer.ctx);
    CHECK(twice.references == 1);
}

TEST(the_real_clock_sleeps_past_the_point_and_burns_what_it_is_told) {
    const Clock clock = real_clock();
    const int64_t until = clock.now(clock.self) + 2 * ms;
    clock.sleep_until(clock.self, until);
    CHECK(clock.now(clock.self) >= until);
    const int64_t before = clock.now(clock.self);
    clock.burn(clock.self, 1 * ms);
    CHECK(clock.now(clock.self) - before >= 1 * ms);  // CPU time is never more than real time
}

CHECK_MAIN()
