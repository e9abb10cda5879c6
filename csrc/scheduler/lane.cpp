#include "scheduler/lane.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "scheduler/reasons.hpp"
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

void Lane::set_primary(const Deployment& primary) {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const uint32_t seats = primary.in_flight_max();
    while (seats_.size() < seats) seats_.push_back(std::make_unique<Batch>(limits_));
    policy_.set_device(seats, seats > 0 ? primary.rows_max() : limits_.batch_rows_max);
    overlaps_ = primary.overlaps();
}

// Requests of a deployment that the lane never had seats for are scored by calls, as those of any other model.
bool Lane::wants_seat(int64_t now) const noexcept {
    return !seats_.empty() && slots_[policy_.first(now).slot].deployment->in_flight_max() > 0;
}

std::optional<Place> Lane::next_place(uint32_t executor, int64_t now) const noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    if (policy_.depth() > 0 && wants_seat(now)) {
        const uint32_t seat = policy_.free_seat();
        return seat == SharedExecutors::NONE ? std::nullopt : std::optional<Place>({seat, true});
    }
    return running_ == 0 || overlaps_ ? std::optional<Place>(executor) : std::nullopt;
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

BatchPlan Lane::form_batch(Place place, int64_t now, std::vector<Dropped>& dropped) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    Batch& batch = batch_of(place);
    ENGINE_ASSERT(batch.called.empty(), "the last batch there has ended");
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
    batch.place = place;
    batch.call_began_ns = now;
    batch.call_rows = plan.rows;
    waits_for_gil_.store(slots_[batch.entries[0].slot].deployment->takes_gil(), std::memory_order_relaxed);
    batch.call(*slots_[batch.entries[0].slot].deployment);
    executor_enters();
    if (!place.on_device) ++running_;
    policy_.started(place, plan.rows, now);
    return plan;
}

void Lane::begin(Batch& batch) noexcept {
    ENGINE_ASSERT(batch.size > 0 && batch.size <= limits_.batch_rows_max, "a batch has rows, and fits its buffers");
    ENGINE_ASSERT(in_flight() > 0, "an executor that scores is in flight");
    const int64_t now = now_ns();
    std::copy_n(batch.entries.begin(), batch.size, batch.in_order.begin());
    for (uint32_t i = 0; i < batch.size; ++i) {
        const Slot& slot = slots_[batch.entries[i].slot];
        batch.waited_ns[i] = now - slot.queued_ns;
        batch.predicted_ns[i] = slot.predicted_ns;
    }
    batch.begin(now);
}

// The rows that are scored next: those of one deployment, because around a swap a batch has rows of two, and of these
// the suspects last. False where all are settled.
bool Lane::next_group(Batch& batch) noexcept {
    const uint32_t from = batch.group_to;
    if (from == batch.size) return false;
    batch.searches = from == batch.run_to;
    if (batch.searches) {
        batch.deployment = slots_[batch.in_order[from].slot].deployment;
        while (batch.run_to < batch.size && slots_[batch.in_order[batch.run_to].slot].deployment == batch.deployment)
            ++batch.run_to;
        const int64_t now = now_ns();
        const bool any = batch.deployment->row_failures().remembers(now);
        batch.group_to = any ? put_suspects_last(batch, from, batch.run_to, now) : batch.run_to;
        batch.searches = batch.group_to > from;
    }
    if (!batch.searches) batch.group_to = batch.run_to;
    batch.group_from = from;
    batch.search = RowSearch(batch.group_to - from);
    batch.first_of_group = batch.blamed = true;
    batch.giving_up = false;
    batch.failure = Reason::ok;
    return true;
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

bool Lane::next_call(Batch& batch) {
    while (!batch.search.done() || next_group(batch)) {
        const Entry& head = batch.in_order[batch.at()];
        uint32_t fits = batch.size;
        if (!batch.first_of_group) {
            fits = cost_.rows_within(head.finish_by_ns - batch.ended_ns);
            if (batch.giving_up || fits == 0 || !is_running(head)) {
                give_up_row(batch);
                continue;
            }
        }
        batch.n = rows_of_call(batch, fits);
        if (!batch.first_call) {
            signal(batch);  // of the rows before; nobody waits for the calls to come
            if (!begin_next_call(batch)) {
                give_up(batch, Reason::stalled);
                return false;
            }
        }
        batch.first_call = batch.first_of_group = false;
        copy_rows(batch);
        return true;
    }
    signal(batch);
    return false;
}

uint32_t Lane::rows_of_call(Batch& batch, uint32_t fits) noexcept {
    const RowFailures& failures = batch.deployment->row_failures();
    const uint32_t waiting = policy_.live() + batch.group_to - batch.at();
    batch.hurried = batch.searches && failures.is_hurried(waiting, cost_, limits_.budget_ns);
    const uint32_t most = !batch.searches ? batch.size
                          : batch.hurried ? failures.hurried_rows(waiting, cost_, limits_.budget_ns)
                                          : failures.group_rows();
    const uint32_t rows = std::min({batch.search.next(most), fits, batch.deployment->rows_max()});
    return !batch.first_of_group && failures.hopeless() ? 1 : rows;
}

void Lane::copy_rows(Batch& batch) noexcept {
    const size_t row_bytes = batch.deployment->row_bytes();
    batch.until_ns = 0;  // the call is worth finishing while any of its callers still waits
    for (uint32_t i = 0; i < batch.n; ++i) {
        const Entry& entry = batch.in_order[batch.at() + i];
        std::memcpy(batch.rows.data() + i * row_bytes, slots_.row(entry.slot), row_bytes);
        batch.until_ns = std::max(batch.until_ns, entry.finish_by_ns);
    }
}

bool Lane::make_call(Batch& batch) {
    if (batch.place.on_device && batch.deployment->in_flight_max() > 0) return begin_on_device(batch);
    call_ended(batch, score_here(batch));
    return false;
}

int Lane::score_here(Batch& batch) {
    int64_t until = NEVER_NS;
    for (uint32_t i = 0; i < batch.size; ++i) until = std::min(until, batch.entries[i].finish_by_ns);
    ENGINE_ASSERT(working_until == 0, "a thread scores one batch at a time");
    working_until = until;
    const int status = batch.deployment->score_primary(batch.rows.data(), batch.n, batch.scratch.data(),
                                                       batch.out.data(), batch.until_ns);
    working_until = 0;
    return status;
}

bool Lane::begin_on_device(Batch& batch) {
    const int status = batch.deployment->begin(batch.rows.data(), batch.n, batch.scratch.data(), &batch.ticket);
    if (status == ENGINE_SCORE_OK || status == ENGINE_SCORE_BUSY) {
        batch.waited |= status == ENGINE_SCORE_BUSY;
        batch.call_state = status == ENGINE_SCORE_OK ? CallState::in_flight : CallState::waits_for_room;
        return true;
    }
    batch.call_state = CallState::none;
    call_ended(batch, status);
    return false;
}

bool Lane::landed(Batch& batch) {
    if (batch.call_state == CallState::waits_for_room) {
        if (now_ns() < batch.until_ns) return !begin_on_device(batch);
        call_ended(batch, NOT_CALLED);
    } else {
        const int status = batch.deployment->poll(batch.ticket, batch.out.data());
        if (status == ENGINE_SCORE_PENDING) return false;
        call_ended(batch, status);
    }
    batch.call_state = CallState::none;
    return true;
}

// The call gave `status`, and its answers are in batch.out where that is ENGINE_SCORE_OK.
void Lane::call_ended(Batch& batch, int status) {
    batch.ended_ns = now_ns();
    uint32_t unusable = batch.n;
    if (status == ENGINE_SCORE_OK)
        for (uint32_t i = 0; i < batch.n; ++i)
            unusable -= usable(batch.out.data() + size_t{i} * limits_.n_outputs, limits_);
    batch.last_ok = unusable == 0;
    batch.all_ok &= batch.last_ok;
    const bool late = status == ENGINE_SCORE_OUT_OF_TIME || status == NOT_CALLED;
    if (unusable == batch.n && !late) rows_failed(batch, status);
    else rows_answered(batch, status, unusable);
}

// No row of the call has an answer. Where there are several, further calls find out which of them is to blame, for as
// long as their time allows.
void Lane::rows_failed(Batch& batch, int status) {
    RowFailures& failures = batch.deployment->row_failures();
    Breaker& breaker = batch.deployment->breaker();
    const uint32_t n = batch.n, at = batch.at(), waiting = policy_.live() + batch.group_to - at;
    batch.failure = reason_of(status);
    failures.call_failed();
    if (n > 1 && batch.searches) {
        batch.search.failed(n);
        batch.blamed = batch.hurried && !failures.search_pays(n, std::min(n, waiting - n));
        if (!batch.blamed) return;
        failures.group_failed(n);
        breaker.blame_row(batch.ended_ns);
        for (uint32_t i = 0; i < n; ++i) {
            drop(batch.in_order[at + i], batch.failure);
            batch.search.skip();
        }
        return;
    }
    if (n == 1 && (status != ENGINE_SCORE_OK || batch.search.tried()))
        failures.row_failed(batch.rows.data(), batch.deployment->row_bytes(), batch.ended_ns);
    breaker.record(n, n, batch.ended_ns);
    batch.blamed = true;
    for (uint32_t i = 0; i < n; ++i) {
        drop(batch.in_order[at + i], batch.failure);
        n == 1 ? batch.search.failed(1) : batch.search.skip();
    }
    // The rows are not to blame where nothing succeeds, and no call is worth its time while the breaker is open.
    batch.giving_up = failures.hopeless() || breaker.open();
}

void Lane::rows_answered(Batch& batch, int status, uint32_t unusable) {
    Deployment& deployment = *batch.deployment;
    RowFailures& failures = deployment.row_failures();
    const bool late = status == ENGINE_SCORE_OUT_OF_TIME || status == NOT_CALLED;
    const size_t row_bytes = deployment.row_bytes();
    // Before the answers go out: a caller that asks again at once finds the breaker as this call has left it.
    if (status != NOT_CALLED) deployment.breaker().record(batch.n, unusable, batch.ended_ns);
    if (!late) {
        failures.call_passed(batch.n);
        deployment.call_passed(batch.ended_ns);
    }
    const uint32_t at = batch.at();
    for (uint32_t i = 0; i < batch.n; ++i) {
        const double* values = batch.out.data() + size_t{i} * limits_.n_outputs;
        if (late || (unusable > 0 && !usable(values, limits_))) drop(batch.in_order[at + i], reason_of(status));
        else deliver(batch, batch.in_order[at + i], values, batch.ended_ns);
        if (!batch.searches && !late) failures.forget(batch.rows.data() + i * row_bytes, row_bytes);
    }
    batch.search.passed(batch.n);
}

// There is no time for a call of the first row that is not settled. A call that nobody could be blamed for counts as
// one failing row.
void Lane::give_up_row(Batch& batch) {
    const bool tried = batch.search.tried();
    batch.all_ok = false;
    if (tried && !batch.blamed) {
        batch.deployment->breaker().record(1, 1, batch.ended_ns);
        batch.blamed = true;
    }
    drop(batch.in_order[batch.at()], tried ? batch.failure : Reason::released);
    batch.search.skip();
}

void Lane::give_up(Batch& batch, Reason reason) {
    batch.all_ok = batch.last_ok = false;
    for (uint32_t i = batch.at(); i < batch.size; ++i) drop(batch.in_order[i], reason);
    batch.group_from = batch.group_to = batch.run_to = batch.size;
    batch.search = RowSearch(0);
    batch.call_state = CallState::none;
    signal(batch);
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
bool Lane::begin_next_call(Batch& batch) noexcept {
    const MutexLock lock(lock_);
    if (slot_of(batch.place).get() != &batch) return false;
    policy_.finished(batch.place, batch.call_rows, batch.ended_ns, batch.last_ok && !batch.waited);
    batch.waited = false;
    batch.call(*batch.deployment);
    batch.call_rows = batch.n;
    batch.call_began_ns = batch.ended_ns;
    policy_.started(batch.place, batch.n, batch.ended_ns);
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

void Lane::finish_batch(const Batch& batch) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(slot_of(batch.place).get() == &batch, "an executor ends its own batch");
    ENGINE_ASSERT(batch.place.on_device || running_ > 0, "a batch ends once");
    if (!batch.place.on_device) --running_;
    policy_.finished(batch.place, batch.call_rows, batch.ended_ns, batch.last_ok && !batch.waited);
}

void Lane::abandon_batch(const Batch& batch, int64_t now) noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(batch.place.on_device && slot_of(batch.place).get() == &batch, "a batch in flight has its seat");
    if (!closing()) lose_call(batch.calling(), batch.call_began_ns, now);
}

// Without the lock, because the last reference frees a model, which may want the GIL for it. The answers are on their
// way already: nobody waits for this.
void Lane::learn(Batch& batch, bool lost) noexcept {
    ENGINE_ASSERT(lost || !batch.called.empty(), "a batch keeps its deployments until it has been learned from");
    if (batch.lost_in != nullptr) {
        ENGINE_ASSERT(lost, "a batch that came back in time is not lost");
        batch.lost_in->lost_call_returned();
        batch.lost_in->breaker().came_back(batch.ended_ns);
        std::exchange(batch.lost_in, nullptr)->release();
    }
    for (Deployment* deployment : batch.called) deployment->release();
    batch.called.clear();
    if (lost) return;
    for (uint32_t i = 0; i < batch.size; ++i) {
        policy_.missed_prediction_by(batch.ended_ns - batch.predicted_ns[i], batch.ended_ns);
        counters_.queued_ns.record(batch.waited_ns[i]);
    }
    counters_.batches.fetch_add(1, std::memory_order_relaxed);
    counters_.batch_rows.fetch_add(batch.size, std::memory_order_relaxed);
    if (!batch.all_ok) counters_.failed_batches.fetch_add(1, std::memory_order_relaxed);
}

// A batch is given up after a deadline and a half; later only where such batches are known to take long.
int64_t Lane::hung_at_ns(const Batch& batch, int64_t now) const noexcept {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    const int64_t patience = std::max(limits_.budget_ns / 2 * 3, 4 * cost_.high_ns(batch.call_rows));
    // Inside the call a library may wait for the GIL as well, as long as others have waited for it of late.
    const int64_t gil_ns = batch.calling().takes_gil() ? GIL_WAITS * GilCalls::all().long_wait_ns() : 0;
    return policy_.started_ns(batch.place, now) + patience + gil_ns;
}

std::vector<Entry> Lane::lose_batch(Place place, int64_t now) {
    ENGINE_ASSERT(lock_.held_by_this_thread(), "the executors' lock is held");
    ENGINE_ASSERT(place.on_device || running_ > 0, "only a batch that runs is lost");
    std::unique_ptr<Batch>& batch = slot_of(place);
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
    if (!place.on_device) --running_;
    policy_.lost(place);
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
