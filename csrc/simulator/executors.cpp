// The simulated executors: they form batches by the policy, score and deliver, as scheduler/lane.cpp and executors.cpp
// do.
#include <algorithm>
#include <optional>
#include <utility>

#include "simulator/run.hpp"

namespace engine::simulator {

namespace {

// The shortest idle time after which the policy probes a primary (PROBE_EVERY_NS in scheduler/policy.cpp).
constexpr int64_t PROBE_IDLE_NS = 50'000'000;
// As in scheduler/executors.cpp: past this many lost threads the models are left to their circuit breakers.
constexpr uint32_t LOST_MAX = 16;
// Seats in a trace follow the executors.
constexpr uint64_t SEATS_TRACED = SharedExecutors::EXECUTORS_MAX;

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
    attend_flights();
    for (uint32_t e = 0; e < executors_.size(); ++e)
        while (executors_[e].batch == NO_SLOT && executors_[e].deaths == 0)
            if (!form_batch(e)) return;
}

// An executor that could look at a flight now; NO_SLOT for none.
uint32_t Simulator::idle_executor() const {
    for (uint32_t e = 0; e < executors_.size(); ++e)
        if (executors_[e].batch == NO_SLOT && executors_[e].deaths == 0) return e;
    return NO_SLOT;
}

// As Executors::look: flights whose time has come, once an executor is free for them.
void Simulator::attend_flights() {
    while (!flights_.empty() && idle_executor() != NO_SLOT) {
        const auto [index, serial] = flights_.back();
        flights_.pop_back();
        if (batches_[index].serial == serial) attend(index);
    }
}

void Simulator::attend(uint32_t index) {
    Batch& batch = batches_[index];
    touched_ = batch.model;
    if (batch.ends_ns <= now_ns_) return batch.orphan ? seat_is_free(index) : score_done(index);
    if (!batch.orphan && now_ns_ >= batch.began_ns + patience_ns(batch)) abandon(index);
}

// As Executors::abandon: the device goes on with the batch, and nobody waits for it.
void Simulator::abandon(uint32_t index) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    ++result_.abandoned;
    batch.orphan = true;
    if (!batch.calling->passed_since(batch.began_ns)) batch.calling->breaker().trip(now_ns_);
    batch.calling->retain();
    batch.held = true;
    for (uint32_t i = 0; i < batch.rows; ++i) {
        fail(model, batch.entries[i], Reason::stalled);
        model.slots.drop_reference(batch.entries[i].slot);
    }
    batch.rows = 0;
}

void Simulator::seat_is_free(uint32_t index) {
    Batch& batch = batches_[index];
    batch.calling->breaker().came_back(now_ns_);
    batch.calling->release();
    batch.held = false;
    if (std::exchange(batch.seated, false)) {
        models_[batch.model].policy.lost(batch.place);
        batch_at(models_[batch.model], batch.place) = NO_SLOT;
    }
    ++batch.serial;
    free_batches_.push_back(index);
}

// As Executors::forget_seats.
void Simulator::forget_seats(uint32_t m) {
    Model& model = models_[m];
    for (uint32_t seat = 0; seat < model.seats.size(); ++seat) {
        if (model.seats[seat] == NO_SLOT || !batches_[model.seats[seat]].orphan) continue;
        batches_[model.seats[seat]].seated = false;
        model.policy.lost({seat, true});
        model.seats[seat] = NO_SLOT;
    }
}

// The batch that runs at a place; NO_SLOT for none.
uint32_t& Simulator::batch_at(Model& model, Place place) {
    return place.on_device ? model.seats[place.number] : executors_[place.number].batch;
}

// As Lane::next_place.
std::optional<Place> Simulator::next_place(const Model& model, uint32_t executor) const {
    if (model.seats.empty()) return Place(executor);
    const uint32_t seat = model.policy.free_seat();
    return seat == SharedExecutors::NONE ? std::nullopt : std::optional<Place>({seat, true});
}

// As Executors::next: the batch that ranks first among the models with work. False when there is none to run.
bool Simulator::form_batch(uint32_t executor) {
    for (const uint32_t m : active_) take_submissions(models_[m]);
    bool found = false;
    int64_t again_ns = NEVER_NS;
    while (!found) {
        const uint32_t m = first_untried();
        if (m == NO_SLOT) break;
        models_[m].tried = true;
        const std::optional<Place> place = next_place(models_[m], executor);
        if (!place) continue;
        const BatchPlan plan = form_batch_of(m, *place);
        found = plan.rows > 0;
        result_.held += plan.holding;
        if (plan.rows == 0 && plan.wait_until_ns > now_ns_) again_ns = std::min(again_ns, plan.wait_until_ns);
    }
    // One wake-up is enough: an arrival looks again by itself.
    if (again_ns < look_again_ns_) {
        look_again_ns_ = again_ns;
        schedule(look_again_ns_, Kind::look_again, 0, 0);
    }
    std::erase_if(active_, [this](uint32_t m) {
        Model& model = models_[m];
        model.tried = false;
        model.active = model.policy.depth() > 0;
        return !model.active;
    });
    return found;
}

void Simulator::take_submissions(Model& model) {
    for (uint32_t i = model.submitted.take_all(model.slots, &Slot::next); i != NO_SLOT;) {
        const Slot& slot = model.slots[i];
        const uint32_t next = slot.next.load(std::memory_order_relaxed);
        const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
        model.policy.push({slot.finish_by_ns, i, generation, slot.ticket.priority}, slot.queued_ns);
        i = next;
    }
}

// The model whose next batch ranks first, of those not tried at this look; NO_SLOT for none.
uint32_t Simulator::first_untried() {
    uint32_t first = NO_SLOT;
    std::pair<bool, Policy::Rank> rank{};
    for (const uint32_t m : active_) {
        Model& model = models_[m];
        if (model.tried || model.policy.depth() == 0) continue;
        const std::pair<bool, Policy::Rank> its{model.seats.empty(), model.policy.rank(now_ns_)};
        if (first != NO_SLOT && !(its < rank)) continue;
        first = m;
        rank = its;
    }
    return first;
}

BatchPlan Simulator::form_batch_of(uint32_t m, Place place) {
    Model& model = models_[m];
    const uint32_t index = take_batch();
    Batch& batch = batches_[index];
    batch.place = place;
    batch.model = m;
    std::vector<Entry> dropped;
    const BatchPlan plan = model.policy.form(
        now_ns_, batch.entries.data(), [&](const Entry& entry) { return claim(entry, batch); },
        [&](const Entry& entry) { dropped.push_back(entry); });
    if (plan.rows > 0) start_batch(index, plan, model.queued - dropped.size());
    else free_batches_.push_back(index);
    for (const Entry& entry : dropped) {
        fail(model, entry, entry.shed ? Reason::shed : Reason::released);
        model.slots.drop_reference(entry.slot);
    }
    touched_ = m;
    return plan;
}

Claim Simulator::claim(const Entry& entry, Batch& batch) {
    Model& model = models_[batch.model];
    Slot& slot = model.slots[entry.slot];
    uint32_t queued = state_word(entry.generation, State::queued);
    if (!slot.word.compare_exchange_strong(queued, state_word(entry.generation, State::running),
                                           std::memory_order_acq_rel)) {
        model.slots.drop_reference(entry.slot);
        return Claim::gone;
    }
    const uint64_t number = requests_[request_of(model, entry.slot)].number;
    checker_.claimed(number);
    if (sabotaged(Invariant::claimed_once)) checker_.claimed(number);
    const bool too_late = sabotaged(Invariant::in_time_to_start) || now_ns_ > slot.finish_by_ns;
    checker_.expect(!too_late, Invariant::in_time_to_start, number);
    if (!sabotaged(Invariant::counts_agree)) model.policy.leave(slot.ticket);
    --queued_;
    --model.queued;
    ++running_;
    if (batch.rows < plan_.batch_rows_max) batch.predicted_ns[batch.rows] = slot.predicted_ns;
    ++batch.rows;
    return Claim::taken;
}

void Simulator::start_batch(uint32_t index, const BatchPlan& plan, uint64_t left_queued) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    const uint32_t most = place_rows_max(model);
    const bool over = sabotaged(Invariant::bounded_batch) || batch.rows > most;
    checker_.expect(!over && batch.rows == plan.rows, Invariant::bounded_batch, arrived_);
    int64_t first_ns = NEVER_NS;
    for (uint32_t i = 0; i < batch.rows; ++i) first_ns = std::min(first_ns, batch.entries[i].finish_by_ns);
    const bool able = now_ns_ + model.cost.high_ns(batch.rows) <= first_ns;
    const bool probe = !able && batch.rows == 1 && probing(batch);
    result_.probes += probe;
    checker_.expect((able || probe) && !sabotaged(Invariant::able_to_finish), Invariant::able_to_finish,
                    requests_[request_of(model, batch.entries[0].slot)].number);
    checker_.expect((!model.simulated.canary || live_can_wait(batch)) && !sabotaged(Invariant::live_first),
                    Invariant::live_first, requests_[request_of(model, batch.entries[0].slot)].number);
    const bool pays = std::min(model.cost.efficient_rows(), plan_.batch_rows_max) > 1;
    if (batch.rows == 1 && able && pays && left_queued > 0 && now_ns_ + model.cost.high_ns(2) <= first_ns)
        ++result_.batches_of_one_avoidable;
    ENGINE_ASSERT(batch_at(model, batch.place) == NO_SLOT, "a place begins a batch when it has none");
    ENGINE_ASSERT(idle_executor() != NO_SLOT, "a live executor begins a batch");
    batch_at(model, batch.place) = index;
    ++result_.batches;
    result_.batch_rows += batch.rows;
    model.started_ns = batch.began_ns = now_ns_;
    if (!batch.place.on_device) started_ns_ = now_ns_;
    batch.seated = batch.place.on_device;
    check_in_flight(index);
    model.policy.started(batch.place, batch.rows, now_ns_);
    const uint64_t at = batch.place.on_device ? SEATS_TRACED + batch.place.number : batch.place.number;
    metrics_.trace(now_ns_, uint64_t{batch.model} << 32 | at, batch.rows);
    batch.from = batch.to = batch.call_rows = 0;
    start_run(index);
}

uint32_t Simulator::place_rows_max(const Model& model) const {
    const uint32_t most = model.simulated.rows_max;
    return model.seats.empty() || most == 0 ? plan_.batch_rows_max : std::min(most, plan_.batch_rows_max);
}

// Counted anew at each start: the batches with a seat of the model, whether or not anybody waits for them.
void Simulator::check_in_flight(uint32_t index) {
    const Model& model = models_[batches_[index].model];
    uint64_t in_flight = 0;
    for (const Batch& batch : batches_) in_flight += batch.seated && &models_[batch.model] == &model;
    result_.in_flight_max = std::max(result_.in_flight_max, in_flight);
    const bool over = sabotaged(Invariant::bounded_in_flight) || in_flight > model.seats.size();
    checker_.expect(!over, Invariant::bounded_in_flight, arrived_);
}

// Whether every queued request of the live version can wait for this batch of its canary. Only where no other executor
// serves them meanwhile, there is enough for both, and neither has a device.
bool Simulator::live_can_wait(const Batch& batch) {
    if (executors_.size() > 1 || shared_.overloaded(now_ns_)) return true;
    if (batch.place.on_device || !models_.front().seats.empty()) return true;
    Model& live = models_.front();
    const int64_t ends_ns = now_ns_ + models_[batch.model].cost.high_ns(batch.rows) + live.cost.high_ns(1);
    return std::all_of(requests_.begin(), requests_.end(), [&](const Request& request) {
        if (!request.open || request.model != 0 || request.slot == NO_SLOT) return true;
        const uint32_t word = live.slots[request.slot].word.load(std::memory_order_relaxed);
        return word != state_word(request.generation, State::queued) || request.finish_by_ns >= ends_ns;
    });
}

// Requests of one deployment are scored together; around a swap a batch falls into runs.
void Simulator::start_run(uint32_t index) {
    Batch& batch = batches_[index];
    ENGINE_ASSERT(batch.to < batch.rows, "a scoring call has rows");
    SlotTable& slots = models_[batch.model].slots;
    batch.from = batch.to;
    const Deployment* deployment = slots[batch.entries[batch.from].slot].deployment;
    while (batch.to < batch.rows && slots[batch.entries[batch.to].slot].deployment == deployment) ++batch.to;
    batch.search = RowSearch(batch.to - batch.from);
    batch.blamed = true;
    batch.giving_up = false;
    start_call(index, next_rows(batch, slots[batch.entries[batch.from].slot].deployment->row_failures()));
}

uint32_t Simulator::next_rows(Batch& batch, const RowFailures& failures) {
    const Model& model = models_[batch.model];
    const uint32_t waiting = model.policy.live() + batch.to - batch.from - batch.search.at();
    batch.hurried = failures.is_hurried(waiting, model.cost, plan_.budget_ns);
    return batch.search.next(batch.hurried ? failures.hurried_rows(waiting, model.cost, plan_.budget_ns)
                                           : failures.group_rows());
}

void Simulator::start_call(uint32_t index, uint32_t rows) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    const bool first = batch.call_rows == 0;
    if (!first && !batch.orphan) {
        // As Lane::begin_next_call.
        model.policy.finished(batch.place, batch.call_rows, now_ns_, batch.last_ok);
        model.policy.started(batch.place, rows, now_ns_);
        batch.began_ns = now_ns_;
    }
    batch.call_rows = rows;
    Deployment* deployment = batch.calling = model.slots[batch.entries[batch.from].slot].deployment;
    const double factor = model.simulated.cost_factor * version_factors_[deployment->number() - 1];
    const bool on_device = batch.place.on_device;
    const bool replaced = !on_device && executors_[batch.place.number].replaced;
    const int64_t begins_ns = on_device && model.simulated.serial ? std::max(now_ns_, model.device_free_ns) : now_ns_;
    batch.ends_ns = begins_ns >= NEVER_NS
                        ? NEVER_NS
                        : environment_.score_end(begins_ns, rows, factor, batch.place.number, replaced);
    if (on_device) model.device_free_ns = batch.ends_ns;
    if (batch.ends_ns < NEVER_NS) schedule(batch.ends_ns, Kind::score_done, index, batch.serial);
    if (on_device && plan_.replace_hung)
        schedule(now_ns_ + patience_ns(batch), Kind::flight_overdue, index, batch.serial);
}

// As Lane::score_rows, from the end of a call to the beginning of the next.
void Simulator::score_done(uint32_t index) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    touched_ = batch.model;
    const uint32_t n = batch.call_rows, at = batch.from + batch.search.at();
    for (uint32_t i = 0; i < n; ++i) rows_[i] = *static_cast<double*>(model.slots.row(batch.entries[at + i].slot));
    Deployment* deployment = model.slots[batch.entries[at].slot].deployment;
    RowFailures& failures = deployment->row_failures();
    const int status = deployment->score_primary(rows_.data(), n, nullptr, out_.data());
    if (sabotaged(Invariant::own_answer)) out_[0] += 1.0;
    if (sabotaged(Invariant::own_version)) out_[1] += 1.0;
    const auto values = [&](uint32_t i) { return out_.data() + size_t{i} * SimulatedVersion::OUTPUTS; };
    uint32_t unusable = n;
    if (status == ENGINE_SCORE_OK)
        for (uint32_t i = 0; i < n; ++i) unusable -= is_finite(values(i));
    batch.last_ok = unusable == 0;
    if (unusable == n) {
        batch.failure = status == ENGINE_SCORE_OK ? Reason::primary_not_finite : Reason::primary_error;
        failures.call_failed();
        const uint32_t fresh = model.policy.live() + batch.to - at - n;
        const bool given_up = batch.hurried && n > 1 && !failures.search_pays(n, std::min(n, fresh));
        batch.blamed = n == 1 || given_up;
        if (given_up) {
            failures.group_failed(n);
            deployment->breaker().blame_row(now_ns_);
        }
        if (n == 1) {
            if (status != ENGINE_SCORE_OK || batch.search.tried())
                failures.row_failed(rows_.data(), sizeof(double), now_ns_);
            deployment->breaker().record(1, 1, now_ns_);
            fail(model, batch.entries[at], batch.failure);
            batch.giving_up = failures.hopeless() || deployment->breaker().open();
        }
        batch.search.failed(n);
        for (uint32_t i = 0; given_up && i < n; ++i) {
            fail(model, batch.entries[at + i], batch.failure);
            batch.search.skip();
        }
    } else {
        deployment->breaker().record(n, unusable, now_ns_);
        failures.call_passed(n);
        deployment->call_passed(now_ns_);
        for (uint32_t i = 0; i < n; ++i) {
            if (is_finite(values(i))) deliver(model, batch.entries[at + i], values(i));
            else fail(model, batch.entries[at + i], Reason::primary_not_finite);
        }
        batch.search.passed(n);
    }
    next_call(index);
}

// The next call of the search for bad rows, of the next run, or none. An executor that was replaced ends here.
void Simulator::next_call(uint32_t index) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    if (batch.orphan) return batch_done(index);
    while (!batch.search.done()) {
        const Entry& head = batch.entries[batch.from + batch.search.at()];
        RowFailures& failures = model.slots[head.slot].deployment->row_failures();
        const uint32_t fits = model.cost.rows_within(head.finish_by_ns - now_ns_);
        const uint32_t word = model.slots[head.slot].word.load(std::memory_order_relaxed);
        if (batch.giving_up || fits == 0 || word != state_word(head.generation, State::running)) {
            give_up_row(index);
            continue;
        }
        const uint32_t n = std::min(next_rows(batch, failures), fits);
        return start_call(index, failures.hopeless() ? 1 : n);
    }
    if (batch.to < batch.rows) return start_run(index);
    batch_done(index);
}

void Simulator::give_up_row(uint32_t index) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    const Entry& head = batch.entries[batch.from + batch.search.at()];
    const bool tried = batch.search.tried();
    if (tried && !batch.blamed) model.slots[head.slot].deployment->breaker().record(1, 1, now_ns_);
    batch.blamed |= tried;
    fail(model, head, tried ? batch.failure : Reason::released);
    batch.search.skip();
}

void Simulator::deliver(Model& model, const Entry& entry, const double* values) {
    Slot& slot = model.slots[entry.slot];
    std::copy_n(values, SimulatedVersion::OUTPUTS, model.slots.primary_out(entry.slot));
    slot.by_executor = {now_ns_, Source::primary, Reason::ok};
    uint32_t running = state_word(entry.generation, State::running);
    if (!slot.word.compare_exchange_strong(running, state_word(entry.generation, State::primary),
                                           std::memory_order_acq_rel)) {
        ++result_.late_dropped;
        return;
    }
    ENGINE_ASSERT(running_ > 0, "a row that is delivered was running");
    --running_;
    answer(request_of(model, entry.slot), Source::primary, Reason::ok, model.slots.answer(entry.slot));
}

void Simulator::batch_done(uint32_t index) {
    Batch& batch = batches_[index];
    Model& model = models_[batch.model];
    if (batch.orphan) {
        ENGINE_ASSERT(lost_ > 0, "a lost batch comes back once");
        --lost_;
        batch.calling->breaker().came_back(now_ns_);
    } else {
        ENGINE_ASSERT(batch_at(model, batch.place) == index, "an executor ends its own batch");
        batch_at(model, batch.place) = NO_SLOT;
        batch.seated = false;
        model.policy.finished(batch.place, batch.call_rows, now_ns_, batch.last_ok);
        for (uint32_t i = 0; i < batch.rows; ++i)
            model.policy.missed_prediction_by(now_ns_ - batch.predicted_ns[i], now_ns_);
    }
    for (uint32_t i = 0; i < batch.rows; ++i) model.slots.drop_reference(batch.entries[i].slot);
    batch.rows = 0;
    ++batch.serial;
    free_batches_.push_back(index);
    form_batches();
}

// When the executor counts as stuck in its batch; NEVER_NS for one that is idle or dead. As Lane::hung_after_ns.
int64_t Simulator::hung_at_ns(uint32_t e) noexcept {
    const Executor& executor = executors_[e];
    if (executor.batch == NO_SLOT || executor.deaths > 0) return NEVER_NS;
    const Batch& batch = batches_[executor.batch];
    return batch.began_ns + patience_ns(batch);
}

int64_t Simulator::patience_ns(const Batch& batch) const {
    return std::max(plan_.budget_ns / 2 * 3, 4 * models_[batch.model].cost.high_ns(batch.call_rows));
}

// A request of this model timed out while it ran: check the model's executors when they have been at it for too long.
void Simulator::suspect(uint32_t m) {
    if (!plan_.replace_hung) return;
    int64_t at_ns = NEVER_NS;
    for (uint32_t e = 0; e < executors_.size(); ++e)
        if (executors_[e].batch != NO_SLOT && batches_[executors_[e].batch].model == m)
            at_ns = std::min(at_ns, hung_at_ns(e));
    if (at_ns >= check_executors_ns_) return;
    check_executors_ns_ = at_ns = std::max(at_ns, now_ns_);
    schedule(at_ns, Kind::check_executors, 0, 0);
}

void Simulator::check_executors() {
    if (now_ns_ < check_executors_ns_) return;  // an earlier check was scheduled since, and has run
    int64_t again_ns = NEVER_NS;
    for (uint32_t e = 0; e < executors_.size(); ++e) {
        const int64_t at_ns = hung_at_ns(e);
        if (at_ns > now_ns_) again_ns = std::min(again_ns, at_ns);
        else if (lost_ < LOST_MAX) replace(e);
    }
    check_executors_ns_ = again_ns;
    if (again_ns < NEVER_NS) schedule(again_ns, Kind::check_executors, 0, 0);
    form_batches();
}

// Takes the executor never to come back: its batch is answered without it, and another takes its place.
void Simulator::replace(uint32_t e) {
    ENGINE_ASSERT(executors_[e].batch != NO_SLOT && executors_[e].deaths == 0,
                  "only an executor in a batch is replaced");
    Batch& batch = batches_[executors_[e].batch];
    Model& model = models_[batch.model];
    ++result_.replaced;
    ++lost_;
    batch.orphan = true;
    executors_[e].batch = NO_SLOT;
    executors_[e].replaced = true;
    if (!batch.calling->passed_since(batch.began_ns)) batch.calling->breaker().trip(now_ns_);
    model.policy.lost(e);
    for (uint32_t i = 0; i < batch.rows; ++i) fail(model, batch.entries[i], Reason::stalled);
}

void Simulator::set_alive(uint32_t index, bool alive) {
    const SimulatedFault& fault = plan_.faults[index];
    for (uint32_t e = 0; e < executors_.size(); ++e) {
        if (!fault.concerns(e)) continue;
        Executor& executor = executors_[e];
        if (!alive && executor.deaths++ == 0 && executor.batch != NO_SLOT)
            ++batches_[executor.batch].serial;  // its end will not come
        if (alive && --executor.deaths == 0 && executor.batch != NO_SLOT) drop_batch_of(e);
    }
    if (alive) form_batches();
}

// The batch that died with its executor: it teaches nothing, and its open requests get the fallback.
void Simulator::drop_batch_of(uint32_t e) {
    Batch& batch = batches_[executors_[e].batch];
    Model& model = models_[batch.model];
    model.policy.lost(e);
    for (uint32_t i = 0; i < batch.rows; ++i) {
        fail(model, batch.entries[i], Reason::primary_error);
        model.slots.drop_reference(batch.entries[i].slot);
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
    ENGINE_ASSERT(batch.rows == 0, "a batch that ended has no rows");
    batch.rows = 0;
    batch.last_ok = true;
    batch.orphan = false;
    return index;
}

bool Simulator::probing(const Batch& batch) const noexcept {
    const Model& model = models_[batch.model];
    if (batch.place.on_device)
        return now_ns_ - model.started_ns > PROBE_IDLE_NS &&
               std::all_of(model.seats.begin(), model.seats.end(), [](uint32_t seat) { return seat == NO_SLOT; });
    for (const Executor& executor : executors_)
        if (executor.batch != NO_SLOT) return false;
    return now_ns_ - started_ns_ > PROBE_IDLE_NS;
}

}  // namespace engine::simulator
