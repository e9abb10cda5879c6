// A program in front of a scorer: rows by row and by column, texts by their codes, refused rows, references.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "engine/scorer.h"
#include "tests/check.hpp"
#include "transform/scorer.hpp"

using namespace engine::transform;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// A model of two features a and b: a + 100 b. Counts its references and the type of row that it was given last.
struct Inner {
    int references = 1;
    bool wide = false;
    std::int64_t deadline_ns = 0;
};

template <class Value>
int inner_score(void* ctx, const Value* rows, std::size_t n_rows, std::size_t stride, double* out) {
    static_cast<Inner*>(ctx)->wide = sizeof(Value) == 8;
    for (std::size_t r = 0; r < n_rows; ++r)
        out[r] = static_cast<double>(rows[r * stride]) + 100.0 * static_cast<double>(rows[r * stride + 1]);
    return ENGINE_SCORE_OK;
}

template <class Value>
int inner_until(void* ctx, const Value* rows, std::size_t n_rows, std::size_t stride, double* out,
                std::int64_t deadline_ns) {
    static_cast<Inner*>(ctx)->deadline_ns = deadline_ns;
    return inner_score(ctx, rows, n_rows, stride, out);
}

engine_scorer scorer_of(Inner& inner, bool wide, bool stops = false) {
    engine_scorer scorer{ENGINE_SCORER_ABI,
                         ENGINE_SCORER_NATIVE | ENGINE_SCORER_REENTRANT,
                         2,
                         1,
                         &inner,
                         inner_score<float>,
                         wide ? inner_score<double> : nullptr,
                         [](void* ctx) { ++static_cast<Inner*>(ctx)->references; },
                         [](void* ctx) { --static_cast<Inner*>(ctx)->references; }};
    if (stops) {
        scorer.score_until = inner_until<float>;
        scorer.score_until_f64 = wide ? inner_until<double> : nullptr;
    }
    return scorer;
}

// A number is feature 0. A text's value in a table is feature 1: "a" 1, "b" 2, others 3, none 4.
std::shared_ptr<const Program> program_of(bool refuses) {
    auto program = std::make_shared<Program>(1, 1, 2);
    const std::uint32_t table = program->add_table({"a", "b"}, {1.0, 2.0});
    if (refuses) program->add_step({.op = Op::kKnownText, .a = 0, .table = table, .count = 1});
    program->add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    program->add_step({.op = Op::kLookup, .dst = 1, .a = 0, .table = table, .x = 3.0, .y = 4.0});
    program->add_step({.op = Op::kEmit, .dst = 1, .a = 1});
    program->finish();
    return program;
}

// A row is (text, number).
std::vector<ScorerInput> inputs() { return {{.is_text = true, .texts = {"b", "a"}}, {.is_text = false, .texts = {}}}; }

}  // namespace

TEST(a_row_of_codes_becomes_features) {
    Inner inner;
    const engine_scorer scorer = SharedProgramScorer::make(program_of(false), inputs(), scorer_of(inner, true));
    CHECK(scorer.n_features == 2 && scorer.n_outputs == 1);
    // Codes: 0 is "b", 1 is "a"; beyond them, between them and below them are other texts.
    const std::vector<double> codes = {0, 1, 2, -1, 0.5, kNaN, 1e300};
    const std::vector<double> texts = {2, 1, 3, 3, 3, 4, 3};
    for (const std::size_t repeat : {std::size_t{1}, std::size_t{40}}) {  // row by row, and in blocks of columns
        std::vector<double> rows;
        for (std::size_t i = 0; i < repeat; ++i)
            for (const double code : codes) rows.insert(rows.end(), {code, 0.1, 77.0});
        std::vector<double> out(codes.size() * repeat);
        CHECK(scorer.score_f64(scorer.ctx, rows.data(), out.size(), 3, out.data()) == ENGINE_SCORE_OK);
        CHECK(inner.wide);
        for (std::size_t i = 0; i < out.size(); ++i) CHECK(out[i] == 0.1 + 100.0 * texts[i % codes.size()]);
        std::vector<float> narrow(rows.begin(), rows.end());
        CHECK(scorer.score(scorer.ctx, narrow.data(), out.size(), 3, out.data()) == ENGINE_SCORE_OK);
        CHECK(inner.wide);  // float rows widen, and the features stay doubles
        CHECK(out[0] == static_cast<double>(0.1F) + 200.0);
    }
    scorer.release(scorer.ctx);
    CHECK(inner.references == 1);
}

TEST(a_model_of_floats_gets_features_rounded_once) {
    Inner inner;
    const engine_scorer scorer = SharedProgramScorer::make(program_of(false), inputs(), scorer_of(inner, false));
    const double rows[] = {1.0, 16777217.0};
    double out = 0.0;
    CHECK(scorer.score_f64(scorer.ctx, rows, 1, 2, &out) == ENGINE_SCORE_OK);
    CHECK(!inner.wide);
    CHECK(out == 16777216.0 + 100.0);
    CHECK(scorer.score_until == nullptr && scorer.score_until_f64 == nullptr);
    scorer.release(scorer.ctx);
}

TEST(a_refused_row_fails_the_call) {
    Inner inner;
    const engine_scorer scorer = SharedProgramScorer::make(program_of(true), inputs(), scorer_of(inner, true));
    std::vector<double> rows(2 * 200, 1.0);
    std::vector<double> out(200);
    CHECK(scorer.score_f64(scorer.ctx, rows.data(), 200, 2, out.data()) == ENGINE_SCORE_OK);
    rows[2 * 150] = 7.0;
    CHECK(scorer.score_f64(scorer.ctx, rows.data(), 200, 2, out.data()) == ENGINE_SCORE_FAILED);
    CHECK(scorer.score_f64(scorer.ctx, rows.data() + 2 * 150, 1, 2, out.data()) == ENGINE_SCORE_FAILED);
    scorer.release(scorer.ctx);
}

TEST(a_deadline_reaches_the_model) {
    Inner inner;
    const engine_scorer scorer = SharedProgramScorer::make(program_of(false), inputs(), scorer_of(inner, true, true));
    const double rows[] = {1.0, 2.0};
    double out = 0.0;
    CHECK(scorer.score_until_f64(scorer.ctx, rows, 1, 2, &out, 12345) == ENGINE_SCORE_OK);
    CHECK(inner.deadline_ns == 12345);
    scorer.retain(scorer.ctx);
    scorer.release(scorer.ctx);
    scorer.release(scorer.ctx);
    CHECK(inner.references == 1);
}

CHECK_MAIN()
