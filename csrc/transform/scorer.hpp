// A feature program in front of a scorer: together they are a scorer of the program's inputs.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/assert.hpp"
#include "engine/scorer.h"
#include "transform/program.hpp"

namespace engine::transform {

// One input, in the order of a row. A row holds a number as it is, and a text as its place in `texts`: NaN is a missing
// text, and any other number a text that equals none of them.
struct ScorerInput {
    bool is_text = false;
    std::vector<std::string> texts;
};

// Takes rows in float and in double, and hands the features to the inner scorer in double where that takes double: a
// pipeline's model then sees the values that it was trained on. A row that the program refuses fails the call.
class ProgramScorer {
public:
    ProgramScorer(std::shared_ptr<const Program> program, std::vector<ScorerInput> inputs, const engine_scorer& inner)
        : program_(std::move(program)), inputs_(std::move(inputs)), inner_(engine_scorer_read(&inner)) {
        for (std::size_t i = 0; i < inputs_.size(); ++i) (inputs_[i].is_text ? texts_ : numbers_).push_back(i);
        ENGINE_ASSERT(numbers_.size() == program_->n_numbers(), "every number input has a column");
        ENGINE_ASSERT(texts_.size() == program_->n_texts(), "every text input has a column");
        ENGINE_ASSERT(inner_.n_features == program_->n_outputs(), "the model takes what the program makes");
        inner_.retain(inner_.ctx);
    }
    ProgramScorer(const ProgramScorer&) = delete;
    ProgramScorer& operator=(const ProgramScorer&) = delete;
    ~ProgramScorer() { inner_.release(inner_.ctx); }

    // deadline_ns 0: no deadline.
    template <class Value>
    int score(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
              std::int64_t deadline_ns) const noexcept {
        try {
            return inner_.score_f64 != nullptr ? run<Value, double>(rows, n_rows, row_stride, out, deadline_ns)
                                               : run<Value, float>(rows, n_rows, row_stride, out, deadline_ns);
        } catch (...) {  // no memory
            return ENGINE_SCORE_FAILED;
        }
    }

private:
    // Below this, a row at a time is quicker than the registers of a block.
    static constexpr std::size_t kBatchRowsMin = 8;

    template <class Value, class Feature>
    int run(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
            std::int64_t deadline_ns) const {
        std::vector<Feature> features(std::min(n_rows, Program::kBlockRows) * inner_.n_features);
        for (std::size_t first = 0; first < n_rows; first += Program::kBlockRows) {
            const std::size_t n = std::min(Program::kBlockRows, n_rows - first);
            const Value* const block = rows + first * row_stride;
            const bool taken = n < kBatchRowsMin ? by_row(block, n, row_stride, features.data())
                                                 : by_column(block, n, row_stride, features.data());
            if (!taken) return ENGINE_SCORE_FAILED;
            const int status = score_features(features.data(), n, out + first * inner_.n_outputs, deadline_ns);
            if (status != ENGINE_SCORE_OK) return status;
        }
        return ENGINE_SCORE_OK;
    }

    template <class Feature>
    int score_features(const Feature* features, std::size_t n, double* out, std::int64_t deadline_ns) const {
        const std::size_t width = inner_.n_features;
        if constexpr (std::is_same_v<Feature, double>)
            return deadline_ns == 0 ? inner_.score_f64(inner_.ctx, features, n, width, out)
                                    : engine_score_by_f64(&inner_, features, n, width, out, deadline_ns);
        else
            return deadline_ns == 0 ? inner_.score(inner_.ctx, features, n, width, out)
                                    : engine_score_by(&inner_, features, n, width, out, deadline_ns);
    }

    template <class Value, class Feature>
    bool by_row(const Value* rows, std::size_t n, std::size_t row_stride, Feature* to) const {
        std::vector<double> numbers(program_->number_registers());
        std::vector<Text> texts(program_->text_registers());
        for (std::size_t row = 0; row < n; ++row) {
            const Value* const from = rows + row * row_stride;
            for (std::size_t i = 0; i < numbers_.size(); ++i) numbers[i] = static_cast<double>(from[numbers_[i]]);
            for (std::size_t i = 0; i < texts_.size(); ++i)
                texts[i] = text_of(inputs_[texts_[i]], static_cast<double>(from[texts_[i]]));
            const Rejection rejection =
                program_->run_row(numbers.data(), texts.data(), to + row * program_->n_outputs());
            if (rejection.step != nullptr) return false;
        }
        return true;
    }

    template <class Value, class Feature>
    bool by_column(const Value* rows, std::size_t n, std::size_t row_stride, Feature* to) const {
        constexpr Layout layout = std::is_same_v<Value, double> ? Layout::kF64 : Layout::kF32;
        std::vector<Chunk> chunks(inputs_.size());
        std::vector<Text> texts(texts_.size() * n);
        std::vector<Column> numbers(numbers_.size());
        std::vector<Column> categories(texts_.size());
        for (std::size_t i = 0; i < numbers_.size(); ++i) {
            Chunk& chunk = chunks[numbers_[i]];
            chunk = {.layout = layout, .values = rows + numbers_[i], .n_rows = n, .stride = row_stride};
            numbers[i] = {.chunks = &chunk, .n_chunks = 1};
        }
        for (std::size_t i = 0; i < texts_.size(); ++i) {
            Text* const column = texts.data() + i * n;
            for (std::size_t row = 0; row < n; ++row)
                column[row] = text_of(inputs_[texts_[i]], static_cast<double>(rows[row * row_stride + texts_[i]]));
            Chunk& chunk = chunks[texts_[i]];
            chunk = {.layout = Layout::kText, .values = column, .n_rows = n};
            categories[i] = {.chunks = &chunk, .n_chunks = 1};
        }
        Rejection rejection;
        if constexpr (std::is_same_v<Feature, double>)
            rejection = program_->run_batch_f64(numbers.data(), categories.data(), n, to);
        else rejection = program_->run_batch(numbers.data(), categories.data(), n, to);
        return rejection.step == nullptr;
    }

    static Text text_of(const ScorerInput& input, double code) noexcept {
        static constexpr std::array<char, 1> unknown{'\xff'};  // no UTF-8, so no category
        if (code != code) return {nullptr, 0};
        if (!(code >= 0.0 && code < static_cast<double>(input.texts.size()))) return {unknown.data(), unknown.size()};
        const auto place = static_cast<std::size_t>(code);
        if (static_cast<double>(place) != code) return {unknown.data(), unknown.size()};
        return {input.texts[place].data(), input.texts[place].size()};
    }

    std::shared_ptr<const Program> program_;
    std::vector<ScorerInput> inputs_;
    engine_scorer inner_;
    std::vector<std::size_t> numbers_;  // the columns of a row that are numbers, in the program's order
    std::vector<std::size_t> texts_;
};

// A ProgramScorer behind the scorer ABI, held by one reference.
class SharedProgramScorer {
public:
    static engine_scorer make(std::shared_ptr<const Program> program, std::vector<ScorerInput> inputs,
                              const engine_scorer& inner) {
        engine_scorer scorer{ENGINE_SCORER_ABI, inner.flags, static_cast<std::uint32_t>(inputs.size()),
                             inner.n_outputs,   nullptr,     score<float>,
                             score<double>,     retain,      release};
        const engine_scorer read = engine_scorer_read(&inner);
        if (read.score_until != nullptr && (read.score_f64 == nullptr || read.score_until_f64 != nullptr)) {
            scorer.score_until = score_until<float>;
            scorer.score_until_f64 = score_until<double>;
        }
        scorer.ctx = new SharedProgramScorer(std::move(program), std::move(inputs), inner);
        return scorer;
    }

private:
    SharedProgramScorer(std::shared_ptr<const Program> program, std::vector<ScorerInput> inputs,
                        const engine_scorer& inner)
        : scorer_(std::move(program), std::move(inputs), inner) {}

    template <class Value>
    static int score(void* ctx, const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out) {
        return static_cast<SharedProgramScorer*>(ctx)->scorer_.score(rows, n_rows, row_stride, out, 0);
    }
    template <class Value>
    static int score_until(void* ctx, const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                           std::int64_t deadline_ns) {
        // 0 means none inside; a deadline of 0 has passed as surely as one of 1.
        const std::int64_t due = deadline_ns == 0 ? 1 : deadline_ns;
        return static_cast<SharedProgramScorer*>(ctx)->scorer_.score(rows, n_rows, row_stride, out, due);
    }
    // The orders as in model/shared_scorer.hpp: the caller of retain holds a reference; the last release sees all use.
    static void retain(void* ctx) {
        static_cast<SharedProgramScorer*>(ctx)->references_.fetch_add(1, std::memory_order_relaxed);
    }
    static void release(void* ctx) {
        auto* shared = static_cast<SharedProgramScorer*>(ctx);
        const std::size_t before = shared->references_.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "a reference is given back once");
        if (before == 1) delete shared;
    }

    ProgramScorer scorer_;
    std::atomic<std::size_t> references_{1};
};

}  // namespace engine::transform
