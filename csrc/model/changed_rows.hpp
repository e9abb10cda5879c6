// A scorer in front of another, which hands it changed copies of the rows: columns in another order, a number replaced.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "base/call_lock.hpp"
#include "engine/scorer.h"
#include "model/shared_scorer.hpp"

namespace engine::model {

// Change is called with (from, to, width) for float and for double rows, and writes one row to `to`.
template <class Change>
class ChangedRows {
public:
    ChangedRows(const engine_scorer& inner, Change change) noexcept
        : inner_(engine_scorer_read(&inner)), change_(std::move(change)) {
        inner_.retain(inner_.ctx);
    }
    ChangedRows(const ChangedRows&) = delete;
    ChangedRows& operator=(const ChangedRows&) = delete;
    ~ChangedRows() {
        if (lock_ != nullptr) CallLock::forget(ctx_);
        inner_.release(inner_.ctx);
    }
    // The scorer in front has its inner scorer's call lock, so both together get one call at a time.
    void share_lock(const void* ctx) {
        ctx_ = ctx;
        lock_ = CallLock::share(ctx, inner_.ctx);
    }

    template <class Value>
    int score(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out) const {
        return in_blocks(rows, n_rows, row_stride, out, [this](const Value* block, std::size_t n, double* to) {
            if constexpr (std::is_same_v<Value, double>)
                return inner_.score_f64(inner_.ctx, block, n, inner_.n_features, to);
            else return inner_.score(inner_.ctx, block, n, inner_.n_features, to);
        });
    }
    template <class Value>
    int score_by_deadline(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                          std::int64_t deadline_ns) const {
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

    // A native scorer takes small blocks, because their memory stays in the cache. Any other (a Python callable, a
    // device) costs much by the call and gets all rows in one.
    std::size_t rows_at_once(std::size_t n_rows) const noexcept {
        return inner_.flags & ENGINE_SCORER_NATIVE ? std::min(n_rows, block_rows) : n_rows;
    }

    // Not noexcept: a Python model's thread may be ended inside score() while the interpreter shuts down, and that
    // unwinds.
    template <class Value, class Score>
    int in_blocks(const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                  const Score& score) const {
        const std::size_t width = inner_.n_features;
        const std::size_t at_once = rows_at_once(n_rows);
        std::array<Value, stack_values> small;
        std::unique_ptr<Value[]> large;
        if (at_once * width > stack_values) {
            large.reset(new (std::nothrow) Value[at_once * width]);
            if (!large) return ENGINE_SCORE_FAILED;
        }
        Value* const block = large ? large.get() : small.data();
        for (std::size_t first = 0; first < n_rows; first += at_once) {
            const std::size_t n = std::min(at_once, n_rows - first);
            for (std::size_t row = 0; row < n; ++row)
                change_(rows + (first + row) * row_stride, block + row * width, width);
            const int status = score(block, n, out + first * inner_.n_outputs);
            if (status != ENGINE_SCORE_OK) return status;
        }
        return ENGINE_SCORE_OK;
    }

    engine_scorer inner_;
    Change change_;
    const void* ctx_ = nullptr;
    std::shared_ptr<CallLock> lock_;  // null where calls may overlap
};

// A scorer with the entries and flags of `inner`.
template <class Change>
engine_scorer with_changed_rows(const engine_scorer& inner, Change change) {
    auto made = std::make_unique<ChangedRows<Change>>(inner, std::move(change));
    ChangedRows<Change>* const rows = made.get();
    engine_scorer scorer =
        shared_scorer(std::move(made), inner.n_features, inner.n_outputs, inner.score_f64 == nullptr);
    if (!(inner.flags & ENGINE_SCORER_REENTRANT)) rows->share_lock(scorer.ctx);
    scorer.flags = inner.flags;
    const engine_scorer whole = engine_scorer_read(&inner);
    if (whole.score_until == nullptr) scorer.score_until = nullptr;
    if (whole.score_until_f64 == nullptr) scorer.score_until_f64 = nullptr;
    return scorer;
}

}  // namespace engine::model
