#include "scheduler/deployment.hpp"

#include <algorithm>
#include <cstddef>
#include <new>

namespace engine::scheduler {

namespace {

constexpr int64_t WARM_UP_NS = 1'000'000'000;
constexpr int64_t WARM_UP_CALLS = 4;  // … or as often as long as the first call of the measurement took

// Rows in double for a scorer that takes float32.
const float* narrowed(const void* rows, size_t values, float* scratch) noexcept {
    const auto* wide = static_cast<const double*>(rows);
    for (size_t i = 0; i < values; ++i) scratch[i] = static_cast<float>(wide[i]);
    return scratch;
}

// Not noexcept: a Python model's thread may be ended inside score() while the interpreter shuts down, and that unwinds.
int score(const engine_scorer& scorer, bool float64_rows, const void* rows, uint32_t n_rows, float* scratch,
          double* out, int64_t until_ns) {
    const size_t width = scorer.n_features;
    if (float64_rows && scorer.score_f64 != nullptr)
        return engine_score_by_f64(&scorer, static_cast<const double*>(rows), n_rows, width, out, until_ns);
    const auto* narrow = float64_rows ? narrowed(rows, width * n_rows, scratch) : static_cast<const float*>(rows);
    return engine_score_by(&scorer, narrow, n_rows, width, out, until_ns);
}

}  // namespace

Deployment::Deployment(const engine_scorer& primary, const engine_scorer* fallback, bool float64_rows, uint64_t number,
                       const BreakerLimits& breaker) noexcept
    : primary_(engine_scorer_read(&primary)),
      fallback_(fallback ? engine_scorer_read(fallback) : engine_scorer{}),
      has_fallback_(fallback != nullptr),
      float64_rows_(float64_rows),
      plain_(!float64_rows && primary_.score_until == nullptr && (primary.flags & ENGINE_SCORER_REENTRANT)),
      number_(number),
      breaker_(breaker),
      call_lock_(overlaps() ? nullptr : CallLock::of(primary_.ctx)) {
    primary_.retain(primary_.ctx);
    if (has_fallback_) fallback_.retain(fallback_.ctx);
}

Deployment::~Deployment() {
    primary_.release(primary_.ctx);
    if (has_fallback_) fallback_.release(fallback_.ctx);
}

int Deployment::score_any_primary(const void* rows, uint32_t n_rows, float* scratch, double* out, int64_t until_ns) {
    ENGINE_ASSERT(n_rows > 0, "a scoring call has rows");
    if (overlaps()) return score(primary_, float64_rows_, rows, n_rows, scratch, out, until_ns);
    if (!call_lock_->lock_until(until_ns)) return NOT_CALLED;
    struct Unlock {
        CallLock& lock;
        ~Unlock() { lock.unlock(); }
    } const unlock{*call_lock_};
    return score(primary_, float64_rows_, rows, n_rows, scratch, out, until_ns);
}

int Deployment::begin(const void* rows, uint32_t n_rows, float* scratch, uint32_t* ticket) {
    ENGINE_ASSERT(n_rows > 0 && n_rows <= rows_max(), "a batch has rows, and no more than the device takes");
    const size_t width = primary_.n_features;
    if (float64_rows_ && primary_.begin_f64 != nullptr)
        return primary_.begin_f64(primary_.ctx, static_cast<const double*>(rows), n_rows, width, ticket);
    const auto* narrow = float64_rows_ ? narrowed(rows, width * n_rows, scratch) : static_cast<const float*>(rows);
    return primary_.begin(primary_.ctx, narrow, n_rows, width, ticket);
}

void Deployment::keep_warm_row(const void* row, int64_t took_ns) {
    // A device's batches are not the thread's: it sets up nothing for them.
    if ((primary_.flags & ENGINE_SCORER_NATIVE) || in_flight_max() > 0 || !warm_row_.empty()) return;
    warm_up_ns_max_ = std::max(WARM_UP_NS, WARM_UP_CALLS * took_ns);
    const auto* bytes = static_cast<const std::byte*>(row);
    warm_row_.assign(bytes, bytes + row_bytes());
}

void Deployment::warm_up(uint32_t executor, uint32_t thread) {
    try {
        std::vector<double> out(n_outputs());
        std::vector<float> scratch(n_features());
        score_primary(warm_row_.data(), 1, scratch.data(), out.data(), now_ns() + warm_up_ns_max_);
    } catch (const std::bad_alloc&) {
        // Without memory for one row the first request is the first call.
    }
    warmed_by_[executor].store(thread, std::memory_order_relaxed);
}

int Deployment::score_fallback(const void* rows, uint32_t n_rows, float* scratch, double* out) {
    ENGINE_ASSERT(has_fallback_ && n_rows > 0, "only a deployment that has a fallback runs it");
    return score(fallback_, float64_rows_, rows, n_rows, scratch, out, NEVER_NS);
}

}  // namespace engine::scheduler
