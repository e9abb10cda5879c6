#include "scheduler/lane.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "scheduler/reasons.hpp"
#include "scheduler/row_search.hpp"
#include "scheduler/scoring.hpp"

namespace engine::scheduler {

namespace {

thread_local int64_t working_until = 0;

// As often may a call give the GIL up and wait for it, before it counts as stuck.
constexpr int64_t GIL_WAITS = 4;

}  // namespace

int64_t Lane::working_until_ns() noexcept { return working_until; }

Lane::Lane(const RuntimeLimits& limits, SlotTable& slots, Counters& counters, SharedExecutors& shared, Mutex& lock,
           FallbackHandler& fallback)
    : limits_(limits),
      slots_(slots),
      counters_(counters),
      lock_(lock),
      fallback_(fallback),
      cost_(limits.batch_rows_max),
      policy_({limits.batch_rows_max, limits.slots, shared.count(), limits.budget_ns}, cost_, shared, limits.weight),
      executors_(shared.count()) {}

Lane::Lane(const RuntimeLimits& limits, SlotTable& slots, Counters& counters, Lane& host, Mutex& lock,
           FallbackHandler& fallback)
    : limits_(limits),
      slots_(slots),
      counters_(counters),
      lock_(lock),
      fallback_(fallback),
      cost_(limits.batch_rows_max),
      policy_({limits.batch_rows_max, limits.slots, host.executors_}, cost_, host.policy_),
      executors_(host.executors_) {}

void Lane::make_batches() {
    for (size_t i = batches_.size(); i < executors_; ++i) batches_.push_back(std::make_unique<Batch>(limits_));
}

bool Lane::take_from_executors(uint32_t index, uint32_t generation, bool* was_running) noexcept {
    Slot& slot = slots_[index];
    uint32_t word = slot.word.load(std::memory_order_acquire);
    while (generation_of(word) == generation && is_live(word)) {
        if (!slot.word.compare_exchange_weak(word, state_word(generation, State::falling_back),
                                             std::memory_order_acq_rel))
            continue;
        ENGINE_ASSERT(slot.references.load(std::memory_order_relaxed) > 0, "a live request has an owner");
        if (state_of(word) == State::queued) slot.lane->policy_.leave(slot.ticket);
        else if (was_running != nullptr) *was_running = true;
        return true;
    }
    return false;
}

bool Lane::may_begin_batch() const noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    return running_ == 0 || overlaps_.load(std::memory_order_relaxed);
}

void Lane::take_submissions(int64_t now) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    for (uint32_t i = submitted_.take_all(slots_, &Slot::next); i != NO_SLOT;) {
        const Slot& slot = slots_[i];
        ENGINE_ASSERT(slot.references.load(std::memory_order_relaxed) > 0,
                      "a submitted slot has the queue's reference");
        // Read before the push: once an executor has the entry, the slot's link may be the free list's.
        const uint32_t next = slot.next.load(std::memory_order_relaxed);
        const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
        ENGINE_ASSERT(generation > 0, "a used slot has a generation");
        policy_.push({slot.finish_by_ns, i, generation, slot.ticket.priority}, now);
        i = next;
    }
    const uint64_t depth = policy_.depth();
    if (depth > counters_.queue_depth_max.load(std::memory_order_relaxed))
        counters_.queue_depth_max.store(depth, std::memory_order_relaxed);
}

// Makes a queued request this executor's, unless it has been answered meanwhile.
Claim Lane::claim(const Entry& entry) noexcept {
    Slot& slot = slots_[entry.slot];
    uint32_t queued = state_word(entry.generation, State::queued);
    if (slot.word.compare_exchange_strong(queued, state_word(entry.generation, State::running),
                                          std::memory_order_acq_rel)) {
        policy_.leave(slot.ticket);
        return Claim::taken;
    }
    ENGINE_ASSERT(generation_of(queued) == entry.generation, "the queue's reference keeps a slot from being reused");
    ENGINE_ASSERT(state_of(queued) != State::running, "a queued request is claimed once");
    slots_.drop_reference(entry.slot);
    return Claim::gone;
}

BatchPlan Lane::form_batch(uint32_t executor, int64_t now, std::vector<Dropped>& dropped) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(executor < batches_.size(), "every executor has its batch");
    Batch& batch = *batches_[executor];
    ENGINE_ASSERT(batch.called.empty(), "an executor's last batch has ended");
    policy_.begins_after(waits_for_gil_.load(std::memory_order_relaxed) ? GilCalls::all().usual_wait_ns() : 0);
    const BatchPlan plan = policy_.form(
        now, batch.entries.data(), [this](const Entry& entry) { return claim(entry); },
        [&](const Entry& entry) {
            executor_enters();
            dropped.push_back({this, entry});
        });
    ENGINE_ASSERT(plan.rows <= limits_.batch_rows_max, "a batch fits its buffers");
    ENGINE_ASSERT(plan.rows == 0 || !plan.holding, "an executor runs a batch or holds it back");
    batch.size = plan.rows;
    if (plan.rows == 0) return plan;
    batch.executor = executor;
    batch.call_began_ns = now;
    batch.call_rows = plan.rows;
    waits_for_gil_.store(slots_[batch.entries[0].slot].deployment->takes_gil(), std::memory_order_relaxed);
    batch.call(*slots_[batch.entries[0].slot].deployment);
    executor_enters();
    ++running_;
    policy_.started(executor, plan.rows, now);
    return plan;
}

Lane::Scored Lane::score(Batch& batch) {
    ENGINE_ASSERT(batch.size > 0 && batch.size <= limits_.batch_rows_max, "a batch has rows, and fits its buffers");
    ENGINE_ASSERT(in_flight() > 0, "an executor that scores is in flight");
    const int64_t begun = now_ns();
    int64_t until = NEVER_NS;
    std::copy_n(batch.entries.begin(), batch.size, batch.in_order.begin());
    for (uint32_t i = 0; i < batch.size; ++i) {
        const Slot& slot = slots_[batch.entries[i].slot];
        batch.waited_ns[i] = begun - slot.queued_ns;
        batch.predicted_ns[i] = slot.predicted_ns;
        until = std::min(until, batch.entries[i].finish_by_ns);
    }
    ENGINE_ASSERT(working_until == 0, "a thread scores one batch at a time");
    working_until = until;
    Scored scored{begun, true, true};
    // Requests of one deployment are scored together; around a swap a batch falls into runs.
    bool ours = true;
    for (uint32_t from = 0; from < batch.size;) {
        Deployment* deployment = slots_[batch.in_order[from].slot].deployment;
        uint32_t to = from + 1;
        while (to < batch.size && slots_[batch.in_order[to].slot].deployment == deployment) ++to;
        if (ours && from > 0) ours = begin_next_call(batch, *deployment, to - from, scored);
        if (ours) ours = score_run(batch, from, to, scored);
        else
            for (uint32_t i = from; i < to; ++i) drop(batch.in_order[i], Reason::stalled);
        from = to;
    }
    working_until = 0;
    ENGINE_ASSERT(scored.ended_ns >= begun, "the monotonic clock never goes back");
    return scored;
}

// Scores rows from … to of the batch, which came under one deployment, and delivers them. False where the batch was
// lost meanwhile.
bool Lane::score_run(Batch& batch, uint32_t from, uint32_t to, Scored& scored) {
    // Our own reference: once its slots are given back, a deployment that was swapped away has no other owner.
    Deployment& deployment = *slots_[batch.in_order[from].slot].deployment;
    deployment.retain();
    const int64_t now = now_ns();
    const uint32_t suspects = deployment.row_failures().remembers(now) ? put_suspects_last(batch, from, to, now) : to;
    bool ours = suspects == from || score_rows(batch, deployment, from, suspects, true, scored);
    if (suspects < to) {
        if (ours && suspects > from) ours = begin_next_call(batch, deployment, to - suspects, scored);
        if (ours) ours = score_rows(batch, deployment, suspects, to, false, scored);
        else
            for (uint32_t i = suspects; i < to; ++i) drop(batch.in_order[i], Reason::stalled);
    }
    deployment.release();
    return ours;
}

// Moves rows like those that failed alone of late behind the others. Returns the first of them.
uint32_t Lane::put_suspects_last(Batch& batch, uint32_t from, uint32_t to, int64_t now) noexcept {
    const auto begin = batch.in_order.begin();
    const auto first = std::stable_partition(begin + from, begin + to, [&](const Entry& entry) {
        const Slot& slot = slots_[entry.slot];
        return !slot.deployment->row_failures().remembers(slots_.row(entry.slot), slot.deployment->row_bytes(), now);
    });
    return static_cast<uint32_t>(first - begin);
}

// Scores rows from … to in one call. Where the call fails and `search` is true, further calls find the rows that make
// it fail, for as long as the time of the rows allows, and answer the others. False where the batch was lost meanwhile.
bool Lane::score_rows(Batch& batch, Deployment& deployment, uint32_t from, uint32_t to, bool search, Scored& scored) {
    RowFailures& failures = deployment.row_failures();
    const size_t width = limits_.n_outputs, row_bytes = deployment.row_bytes();
    RowSearch rows(to - from);
    Reason failure = Reason::ok;  // of the last failed call
    bool blamed = true;           // a row was counted for it
    bool giving_up = false;
    // A call that nobody can be blamed for counts as one failing row.
    const auto give_up = [&](const Entry& entry, int64_t now) {
        scored.all_ok = false;
        if (rows.tried() && !blamed) {
            deployment.breaker().record(1, 1, now);
            blamed = true;
        }
        drop(entry, rows.tried() ? failure : Reason::released);
        rows.skip();
    };
    for (bool first_call = true; !rows.done();) {
        const uint32_t at = from + rows.at();
        const Entry& head = batch.in_order[at];
        const uint32_t waiting = policy_.live() + to - at;
        const bool hurried = search && failures.is_hurried(waiting, cost_, limits_.budget_ns);
        uint32_t n = rows.next(!search   ? to - from
                               : hurried ? failures.hurried_rows(waiting, cost_, limits_.budget_ns)
                                         : failures.group_rows());
        if (!first_call) {
            const int64_t now = scored.ended_ns;
            const uint32_t fits = cost_.rows_within(head.finish_by_ns - now);
            if (giving_up || fits == 0 || !is_running(head)) {
                give_up(head, now);
                continue;
            }
            n = failures.hopeless() ? 1 : std::min(n, fits);
            signal(batch);  // of the rows before; nobody waits for the calls to come
            if (!begin_next_call(batch, deployment, n, scored)) {
                for (uint32_t i = at; i < to; ++i) drop(batch.in_order[i], Reason::stalled);
                return false;
            }
        }
        first_call = false;
        std::byte* inputs = batch.rows.data();
        int64_t until = 0;  // the call is worth finishing while any of its callers still waits
        for (uint32_t i = 0; i < n; ++i) {
            std::memcpy(inputs + i * row_bytes, slots_.row(batch.in_order[at + i].slot), row_bytes);
            until = std::max(until, batch.in_order[at + i].finish_by_ns);
        }
        const int status = deployment.score_primary(inputs, n, batch.scratch.data(), batch.out.data(), until);
        const int64_t now = scored.ended_ns = now_ns();
        uint32_t unusable = n;
        if (status == ENGINE_SCORE_OK)
            for (uint32_t i = 0; i < n; ++i) unusable -= usable(batch.out.data() + i * width, limits_);
        scored.last_ok = unusable == 0;
        scored.all_ok &= scored.last_ok;
        const bool late = status == ENGINE_SCORE_OUT_OF_TIME || status == NOT_CALLED;
        if (unusable == n && !late) {
            failure = reason_of(status);
            failures.call_failed();
            if (n > 1 && search) {
                rows.failed(n);
                blamed = hurried && !failures.search_pays(n, std::min(n, waiting - n));
                if (!blamed) continue;
                failures.group_failed(n);
                deployment.breaker().blame_row(now);
                for (uint32_t i = 0; i < n; ++i) {
                    drop(batch.in_order[at + i], failure);
                    rows.skip();
                }
                continue;
            }
            if (n == 1 && (status != ENGINE_SCORE_OK || rows.tried())) failures.row_failed(inputs, row_bytes, now);
            deployment.breaker().record(n, n, now);
            blamed = true;
            for (uint32_t i = 0; i < n; ++i) {
                drop(batch.in_order[at + i], failure);
                n == 1 ? rows.failed(1) : rows.skip();
            }
            // The rows are not to blame where nothing succeeds, and no call is worth its time while the breaker is
            // open.
            giving_up = failures.hopeless() || deployment.breaker().open();
            continue;
        }
        // Before the answers go out: a caller that asks again at once finds the breaker as this call has left it.
        if (status != NOT_CALLED) deployment.breaker().record(n, unusable, now);
        if (!late) {
            failures.call_passed(n);
            deployment.call_passed(now);
        }
        for (uint32_t i = 0; i < n; ++i) {
            const Entry& entry = batch.in_order[at + i];
            const double* values = batch.out.data() + i * width;
            if (late || (unusable > 0 && !usable(values, limits_))) drop(entry, reason_of(status));
            else deliver(batch, entry, values, now);
            if (!search && !late) failures.forget(inputs + i * row_bytes, row_bytes);
        }
        rows.passed(n);
    }
    signal(batch);
    return true;
}

// One wake-up for all answers of a loop in a call, after the last of them. A loop that is woken by the first takes them
// one by one, and so submits, and is batched, one by one.
void Lane::signal(Batch& batch) noexcept {
    for (Completions* loop : batch.pending_signals) {
        loop->signal();
        loop->release();
    }
    batch.pending_signals.clear();
}

// One call of the batch has ended and the next begins: each is a measure of its own, and none is stuck for the time of
// those before it. False where the batch was lost, and its requests are answered.
bool Lane::begin_next_call(Batch& batch, Deployment& deployment, uint32_t rows, Scored& scored) noexcept {
    const MutexLock lock(lock_);
    if (batches_[batch.executor].get() != &batch) return false;
    policy_.finished(batch.executor, batch.call_rows, scored.ended_ns, scored.last_ok);
    batch.call(deployment);
    batch.call_rows = rows;
    batch.call_began_ns = scored.ended_ns;
    policy_.started(batch.executor, rows, scored.ended_ns);
    return true;
}

bool Lane::is_running(const Entry& entry) noexcept {
    return slots_[entry.slot].word.load(std::memory_order_acquire) == state_word(entry.generation, State::running);
}

void Lane::deliver(Batch& batch, const Entry& entry, const double* values, int64_t now) {
    Slot& slot = slots_[entry.slot];
    ENGINE_ASSERT(slot.references.load(std::memory_order_relaxed) > 0, "a row keeps its slot until it is delivered");
    ENGINE_ASSERT(generation_of(slot.word.load(std::memory_order_relaxed)) == entry.generation,
                  "the executor's reference keeps a slot from being reused");
    // Written before the exchange that publishes it. Where the exchange fails nobody reads it: the caller has been
    // answered by the other side, which wrote to the other half of the slot.
    std::copy_n(values, limits_.n_outputs, slots_.primary_out(entry.slot));
    slot.by_executor = {now, Source::primary, Reason::ok};
    uint32_t running = state_word(entry.generation, State::running);
    if (slot.word.compare_exchange_strong(running, state_word(entry.generation, State::primary),
                                          std::memory_order_acq_rel)) {
        const Completions* const held = batch.pending_signals.empty() ? nullptr : batch.pending_signals.back();
        if (Completions* loop = settle(slots_, entry.slot, held)) {
            ENGINE_ASSERT(batch.pending_signals.size() < batch.pending_signals.capacity(), "one signal a row at most");
            batch.pending_signals.push_back(loop);
        }
    } else {
        counters_.late_dropped.fetch_add(1, std::memory_order_relaxed);
    }
    slots_.drop_reference(entry.slot);
}

void Lane::drop(const Entry& entry, Reason reason) {
    fail(entry, reason);
    slots_.drop_reference(entry.slot);
}

// A synchronous caller runs the fallback on its own core. For a loop or a group the fallback runs here, because there
// every caller is one thread with other requests waiting behind this one.
void Lane::fail(const Entry& entry, Reason reason) {
    ENGINE_ASSERT(!lock_.held_by_this_thread(), "a fallback never runs under the executors' lock");
    Slot& slot = slots_[entry.slot];
    // Taken before anything else of the slot is read or written: the thread that replaces an executor fails its batch
    // while the executor may be delivering it, and the slot may be another request's by now.
    if (!take_from_executors(entry.slot, entry.generation)) return;
    if (slot.completions != nullptr || slot.group != nullptr)
        return fallback_.answer_by_fallback(entry.slot, entry.generation, reason);
    slot.by_fallback.reason = reason;
    slot.word.store(state_word(entry.generation, State::failed), std::memory_order_release);
    settle_and_signal(slots_, entry.slot);
}

void Lane::finish_batch(uint32_t executor, const Batch& batch, const Scored& scored) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(batches_[executor].get() == &batch, "an executor ends its own batch");
    ENGINE_ASSERT(running_ > 0, "a batch ends once");
    --running_;
    policy_.finished(executor, batch.call_rows, scored.ended_ns, scored.last_ok);
}

// Without the lock, because the last reference frees a model, which may want the GIL for it. The answers are on their
// way already: nobody waits for this.
void Lane::learn(Batch& batch, const Scored& scored, bool lost) noexcept {
    ENGINE_ASSERT(!batch.called.empty(), "a batch keeps its deployments until it has been learned from");
    if (lost) {
        ENGINE_ASSERT(batch.lost_in != nullptr, "a lost batch was in a call");
        batch.lost_in->lost_call_returned();
        batch.lost_in->breaker().came_back(scored.ended_ns);
        std::exchange(batch.lost_in, nullptr)->release();
    }
    for (Deployment* deployment : batch.called) deployment->release();
    batch.called.clear();
    if (lost) return;
    for (uint32_t i = 0; i < batch.size; ++i) {
        policy_.missed_prediction_by(scored.ended_ns - batch.predicted_ns[i], scored.ended_ns);
        counters_.queued_ns.record(batch.waited_ns[i]);
    }
    counters_.batches.fetch_add(1, std::memory_order_relaxed);
    counters_.batch_rows.fetch_add(batch.size, std::memory_order_relaxed);
    if (!scored.all_ok) counters_.failed_batches.fetch_add(1, std::memory_order_relaxed);
}

// A batch is given up after a deadline and a half; later only where such batches are known to take long.
int64_t Lane::hung_at_ns(const Batch& batch, int64_t now) const noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const int64_t patience = std::max(limits_.budget_ns / 2 * 3, 4 * cost_.high_ns(batch.call_rows));
    // Inside the call a library may wait for the GIL as well, as long as others have waited for it of late.
    const int64_t gil_ns = batch.calling().takes_gil() ? GIL_WAITS * GilCalls::all().long_wait_ns() : 0;
    return policy_.started_ns(batch.executor, now) + patience + gil_ns;
}

std::vector<Entry> Lane::lose_batch(uint32_t executor, int64_t now) {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(running_ > 0, "only a batch that runs is lost");
    std::unique_ptr<Batch>& batch = batches_[executor];
    ENGINE_ASSERT(batch->size > 0 && !batch->called.empty(), "only a batch that runs is lost");
    std::vector<Entry> entries(batch->entries.begin(), batch->entries.begin() + batch->size);
    auto next = std::make_unique<Batch>(limits_);
    lost_.reserve(lost_.size() + 1);
    // The thread may be back and delivering: it then gives up its references while these entries are being failed.
    std::erase_if(entries, [&](const Entry& entry) { return !slots_.try_retain(entry.slot); });
    lose_call(batch->calling(), batch->call_began_ns, now);
    batch->lost_in = &batch->calling();
    batch->lost_in->retain();
    lost_.push_back(std::move(batch));
    batch = std::move(next);
    --running_;
    policy_.lost(executor);
    return entries;
}

// A call is stuck. Where others gave answers meanwhile, the executor is in trouble and not the primary, which goes on.
void Lane::lose_call(Deployment& deployment, int64_t began, int64_t now) noexcept {
    deployment.call_lost();
    if (!deployment.passed_since(began)) deployment.breaker().trip(now);
}

Deployment* Lane::cold(uint32_t executor, uint32_t thread, int64_t now) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    if (to_warm != nullptr && to_warm->is_cold(executor, thread)) return to_warm;
    if (policy_.depth() == 0) return nullptr;
    // The queue's reference keeps the slot, and with it the deployment, even where the request is answered already.
    Deployment* next = slots_[policy_.first(now).slot].deployment;
    return next->is_cold(executor, thread) ? next : nullptr;
}

void Lane::begin_warm_up(uint32_t executor, Deployment& deployment, int64_t now) noexcept {
    deployment.retain();
    executor_enters();
    policy_.started(executor, 1, now);
}

void Lane::lose_warm_up(uint32_t executor, Deployment& deployment, int64_t now) noexcept {
    lose_call(deployment, now - deployment.warm_up_ns_max(), now);
    policy_.lost(executor);
}

std::unique_ptr<Batch> Lane::take_lost(const Batch& batch) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const auto it = std::find_if(lost_.begin(), lost_.end(), [&](const auto& each) { return each.get() == &batch; });
    ENGINE_ASSERT(it != lost_.end(), "a lost batch is kept until its thread comes back");
    std::unique_ptr<Batch> taken = std::move(*it);
    lost_.erase(it);
    return taken;
}

std::vector<Entry> Lane::take_queue(int64_t now) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    take_submissions(now);
    std::vector<Entry> left;
    // As of the end of time nothing can finish in time, so the policy drops everything.
    Entry none;
    policy_.form(
        2 * NEVER_NS, &none, [](const Entry&) { return Claim::gone; },
        [&](const Entry& entry) { left.push_back(entry); });
    ENGINE_ASSERT(policy_.depth() == 0, "as of the end of time the queue is dropped");
    return left;
}

}  // namespace engine::scheduler
