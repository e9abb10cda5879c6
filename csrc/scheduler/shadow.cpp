#include "scheduler/shadow.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/assert.hpp"
#include "base/clock.hpp"
#include "base/threads.hpp"
#include "scheduler/reasons.hpp"

namespace engine::scheduler {

namespace {

// The thread's sleep between two looks at an empty ring: short while rows come, long after a second without any.
constexpr auto NAP = std::chrono::milliseconds(2);
constexpr auto LONG_NAP = std::chrono::milliseconds(50);
constexpr int NAPS_TO_QUIET = 500;

bool finite(const std::vector<double>& values) noexcept {
    return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

}  // namespace

Shadow::Shadow(Deployment* deployment, const engine_observer* observer, uint32_t rows_max)
    : deployment_(deployment),
      observed_(observer != nullptr),
      row_bytes_(deployment->row_bytes()),
      n_outputs_(deployment->n_outputs()),
      ring_(rows_max),
      rows_(rows_max * row_bytes_),
      live_(rows_max * n_outputs_),
      row_(row_bytes_),
      live_values_(n_outputs_),
      values_(n_outputs_),
      scratch_(deployment->n_features()) {
    deployment_->retain();
    if (observed_) {
        observer_ = *observer;
        observer_.retain(observer_.ctx);
    }
    try {
        thread_ = make_thread("engine-shadow", [this] { loop(); });
    } catch (...) {
        if (observed_) observer_.release(observer_.ctx);
        deployment_->release();
        throw;
    }
    const sched_param none{};
    pthread_setschedparam(thread_.native_handle(), SCHED_IDLE, &none);
}

Shadow::~Shadow() {
    close(NEVER_NS);
    if (observed_) observer_.release(observer_.ctx);
    deployment_->release();
}

void Shadow::copy_row(const engine_answer& live, std::byte* to) const noexcept {
    const size_t n = deployment_->n_features();
    const bool wide = live.flags & ENGINE_ANSWER_ROW_FLOAT64;
    if (wide == deployment_->float64_rows()) std::memcpy(to, live.row, row_bytes_);
    else if (wide)
        std::transform(static_cast<const double*>(live.row), static_cast<const double*>(live.row) + n,
                       reinterpret_cast<float*>(to), [](double value) { return static_cast<float>(value); });
    else std::copy_n(static_cast<const float*>(live.row), n, reinterpret_cast<double*>(to));
}

void Shadow::offer(const engine_answer& live, bool compare) noexcept {
    if (live.row == nullptr || busy_.test_and_set(std::memory_order_acquire)) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    if (queued_ == ring_.size()) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
    } else {
        ENGINE_ASSERT(first_ < ring_.size() && queued_ < ring_.size(), "positions lie inside the ring");
        const size_t at = (first_ + queued_) % ring_.size();
        ring_[at] = {live, compare};
        copy_row(live, rows_.data() + at * row_bytes_);
        std::copy_n(live.values, n_outputs_, live_.data() + at * n_outputs_);
        ++queued_;
    }
    busy_.clear(std::memory_order_release);
}

bool Shadow::take(Item& item) noexcept {
    while (busy_.test_and_set(std::memory_order_acquire)) sched_yield();
    const bool any = queued_ > 0;
    if (any) {
        ENGINE_ASSERT(first_ < ring_.size() && queued_ <= ring_.size(), "positions lie inside the ring");
        item = ring_[first_];
        std::memcpy(row_.data(), rows_.data() + first_ * row_bytes_, row_bytes_);
        std::copy_n(live_.data() + first_ * n_outputs_, n_outputs_, live_values_.data());
        first_ = (first_ + 1) % ring_.size();
        --queued_;
    }
    busy_.clear(std::memory_order_release);
    return any;
}

void Shadow::score(const Item& item) noexcept {
    const int64_t started = now_ns();
    const int status = deployment_->score_primary(row_.data(), 1, scratch_.data(), values_.data());
    const int64_t ended = now_ns();
    const bool good = status == ENGINE_SCORE_OK && finite(values_);
    scored_.fetch_add(1, std::memory_order_relaxed);
    if (!good) failed_.fetch_add(1, std::memory_order_relaxed);
    if (good && item.compare) {
        double most = 0.0;
        for (size_t i = 0; i < n_outputs_; ++i) most = std::max(most, std::abs(values_[i] - live_values_[i]));
        difference_sum_.store(difference_sum_.load(std::memory_order_relaxed) + most, std::memory_order_relaxed);
        difference_max_.store(std::max(difference_max_.load(std::memory_order_relaxed), most),
                              std::memory_order_relaxed);
        compared_.fetch_add(1, std::memory_order_relaxed);
    }
    if (!observed_) return;
    engine_answer shown = item.answer;
    shown.flags &= ~ENGINE_ANSWER_ROW_FLOAT64;
    shown.flags |= ENGINE_ANSWER_SHADOW | (deployment_->float64_rows() ? ENGINE_ANSWER_ROW_FLOAT64 : 0);
    shown.deployment = deployment_->number();
    shown.started_ns = started;
    shown.ready_ns = ended;
    shown.row = row_.data();
    shown.values = values_.data();
    shown.source = static_cast<uint8_t>(Source::primary);
    shown.reason = static_cast<uint8_t>(good ? Reason::ok : reason_of(status));
    observer_.observe(observer_.ctx, &shown);
}

void Shadow::loop() noexcept {
    Item item;
    for (int naps = 0; !stopping_.load(std::memory_order_acquire);) {
        if (take(item)) {
            score(item);
            naps = 0;
        } else {
            std::this_thread::sleep_for(++naps < NAPS_TO_QUIET ? NAP : LONG_NAP);
        }
    }
    ended_.store(true, std::memory_order_release);
}

ShadowCounts Shadow::counts() const noexcept {
    const uint64_t compared = compared_.load(std::memory_order_relaxed);
    const double sum = difference_sum_.load(std::memory_order_relaxed);
    return {scored_.load(std::memory_order_relaxed),
            dropped_.load(std::memory_order_relaxed),
            failed_.load(std::memory_order_relaxed),
            compared,
            compared ? sum / static_cast<double>(compared) : 0.0,
            difference_max_.load(std::memory_order_relaxed)};
}

bool Shadow::close(int64_t patience_ns) noexcept {
    if (!thread_.joinable()) return true;
    stopping_.store(true, std::memory_order_release);
    const sched_param none{};
    // An idle thread would never end on a busy machine.
    pthread_setschedparam(thread_.native_handle(), SCHED_OTHER, &none);
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    while (!ended_.load(std::memory_order_acquire)) {
        if (now_ns() >= until) {
            thread_.detach();
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    thread_.join();
    return true;
}

}  // namespace engine::scheduler
