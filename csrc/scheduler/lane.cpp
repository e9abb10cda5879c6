// The runtime on its executors' threads: forming batches by the policy, scoring them, delivering what comes of it.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "scheduler/runtime.hpp"
#include "scheduler/runtime_detail.hpp"

namespace engine {

namespace {

thread_local int64_t working_until = 0;

}  // namespace

int64_t Runtime::working_until_ns() noexcept { return working_until; }

Runtime::Buffers::Buffers(const RuntimeLimits& limits)
    : batch(limits.batch_rows_max),
      rows(size_t{limits.batch_rows_max} * limits.row_bytes),
      out(size_t{limits.batch_rows_max} * limits.n_outputs),
      scratch(size_t{limits.batch_rows_max} * limits.n_features) {
    owed.reserve(limits.batch_rows_max);
    waited_ns.resize(limits.batch_rows_max);
    predicted_ns.resize(limits.batch_rows_max);
}

void Runtime::take_submissions(int64_t now) noexcept {
    for (uint32_t i = submitted_.take_all(slots_, &Slot::next); i != NO_SLOT;) {
        const Slot& slot = slots_[i];
        const uint32_t next = slot.next.load(std::memory_order_relaxed);
        const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
        policy_.push({slot.finish_by_ns, i, generation, slot.ticket.priority}, now);
        i = next;
    }
    const uint64_t depth = policy_.depth();
    if (depth > counters_.queue_depth_max.load(std::memory_order_relaxed))
        counters_.queue_depth_max.store(depth, std::memory_order_relaxed);
}

Forming Runtime::form_batch(Executors::Thread& executor, int64_t now) noexcept {
    const auto claim = [&](const Entry& entry) {
        Slot& slot = slots_[entry.slot];
        uint32_t queued = state_word(entry.generation, State::queued);
        if (slot.word.compare_exchange_strong(queued, state_word(entry.generation, State::running),
                                              std::memory_order_acq_rel)) {
            policy_.leave(slot.ticket);
            return Claim::taken;
        }
        slots_.drop_reference(entry.slot);
        return Claim::gone;
    };
    const auto release = [&](const Entry& entry) {
        visitors_.fetch_add(1, std::memory_order_relaxed);
        executor.released.push_back({this, entry});
    };
    Buffers& buffers = *buffers_[executor.number];
    const Forming forming = policy_.form(now, buffers.batch.data(), claim, release);
    if (forming.rows > 0) {
        // What the thread works with is settled here, under the lock: it may be replaced, and its number and its place
        // in buffers_ be another's, before it has begun.
        executor.buffers = &buffers;
        buffers.called = slots_[buffers.batch[0].slot].deployment;
        buffers.called->retain();
        visitors_.fetch_add(1, std::memory_order_relaxed);
        ++batches_running_;
        policy_.started(executor.number, forming.rows, now);
    }
    return forming;
}

void Runtime::run_batch(Executors::Thread& executor, uint32_t rows) {
    Buffers& buffers = *static_cast<Buffers*>(executor.buffers);
    const int64_t begun = now_ns();
    int64_t until = NEVER_NS;
    for (uint32_t i = 0; i < rows; ++i) {
        const uint32_t index = buffers.batch[i].slot;
        std::memcpy(buffers.rows.data() + size_t{i} * limits_.row_bytes, slots_.row(index), limits_.row_bytes);
        buffers.waited_ns[i] = begun - slots_[index].queued_ns;
        buffers.predicted_ns[i] = slots_[index].predicted_ns;
        until = std::min(until, buffers.batch[i].finish_by_ns);
    }
    working_until = until;
    bool all_ok = true;
    int64_t now = begun;
    // Requests of one deployment are scored together; around a swap a batch falls into runs.
    for (uint32_t from = 0; from < rows;) {
        Deployment* deployment = slots_[buffers.batch[from].slot].deployment;
        uint32_t to = from + 1;
        while (to < rows && slots_[buffers.batch[to].slot].deployment == deployment) ++to;
        all_ok &= score_run(buffers, from, to, &now) == 0;
        from = to;
    }
    working_until = 0;
    learn(executor, buffers, rows, now, all_ok);
    visited();
}

// Scores rows from … to of the batch, which came under one deployment, and delivers them. Returns how many failed.
uint32_t Runtime::score_run(Buffers& buffers, uint32_t from, uint32_t to, int64_t* ended_ns) {
    // Kept here: once its slots are given back, a deployment that was swapped away has no other owner.
    Deployment* deployment = slots_[buffers.batch[from].slot].deployment;
    deployment->retain();
    double* out = buffers.out.data() + size_t{from} * limits_.n_outputs;
    // While anybody still waits the batch is worth finishing.
    int64_t until = 0;
    for (uint32_t i = from; i < to; ++i) until = std::max(until, buffers.batch[i].finish_by_ns);
    const int status = deployment->score_primary(buffers.rows.data() + size_t{from} * limits_.row_bytes, to - from,
                                                 buffers.scratch.data(), out, until);
    const int64_t now = now_ns();
    uint32_t failed = 0;
    for (uint32_t i = from; i < to; ++i)
        failed += status != ENGINE_SCORE_OK || !usable(buffers.out.data() + size_t{i} * limits_.n_outputs);
    // Before the answers go out: whoever asks again at once finds the breaker as this batch has left it.
    deployment->breaker().called(to - from, failed, now);
    for (uint32_t i = from; i < to; ++i)
        deliver(buffers, buffers.batch[i], buffers.out.data() + size_t{i} * limits_.n_outputs, status, now);
    signal_loops(buffers);
    deployment->release();
    *ended_ns = now;
    return failed;
}

// What a batch teaches, once its answers are on their way: nobody waits for this.
void Runtime::learn(Executors::Thread& executor, Buffers& buffers, uint32_t rows, int64_t now, bool all_ok) noexcept {
    bool lost;
    std::unique_ptr<Buffers> left_behind;  // freed at the end, without the lock
    {
        const std::lock_guard<std::mutex> lock(executors_->lock());
        executor.running.store(nullptr, std::memory_order_release);
        lost = executor.lost.load(std::memory_order_relaxed);
        if (lost) {
            const auto it = std::find_if(lost_buffers_.begin(), lost_buffers_.end(),
                                         [&](const auto& each) { return each.get() == &buffers; });
            left_behind = std::move(*it);
            lost_buffers_.erase(it);
        } else {
            --batches_running_;
            policy_.finished(executor.number, rows, now, all_ok);
        }
    }
    if (lost) {
        buffers.called->lost_call_returned();
        buffers.called->breaker().came_back(now);
    }
    // Without the lock: the last reference frees a model, which may want the GIL for it.
    std::exchange(buffers.called, nullptr)->release();
    if (lost) return;  // another executor has this one's place, and what this batch took is nobody's measure
    for (uint32_t i = 0; i < rows; ++i) {
        policy_.missed_prediction_by(now - buffers.predicted_ns[i], now);
        counters_.queued_ns.record(buffers.waited_ns[i]);
    }
    counters_.batches.fetch_add(1, std::memory_order_relaxed);
    counters_.batch_rows.fetch_add(rows, std::memory_order_relaxed);
    if (!all_ok) counters_.failed_batches.fetch_add(1, std::memory_order_relaxed);
}

// One wake-up for all of a loop's answers in the batch, and only once they are all there: a loop that is woken by the
// first takes them one by one, and so submits, and is batched, one by one.
void Runtime::signal_loops(Buffers& buffers) noexcept {
    for (Completions* loop : buffers.owed) loop->signal();
    buffers.owed.clear();
}

void Runtime::deliver(Buffers& buffers, const Entry& entry, const double* values, int status, int64_t now) {
    Slot& slot = slots_[entry.slot];
    uint32_t running = state_word(entry.generation, State::running);
    if (status != ENGINE_SCORE_OK || !usable(values)) {
        return let_go(entry, status == ENGINE_SCORE_OK ? Reason::primary_not_finite : detail::reason_of(status));
    }
    std::copy_n(values, limits_.n_outputs, slots_.primary_out(entry.slot));
    slot.by_executor = {now, Source::primary, Reason::ok};
    if (slot.word.compare_exchange_strong(running, state_word(entry.generation, State::primary),
                                          std::memory_order_acq_rel)) {
        if (Completions* owed = settle(entry.slot)) buffers.owed.push_back(owed);
    } else {
        counters_.late_dropped.fetch_add(1, std::memory_order_relaxed);
    }
    slots_.drop_reference(entry.slot);
}

void Runtime::let_go(const Entry& entry, Reason reason) {
    fail(entry, reason);
    slots_.drop_reference(entry.slot);
}

// The primary will not answer this one. A synchronous asker runs the fallback on its own core; for a loop or a group
// it is run here, because there every asker is one thread with others waiting behind it.
void Runtime::fail(const Entry& entry, Reason reason) {
    Slot& slot = slots_[entry.slot];
    // Claimed before anything else is read or written: whoever replaces an executor fails its batch while the executor
    // may be delivering it, and slots of it may be other requests' by now.
    if (!take_from_executors(entry.slot, entry.generation)) return;
    if (slot.completions != nullptr || slot.group != nullptr)
        return finish_rescue(entry.slot, entry.generation, reason);
    slot.by_rescue.reason = reason;
    slot.word.store(state_word(entry.generation, State::failed), std::memory_order_release);
    settle_and_signal(entry.slot);
}

// A batch is given up before a deadline and a half have gone by only where such batches are known to take as long.
int64_t Runtime::hung_after_ns(uint32_t rows) const noexcept {
    return std::max(limits_.budget_ns / 2 * 3, 4 * cost_.high_ns(rows));
}

// Under the executors' lock: the executor's batch and buffers are left to the thread that is stuck with them.
std::vector<Entry> Runtime::lose_batch(uint32_t executor, uint32_t rows, int64_t now) {
    std::unique_ptr<Buffers>& buffers = buffers_[executor];
    std::vector<Entry> batch(buffers->batch.begin(), buffers->batch.begin() + rows);
    // The thread may be back and delivering: it then gives up its references while these are being failed.
    std::erase_if(batch, [&](const Entry& entry) { return !slots_.keep(entry.slot); });
    buffers->called->call_lost();
    buffers->called->breaker().trip(now);
    lost_buffers_.push_back(std::move(buffers));
    buffers = std::make_unique<Buffers>(limits_);
    --batches_running_;
    policy_.gave_up(executor);
    return batch;
}

uint32_t Runtime::close(int64_t patience_ns) noexcept {
    {
        const std::lock_guard<std::mutex> not_starting(start_lock_);
        closing_.store(true, std::memory_order_seq_cst);
    }
    if (!started_.load(std::memory_order_acquire)) return 0;
    let_go_of_queue();  // at once: an executor may be a long time in its batch, or for ever
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    uint32_t stuck = executors_->detach(*this, patience_ns);
    let_go_of_queue();  // what was on its way in while we set `closing`
    executors_->rescuer().forget(*this);
    if (warming_.joinable()) {
        while (!warming_ended_.load(std::memory_order_acquire) && now_ns() < until)
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        if (warming_ended_.load(std::memory_order_acquire)) {
            warming_.join();
        } else {
            warming_.detach();
            ++stuck;
        }
    }
    if (owns_executors_) executors_->stop(patience_ns);
    return stuck;
}

void Runtime::let_go_of_queue() noexcept {
    std::vector<Entry> left;
    {
        const std::lock_guard<std::mutex> lock(executors_->lock());
        take_submissions(now_ns());
        // As of the end of time nothing can finish in time, so everything is released.
        Entry none;
        policy_.form(2 * NEVER_NS, &none, [](const Entry&) { return Claim::gone; },
                     [&](const Entry& entry) { left.push_back(entry); });
    }
    for (const Entry& entry : left) let_go(entry, Reason::closing);
}

}  // namespace engine
