// The requests that the primary does not answer: the timed fallback on the simulated cores, and the caller that gives
// up. As scheduler/runtime.cpp does it, except that fallbacks queue for cores.
#include <algorithm>

#include "simulator/run.hpp"

namespace engine::simulator {

// From here on the request belongs to its caller alone. False when it has been answered already.
bool Simulator::take_from_executors(Model& model, const Entry& entry) {
    Slot& slot = model.slots[entry.slot];
    const uint32_t word = slot.word.load(std::memory_order_acquire);
    if (generation_of(word) != entry.generation || !is_live(word)) return false;
    slot.word.store(state_word(entry.generation, State::falling_back), std::memory_order_release);
    if (state_of(word) == State::queued) {
        ENGINE_ASSERT(queued_ > 0 && model.queued > 0, "a queued request is counted");
        model.policy.leave(slot.ticket);
        --queued_;
        --model.queued;
    } else {
        ENGINE_ASSERT(running_ > 0, "a running request is counted");
        --running_;
    }
    return true;
}

// The primary will not answer this one.
void Simulator::fail(Model& model, const Entry& entry, Reason reason) {
    if (take_from_executors(model, entry)) fall_back(request_of(model, entry.slot), reason);
}

void Simulator::time_out(uint32_t index) {
    Request& request = requests_[index];
    if (request.falling_back) return;
    const int64_t overshoot_ns = now_ns_ - request.finish_by_ns;
    margin_.timer_overshot(overshoot_ns, now_ns_);
    request.excused |= overshoot_ns > request.timer_term_ns;
    Model& model = model_of(request);
    touched_ = request.model;
    const bool running = state_of(model.slots[request.slot].word.load(std::memory_order_relaxed)) == State::running;
    result_.overdue += running;
    if (running) suspect(request.model);
    fail(model, {request.finish_by_ns, request.slot, request.generation}, Reason::timeout);
}

void Simulator::cancel(uint32_t index) {
    Request& request = requests_[index];
    touched_ = request.model;
    if (request.slot != NO_SLOT)
        take_from_executors(model_of(request), {request.finish_by_ns, request.slot, request.generation});
    metrics_.cancelled(request, now_ns_);
    close(index);
}

// The caller answers for itself on the first free core. Where the fallback would not be done in time it takes the
// default, which costs nothing: at once, or when its core comes later than the number of fallbacks ahead had promised.
void Simulator::fall_back(uint32_t index, Reason reason) {
    Request& request = requests_[index];
    request.falling_back = true;
    request.reason = reason;
    ++falling_back_;
    const bool hopeless = reason == Reason::expired || reason == Reason::no_time;
    if (hopeless || !margin_.time_for_fallback(now_ns_, request.deadline_ns, on_cores_))
        return answer(index, Source::default_value, reason, nullptr);
    ++on_cores_;
    request.on_core = true;
    int64_t& core = *std::min_element(core_free_ns_.begin(), core_free_ns_.end());
    const int64_t start_ns = std::max(now_ns_, core);
    if (reason == Reason::timeout) {
        request.excused |= start_ns - now_ns_ > request.crowd_term_ns;
    } else {
        // Not by a timer: excused when no core was free soon enough to run the fallback at all.
        request.excused |= start_ns + request.fallback_term_ns > request.deadline_ns;
    }
    if (start_ns + margin_.terms().fallback_ns > request.deadline_ns)
        return schedule(start_ns, Kind::fallback_dropped, index, request.serial);
    const int64_t took_ns = environment_.fallback_ns();
    margin_.fallback_took(took_ns, now_ns_);
    request.excused |= took_ns > request.fallback_term_ns;
    core = start_ns + took_ns;
    schedule(core, Kind::fallback_done, index, request.serial);
}

// The caller has its answer. `values` is the primary's answer; null for the fallback, which runs here, and the default.
void Simulator::answer(uint32_t index, Source source, Reason reason, double* values) {
    Request& request = requests_[index];
    SlotTable& slots = model_of(request).slots;
    double own[SimulatedVersion::OUTPUTS];
    if (source == Source::fallback) {
        const auto row = static_cast<double>(request.number);
        const bool queued = request.slot != NO_SLOT;
        values = queued ? slots.fallback_out(request.slot) : own;
        request.deployment->score_fallback(queued ? slots.row(request.slot) : &row, 1, nullptr, values);
    }
    if (request.slot != NO_SLOT && source != Source::primary) {
        Slot& slot = slots[request.slot];
        slot.by_fallback = {now_ns_, source, reason};
        slot.word.store(state_word(request.generation, State::fallback), std::memory_order_release);
        if (source == Source::fallback) values = slots.answer(request.slot);
    }
    if (source != Source::default_value) checker_.answered(request.number, values[0], values[1]);

    int64_t at_ns = now_ns_;
    const bool breaks_promise = sabotaged(Invariant::promise);
    if (sabotaged(Invariant::on_time) || breaks_promise) at_ns = request.deadline_ns + 1, request.excused = false;
    if (at_ns > request.deadline_ns) {
        // Where the timer overslept, the answer that came first instead of it may be late too.
        const bool timed = request.slot != NO_SLOT;
        request.excused |= timed && request.wakes_ns - request.finish_by_ns > request.timer_term_ns;
        checker_.expect(request.excused, Invariant::on_time, request.number);
        checker_.expect(request.hopeless || !environment_.is_exact(), Invariant::promise, request.number);
    }
    metrics_.answered(request, at_ns, source, reason);
    close(index);
}

void Simulator::close(uint32_t index) {
    Request& request = requests_[index];
    if (sabotaged(Invariant::answered_at_all)) checker_.arrived(request.number, 0);  // the checker forgets the answer
    else checker_.closed(request.number);
    if (sabotaged(Invariant::answered_once)) checker_.closed(request.number);
    if (sabotaged(Invariant::answered_after_arrival) && arrived_ < plan_.requests) checker_.closed(arrived_);
    ENGINE_ASSERT(request.open, "a request is closed once");
    ENGINE_ASSERT(falling_back_ >= uint64_t{request.falling_back} && on_cores_ >= uint32_t{request.on_core},
                  "a fallback under way is counted");
    falling_back_ -= request.falling_back;
    on_cores_ -= request.on_core;
    request.open = false;
    ++request.serial;  // its timers find it gone
    if (request.slot == NO_SLOT) request.deployment->release();
    else if (!sabotaged(Invariant::nothing_leaked)) model_of(request).slots.drop_reference(request.slot);
    free_requests_.push_back(index);
}

}  // namespace engine::simulator
