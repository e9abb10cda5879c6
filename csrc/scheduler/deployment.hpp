// One version in memory: a primary, perhaps a fallback, and a number. A request keeps the deployment that it came in
// under, so an answer never mixes two. Only the reference count and the records of the primary's failures change.
//
// Order. retain() is relaxed, because its thread has a reference already or holds the lock under which the current
// deployment is kept. release() is acquire and release: every owner's use of the scorers comes before the last one
// frees them.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/assert.hpp"
#include "base/call_lock.hpp"
#include "base/clock.hpp"
#include "engine/scorer.h"
#include "scheduler/breaker.hpp"
#include "scheduler/fair_share.hpp"
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

    // A primary on a device takes batches and answers later. 0 for one whose batches are calls.
    uint32_t in_flight_max() const noexcept { return std::min(primary_.in_flight_max, SharedExecutors::EXECUTORS_MAX); }
    // The rows of a batch; UINT32_MAX for as many as come.
    uint32_t rows_max() const noexcept { return primary_.in_flight_max > 0 ? primary_.rows_max : UINT32_MAX; }
    // As engine_scorer says. `scratch` is used as by score_primary().
    int begin(const void* rows, uint32_t n_rows, float* scratch, uint32_t* ticket);
    int poll(uint32_t ticket, double* out) { return primary_.poll(primary_.ctx, ticket, out); }
    void abandon(uint32_t ticket) { primary_.abandon(primary_.ctx, ticket); }

    bool has_fallback() const noexcept { return has_fallback_; }
    bool float64_rows() const noexcept { return float64_rows_; }
    uint32_t n_features() const noexcept { return primary_.n_features; }
    uint32_t n_outputs() const noexcept { return primary_.n_outputs; }
    uint32_t row_bytes() const noexcept { return primary_.n_features * (float64_rows_ ? 8 : 4); }
    uint64_t number() const noexcept { return number_; }
    // Whether several calls of the primary may run at once.
    bool takes_gil() const noexcept { return primary_.flags & ENGINE_SCORER_TAKES_GIL; }
    bool overlaps() const noexcept { return primary_.flags & ENGINE_SCORER_REENTRANT; }
    Breaker& breaker() noexcept { return breaker_; }
    RowFailures& row_failures() noexcept { return row_failures_; }
    // A canary, which has a lane of its own: set before it takes requests.
    bool is_canary() const noexcept { return canary_.load(std::memory_order_relaxed); }
    void become_canary() noexcept { canary_.store(true, std::memory_order_relaxed); }
    // Whether this thread is inside a call of a primary that may not overlap.
    bool called_here() const noexcept { return call_lock_ != nullptr && call_lock_->held_here(); }
    // A call of the primary may never come back. Until it does, a primary that may not overlap is not called again.
    void call_lost() noexcept {
        if (call_lock_ != nullptr) call_lock_->call_lost();
    }
    void lost_call_returned() noexcept {
        if (call_lock_ != nullptr) call_lock_->lost_call_returned();
    }

    // A call of the primary gave answers. A lost call that began before is one executor's trouble, not the primary's.
    void call_passed(int64_t now_ns) noexcept { passed_ns_.store(now_ns, std::memory_order_relaxed); }
    bool passed_since(int64_t ns) const noexcept { return passed_ns_.load(std::memory_order_relaxed) >= ns; }

    // Models may set something up on every thread that calls them (threading.local), which can take longer than a
    // deadline. So the thread of an executor is cold until it has called the primary once for no request at all.
    // `thread` tells an executor's thread from the one that it replaced. Never cold: native scorers, which take
    // microseconds, and primaries that were never measured.
    bool is_cold(uint32_t executor, uint32_t thread) const noexcept {
        return !warm_row_.empty() && warmed_by_[executor].load(std::memory_order_relaxed) != thread &&
               (call_lock_ == nullptr || !call_lock_->is_lost());
    }
    // The executor's thread: the call that makes it warm, whatever becomes of it.
    void warm_up(uint32_t executor, uint32_t thread);
    // The first row of a measurement and how long it took, before any executor's thread sees this deployment.
    void keep_warm_row(const void* row, int64_t took_ns);
    // A first call that takes longer is stuck.
    int64_t warm_up_ns_max() const noexcept { return warm_up_ns_max_; }

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
    std::atomic<bool> canary_{false};
    uint64_t number_;
    Breaker breaker_;
    RowFailures row_failures_;
    std::atomic<uint32_t> references_{1};
    std::shared_ptr<CallLock> call_lock_;  // held around a primary that is not reentrant; null for others
    std::atomic<int64_t> passed_ns_{0};    // when the latest call that gave answers ended
    std::vector<std::byte> warm_row_;
    int64_t warm_up_ns_max_ = 0;
    std::array<std::atomic<uint32_t>, SharedExecutors::EXECUTORS_MAX> warmed_by_{};  // by executor: its thread
};

}  // namespace engine::scheduler
