// A native model behind the scorer ABI: the model, its reference count, and the functions in its engine_scorer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/assert.hpp"
#include "engine/scorer.h"

namespace engine::model {

// Model has score(rows, n_rows, row_stride, out) for float and for double rows, which returns an engine_score_status. A
// model that can stop also has score_by_deadline(rows, n_rows, row_stride, out, deadline_ns).
template <class Model>
struct SharedScorer {
    std::unique_ptr<Model> model;
    std::atomic<std::size_t> references{1};

    template <class Value>
    static int score(void* ctx, const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out) {
        return static_cast<SharedScorer*>(ctx)->model->score(rows, n_rows, row_stride, out);
    }
    template <class Value>
    static int score_until(void* ctx, const Value* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                           std::int64_t deadline_ns) {
        return static_cast<SharedScorer*>(ctx)->model->score_by_deadline(rows, n_rows, row_stride, out, deadline_ns);
    }
    // Relaxed, because the caller holds a reference already: the model cannot go away meanwhile.
    static void retain(void* ctx) {
        const std::size_t before = static_cast<SharedScorer*>(ctx)->references.fetch_add(1, std::memory_order_relaxed);
        ENGINE_ASSERT(before > 0, "only a model that somebody holds is retained");
        static_cast<void>(before);
    }
    // Release, so that every thread's use of the model comes before its deletion; acquire, so that the deleting thread
    // sees that use.
    static void release(void* ctx) {
        auto* shared = static_cast<SharedScorer*>(ctx);
        const std::size_t before = shared->references.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "a reference is given back once");
        if (before == 1) delete shared;
    }
};

// A scorer that holds the model by one reference. float32_rows: the model compares in float32, so it offers no entry
// for double rows.
template <class Model>
engine_scorer shared_scorer(std::unique_ptr<Model> model, std::uint32_t n_features, std::uint32_t n_outputs,
                            bool float32_rows) {
    using Shared = SharedScorer<Model>;
    ENGINE_ASSERT(model != nullptr, "a scorer has a model");
    ENGINE_ASSERT(n_features >= 1 && n_outputs >= 1, "a model has features and outputs");
    engine_scorer scorer{ENGINE_SCORER_ABI,
                         ENGINE_SCORER_NATIVE | ENGINE_SCORER_REENTRANT,
                         n_features,
                         n_outputs,
                         new Shared{std::move(model)},
                         Shared::template score<float>,
                         float32_rows ? nullptr : Shared::template score<double>,
                         Shared::retain,
                         Shared::release};
    if constexpr (requires(Model & m, const float* rows, double* out) { m.score_by_deadline(rows, 1, 1, out, 1); }) {
        scorer.score_until = Shared::template score_until<float>;
        scorer.score_until_f64 = float32_rows ? nullptr : Shared::template score_until<double>;
    }
    return scorer;
}

// The model behind a scorer that this file's caller made; null for any other. Extension modules each have a copy of
// these functions, so a scorer of another module's is another.
template <class Model>
const Model* model_of(const engine_scorer& scorer) noexcept {
    using Shared = SharedScorer<Model>;
    if (scorer.release != Shared::release) return nullptr;
    return static_cast<const Shared*>(scorer.ctx)->model.get();
}

}  // namespace engine::model
