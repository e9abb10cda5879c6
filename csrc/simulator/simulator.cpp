// The simulator's clock, admission, and the faults that have an instant of their own.
#include "simulator/simulator.hpp"

#include <algorithm>
#include <utility>

#include "scheduler/reasons.hpp"
#include "simulator/run.hpp"

namespace engine::simulator {

namespace {

constexpr int CALIBRATION_RUNS = 256;

}  // namespace

Simulator::Simulator(const SimulationPlan& plan)
    : plan_(plan),
      environment_(plan),
      metrics_(plan, SimulatedEnvironment::START_NS),
      result_(metrics_.result),
      checker_(plan.requests, result_),
      margin_(plan.miss_rate, plan.cores),
      shared_(plan.executors),
      executors_(shared_.count()),
      core_free_ns_(std::max(plan.cores, 1u), 0),
      out_(size_t{plan.batch_rows_max} * SimulatedVersion::OUTPUTS),
      rows_(plan.batch_rows_max) {
    const double full_ns = static_cast<double>(plan.batch_base_ns + plan.batch_row_ns * plan.batch_rows_max);
    // Devices count with their seats, and executors where they call any model.
    double at_once = 0.0;
    bool called = false;
    for (const SimulatedModel& its : plan.models) {
        called |= its.seats == 0;
        if (its.seats > 0) at_once += its.serial ? 1.0 : static_cast<double>(its.seats);
    }
    if (called) at_once += static_cast<double>(executors_.size());
    result_.capacity_per_s = 1e9 * static_cast<double>(plan.batch_rows_max) * at_once / std::max(full_ns, 1.0);
    double shares = 0.0;
    for (const SimulatedModel& its : plan.models) shares += its.share;
    for (const SimulatedModel& its : plan.models) {
        Model& model =
            its.canary ? models_.emplace_back(plan, its, models_.front()) : models_.emplace_back(plan, its, shared_);
        if (its.canary) model.policy.set_guest_share(std::clamp(its.share / shares, 1e-3, 1.0 - 1e-3));
        if (its.seats > 0) {
            model.seats.assign(its.seats, NO_SLOT);
            model.policy.set_device(its.seats, its.rows_max > 0 ? its.rows_max : plan.batch_rows_max);
        }
        model.current = deploy(1.0);
        if (plan.calibrated) calibrate(model, 1.0);
    }
    for (int i = 0; plan.calibrated && i < CALIBRATION_RUNS; ++i) {
        margin_.timer_overshot(environment_.overshoot_ns(0), now_ns_);
        margin_.fallback_took(environment_.fallback_ns(), now_ns_);
    }
    schedule_faults();
}

Simulator::~Simulator() {
    for (Model& model : models_) model.current->release();
}

// As a warm-up before serving does: primes the cost at powers of two with `factor` times the true cost.
void Simulator::calibrate(Model& model, double factor) {
    for (uint32_t rows = 1;; rows = std::min(rows * 2, plan_.batch_rows_max)) {
        const double ns =
            static_cast<double>(plan_.batch_base_ns + plan_.batch_row_ns * rows) * model.simulated.cost_factor * factor;
        model.cost.prime(rows, static_cast<int64_t>(ns));
        if (rows == plan_.batch_rows_max) break;
    }
}

// A new version, whose calls cost `factor` times the model's. One reference, the caller's.
Deployment* Simulator::deploy(double factor) {
    version_factors_.push_back(factor);
    return SimulatedVersion::deploy(environment_, now_ns_, ++result_.versions, &versions_alive_);
}

void Simulator::schedule_faults() {
    constexpr int64_t start = SimulatedEnvironment::START_NS;
    for (uint32_t i = 0; i < plan_.faults.size(); ++i) {
        const SimulatedFault& fault = plan_.faults[i];
        switch (fault.kind) {
            case FaultKind::swapping: schedule(start + fault.from_ns, Kind::swap, i, 0); break;
            case FaultKind::dying:
                schedule(start + fault.from_ns, Kind::die, i, 0);
                if (fault.until_ns < NEVER_NS) schedule(start + fault.until_ns, Kind::revive, i, 0);
                break;
            case FaultKind::jumping:
                if (start + fault.from_ns < jumps_ns_) jumps_ns_ = start + fault.from_ns, jump_by_ns_ = fault.length_ns;
                break;
            case FaultKind::sabotaging:
                sabotage_ = static_cast<size_t>(fault.broken);
                sabotage_from_ns_ = start + fault.from_ns;
                break;
            default: break;
        }
    }
}

SimulationResult Simulator::run() {
    if (plan_.requests > 0) schedule(environment_.next_arrival(), Kind::arrival, 0, 0);
    while (!events_.empty()) {
        if (jumped(events_.front().at_ns)) continue;
        std::pop_heap(events_.begin(), events_.end(), Later{});
        const Event event = events_.back();
        events_.pop_back();
        now_ns_ = std::max(event.at_ns, not_before_ns_);
        if (sabotaged(Invariant::forward_time)) checker_.at(now_ns_ - SimulatedEnvironment::START_NS + 1);
        checker_.at(now_ns_ - SimulatedEnvironment::START_NS);
        ++result_.events;
        handle(event);
        check_counts();
    }
    return finish();
}

// Makes the jump of the clock that comes before the next event, if there is one. Every computation under way ends that
// much later, every wait for an instant on the way ends behind the jump, and every open request loses as much of its
// time.
bool Simulator::jumped(int64_t next_ns) {
    if (std::max(next_ns, not_before_ns_) < jumps_ns_) [[likely]]
        return false;
    const int64_t at_ns = jumps_ns_, by_ns = jump_by_ns_;
    not_before_ns_ = at_ns + by_ns;
    for (Event& event : events_) {
        const bool works = event.kind == Kind::score_done;
        if (works || event.kind == Kind::fallback_done || event.kind == Kind::fallback_dropped) event.at_ns += by_ns;
        if (works && batches_[event.index].serial == event.serial) batches_[event.index].ends_ns = event.at_ns;
    }
    for (Model& model : models_)
        if (model.device_free_ns > at_ns && model.device_free_ns < NEVER_NS) model.device_free_ns += by_ns;
    std::make_heap(events_.begin(), events_.end(), Later{});
    for (int64_t& free_ns : core_free_ns_)
        if (free_ns > at_ns) free_ns += by_ns;
    for (Request& request : requests_) request.excused |= request.open;
    jumps_ns_ = NEVER_NS;
    for (const SimulatedFault& fault : environment_.of(FaultKind::jumping)) {
        int64_t next = SimulatedEnvironment::START_NS + fault.from_ns;
        if (next <= at_ns && fault.every_ns > 0) next += ((at_ns - next) / fault.every_ns + 1) * fault.every_ns;
        if (next <= at_ns || next - SimulatedEnvironment::START_NS >= fault.until_ns || next >= jumps_ns_) continue;
        jumps_ns_ = next;
        jump_by_ns_ = fault.length_ns;
    }
    return true;
}

void Simulator::handle(const Event& event) {
    switch (event.kind) {
        case Kind::arrival: return arrive();
        case Kind::swap: return swap(event.index);
        case Kind::die: return set_alive(event.index, false);
        case Kind::revive: return set_alive(event.index, true);
        case Kind::woken: waking_ = false; return form_batches();
        case Kind::look_again:
            if (look_again_ns_ <= now_ns_) look_again_ns_ = NEVER_NS;
            return form_batches();
        case Kind::score_done:
            if (batches_[event.index].serial != event.serial) return;
            if (!batches_[event.index].place.on_device) return score_done(event.index);
            flights_.push_back({event.index, event.serial});
            return form_batches();
        case Kind::flight_overdue:
            if (batches_[event.index].serial != event.serial) return;
            flights_.push_back({event.index, event.serial});
            return form_batches();
        case Kind::check_executors: return check_executors();
        default: break;
    }
    if (requests_[event.index].serial != event.serial) return;  // answered meanwhile
    switch (event.kind) {
        case Kind::timeout: return time_out(event.index);
        case Kind::cancel: return cancel(event.index);
        case Kind::fallback_done: return answer(event.index, Source::fallback, requests_[event.index].reason, nullptr);
        default: return answer(event.index, Source::default_value, requests_[event.index].reason, nullptr);
    }
}

void Simulator::schedule(int64_t at_ns, Kind kind, uint32_t index, uint32_t serial) {
    ENGINE_ASSERT(at_ns < 2 * NEVER_NS, "an event has an instant");
    events_.push_back({at_ns, scheduled_++, index, serial, kind});
    std::push_heap(events_.begin(), events_.end(), Later{});
}

void Simulator::check_counts() {
    checker_.expect(checker_.open() == queued_ + running_ + falling_back_, Invariant::counts_agree, arrived_);
    Model& model = models_[touched_];
    checker_.expect(model.policy.live() == model.queued, Invariant::counts_agree, arrived_);
    const uint64_t most = plan_.queue_rows_max;
    const bool bounded = model.queued <= most && model.slots.in_use() <= most && model.policy.depth() <= most;
    checker_.expect(bounded && !sabotaged(Invariant::bounded_queue), Invariant::bounded_queue, arrived_);
}

// A new version of the first model takes over; its cost alternates between the fault's and the plan's. Requests keep
// the version that they came in under.
void Simulator::swap(uint32_t index) {
    const SimulatedFault& fault = plan_.faults[index];
    const int64_t since = now_ns_ - SimulatedEnvironment::START_NS;
    if (since >= fault.until_ns) return;
    const uint64_t round = fault.every_ns > 0 ? static_cast<uint64_t>((since - fault.from_ns) / fault.every_ns) : 0;
    Deployment* before = models_[0].current;
    const double factor = round % 2 == 0 ? fault.factor : 1.0;
    models_[0].current = deploy(factor);
    before->release();
    if (plan_.calibrated) calibrate(models_[0], factor * fault.measured);
    forget_seats(0);
    if (fault.every_ns > 0 && arrived_ < plan_.requests) schedule(now_ns_ + fault.every_ns, Kind::swap, index, 0);
}

void Simulator::arrive() {
    const uint32_t index = take_request();
    Request& request = requests_[index];
    request.number = arrived_++;
    request.deadline_class = environment_.deadline_class();
    request.model = touched_ = environment_.model();
    request.priority = environment_.priority();
    const int64_t budget_ns = plan_.deadlines[request.deadline_class].budget_ns;
    const MarginTerms terms = margin_.terms();
    request.started_ns = now_ns_;
    request.deadline_ns = now_ns_ + budget_ns;
    request.finish_by_ns = margin_.fallback_at(now_ns_, request.deadline_ns, static_cast<uint32_t>(queued_ + running_));
    request.timer_term_ns = terms.timer_ns;
    request.fallback_term_ns = terms.fallback_ns;
    request.crowd_term_ns = request.deadline_ns - request.finish_by_ns - terms.timer_ns - terms.fallback_ns;
    request.excused = request.crowd_term_ns < 0;  // the cap cut into the allowance
    request.hopeless = budget_ns < terms.fallback_ns;
    const int64_t cancels_ns = environment_.cancels_after_ns(now_ns_, budget_ns);
    if (cancels_ns != NEVER_NS) schedule(now_ns_ + cancels_ns, Kind::cancel, index, request.serial);
    request.deployment = model_of(request).current;
    request.deployment->retain();
    checker_.arrived(request.number, request.deployment->number());
    metrics_.arrived(request, queued_);
    enqueue(index);
    if (arrived_ < plan_.requests) schedule(environment_.next_arrival(), Kind::arrival, 0, 0);
}

// As Runtime::submit does.
void Simulator::enqueue(uint32_t index) {
    Request& request = requests_[index];
    Model& model = model_of(request);
    ENGINE_ASSERT(request.open && !request.falling_back, "a request that arrives is unanswered");
    int64_t predicted = 0;
    Reason reason = rejection(request, &predicted);
    if (reason == Reason::ok && (request.slot = model.slots.acquire()) == NO_SLOT) reason = Reason::full;
    if (request.slot == NO_SLOT) {
        if (reason != Reason::breaker_open) model.policy.rejected(now_ns_);
        if (request.deadline_ns <= now_ns_) return fall_back(index, Reason::expired);
        if (!margin_.time_for_fallback(now_ns_, request.deadline_ns, 0)) return fall_back(index, Reason::no_time);
        return fall_back(index, reason);
    }
    Slot& slot = model.slots[request.slot];
    request.generation = generation_of(slot.word.load(std::memory_order_relaxed));
    slot.started_ns = slot.queued_ns = now_ns_;
    slot.deadline_ns = request.deadline_ns;
    slot.finish_by_ns = request.finish_by_ns;
    slot.predicted_ns = predicted;
    slot.deployment = request.deployment;
    slot.user = reinterpret_cast<void*>(uintptr_t{index});
    slot.ticket = model.policy.enter(now_ns_, request.finish_by_ns, request.priority);
    *static_cast<double*>(model.slots.row(request.slot)) = static_cast<double>(request.number);
    slot.word.store(state_word(request.generation, State::queued), std::memory_order_release);
    ++queued_;
    ++model.queued;
    result_.queue_depth_max = std::max(result_.queue_depth_max, queued_);
    model.submitted.push(model.slots, request.slot, &Slot::next);
    if (!model.active) {
        model.active = true;
        active_.push_back(request.model);
    }
    request.wakes_ns = request.finish_by_ns + environment_.overshoot_ns(request.finish_by_ns);
    schedule(request.wakes_ns, Kind::timeout, index, request.serial);
    wake_executor();
}

// As Runtime::rejection: ok for a request that is admitted.
Reason Simulator::rejection(const Request& request, int64_t* predicted_ns) {
    if (request.deadline_ns <= now_ns_) return Reason::late;
    const Reason reason =
        reason_of(model_of(request).policy.admit(now_ns_, request.finish_by_ns, request.priority, predicted_ns));
    if (reason != Reason::ok) return reason;
    return request.deployment->breaker().allows(now_ns_) ? Reason::ok : Reason::breaker_open;
}

uint32_t Simulator::take_request() {
    uint32_t index;
    if (free_requests_.empty()) {
        requests_.emplace_back();
        index = static_cast<uint32_t>(requests_.size() - 1);
    } else {
        index = free_requests_.back();
        free_requests_.pop_back();
    }
    Request& request = requests_[index];
    request.slot = NO_SLOT;
    request.open = true;
    request.falling_back = request.on_core = false;
    return index;
}

// True once, for the invariant that the plan breaks.
bool Simulator::sabotaged(Invariant which) noexcept {
    if (sabotage_ != static_cast<size_t>(which) || now_ns_ < sabotage_from_ns_) [[likely]]
        return false;
    sabotage_ = INVARIANTS;
    return true;
}

// As an engine closes: the queue is dropped. Only executors that hang or died may still hold slots and old versions.
SimulationResult Simulator::finish() {
    checker_.finish(arrived_);
    std::vector<Entry> none(plan_.batch_rows_max);
    for (Model& model : models_) {
        take_submissions(model);
        model.policy.form(
            2 * NEVER_NS, none.data(), [](const Entry&) { return Claim::gone; },
            [&](const Entry& entry) { model.slots.drop_reference(entry.slot); });
        result_.breaker_openings += model.current->breaker().openings();
    }
    for (Executor& executor : executors_) executor.batch = NO_SLOT;
    for (Model& model : models_) std::fill(model.seats.begin(), model.seats.end(), NO_SLOT);
    for (Batch& batch : batches_) {
        if (std::exchange(batch.held, false)) batch.calling->release();
        for (uint32_t row = 0; row < batch.rows; ++row)
            models_[batch.model].slots.drop_reference(batch.entries[row].slot);
        batch.rows = 0;
    }
    uint64_t in_use = 0;
    for (const Model& model : models_) in_use += model.slots.in_use();
    checker_.expect(in_use == 0 && versions_alive_ == models_.size(), Invariant::nothing_leaked, in_use);
    for (Model& model : models_)  // after sabotage only
        for (uint32_t i = 0; model.slots.in_use() > 0; ++i)
            while (model.slots[i].references.load(std::memory_order_relaxed) > 0) model.slots.drop_reference(i);
    result_.versions_freed = result_.versions - versions_alive_;
    result_.prediction_error_ns = models_[0].policy.prediction_error_ns();
    result_.margin_timer_ns = margin_.terms().timer_ns;
    result_.margin_fallback_ns = margin_.terms().fallback_ns;
    return metrics_.close();
}

std::vector<SimulatedArrival> simulated_arrivals(const SimulationPlan& plan) {
    SimulatedEnvironment environment(plan);
    std::vector<SimulatedArrival> arrivals;
    arrivals.reserve(plan.requests);
    for (uint64_t i = 0; i < plan.requests; ++i) {
        const int64_t arrived_ns = environment.next_arrival() - SimulatedEnvironment::START_NS;
        arrivals.push_back({arrived_ns, plan.deadlines[environment.deadline_class()].budget_ns});
    }
    return arrivals;
}

SimulationResult simulate(const SimulationPlan& plan) { return Simulator(plan).run(); }

}  // namespace engine::simulator
