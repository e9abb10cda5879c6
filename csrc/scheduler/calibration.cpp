// Measurements before serving: the cost of the primary and of the fallback, and how late timers are on this machine.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/futex.hpp"
#include "base/threads.hpp"
#include "scheduler/runtime.hpp"

namespace engine::scheduler {

namespace {

constexpr int MARGIN_SEED_WAITS = 24;
constexpr int64_t MARGIN_SEED_WAIT_NS = 30'000;
// The 99.99th percentile of timer delays measured on a shared machine.
constexpr int64_t MARGIN_PRIOR_NS = 1'000'000;
constexpr uint32_t FALLBACK_SEED_RUNS = 64;
constexpr size_t CALIBRATION_REPEATS = 5;
constexpr int64_t CALIBRATION_BUDGET_NS = 400'000'000;
constexpr auto WARM_LOOK = std::chrono::microseconds(200);

// Without the first run of a batch size, which touches cold code and memory, unless it is the only one.
int64_t median_of(std::vector<int64_t>& took) {
    ENGINE_ASSERT(!took.empty(), "a calibration runs every size at least once");
    if (took.size() > 1) took.erase(took.begin());
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
}

}  // namespace

// A margin that knows nothing would trust the first timer. A few real waits show this machine when quiet. One
// made-up record stands for the rare delays of a shared machine; it is the first to be forgotten once there are
// enough real ones.
void Runtime::seed_margins() noexcept {
    const PreciseTimers precise;
    const int64_t begun = now_ns();
    sync_margin_.timer_overshot(MARGIN_PRIOR_NS, begun);
    async_margin_.timer_overshot(MARGIN_PRIOR_NS, begun);
    std::atomic<uint32_t> nobody{0};
    for (int i = 0; i < MARGIN_SEED_WAITS; ++i) {
        const int64_t until = now_ns() + MARGIN_SEED_WAIT_NS;
        futex_wait_until(nobody, 0, until);
        const int64_t now = now_ns();
        sync_margin_.timer_overshot(now - until, now);
        async_margin_.timer_overshot(now - until, now);
    }
}

Calibration Runtime::calibrate(Deployment& deployment, const void* rows, uint32_t n_rows) {
    Calibration calibration;
    std::vector<double> out(size_t{n_rows} * limits_.n_outputs);
    float* scratch = thread_scratch(size_t{n_rows} * limits_.n_features);
    const int64_t begun = now_ns();
    for (uint32_t batch = 1;; batch = std::min(batch * 2, n_rows)) {
        std::vector<int64_t> took;
        while (took.size() < CALIBRATION_REPEATS && (took.size() < 2 || now_ns() - begun < CALIBRATION_BUDGET_NS)) {
            const int64_t start = now_ns();
            calibration.failed = deployment.score_primary(rows, batch, scratch, out.data()) != ENGINE_SCORE_OK;
            if (calibration.failed) return calibration;
            took.push_back(now_ns() - start);
            deployment.keep_warm_row(rows, took.back());
        }
        calibration.points.push_back({batch, median_of(took)});
        if (batch == n_rows) return calibration;
    }
}

int64_t Runtime::adopt(const Calibration& calibration) {
    if (calibration.failed) return 0;
    const MutexLock lock(executors_->lock());
    for (const Calibration::Point& point : calibration.points) {
        if (point.rows <= limits_.batch_rows_max) lane_.cost().prime(point.rows, point.ns);
        inline_cost_.prime(point.rows, point.ns);
    }
    return inline_cost_.expected_ns(1);
}

void Runtime::warm_threads(Deployment& deployment) {
    const std::lock_guard<std::mutex> one_at_a_time(warm_lock_);
    {
        // close() sets closing_ under this lock, so the lane is announced before it is detached, or not at all.
        const std::lock_guard<std::mutex> not_closing(start_lock_);
        if (closing_.load(std::memory_order_acquire) || !started_.load(std::memory_order_acquire)) return;
        if (executors_->is_warm(deployment)) return;
        executors_->begin_warming(lane_, deployment);
    }
    const int64_t until = now_ns() + executors_->count() * deployment.warm_up_ns_max();
    while (!executors_->is_warm(deployment) && !closing_.load(std::memory_order_acquire) && now_ns() < until)
        std::this_thread::sleep_for(WARM_LOOK);
    executors_->end_warming(lane_);
}

void Runtime::make_canary(Deployment& deployment, double share, const Calibration* calibration) {
    const std::lock_guard<std::mutex> not_starting(start_lock_);
    Lane* lane = canary_lane();
    if (lane == nullptr) {
        std::unique_ptr<Lane> made(new Lane(limits_, slots_, counters_, lane_, executors_->lock(), *this));
        made->make_batches();
        lane = made.release();
        canary_lane_.store(lane, std::memory_order_release);
    }
    executors_->set_primary(*lane, deployment);
    const MutexLock lock(executors_->lock());
    lane->policy().set_guest_share(std::clamp(share, 1e-3, 1.0 - 1e-3));
    const auto prime = [&](uint32_t rows, int64_t ns, int64_t inline_ns) {
        if (rows <= limits_.batch_rows_max) lane->cost().prime(rows, ns);
        canary_inline_cost_.prime(rows, inline_ns);
    };
    if (calibration != nullptr)
        for (const Calibration::Point& point : calibration->points) prime(point.rows, point.ns, point.ns);
    for (uint32_t rows = 1; calibration == nullptr && rows <= limits_.batch_rows_max; rows *= 2)
        if (inline_cost_.expected_ns(rows) > 0)
            prime(rows, std::max<int64_t>(lane_.cost().expected_ns(rows), 1), inline_cost_.expected_ns(rows));
    deployment.become_canary();
}

void Runtime::time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows) {
    if (!deployment.has_fallback() || n_rows == 0) return;
    const auto* bytes = static_cast<const std::byte*>(rows);
    float* scratch = thread_scratch(limits_.n_features);
    std::vector<double> out(limits_.n_outputs);
    for (uint32_t i = 0; i < FALLBACK_SEED_RUNS; ++i) {
        const int64_t start = now_ns();
        deployment.score_fallback(bytes + size_t{i % n_rows} * deployment.row_bytes(), 1, scratch, out.data());
        const int64_t now = now_ns();
        sync_margin_.fallback_took(now - start, now);
        async_margin_.fallback_took(now - start, now);
    }
}

void Runtime::start_threads(Deployment* deployment, const void* rows, uint32_t n_rows) {
    const std::lock_guard<std::mutex> starting(start_lock_);
    if (closing_.load(std::memory_order_acquire) || started_.load(std::memory_order_acquire)) return;
    lane_.make_batches();
    executors_->start();
    if (n_rows == 0) {
        started_.store(true, std::memory_order_release);
        warm_.store(true, std::memory_order_release);
        return;
    }
    const auto* bytes = static_cast<const std::byte*>(rows);
    std::vector<std::byte> kept(bytes, bytes + size_t{n_rows} * deployment->row_bytes());
    deployment->retain();
    const auto warm_up = [this, deployment, n_rows, kept = std::move(kept)] {
        const Calibration calibration = calibrate(*deployment, kept.data(), n_rows);
        adopt(calibration);
        if (!calibration.failed) {
            warm_threads(*deployment);
            time_fallback(*deployment, kept.data(), n_rows);
        }
        deployment->release();
        // Release: a caller that finds the lane warm sees the batches that were made above.
        warm_.store(true, std::memory_order_release);
        warming_ended_.store(true, std::memory_order_release);
    };
    try {
        warming_ = make_thread("engine-warm", warm_up);
    } catch (...) {
        deployment->release();
        if (owns_executors_) executors_->stop(NEVER_NS);
        throw;
    }
    started_.store(true, std::memory_order_release);
}

}  // namespace engine::scheduler
