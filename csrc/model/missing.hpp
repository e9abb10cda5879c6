// A scorer in front of another: a number that stands for a missing value becomes NaN.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#include "engine/scorer.h"
#include "model/shared_scorer.hpp"

namespace engine::model {

// Rows are compared with the number in float32, as XGBoost does.
class MissingNumber {
public:
    MissingNumber(const engine_scorer& inner, float missing) noexcept
        : inner_(engine_scorer_read(&inner)), missing_(missing) {
        inner_.retain(inner_.ctx);
    }
    MissingNumber(const MissingNumber&) = delete;
    MissingNumber& operator=(const MissingNumber&) = delete;
    ~MissingNumber() { inner_.release(inner_.ctx); }

    template <class Value>
    int score(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept {
        return in_blocks(rows, n_rows, row_stride, out, [this](const Value* block, std::size_t n, double* to) {
            if constexpr (std::is_same_v<Value, double>)
                return inner_.score_f64(inner_.ctx, block, n, inner_.n_features, to);
            else return inner_.score(inner_.ctx, block, n, inner_.n_features, to);
        });
    }
    template <class Value>
    int score_by_deadline(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                          std::int64_t deadline_ns) const noexcept {
        return in_blocks(rows, n_rows, row_stride, out,
                         [this, deadline_ns](const Value* block, std::size_t n, double* to) {
                             if constexpr (std::is_same_v<Value, double>)
                                 return engine_score_by_f64(&inner_, block, n, inner_.n_features, to, deadline_ns);
                             else return engine_score_by(&inner_, block, n, inner_.n_features, to, deadline_ns);
                         });
    }

private:
    static constexpr std::size_t block_rows = 64;
    static constexpr std::size_t stack_values = 1024;  // 64 rows of 16 columns need no memory from the heap

    template <class Value, class Score>
    int in_blocks(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                  const Score& score) const noexcept {
        const std::size_t width = inner_.n_features;
        const std::size_t needed = std::min(n_rows, block_rows) * width;
        std::array<Value, stack_values> small;
        std::unique_ptr<Value[]> large;
        if (needed > stack_values) {
            large.reset(new (std::nothrow) Value[needed]);
            if (!large) return ENGINE_SCORE_FAILED;
        }
        Value* const block = large ? large.get() : small.data();
        for (std::size_t first = 0; first < n_rows; first += block_rows) {
            const std::size_t n = std::min(block_rows, n_rows - first);
            for (std::size_t row = 0; row < n; ++row) {
                const Value* const from = rows + (first + row) * row_stride;
                std::transform(from, from + width, block + row * width, [this](Value value) {
                    return static_cast<float>(value) == missing_ ? std::numeric_limits<Value>::quiet_NaN() : value;
                });
            }
            const int status = score(block, n, out + first * inner_.n_outputs);
            if (status != ENGINE_SCORE_OK) return status;
        }
        return ENGINE_SCORE_OK;
    }

    engine_scorer inner_;
    float missing_;
};

inline engine_scorer with_missing(const engine_scorer& inner, float missing) {
    engine_scorer scorer = shared_scorer(std::make_unique<MissingNumber>(inner, missing), inner.n_features,
                                         inner.n_outputs, inner.score_f64 == nullptr);
    scorer.flags = inner.flags;
    if (inner.score_until == nullptr) scorer.score_until = nullptr;
    if (inner.score_until_f64 == nullptr) scorer.score_until_f64 = nullptr;
    return scorer;
}

}  // namespace engine::model
