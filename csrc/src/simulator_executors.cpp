// The simulated executors: they form batches by the policy, score and deliver, as runtime_executor.cpp does.
#include <algorithm>

#include "detail/simulator.hpp"

namespace engine::detail {

namespace {

// The policy probes a primary that has been idle for so long (PROBE_EVERY_NS in policy.cpp, or more).
constexpr int64_t PROBE_IDLE_NS = 50'000'000;

bool is_finite(const double* values) noexcept {
    for (uint32_t i = 0; i < SimulatedVersion::OUTPUTS; ++i)
        if (!std::isfinite(values[i])) return false;
    return true;
}

}  // namespace

void Simulator::wake_executor() {
    if (plan_.handoff_ns <= 0) return form_batches();
    if (waking_) return;
    for (const Executor& executor : executors_) {
        if (executor.batch != NO_SLOT || executor.deaths > 0) continue;
        waking_ = true;
        return schedule(now_ns_ + plan_.handoff_ns, Kind::woken, 0, 0);
    }
}

void Simulator::form_batches() {
    for (uint32_t e = 0; e < executors_.size(); ++e)
        if (executors_[e].batch == NO_SLOT && executors_[e].deaths == 0 && !form_batch(e)) return;
}

// False when there is nothing to do for any other executor either.
bool Simulator::form_batch(uint32_t executor) {
    for (uint32_t i = submitted_.take_all(slots_, &Slot::next); i != NO_SLOT;) {
        const uint32_t next = slots_[i].next.load(std::memory_order_relaxed);
        policy_.push({slots_[i].finish_by_ns, i, generation_of(slots_[i].word.load(std::memory_order_relaxed))},
                     slots_[i].queued_ns);
        i = next;
    }
    if (policy_.depth() == 0) return false;
    const uint32_t index = take_batch();
    Batch& batch = batches_[index];
    batch.executor = executor;
    std::vector<Entry> released;
    const Forming forming = policy_.form(
        now_ns_, batch.entries.data(), [&](const Entry& entry) { return claim(entry, batch); },
        [&](const Entry& entry) { released.push_back(entry); });
    if (forming.rows > 0) start_batch(index, forming, queued_ - released.size());
    else free_batches_.push_back(index);
    for (const Entry& entry : released) {
        fail(entry, Reason::released);
        drop_executors_reference(entry);
    }
    if (forming.holding) {
        ++result_.held;
        // One wake-up is enough: an arrival looks again by itself.
        if (forming.wait_until_ns < look_again_ns_) {
            look_again_ns_ = forming.wait_until_ns;
            schedule(look_again_ns_, Kind::look_again, 0, 0);
        }
    }
    return forming.rows > 0;
}

Claim Simulator::claim(const Entry& entry, Batch& batch) {
    Slot& slot = slots_[entry.slot];
    uint32_t queued = state_word(entry.generation, State::queued);
    if (!slot.word.compare_exchange_strong(queued, state_word(entry.generation, State::running),
                                           std::memory_order_acq_rel)) {
        drop_executors_reference(entry);
        return Claim::gone;
    }
    const uint64_t number = asker_of(entry.slot).number;
    audit_.claimed(number);
    if (sabotaged(Invariant::claimed_once)) audit_.claimed(number);
    const bool too_late = sabotaged(Invariant::in_time_to_start) || now_ns_ > slot.finish_by_ns;
    audit_.expect(!too_late, Invariant::in_time_to_start, number);
    if (!sabotaged(Invariant::counts_agree)) policy_.leave(slot.ticket);
    --queued_;
    ++running_;
    if (batch.rows < plan_.batch_rows_max) batch.predicted_ns[batch.rows] = slot.predicted_ns;
    ++batch.rows;
    return Claim::taken;
}

void Simulator::start_batch(uint32_t index, const Forming& forming, uint64_t left_queued) {
    Batch& batch = batches_[index];
    const bool over = sabotaged(Invariant::bounded_batch) || batch.rows > plan_.batch_rows_max;
    audit_.expect(!over && batch.rows == forming.rows, Invariant::bounded_batch, arrived_);
    const int64_t high_ns = cost_.high_ns(batch.rows);
    const bool able = now_ns_ + high_ns <= batch.entries[0].finish_by_ns;
    const bool probe = !able && batch.rows == 1 && probing();
    result_.probes += probe;
    audit_.expect((able || probe) && !sabotaged(Invariant::able_to_finish), Invariant::able_to_finish,
                  asker_of(batch.entries[0].slot).number);
    const bool pays = std::min(cost_.efficient_rows(), plan_.batch_rows_max) > 1;
    if (batch.rows == 1 && able && pays && left_queued > 0 && now_ns_ + cost_.high_ns(2) <= batch.entries[0].finish_by_ns)
        ++result_.batches_of_one_avoidable;
    executors_[batch.executor].batch = index;
    ++result_.batches;
    result_.batch_rows += batch.rows;
    started_ns_ = now_ns_;
    policy_.started(batch.executor, batch.rows, now_ns_);
    books_.trace(now_ns_, batch.executor, batch.rows);
    if (plan_.replace_after_ns < NEVER_NS)
        schedule(now_ns_ + plan_.replace_after_ns, Kind::replace, index, batch.serial);
    batch.from = batch.to = 0;
    start_scoring(index);
}

// Requests of one deployment are scored together; around a swap a batch falls into runs.
void Simulator::start_scoring(uint32_t index) {
    Batch& batch = batches_[index];
    batch.from = batch.to;
    const Deployment* deployment = slots_[batch.entries[batch.from].slot].deployment;
    while (batch.to < batch.rows && slots_[batch.entries[batch.to].slot].deployment == deployment) ++batch.to;
    const double factor = version_factors_[deployment->number() - 1];
    const int64_t end_ns = world_.score_end(now_ns_, batch.to - batch.from, factor, batch.executor);
    if (end_ns < NEVER_NS) schedule(end_ns, Kind::score_done, index, batch.serial);
}

void Simulator::score_done(uint32_t index) {
    Batch& batch = batches_[index];
    const uint32_t n = batch.to - batch.from;
    for (uint32_t i = 0; i < n; ++i)
        rows_[i] = *static_cast<double*>(slots_.row(batch.entries[batch.from + i].slot));
    Deployment* deployment = slots_[batch.entries[batch.from].slot].deployment;
    const int status = deployment->score_primary(rows_.data(), n, nullptr, out_.data());
    batch.all_ok &= status == ENGINE_SCORE_OK;
    if (sabotaged(Invariant::own_answer)) out_[0] += 1.0;
    if (sabotaged(Invariant::own_version)) out_[1] += 1.0;
    for (uint32_t i = 0; i < n; ++i)
        deliver(batch.entries[batch.from + i], out_.data() + size_t{i} * SimulatedVersion::OUTPUTS, status);
    if (batch.to < batch.rows) return start_scoring(index);
    batch_done(index);
}

void Simulator::deliver(const Entry& entry, const double* values, int status) {
    Slot& slot = slots_[entry.slot];
    if (status != ENGINE_SCORE_OK || !is_finite(values)) {
        return fail(entry, status == ENGINE_SCORE_OK ? Reason::primary_not_finite : Reason::primary_error);
    }
    std::copy_n(values, SimulatedVersion::OUTPUTS, slots_.primary_out(entry.slot));
    slot.by_executor = {now_ns_, Source::primary, Reason::ok};
    uint32_t running = state_word(entry.generation, State::running);
    if (!slot.word.compare_exchange_strong(running, state_word(entry.generation, State::primary),
                                           std::memory_order_acq_rel)) {
        ++result_.late_dropped;
        return;
    }
    --running_;
    answer(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(slot.user)), Source::primary, Reason::ok,
           slots_.answer(entry.slot));
}

void Simulator::batch_done(uint32_t index) {
    Batch& batch = batches_[index];
    if (!batch.orphan) {
        executors_[batch.executor].batch = NO_SLOT;
        policy_.finished(batch.executor, batch.rows, now_ns_, batch.all_ok);
        if (batch.all_ok)
            for (uint32_t i = 0; i < batch.rows; ++i)
                policy_.missed_prediction_by(now_ns_ - batch.predicted_ns[i], now_ns_);
    }
    for (uint32_t i = 0; i < batch.rows; ++i) drop_executors_reference(batch.entries[i]);
    batch.rows = 0;
    ++batch.serial;
    free_batches_.push_back(index);
    form_batches();
}

// The executor has been at this batch for too long: another takes its place. What the batch still brings is delivered
// to those who still wait, of whom there are none once their rescues have come.
void Simulator::replace(uint32_t index) {
    Batch& batch = batches_[index];
    if (batch.orphan || executors_[batch.executor].deaths > 0) return;
    ++result_.replaced;
    batch.orphan = true;
    executors_[batch.executor].batch = NO_SLOT;
    policy_.finished(batch.executor, batch.rows, now_ns_, false);
    form_batches();
}

void Simulator::set_alive(uint32_t index, bool alive) {
    const SimulatedFault& fault = plan_.faults[index];
    for (uint32_t e = 0; e < executors_.size(); ++e) {
        if (!fault.concerns(e)) continue;
        Executor& executor = executors_[e];
        if (!alive && executor.deaths++ == 0 && executor.batch != NO_SLOT)
            ++batches_[executor.batch].serial;  // its end will not come
        if (alive && --executor.deaths == 0 && executor.batch != NO_SLOT) let_go_of_executor(e);
    }
    if (alive) form_batches();
}

// The batch that died with its executor: nothing was learned from it, and whoever still waits for it is rescued.
void Simulator::let_go_of_executor(uint32_t e) {
    Batch& batch = batches_[executors_[e].batch];
    policy_.finished(e, batch.rows, now_ns_, false);
    for (uint32_t i = 0; i < batch.rows; ++i) {
        fail(batch.entries[i], Reason::primary_error);
        drop_executors_reference(batch.entries[i]);
    }
    batch.rows = 0;
    free_batches_.push_back(executors_[e].batch);
    executors_[e].batch = NO_SLOT;
}

uint32_t Simulator::take_batch() {
    if (free_batches_.empty()) {
        batches_.emplace_back();
        batches_.back().entries.resize(plan_.batch_rows_max);
        batches_.back().predicted_ns.resize(plan_.batch_rows_max);
        free_batches_.push_back(static_cast<uint32_t>(batches_.size() - 1));
    }
    const uint32_t index = free_batches_.back();
    free_batches_.pop_back();
    Batch& batch = batches_[index];
    batch.rows = 0;
    batch.all_ok = true;
    batch.orphan = false;
    return index;
}

bool Simulator::probing() const noexcept {
    for (const Executor& executor : executors_)
        if (executor.batch != NO_SLOT) return false;
    return now_ns_ - started_ns_ > PROBE_IDLE_NS;
}

}  // namespace engine::detail
