#include "monitor/sketch.hpp"

#include <pthread.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>

#include "base/clock.hpp"
#include "base/futex.hpp"

namespace engine::monitor {

namespace {

// How often this process and its parents forked since the library was loaded. A sketch that was made at another count
// belongs to a parent. Every push reads this, because getpid() would cost a system call.
std::atomic<uint32_t> forks{0};
const int AT_FORK = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

// How long the counting thread sleeps without a signal: long enough to cost an idle process nothing, short enough for
// a page that shows what happened.
constexpr int64_t IDLE_NS = 50'000'000;
// Records counted before others get the lock.
constexpr size_t CHUNK = 256;
constexpr size_t VERSION_NAMES_MAX = 1024;
// Products summed a row, on average. Where there are more pairs of columns, only one row in some has them summed.
constexpr size_t PAIRS_A_ROW = 1024;

void observe(void* ctx, const engine_answer* answer) { static_cast<Sketch*>(ctx)->observe(*answer); }
void deployed(void* ctx, uint64_t deployment, const char* version) {
    static_cast<Sketch*>(ctx)->deployed(deployment, version);
}
void retain(void* ctx) { static_cast<Sketch*>(ctx)->retain(); }
void release(void* ctx) { static_cast<Sketch*>(ctx)->release(); }

}  // namespace

Sketch::Sketch(const Limits& limits)
    : limits_(limits),
      ring_(limits.ring_rows, limits.features_max, limits.outputs_max),
      wake_mask_(std::max(ring_.capacity() / 4, 1u) - 1),
      forked_at_(forks.load(std::memory_order_relaxed)),
      closed_blocks_(std::max(limits.blocks_max, 1u)),
      answers_(limits.answers_max, limits.outputs_max),
      shadows_(std::max(limits.answers_max / 16, 16u), limits.outputs_max) {
    (void)AT_FORK;
    ENGINE_ASSERT(std::has_single_bit(wake_mask_ + 1) && wake_mask_ < ring_.capacity(),
                  "the counting thread is woken at least once a lap");
    open_.reset(0, 0);
    for (Block& block : closed_blocks_) block.reset(0, 0);
    sample_.reserve(size_t{limits.sample_rows} * (limits.features_max + limits.outputs_max));
    folder_ = new std::thread([this] { run(); });
}

Sketch::~Sketch() {
    close();
    if (alive()) delete folder_;
}

bool Sketch::alive() const noexcept { return forked_at_ == forks.load(std::memory_order_relaxed); }

bool Sketch::observe(const engine_answer& answer) noexcept {
    if (!alive() || closed_.load(std::memory_order_relaxed)) return false;
    uint32_t expected = n_features_.load(std::memory_order_relaxed);
    if (expected == 0 && answer.row && answer.n_features <= limits_.features_max) {
        n_features_.compare_exchange_strong(expected, answer.n_features, std::memory_order_relaxed);
        expected = n_features_.load(std::memory_order_relaxed);
    }
    uint64_t position;
    Record* record = ring_.claim(position);
    if (!record) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
        return false;
    }
    record->id = answer.id;
    record->deployment = answer.deployment;
    record->started_ns = answer.started_ns;
    record->deadline_ns = answer.deadline_ns;
    record->ready_ns = answer.ready_ns;
    record->source = answer.source;
    record->reason = answer.reason;
    uint32_t flags = answer.flags & 0xFFFF;
    const bool fits = answer.n_features == expected && answer.n_outputs <= limits_.outputs_max;
    if (answer.row && answer.n_features == expected) {
        ENGINE_ASSERT(expected <= limits_.features_max, "a row fits its record");
        flags |= RECORD_HAS_ROW;
        float* to = ring_.features(record);
        if (answer.flags & ENGINE_ANSWER_ROW_FLOAT64) {
            const double* from = static_cast<const double*>(answer.row);
            for (uint32_t i = 0; i < expected; ++i) to[i] = static_cast<float>(from[i]);
        } else {
            std::memcpy(to, answer.row, expected * sizeof(float));
        }
    }
    if (answer.values && answer.n_outputs <= limits_.outputs_max) {
        flags |= RECORD_HAS_OUTPUTS;
        double* to = ring_.outputs(record);
        std::memcpy(to, answer.values, answer.n_outputs * sizeof(double));
        for (uint32_t i = answer.n_outputs; i < limits_.outputs_max; ++i) {
            to[i] = std::numeric_limits<double>::quiet_NaN();
        }
    }
    if (answer.deadline_ns > answer.started_ns && answer.deadline_ns < NEVER_NS) flags |= RECORD_TIMED;
    record->flags = flags;
    record->n_outputs = static_cast<uint16_t>(std::min<uint32_t>(answer.n_outputs, UINT16_MAX));
    ring_.publish(position);
    if (!fits && answer.row) wrong_width_.fetch_add(1, std::memory_order_relaxed);
    if ((position & wake_mask_) == 0) {
        // Once a quarter of the ring, so that the counting thread wakes before the ring is full and few answers pay for
        // a wake-up. The release orders publish() before the signal: a thread that sees the new signal sees the record.
        wake_signal_.fetch_add(1, std::memory_order_release);
        futex_wake(wake_signal_, 1);
    }
    return true;
}

void Sketch::run() noexcept {
    while (!closed_.load(std::memory_order_acquire)) {
        // Read before the ring is emptied: a signal that comes in between differs from it, and the thread does not
        // sleep.
        const uint32_t seen = wake_signal_.load(std::memory_order_acquire);
        size_t folded;
        do {
            const std::lock_guard lock(mutex_);
            folded = fold_some(CHUNK, ring_.pushed() - totals_.folded > ring_.capacity() / 4);
        } while (folded == CHUNK && !closed_.load(std::memory_order_relaxed));
        if (wake_signal_.load(std::memory_order_acquire) == seen && !closed_.load(std::memory_order_acquire)) {
            futex_wait_until(wake_signal_, seen, now_ns() + IDLE_NS);
        }
    }
}

size_t Sketch::fold_some(size_t records_max, bool grow) noexcept {
    size_t folded = 0;
    for (; folded < records_max && (grow || !full()); ++folded) {
        const Record* record = ring_.front();
        if (!record) break;
        fold(*record);
        ring_.pop();
    }
    totals_.folded += folded;
    folded_.store(totals_.folded, std::memory_order_relaxed);
    ENGINE_ASSERT(totals_.folded <= ring_.pushed(), "no record is counted twice");
    return folded;
}

bool Sketch::drain(bool flush) {
    if (!alive()) return true;
    // At most one ring full, because producers that never stop would keep the caller here.
    const size_t chunks = ring_.capacity() / CHUNK + 1;
    for (size_t i = 0; i < chunks; ++i) {
        const std::lock_guard lock(mutex_);
        if (fold_some(CHUNK, false) < CHUNK) break;
    }
    const std::lock_guard lock(mutex_);
    const bool stopped = full() && ring_.front();
    if (flush && !stopped) close_block(true);
    return !stopped;
}

bool Sketch::pressed() const noexcept {
    const uint64_t pushed = ring_.pushed(), folded = folded_.load(std::memory_order_relaxed);
    return n_closed_.load(std::memory_order_relaxed) * 4 >= closed_blocks_.size() * 3 ||
           (pushed > folded && pushed - folded >= ring_.capacity() / 8);
}

// Counts one row or answer towards the next cut; true at every block_rows-th.
bool Sketch::cut(uint32_t& counted) noexcept {
    if (++counted < limits_.block_rows) return false;
    counted = 0;
    return true;
}

bool Sketch::take(Block& into) {
    if (!alive()) return false;
    const std::lock_guard lock(mutex_);
    if (n_closed_ == 0) return false;
    ENGINE_ASSERT(n_closed_ <= closed_blocks_.size(), "no more blocks are closed than there is room for");
    ENGINE_ASSERT(first_closed_ < closed_blocks_.size(), "the oldest closed block lies in the circle");
    std::swap(into, closed_blocks_[first_closed_]);
    ENGINE_ASSERT(into.missing.size() == columns_.size(), "a closed block has the layout's columns");
    // The caller's old block may have the shape of an older layout.
    Block& returned = closed_blocks_[first_closed_];
    if (returned.counts.size() != open_.counts.size() || returned.missing.size() != open_.missing.size() ||
        returned.pair_sums.size() != open_.pair_sums.size()) {
        returned.reset(columns_.size(), bins_max_, pair_columns_.size());
    }
    first_closed_ = (first_closed_ + 1) % closed_blocks_.size();
    --n_closed_;
    if (flush_pending_) close_block(true);
    return true;
}

void Sketch::close_block(bool flush) noexcept {
    if (open_.rows == 0 && open_.output_rows == 0 && open_.answers == 0) return;
    if (full()) {
        // With no room for it the block stays open and grows.
        flush_pending_ |= flush;
        return;
    }
    flush_pending_ = false;
    ENGINE_ASSERT(open_.consistent(features_in_layout_, bins_max_), "a block's sums agree with each other");
    Block& to = closed_blocks_[(first_closed_ + n_closed_) % closed_blocks_.size()];
    ENGINE_ASSERT(to.counts.size() == open_.counts.size() && to.missing.size() == open_.missing.size(),
                  "the blocks of one layout have one shape");
    std::swap(to, open_);
    open_.clear();
    ++n_closed_;
    // A caller that flushes takes the block itself.
    if (!flush) changed_.notify_all();
}

void Sketch::wait(int64_t timeout_ns) {
    if (!alive()) return;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [this] { return n_closed_ > 0 || closed_; });
}

bool Sketch::wait_closed(int64_t timeout_ns) {
    if (!alive()) return true;
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [this] { return closed_.load(); });
}

bool Sketch::set_layout(std::vector<Column> columns, uint32_t n_features, bool drop) {
    if (!alive()) return true;
    const std::lock_guard lock(mutex_);
    if (!drop && (n_closed_ > 0 || open_.rows > 0 || open_.output_rows > 0)) return false;
    ENGINE_ASSERT(n_features <= limits_.features_max && n_features <= columns.size(), "the features lead the columns");
    ENGINE_ASSERT(columns.size() - n_features <= limits_.outputs_max, "the outputs of a layout fit a record");
    columns_ = std::move(columns);
    features_in_layout_ = n_features;
    flush_pending_ = false;
    rows_since_cut_ = output_rows_since_cut_ = 0;
    bins_max_ = 0;
    for ([[maybe_unused]] const Column& column : columns_) {
        ENGINE_ASSERT(column.consistent(), "a column's cuts ascend and its bins belong to them");
    }
    for (const Column& column : columns_) bins_max_ = std::max(bins_max_, column.n_bins);
    pair_columns_.clear();
    for (uint32_t i = 0; i < n_features; ++i) {
        if (!columns_[i].pair_scores.empty()) pair_columns_.push_back(i);
    }
    const size_t pairs = pair_columns_.size() * (pair_columns_.size() + 1) / 2;
    pair_stride_ = static_cast<uint32_t>(pairs / PAIRS_A_ROW + 1);
    rows_to_pair_ = 0;
    pair_scores_.assign(pair_columns_.size(), 0.0f);
    row_bins_.assign(n_features, UNSEEN);
    Block answers;
    for (size_t i = 0; i < n_closed_; ++i) {
        answers.add_answers(closed_blocks_[(first_closed_ + i) % closed_blocks_.size()]);
    }
    answers.add_answers(open_);
    open_.reset(columns_.size(), bins_max_, pair_columns_.size());
    last_.assign(columns_.size(), std::numeric_limits<float>::quiet_NaN());
    run_.assign(columns_.size(), 0);
    open_.add_answers(answers);
    ENGINE_ASSERT(open_.consistent(n_features, bins_max_), "answers survive a change of layout");
    for (Block& block : closed_blocks_) block.reset(columns_.size(), bins_max_, pair_columns_.size());
    first_closed_ = n_closed_ = 0;
    if (n_features) n_features_.store(n_features, std::memory_order_relaxed);
    sample_.clear();
    return true;
}

template <class T>
void Sketch::fold_many(const T* rows, size_t n, size_t stride, bool (Sketch::*fold)(const T*)) {
    if (!alive()) return;
    const std::lock_guard lock(mutex_);
    const int64_t now = now_ns();
    for (size_t i = 0; i < n; ++i) {
        if (open_.first_ns == 0) open_.first_ns = now;
        open_.last_ns = now;
        if ((this->*fold)(rows + i * stride)) close_block(false);
    }
}

void Sketch::fold_features(const float* rows, size_t n, size_t stride) {
    fold_many(rows, n, stride, &Sketch::fold_row);
}

void Sketch::fold_outputs(const double* rows, size_t n, size_t stride) {
    fold_many(rows, n, stride, &Sketch::fold_output);
}

Totals Sketch::totals() {
    if (!alive()) return {};
    const std::lock_guard lock(mutex_);
    Totals copy = totals_;
    copy.pushed = ring_.pushed();
    copy.dropped = dropped_.load(std::memory_order_relaxed);
    copy.wrong_width = wrong_width_.load(std::memory_order_relaxed);
    copy.remembered = answers_.size();
    return copy;
}

bool Sketch::find(uint64_t id, Remembered& found, double* outputs) {
    if (!alive()) return false;
    for (int attempt = 0; attempt < 2; ++attempt) {
        {
            const std::lock_guard lock(mutex_);
            if (Remembered* entry = answers_.find(id)) {
                found = *entry;
                std::copy_n(answers_.outputs(entry), limits_.outputs_max, outputs);
                return true;
            }
        }
        if (attempt == 0) drain(false);  // the answer may still be in the ring
    }
    return false;
}

bool Sketch::label(uint64_t id) {
    if (!alive()) return false;
    const std::lock_guard lock(mutex_);
    Remembered* entry = answers_.find(id);
    if (!entry || entry->labelled) return false;
    entry->labelled = 1;
    return true;
}

bool Sketch::value(uint64_t id) {
    if (!alive()) return false;
    const std::lock_guard lock(mutex_);
    Remembered* entry = answers_.find(id);
    if (!entry || entry->valued) return false;
    entry->valued = 1;
    return true;
}

void Sketch::answers(std::vector<Remembered>& entries, std::vector<double>& outputs, size_t most) {
    if (!alive()) return;
    const std::lock_guard lock(mutex_);
    answers_.copy(entries, outputs, most);
}

void Sketch::remember(const Remembered* entries, const double* outputs, size_t n) {
    if (!alive()) return;
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < n; ++i) {
        const Remembered& from = entries[i];
        if (answers_.find(from.id)) continue;
        Remembered* to = answers_.insert(from.id, outputs + i * limits_.outputs_max);
        *to = from;
        to->used = 1;
        to->n_outputs = std::min<uint16_t>(from.n_outputs, static_cast<uint16_t>(limits_.outputs_max));
    }
}

std::vector<float> Sketch::sample(uint32_t& width) {
    if (!alive()) return {};
    const std::lock_guard lock(mutex_);
    width = sample_width_;
    return sample_;
}

void Sketch::deployed(uint64_t deployment, const char* version) {
    if (!alive()) return;
    const std::lock_guard lock(mutex_);
    std::erase_if(versions_, [=](const auto& known) { return known.first == deployment; });
    versions_.emplace_back(deployment, version ? version : "");
    if (versions_.size() > VERSION_NAMES_MAX) versions_.pop_front();
}

std::vector<std::pair<uint64_t, std::string>> Sketch::versions() {
    if (!alive()) return {};
    const std::lock_guard lock(mutex_);
    return {versions_.begin(), versions_.end()};
}

void Sketch::close() noexcept {
    if (closed_.exchange(true, std::memory_order_acq_rel) || !alive()) return;
    wake_signal_.fetch_add(1, std::memory_order_release);
    futex_wake(wake_signal_, INT32_MAX);
    folder_->join();
    const std::lock_guard lock(mutex_);
    while (fold_some(CHUNK, true) == CHUNK) {
    }
    close_block(true);
    changed_.notify_all();
}

void Sketch::retain() noexcept {
    // Relaxed: the caller holds a reference already, and a new one orders nothing.
    [[maybe_unused]] const uint32_t before = references_.fetch_add(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "a new reference is taken from a holder of one");
}

void Sketch::release() noexcept {
    // Release, so that this holder's use comes before the deletion; acquire, so that the deletion comes after all
    // others'.
    const uint32_t before = references_.fetch_sub(1, std::memory_order_acq_rel);
    ENGINE_ASSERT(before > 0, "a reference is given back once");
    if (before != 1) return;
    // In a child of fork() the thread, and perhaps the lock, belong to the parent. Leaking the memory there does no
    // harm.
    if (alive()) delete this;
}

engine_observer Sketch::observer() noexcept {
    return {ENGINE_OBSERVER_ABI, n_features(),    this, monitor::observe, monitor::deployed,
            monitor::retain,     monitor::release};
}

}  // namespace engine::monitor
