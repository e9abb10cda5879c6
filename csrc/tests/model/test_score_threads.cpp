// A matrix shared by threads: every row once, the right rows, failures told, and one thread where it must be one.
#include "model/score_threads.hpp"

#include <atomic>
#include <thread>
#include <vector>

#include "tests/check.hpp"

using namespace engine::model;

namespace {

struct Context {
    std::atomic<std::size_t> rows{0};
    std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> elsewhere{false};
    float fails_at = -1;
};

template <class T>
int add_up(void* ctx, const T* rows, std::size_t n_rows, std::size_t stride, double* out) {
    auto* context = static_cast<Context*>(ctx);
    if (std::this_thread::get_id() != context->caller) context->elsewhere = true;
    for (std::size_t r = 0; r < n_rows; ++r) {
        if (rows[r * stride] == context->fails_at) return ENGINE_SCORE_FAILED;
        out[2 * r] = rows[r * stride] + rows[r * stride + 1];
        out[2 * r + 1] = -out[2 * r];
    }
    context->rows += n_rows;
    return ENGINE_SCORE_OK;
}

engine_scorer scorer_of(Context& context, std::uint32_t flags) {
    return {ENGINE_SCORER_ABI, flags, 2, 2, &context, add_up<float>, add_up<double>, nullptr, nullptr};
}

template <class T>
std::vector<T> matrix(std::size_t n_rows) {
    std::vector<T> rows(n_rows * 3);  // a stride of three
    for (std::size_t r = 0; r < n_rows; ++r) rows[3 * r] = static_cast<T>(r), rows[3 * r + 1] = T(0.5);
    return rows;
}

}  // namespace

TEST(every_row_is_scored_once_whatever_the_threads) {
    for (std::size_t n_rows : {std::size_t{1}, rows_a_span - 1, rows_a_span, rows_a_span + 1, 10 * rows_a_span + 7})
        for (std::size_t threads : {1, 2, 3, 64}) {
            Context context;
            const engine_scorer scorer = scorer_of(context, ENGINE_SCORER_REENTRANT);
            std::vector<double> out(2 * n_rows, -7);
            CHECK(score_threads(scorer, matrix<double>(n_rows).data(), n_rows, 3, out.data(), threads) == 0);
            CHECK(context.rows == n_rows);
            bool right = true;
            for (std::size_t r = 0; r < n_rows; ++r) right &= out[2 * r] == r + 0.5 && out[2 * r + 1] == -(r + 0.5);
            CHECK(right);
        }
}

TEST(a_failure_in_any_part_is_told) {
    Context context;
    context.fails_at = 5000;
    const std::size_t n_rows = 6000;
    std::vector<double> out(2 * n_rows);
    CHECK(score_threads(scorer_of(context, ENGINE_SCORER_REENTRANT), matrix<float>(n_rows).data(), n_rows, 3,
                        out.data(), 3) == ENGINE_SCORE_FAILED);
}

TEST(a_scorer_that_is_not_reentrant_stays_with_the_caller) {
    for (std::uint32_t flags : {std::uint32_t{0}, std::uint32_t{ENGINE_SCORER_REENTRANT | ENGINE_SCORER_TAKES_GIL}}) {
        Context context;
        const std::size_t n_rows = 5000;
        std::vector<double> out(2 * n_rows);
        CHECK(score_threads(scorer_of(context, flags), matrix<float>(n_rows).data(), n_rows, 3, out.data(), 4) == 0);
        CHECK(!context.elsewhere);
        CHECK(context.rows == n_rows);
    }
}

CHECK_MAIN()
