#include "engine/simulator.hpp"

#include <algorithm>
#include <deque>

#include "detail/simulated_world.hpp"
#include "detail/simulation_books.hpp"
#include "engine/cost.hpp"
#include "engine/guard.hpp"
#include "engine/policy.hpp"

namespace engine {

namespace {

using detail::SimulatedWorld;
using detail::SimulationBooks;

enum class Kind : uint8_t { arrival, rescue, cancel, fallback_done, fallback_dropped, batch_done, look_again };

struct Event {
    int64_t at_ns;
    uint64_t order;  // of scheduling: breaks ties, so that equal instants have one order
    uint32_t slot;   // or the executor, for batch_done
    uint32_t generation;
    Kind kind;
};

struct Later {
    bool operator()(const Event& a, const Event& b) const noexcept {
        return a.at_ns != b.at_ns ? a.at_ns > b.at_ns : a.order > b.order;
    }
};

enum class State : uint8_t { queued, running, rescuing, closed };

struct Request {
    uint64_t number;
    int64_t started_ns, deadline_ns, finish_by_ns, predicted_ns;
    int64_t timer_term_ns, fallback_term_ns, crowd_term_ns;  // what the guard had allowed for
    uint32_t generation = 0;
    Ticket ticket;
    State state = State::closed;
    Reason reason;
    bool on_core = false;  // its fallback runs, or waits for a core
    bool excused;  // something larger than its allowance has happened to it
};

struct Executor {
    bool busy = false;
    int64_t started_ns = 0;
    std::vector<Entry> batch;
    std::vector<int64_t> predicted_ns;  // kept apart: the slot may have been used again by the time the batch ends
    uint32_t rows = 0;
};

class Simulator {
public:
    explicit Simulator(const SimulationPlan& plan);
    SimulationResult run();

private:
    void handle(const Event& event);
    void schedule(int64_t at_ns, Kind kind, uint32_t slot, uint32_t generation);
    void calibrate();

    void arrive();
    void enqueue(uint32_t slot);
    void form_batches();
    void start_batch(uint32_t executor, uint32_t rows);
    void batch_done(uint32_t executor);
    void rescue(uint32_t slot);
    void cancel(uint32_t slot);
    void fall_back(uint32_t slot, Reason reason);
    void fallback_done(uint32_t slot);

    uint32_t take_slot();
    void close(uint32_t slot, Source source, Reason reason);
    void leave_queue(Request& request);
    uint32_t expiring() const noexcept { return policy_.live() + running_; }

    const SimulationPlan& plan_;
    SimulatedWorld world_;
    SimulationBooks books_;
    SimulationResult& result_;
    CostModel cost_;
    Guard guard_;
    Policy policy_;

    int64_t now_ns_ = SimulatedWorld::START_NS;
    uint64_t scheduled_ = 0, arrived_ = 0;
    std::vector<Event> events_;
    std::deque<Request> requests_;  // a deque: references stay good while a slot is added
    std::vector<uint32_t> free_slots_;
    std::vector<Executor> executors_;
    std::vector<int64_t> core_free_ns_;
    uint64_t queued_ = 0;    // our own count, to check the policy's
    uint32_t rescuing_ = 0;  // fallbacks that run or wait for a core
    uint32_t running_ = 0;   // unanswered requests that an executor is at work on
    int64_t look_again_ns_ = NEVER_NS;
};

Simulator::Simulator(const SimulationPlan& plan)
    : plan_(plan),
      world_(plan),
      books_(plan, SimulatedWorld::START_NS),
      result_(books_.result),
      cost_(plan.batch_rows_max),
      guard_(plan.miss_rate, plan.cores),
      policy_({plan.batch_rows_max, plan.queue_rows_max, plan.executors}, cost_),
      executors_(policy_.limits().executors),
      core_free_ns_(std::max(plan.cores, 1u), 0) {
    for (Executor& executor : executors_) {
        executor.batch.resize(plan.batch_rows_max);
        executor.predicted_ns.resize(plan.batch_rows_max);
    }
    const double full_ns = static_cast<double>(plan.batch_base_ns + plan.batch_row_ns * plan.batch_rows_max);
    const double rows = static_cast<double>(plan.batch_rows_max) * static_cast<double>(executors_.size());
    result_.capacity_per_s = 1e9 * rows / std::max(full_ns, 1.0);
    if (plan.calibrated) calibrate();
}

// What a warm-up before serving learns: the cost at powers of two, some hundred wake-ups and fallbacks.
void Simulator::calibrate() {
    for (uint32_t rows = 1;; rows = std::min(rows * 2, plan_.batch_rows_max)) {
        cost_.prime(rows, plan_.batch_base_ns + plan_.batch_row_ns * rows);
        if (rows == plan_.batch_rows_max) break;
    }
    for (int i = 0; i < 256; ++i) {
        guard_.timer_overshot(world_.overshoot_ns(), now_ns_);
        guard_.fallback_took(world_.fallback_ns(), now_ns_);
    }
}

SimulationResult Simulator::run() {
    if (plan_.requests > 0) schedule(world_.next_arrival(), Kind::arrival, 0, 0);
    while (!events_.empty()) {
        std::pop_heap(events_.begin(), events_.end(), Later{});
        const Event event = events_.back();
        events_.pop_back();
        now_ns_ = event.at_ns;
        ++result_.events;
        handle(event);
    }
    result_.prediction_error_ns = policy_.prediction_error_ns();
    result_.guard_timer_ns = guard_.terms().timer_ns;
    result_.guard_fallback_ns = guard_.terms().fallback_ns;
    return books_.close();
}

void Simulator::handle(const Event& event) {
    switch (event.kind) {
        case Kind::arrival: return arrive();
        case Kind::batch_done: return batch_done(event.slot);
        case Kind::look_again:
            if (look_again_ns_ == event.at_ns) look_again_ns_ = NEVER_NS;
            return form_batches();
        default: break;
    }
    if (requests_[event.slot].generation != event.generation) return;  // answered meanwhile
    switch (event.kind) {
        case Kind::rescue: return rescue(event.slot);
        case Kind::cancel: return cancel(event.slot);
        case Kind::fallback_done: return fallback_done(event.slot);
        default: return close(event.slot, Source::default_value, requests_[event.slot].reason);
    }
}

void Simulator::schedule(int64_t at_ns, Kind kind, uint32_t slot, uint32_t generation) {
    events_.push_back({at_ns, scheduled_++, slot, generation, kind});
    std::push_heap(events_.begin(), events_.end(), Later{});
}

void Simulator::arrive() {
    const uint32_t slot = take_slot();
    Request& request = requests_[slot];
    const int64_t budget_ns = world_.budget_ns();
    const GuardTerms terms = guard_.terms();
    const uint32_t together = expiring();
    request.number = arrived_++;
    request.started_ns = now_ns_;
    request.deadline_ns = now_ns_ + budget_ns;
    request.finish_by_ns = guard_.rescue_at(now_ns_, request.deadline_ns, together);
    request.timer_term_ns = terms.timer_ns;
    request.fallback_term_ns = terms.fallback_ns;
    request.crowd_term_ns = request.deadline_ns - request.finish_by_ns - terms.timer_ns - terms.fallback_ns;
    request.excused = request.crowd_term_ns < 0;  // the cap cut into the allowance
    const int64_t cancels_ns = world_.cancels_after_ns(budget_ns);
    if (cancels_ns != NEVER_NS) schedule(now_ns_ + cancels_ns, Kind::cancel, slot, request.generation);

    if (budget_ns <= 0) close(slot, Source::default_value, Reason::expired);
    else if (budget_ns < terms.fallback_ns) close(slot, Source::default_value, Reason::no_time);
    else enqueue(slot);
    if (arrived_ < plan_.requests) schedule(world_.next_arrival(), Kind::arrival, 0, 0);
}

void Simulator::enqueue(uint32_t slot) {
    Request& request = requests_[slot];
    Verdict verdict = policy_.admit(now_ns_, request.finish_by_ns);
    if (verdict == Verdict::admit && !policy_.can_push()) verdict = Verdict::full;
    if (verdict != Verdict::admit) {
        policy_.refused(now_ns_);
        return fall_back(slot, verdict == Verdict::late      ? Reason::late
                               : verdict == Verdict::stalled ? Reason::stalled
                                                             : Reason::full);
    }
    request.predicted_ns = policy_.predicted_finish_ns(now_ns_, request.finish_by_ns);
    request.ticket = policy_.enter(now_ns_, request.finish_by_ns);
    request.state = State::queued;
    policy_.push({request.finish_by_ns, slot, request.generation}, now_ns_);
    ++queued_;
    result_.queue_depth_max = std::max(result_.queue_depth_max, queued_);
    if (queued_ > plan_.queue_rows_max || policy_.depth() > plan_.queue_rows_max) ++result_.queue_over_bound;
    schedule(request.finish_by_ns + world_.overshoot_ns(), Kind::rescue, slot, request.generation);
    form_batches();
}

void Simulator::form_batches() {
    for (uint32_t e = 0; e < executors_.size(); ++e) {
        Executor& executor = executors_[e];
        if (executor.busy) continue;
        uint32_t claimed = 0;
        const auto claim = [&](const Entry& entry) {
            Request& request = requests_[entry.slot];
            if (request.generation != entry.generation || request.state != State::queued) return Claim::gone;
            if (now_ns_ > request.deadline_ns) ++result_.late_work_started;
            if (now_ns_ > request.finish_by_ns) ++result_.doomed_work_started;
            leave_queue(request);
            request.state = State::running;
            ++running_;
            if (claimed < plan_.batch_rows_max) executor.predicted_ns[claimed] = request.predicted_ns;
            ++claimed;
            return Claim::taken;
        };
        const auto release = [&](const Entry& entry) {
            Request& request = requests_[entry.slot];
            if (request.generation != entry.generation || request.state != State::queued) return;
            leave_queue(request);
            fall_back(entry.slot, Reason::released);
        };
        const Forming forming = policy_.form(now_ns_, executor.batch.data(), claim, release);
        if (claimed > plan_.batch_rows_max || claimed != forming.rows) ++result_.batch_over_bound;
        if (forming.rows > 0) {
            start_batch(e, forming.rows);
            continue;
        }
        if (forming.holding) {
            ++result_.held;
            // One wake-up is enough: an arrival looks again by itself.
            if (forming.wait_until_ns < look_again_ns_ || look_again_ns_ <= now_ns_) {
                look_again_ns_ = forming.wait_until_ns;
                schedule(look_again_ns_, Kind::look_again, 0, 0);
            }
        }
        return;
    }
}

void Simulator::start_batch(uint32_t index, uint32_t rows) {
    Executor& executor = executors_[index];
    executor.busy = true;
    executor.rows = rows;
    executor.started_ns = now_ns_;
    ++result_.batches;
    result_.batch_rows += rows;
    policy_.started(index, rows, now_ns_);
    books_.trace(now_ns_, index, rows);
    const int64_t end_ns = world_.batch_end(now_ns_, rows, index);
    if (end_ns != NEVER_NS) schedule(end_ns, Kind::batch_done, index, 0);
}

void Simulator::batch_done(uint32_t index) {
    Executor& executor = executors_[index];
    const bool crashed = world_.batch_crashes();
    executor.busy = false;
    policy_.finished(index, executor.rows, now_ns_, !crashed);
    for (uint32_t i = 0; i < executor.rows; ++i) {
        const Entry& entry = executor.batch[i];
        Request& request = requests_[entry.slot];
        const bool nan = world_.row_is_nan();
        if (!crashed) policy_.missed_prediction_by(now_ns_ - executor.predicted_ns[i], now_ns_);
        if (request.generation != entry.generation || request.state != State::running) {
            if (!crashed) ++result_.late_dropped;
            continue;
        }
        --running_;
        if (crashed || nan) fall_back(entry.slot, crashed ? Reason::crashed : Reason::nan);
        else close(entry.slot, Source::primary, Reason::none);
    }
    form_batches();
}

void Simulator::rescue(uint32_t slot) {
    Request& request = requests_[slot];
    if (request.state == State::rescuing) return;
    const int64_t overshoot_ns = now_ns_ - request.finish_by_ns;
    guard_.timer_overshot(overshoot_ns, now_ns_);
    request.excused |= overshoot_ns > request.timer_term_ns;
    const bool queued = request.state == State::queued;
    if (queued) leave_queue(request);
    else --running_;
    fall_back(slot, queued ? Reason::waited : Reason::overdue);
}

void Simulator::cancel(uint32_t slot) {
    Request& request = requests_[slot];
    if (request.state == State::queued) leave_queue(request);
    else if (request.state == State::running) --running_;
    close(slot, Source::cancelled, Reason::none);
}

// The caller answers for itself on the core that is free first. Where the fallback would not be done in time it takes
// the default, which costs nothing: at once, or when it gets its core later than it could tell from the crowd.
void Simulator::fall_back(uint32_t slot, Reason reason) {
    Request& request = requests_[slot];
    request.state = State::rescuing;
    request.reason = reason;
    if (!guard_.time_for_fallback(now_ns_, request.deadline_ns, rescuing_)) {
        return close(slot, Source::default_value, reason);
    }
    ++rescuing_;
    request.on_core = true;
    int64_t& core = *std::min_element(core_free_ns_.begin(), core_free_ns_.end());
    const int64_t start_ns = std::max(now_ns_, core);
    if (reason == Reason::waited || reason == Reason::overdue) {
        request.excused |= start_ns - now_ns_ > request.crowd_term_ns;
    } else {
        // Not rescued by a timer: excused when a core was not there soon enough to run the fallback at all.
        request.excused = start_ns + request.fallback_term_ns > request.deadline_ns;
    }
    if (start_ns + guard_.terms().fallback_ns > request.deadline_ns) {
        return schedule(start_ns, Kind::fallback_dropped, slot, request.generation);
    }
    const int64_t took_ns = world_.fallback_ns();
    guard_.fallback_took(took_ns, now_ns_);
    request.excused |= took_ns > request.fallback_term_ns;
    core = start_ns + took_ns;
    schedule(core, Kind::fallback_done, slot, request.generation);
}

void Simulator::fallback_done(uint32_t slot) {
    const Request& request = requests_[slot];
    if (now_ns_ > request.deadline_ns && !request.excused) ++result_.fallback_late_unexcused;
    close(slot, Source::fallback, request.reason);
}

uint32_t Simulator::take_slot() {
    if (free_slots_.empty()) {
        requests_.emplace_back();
        return static_cast<uint32_t>(requests_.size() - 1);
    }
    const uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
}

void Simulator::close(uint32_t slot, Source source, Reason reason) {
    Request& request = requests_[slot];
    books_.outcome(request.number, request.started_ns, request.deadline_ns, now_ns_, source, reason);
    rescuing_ -= request.on_core;
    request.on_core = false;
    request.state = State::closed;
    ++request.generation;  // its timers, and the executor that may still be at work on it, find it gone
    free_slots_.push_back(slot);
}

void Simulator::leave_queue(Request& request) {
    policy_.leave(request.ticket);
    --queued_;
}

}  // namespace

std::vector<SimulatedArrival> simulated_arrivals(const SimulationPlan& plan) {
    SimulatedWorld world(plan);
    std::vector<SimulatedArrival> arrivals;
    arrivals.reserve(plan.requests);
    // Drawn in the order in which Simulator::arrive draws, or the budgets would be other ones.
    for (uint64_t i = 0; i < plan.requests; ++i) {
        const int64_t arrived_ns = world.next_arrival() - SimulatedWorld::START_NS;
        const int64_t budget_ns = world.budget_ns();
        world.cancels_after_ns(budget_ns);
        arrivals.push_back({arrived_ns, budget_ns});
    }
    return arrivals;
}

SimulationResult simulate(const SimulationPlan& plan) { return Simulator(plan).run(); }

}  // namespace engine
