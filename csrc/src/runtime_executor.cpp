// The executors: threads that form batches by the policy, score them and deliver.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "detail/futex.hpp"
#include "detail/runtime.hpp"
#include "engine/runtime.hpp"

namespace engine {

namespace {

// A wake-up that takes less is an ordinary one, between processors that are awake.
constexpr int64_t CHEAP_HANDOFF_NS = 20'000;
constexpr int64_t WATCH_NS_MAX = 100'000;

}  // namespace

Runtime::Executor::Executor(const RuntimeLimits& limits)
    : batch(limits.batch_rows_max),
      rows(size_t{limits.batch_rows_max} * limits.row_bytes),
      out(size_t{limits.batch_rows_max} * limits.n_outputs),
      scratch(size_t{limits.batch_rows_max} * limits.n_features) {
    released.reserve(limits.slots);
    owed.reserve(limits.batch_rows_max);
    waited_ns.resize(limits.batch_rows_max);
    predicted_ns.resize(limits.batch_rows_max);
}

void Runtime::start_threads(const void* rows, uint32_t n_rows) {
    const std::lock_guard<std::mutex> lock(start_lock_);
    if (started_ || closing_.load(std::memory_order_acquire)) return;
    started_ = true;
    warm_row_count_ = n_rows;
    warm_rows_.assign(static_cast<const std::byte*>(rows),
                      static_cast<const std::byte*>(rows) + size_t{n_rows} * limits_.row_bytes);
    for (uint32_t i = 0; i < limits_.executors; ++i) executors_.push_back(std::make_unique<Executor>(limits_));
    if (n_rows > 0) policy_.started(0, 1, now_ns());
    for (uint32_t i = 0; i < limits_.executors; ++i) {
        threads_.emplace_back([this, i] { executor_loop(i); });
        char name[16];
        std::snprintf(name, sizeof name, "engine-exec-%u", i % 100);
        pthread_setname_np(threads_.back().native_handle(), name);
    }
    rescue_thread_ = std::thread([this] { rescue_loop(); });
    pthread_setname_np(rescue_thread_.native_handle(), "engine-rescue");
}

void Runtime::executor_loop(uint32_t number) {
    Executor& executor = *executors_[number];
    const detail::PreciseTimers precise;
    if (number == 0 && warm_row_count_ > 0) {
        calibrate(warm_rows_.data(), warm_row_count_);
        const std::lock_guard<std::mutex> lock(executors_lock_);
        policy_.finished(0, 1, now_ns(), false);
    }
    if (number == 0) warm_.store(true, std::memory_order_release);
    bool slept = false;
    for (;;) {
        const uint32_t seen = work_.load(std::memory_order_seq_cst);
        const bool closing = closing_.load(std::memory_order_seq_cst);
        const int64_t now = now_ns();
        const Forming forming = next_batch(executor, number, now, closing);
        for (const Entry& entry : executor.released)
            let_go(entry, closing ? Reason::closing : Reason::released);
        executor.released.clear();
        if (forming.rows > 0) {
            if (slept) handoff_.record(now - slots_[executor.batch[0].slot].queued_ns, now);
            run_batch(executor, number, forming.rows);
        } else if (closing) {
            break;
        }
        slept = forming.rows == 0 && park(forming, seen);
    }
    executor.ended.store(true, std::memory_order_release);
    detail::futex_wake(work_, INT32_MAX);
}

// Under the lock: submissions into the queue, a batch out of it. While closing everything is let go.
Forming Runtime::next_batch(Executor& executor, uint32_t number, int64_t now, bool closing) noexcept {
    const std::lock_guard<std::mutex> lock(executors_lock_);
    for (uint32_t i = submitted_.take_all(slots_, &Slot::next); i != NO_SLOT;) {
        const uint32_t next = slots_[i].next.load(std::memory_order_relaxed);
        policy_.push({slots_[i].finish_by_ns, i, generation_of(slots_[i].word.load(std::memory_order_relaxed))}, now);
        i = next;
    }
    const uint64_t depth = policy_.depth();
    if (depth > counters_.queue_depth_max.load(std::memory_order_relaxed))
        counters_.queue_depth_max.store(depth, std::memory_order_relaxed);
    const auto claim = [&](const Entry& entry) {
        Slot& slot = slots_[entry.slot];
        uint32_t queued = state_word(entry.generation, State::queued);
        if (slot.word.compare_exchange_strong(queued, state_word(entry.generation, State::running),
                                              std::memory_order_acq_rel)) {
            policy_.leave(slot.bucket);
            return Claim::taken;
        }
        slots_.drop_reference(entry.slot);
        return Claim::gone;
    };
    const auto release = [&](const Entry& entry) { executor.released.push_back(entry); };
    // A closing engine asks for a batch as of the end of time: nothing can finish by then, so everything is released.
    const Forming forming = policy_.form(closing ? 2 * NEVER_NS : now, executor.batch.data(), claim, release);
    if (forming.rows > 0) policy_.started(number, forming.rows, now);
    if (policy_.depth() > 0 && !forming.holding) wake_executor();  // more than one executor's work
    return forming;
}

void Runtime::run_batch(Executor& executor, uint32_t number, uint32_t rows) {
    const int64_t begun = now_ns();
    for (uint32_t i = 0; i < rows; ++i) {
        const uint32_t index = executor.batch[i].slot;
        std::memcpy(executor.rows.data() + size_t{i} * limits_.row_bytes, slots_.row(index), limits_.row_bytes);
        executor.waited_ns[i] = begun - slots_[index].queued_ns;
        executor.predicted_ns[i] = slots_[index].predicted_ns;
    }
    executor.running.store(rows, std::memory_order_release);
    bool all_ok = true;
    int64_t now = begun;
    // Requests of one deployment are scored together; around a swap a batch falls into runs.
    for (uint32_t from = 0; from < rows;) {
        Deployment* deployment = slots_[executor.batch[from].slot].deployment;
        uint32_t to = from + 1;
        while (to < rows && slots_[executor.batch[to].slot].deployment == deployment) ++to;
        double* out = executor.out.data() + size_t{from} * limits_.n_outputs;
        const int status = deployment->score_primary(executor.rows.data() + size_t{from} * limits_.row_bytes, to - from,
                                                     executor.scratch.data(), out);
        all_ok &= status == ENGINE_SCORE_OK;
        now = now_ns();
        for (uint32_t i = from; i < to; ++i)
            deliver(executor, executor.batch[i], executor.out.data() + size_t{i} * limits_.n_outputs, status, now);
        signal_loops(executor);
        from = to;
    }
    executor.running.store(0, std::memory_order_release);
    learn(executor, number, rows, now, all_ok);
}

// What a batch teaches, once its answers are on their way: nobody waits for this.
void Runtime::learn(const Executor& executor, uint32_t number, uint32_t rows, int64_t now, bool all_ok) noexcept {
    {
        const std::lock_guard<std::mutex> lock(executors_lock_);
        policy_.finished(number, rows, now, all_ok);
    }
    for (uint32_t i = 0; i < rows; ++i) {
        policy_.missed_prediction_by(now - executor.predicted_ns[i], now);
        counters_.queued_ns.record(executor.waited_ns[i]);
    }
    counters_.batches.fetch_add(1, std::memory_order_relaxed);
    counters_.batch_rows.fetch_add(rows, std::memory_order_relaxed);
    if (!all_ok) counters_.failed_batches.fetch_add(1, std::memory_order_relaxed);
}

// One wake-up for all of a loop's answers in the batch, and only once they are all there: a loop that is woken by the
// first takes them one by one, and so submits, and is batched, one by one.
void Runtime::signal_loops(Executor& executor) noexcept {
    for (Completions* loop : executor.owed) loop->signal();
    executor.owed.clear();
}

void Runtime::deliver(Executor& executor, const Entry& entry, const double* values, int status, int64_t now) {
    Slot& slot = slots_[entry.slot];
    uint32_t running = state_word(entry.generation, State::running);
    if (status == ENGINE_SCORE_OK && detail::all_finite(values, limits_.n_outputs)) {
        std::copy_n(values, limits_.n_outputs, slots_.primary_out(entry.slot));
        slot.by_executor = {now, Source::primary, Reason::ok};
        if (slot.word.compare_exchange_strong(running, state_word(entry.generation, State::primary),
                                              std::memory_order_acq_rel)) {
            if (Completions* owed = settle(entry.slot)) executor.owed.push_back(owed);
        } else {
            counters_.late_dropped.fetch_add(1, std::memory_order_relaxed);
        }
        slots_.drop_reference(entry.slot);
        return;
    }
    let_go(entry, status == ENGINE_SCORE_OK ? Reason::primary_not_finite : detail::reason_of(status));
}

void Runtime::let_go(const Entry& entry, Reason reason) {
    fail(entry, reason);
    slots_.drop_reference(entry.slot);
}

// The primary will not answer this one. A synchronous asker runs the fallback on its own core; for a loop or a group
// it is run here, because there every asker is one thread with others waiting behind it.
void Runtime::fail(const Entry& entry, Reason reason) {
    Slot& slot = slots_[entry.slot];
    if (slot.completions != nullptr || slot.group != nullptr) return rescue(entry.slot, entry.generation, reason);
    uint32_t word = slot.word.load(std::memory_order_acquire);
    while (generation_of(word) == entry.generation && is_live(word)) {
        slot.by_executor.reason = reason;
        if (!slot.word.compare_exchange_weak(word, state_word(entry.generation, State::failed),
                                             std::memory_order_acq_rel))
            continue;
        if (state_of(word) == State::queued) policy_.leave(slot.bucket);
        return settle_and_signal(entry.slot);
    }
}

// Sleeps until there is work; true when it was woken for some. An executor that holds a batch back has a time to wake at
// and does not count as parked, so arrivals that only fill its batch cost no wake-up.
bool Runtime::park(const Forming& forming, uint32_t seen) noexcept {
    if (forming.holding) {
        detail::futex_wait_until(work_, seen, forming.wait_until_ns);
        return false;
    }
    if (work_comes(seen)) return false;
    bool woken = false;
    parked_.fetch_add(1, std::memory_order_seq_cst);
    if (submitted_.empty() && !closing_.load(std::memory_order_seq_cst))
        woken = detail::futex_wait_until(work_, seen, forming.wait_until_ns) == detail::Wait::woken;
    parked_.fetch_sub(1, std::memory_order_seq_cst);
    return woken;
}

int64_t Runtime::watch_ns() const noexcept {
    const int64_t handoff = handoff_.value();
    return limits_.may_watch && handoff > CHEAP_HANDOFF_NS ? std::min(handoff, WATCH_NS_MAX) : 0;
}

// Watches for work for as long as a wake-up would take. Others who want this core get it at every look.
bool Runtime::work_comes(uint32_t seen) noexcept {
    const int64_t watch = watch_ns();
    if (watch == 0 || watching_.test_and_set(std::memory_order_acquire)) return false;
    bool comes = false;
    for (const int64_t until = now_ns() + watch; !comes && now_ns() < until;) {
        sched_yield();
        comes = !submitted_.empty() || work_.load(std::memory_order_relaxed) != seen;
    }
    watching_.clear(std::memory_order_release);
    return comes;
}

uint32_t Runtime::close(int64_t patience_ns) noexcept {
    {
        const std::lock_guard<std::mutex> lock(start_lock_);
        closing_.store(true, std::memory_order_seq_cst);
    }
    let_go_of_queue();  // at once: an executor may be a long time in its batch, or for ever
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    uint32_t stuck = 0;
    for (size_t i = 0; i < threads_.size(); ++i) {
        if (!threads_[i].joinable()) continue;
        for (;;) {
            const uint32_t seen = work_.fetch_add(1, std::memory_order_seq_cst) + 1;
            detail::futex_wake(work_, INT32_MAX);
            if (executors_[i]->ended.load(std::memory_order_acquire) || now_ns() >= until) break;
            detail::futex_wait_until(work_, seen, std::min(until, now_ns() + 5'000'000));
        }
        if (executors_[i]->ended.load(std::memory_order_acquire)) {
            threads_[i].join();
        } else {
            threads_[i].detach();
            free_askers_of(*executors_[i]);
            ++stuck;
        }
    }
    let_go_of_queue();  // what was on its way in while we set `closing`
    if (rescue_thread_.joinable()) {
        last_call_.store(true, std::memory_order_seq_cst);
        timers_word_.fetch_add(1, std::memory_order_seq_cst);
        detail::futex_wake(timers_word_, 1);
        rescue_thread_.join();
    }
    return stuck;
}

// The batch of an executor that never came back: its askers get their fallback now, whatever their deadlines. The
// executor keeps its references, so the slots stay out of use.
void Runtime::free_askers_of(Executor& executor) noexcept {
    const uint32_t rows = executor.running.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < rows; ++i) fail(executor.batch[i], Reason::closing);
}

void Runtime::let_go_of_queue() noexcept {
    if (executors_.empty()) return;
    Executor leftovers(limits_);
    next_batch(leftovers, 0, now_ns(), true);
    for (const Entry& entry : leftovers.released) let_go(entry, Reason::closing);
}

}  // namespace engine
