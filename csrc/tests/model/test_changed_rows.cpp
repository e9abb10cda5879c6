// Scorers in front of others: the right values arrive, flags and entries stay, and both share one call lock.
#include "model/changed_rows.hpp"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "base/call_lock.hpp"
#include "model/missing.hpp"
#include "model/reordered.hpp"
#include "model/score_threads.hpp"
#include "tests/check.hpp"

using namespace engine;
using namespace engine::model;

namespace {

struct Context {
    int references = 0;
    std::size_t calls = 0, rows_most = 0;
    std::int64_t deadline_ns = 0;
};

// 1, 10 and 100 times the three columns.
template <class T>
int add_up(void* ctx, const T* rows, std::size_t n_rows, std::size_t stride, double* out) {
    auto* context = static_cast<Context*>(ctx);
    ++context->calls;
    context->rows_most = std::max(context->rows_most, n_rows);
    for (std::size_t r = 0; r < n_rows; ++r) {
        const T* row = rows + r * stride;
        out[r] = static_cast<double>(row[0]) + 10 * static_cast<double>(row[1]) + 100 * static_cast<double>(row[2]);
    }
    return ENGINE_SCORE_OK;
}

int add_up_until(void* ctx, const float* rows, std::size_t n_rows, std::size_t stride, double* out,
                 std::int64_t deadline_ns) {
    static_cast<Context*>(ctx)->deadline_ns = deadline_ns;
    return deadline_ns < 0 ? ENGINE_SCORE_OUT_OF_TIME : add_up(ctx, rows, n_rows, stride, out);
}

void retain(void* ctx) { ++static_cast<Context*>(ctx)->references; }
void release(void* ctx) { --static_cast<Context*>(ctx)->references; }

engine_scorer scorer_of(Context& context, std::uint32_t flags) {
    return {ENGINE_SCORER_ABI, flags, 3, 1, &context, add_up<float>, nullptr, retain, release, add_up_until};
}

}  // namespace

TEST(columns_arrive_in_the_inner_order) {
    Context context;
    engine_scorer inner = scorer_of(context, ENGINE_SCORER_NATIVE | ENGINE_SCORER_REENTRANT);
    inner.score_f64 = add_up<double>;
    const engine_scorer scorer = reordered(inner, {2, 0, 1});
    CHECK(context.references == 1);
    CHECK(scorer.flags == inner.flags);
    CHECK(scorer.score_until_f64 == nullptr);
    for (const std::size_t n : {std::size_t{1}, std::size_t{64}, std::size_t{1000}}) {
        std::vector<double> rows(4 * n), out(n);
        for (std::size_t r = 0; r < n; ++r) rows[4 * r] = 2, rows[4 * r + 1] = 3, rows[4 * r + 2] = double(r);
        CHECK(scorer.score_f64(scorer.ctx, rows.data(), n, 4, out.data()) == ENGINE_SCORE_OK);
        bool right = true;
        for (std::size_t r = 0; r < n; ++r) right &= out[r] == double(r) + 20 + 300;
        CHECK(right);
    }
    scorer.release(scorer.ctx);
    CHECK(context.references == 0);
}

TEST(a_deadline_and_a_status_pass_through) {
    Context context;
    const engine_scorer scorer = reordered(scorer_of(context, ENGINE_SCORER_REENTRANT), {0, 2, 1});
    const float row[3] = {1, 2, 3};
    double out = 0;
    CHECK(scorer.score_f64 == nullptr);
    CHECK(engine_score_by(&scorer, row, 1, 3, &out, 77) == ENGINE_SCORE_OK);
    CHECK(out == 1 + 30 + 200);
    CHECK(context.deadline_ns == 77);
    CHECK(engine_score_by(&scorer, row, 1, 3, &out, -1) == ENGINE_SCORE_OUT_OF_TIME);
    scorer.release(scorer.ctx);
}

TEST(a_native_scorer_gets_blocks_and_any_other_all_rows_at_once) {
    for (const std::uint32_t native : {std::uint32_t{0}, std::uint32_t{ENGINE_SCORER_NATIVE}}) {
        Context context;
        const engine_scorer scorer = reordered(scorer_of(context, native | ENGINE_SCORER_REENTRANT), {0, 1, 2});
        const std::vector<float> rows(600);
        std::vector<double> out(200);
        CHECK(scorer.score(scorer.ctx, rows.data(), 200, 3, out.data()) == ENGINE_SCORE_OK);
        CHECK(context.rows_most == (native ? 64 : 200));
        CHECK(context.calls == (native ? 4 : 1));
        scorer.release(scorer.ctx);
    }
}

TEST(a_number_becomes_missing) {
    Context context;
    const engine_scorer scorer = with_missing(scorer_of(context, ENGINE_SCORER_REENTRANT), -999.0F);
    const float rows[6] = {1, 2, 3, 1, -999, 3};
    double out[2];
    CHECK(scorer.score(scorer.ctx, rows, 2, 3, out) == ENGINE_SCORE_OK);
    CHECK(out[0] == 321);
    CHECK(std::isnan(out[1]));
    scorer.release(scorer.ctx);
}

TEST(a_scorer_that_is_not_reentrant_shares_its_lock_with_the_one_in_front) {
    Context context;
    const engine_scorer inner = scorer_of(context, 0);
    const engine_scorer scorer = reordered(inner, {0, 1, 2});
    const auto lock = CallLock::of(&context);
    CHECK(CallLock::of(scorer.ctx) == lock);
    CHECK(lock->lock_until(0));
    CHECK(lock->held_here());
    const float row[3] = {1, 2, 3};
    double out = 0;
    // This thread is inside a call, so it is not waited for.
    CHECK(score_until(scorer, row, 1, 3, &out, NEVER_NS) == NOT_CALLED);
    CHECK(score_threads(inner, row, 1, 3, &out, 1) == NOT_CALLED);
    lock->unlock();
    CHECK(!lock->held_here());
    CHECK(score_until(scorer, row, 1, 3, &out, NEVER_NS) == ENGINE_SCORE_OK);
    const void* const ctx = scorer.ctx;
    scorer.release(scorer.ctx);
    CHECK(CallLock::of(ctx) != lock);
}

TEST(a_deadline_bounds_the_wait_for_another_thread) {
    Context context;
    const engine_scorer inner = scorer_of(context, 0);
    const auto lock = CallLock::of(&context);
    std::thread other([&] { CHECK(lock->lock_until(0)); });
    other.join();
    const float row[3] = {1, 2, 3};
    double out = 0;
    CHECK(score_until(inner, row, 1, 3, &out, now_ns() + 1'000'000) == NOT_CALLED);
    CHECK(context.calls == 0);
    lock->unlock();
}

CHECK_MAIN()
