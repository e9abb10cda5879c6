// One version in memory: a primary, perhaps a fallback, and a number. A request keeps the deployment that it came in
// under, so an answer never mixes two. Only the reference count and the records of the primary's failures change.
//
// Order. retain() is relaxed, because its thread has a reference already or holds the lock under which the current
// deployment is kept. release() is acquire and release: every owner's use of the scorers comes before the last one
// frees them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/assert.hpp"
#include "base/call_lock.hpp"
#include "base/clock.hpp"
#include "engine/scorer.h"
#include "scheduler/breaker.hpp"
#include "scheduler/row_failures.hpp"

namespace engine::scheduler {

class Deployment {
public:
    // Takes a reference to each scorer. float64_rows: rows are doubles, because the primary compares in double.
    Deployment(const engine_scorer& primary, const engine_scorer* fallback, bool float64_rows, uint64_t number,
               const BreakerLimits& breaker = {}) noexcept;
    ~Deployment();
    Deployment(const Deployment&) = delete;
    Deployment& operator=(const Deployment&) = delete;

    // Each scores dense rows of this deployment's row type; non-zero means failure. `scratch` holds n_rows x n_features
    // floats and is used only where a scorer takes float32 and rows are float64. A primary that can stop does so once
    // until_ns has passed. One that allows a single call at a time is waited for until then, and gives NOT_CALLED.
    int score_primary(const void* rows, uint32_t n_rows, float* scratch, double* out, int64_t until_ns = NEVER_NS) {
        if (plain_)
            return primary_.score(primary_.ctx, static_cast<const float*>(rows), n_rows, primary_.n_features, out);
        return score_any_primary(rows, n_rows, scratch, out, until_ns);
    }
    int score_fallback(const void* rows, uint32_t n_rows, float* scratch, double* out);

    bool has_fallback() const noexcept { return has_fallback_; }
    bool float64_rows() const noexcept { return float64_rows_; }
    uint32_t n_features() const noexcept { return primary_.n_features; }
    uint32_t n_outputs() const noexcept { return primary_.n_outputs; }
    uint32_t row_bytes() const noexcept { return primary_.n_features * (float64_rows_ ? 8 : 4); }
    uint64_t number() const noexcept { return number_; }
    // Whether several calls of the primary may run at once.
    bool overlaps() const noexcept { return primary_.flags & ENGINE_SCORER_REENTRANT; }
    Breaker& breaker() noexcept { return breaker_; }
    RowFailures& row_failures() noexcept { return row_failures_; }
    // Whether this thread is inside a call of a primary that may not overlap.
    bool called_here() const noexcept { return call_lock_ != nullptr && call_lock_->held_here(); }
    // A call of the primary may never come back. Until it does, a primary that may not overlap is not called again.
    void call_lost() noexcept {
        if (call_lock_ != nullptr) call_lock_->call_lost();
    }
    void lost_call_returned() noexcept {
        if (call_lock_ != nullptr) call_lock_->lost_call_returned();
    }

    void retain() noexcept {
        [[maybe_unused]] const uint32_t before = references_.fetch_add(1, std::memory_order_relaxed);
        ENGINE_ASSERT(before > 0, "nobody retains a deployment that was freed");
    }
    void release() noexcept {
        const uint32_t before = references_.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "a reference is released by its owner, once");
        if (before == 1) delete this;
    }
    uint32_t references() const noexcept { return references_.load(std::memory_order_acquire); }

private:
    int score_any_primary(const void* rows, uint32_t n_rows, float* scratch, double* out, int64_t until_ns);

    engine_scorer primary_, fallback_;
    bool has_fallback_, float64_rows_;
    bool plain_;  // float rows, calls that may overlap, no score_until: most models of an inline lane
    uint64_t number_;
    Breaker breaker_;
    RowFailures row_failures_;
    std::atomic<uint32_t> references_{1};
    std::shared_ptr<CallLock> call_lock_;  // held around a primary that is not reentrant; null for others
};

}  // namespace engine::scheduler
