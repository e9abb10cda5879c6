#include "engine/deployment.hpp"

#include <cstddef>

namespace engine {

namespace {

// Not noexcept: a Python model's thread may be ended inside score() while the interpreter shuts down, and that unwinds.
int score(const engine_scorer& scorer, bool float64_rows, const void* rows, uint32_t n_rows, float* scratch,
          double* out) {
    const size_t width = scorer.n_features;
    if (!float64_rows) return scorer.score(scorer.ctx, static_cast<const float*>(rows), n_rows, width, out);
    const auto* wide = static_cast<const double*>(rows);
    if (scorer.score_f64 != nullptr) return scorer.score_f64(scorer.ctx, wide, n_rows, width, out);
    for (size_t i = 0; i < width * n_rows; ++i) scratch[i] = static_cast<float>(wide[i]);
    return scorer.score(scorer.ctx, scratch, n_rows, width, out);
}

}  // namespace

Deployment::Deployment(const engine_scorer& primary, const engine_scorer* fallback, bool float64_rows,
                       uint64_t number, const BreakerLimits& breaker) noexcept
    : primary_(primary),
      fallback_(fallback ? *fallback : engine_scorer{}),
      has_fallback_(fallback != nullptr),
      float64_rows_(float64_rows),
      number_(number),
      breaker_(breaker) {
    primary_.retain(primary_.ctx);
    if (has_fallback_) fallback_.retain(fallback_.ctx);
}

Deployment::~Deployment() {
    primary_.release(primary_.ctx);
    if (has_fallback_) fallback_.release(fallback_.ctx);
}

int Deployment::score_primary(const void* rows, uint32_t n_rows, float* scratch, double* out) {
    if (overlaps()) return score(primary_, float64_rows_, rows, n_rows, scratch, out);
    if (calls_lost_.load(std::memory_order_relaxed) > 0) return ENGINE_SCORE_FAILED;  // it has the lock, for ever perhaps
    const std::lock_guard<std::mutex> one_at_a_time(primary_lock_);
    return score(primary_, float64_rows_, rows, n_rows, scratch, out);
}

int Deployment::score_fallback(const void* rows, uint32_t n_rows, float* scratch, double* out) {
    return score(fallback_, float64_rows_, rows, n_rows, scratch, out);
}

}  // namespace engine
