// Admission, submission, the answers without the primary, and closing.
#include "scheduler/runtime.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "scheduler/reasons.hpp"

namespace engine::scheduler {

namespace {

constexpr int64_t LATE_FALLBACK_NS_MAX = 50'000;
constexpr uint32_t FALLBACK_OBSERVE_EVERY = 16;
constexpr uint32_t DISPATCH_OBSERVE_EVERY = 4;
// Turns of a loop that come sooner leave the fallback to its timer.
constexpr int64_t SLOW_DISPATCH_NS = 1'000'000;

uint32_t cores() noexcept { return std::max(1u, std::thread::hardware_concurrency()); }

}  // namespace

Runtime::Runtime(const RuntimeLimits& limits, std::shared_ptr<Executors> executors, bool owns_executors)
    : limits_(limits),
      executors_(std::move(executors)),
      owns_executors_(owns_executors),
      slots_(limits.slots, limits.row_bytes_max(), limits.n_outputs),
      inline_cost_(std::max(limits.batch_rows_max, 64u)),
      canary_inline_cost_(std::max(limits.batch_rows_max, 64u)),
      lane_(limits, slots_, counters_, executors_->shared(), executors_->lock(), *this),
      sync_margin_(limits.miss_rate, cores()),
      async_margin_(limits.miss_rate, 1),  // one deadline timer and one loop work off all that expire together
      next_id_(limits.first_id) {
    seed_margins();
}

Runtime::~Runtime() {
    close(NEVER_NS);
    delete canary_lane_.load(std::memory_order_acquire);
}

Side Runtime::fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason,
                                  double* out) {
    const int64_t start = now_ns();
    // A request that expired before it came gets the default at once. A request whose timer woke too late has nothing
    // to lose by a few microseconds more for the better answer.
    const bool worth_it =
        sync_margin_.time_for_fallback(start, deadline_ns, 0) ||
        (reason != Reason::expired && start > deadline_ns && sync_margin_.terms().typical_ns <= LATE_FALLBACK_NS_MAX);
    const bool wanted = !(limits_.errors_to_default && is_failure(reason));
    if (deployment.has_fallback() && worth_it && wanted) {
        const int status = deployment.score_fallback(row, 1, thread_scratch(limits_.n_features), out);
        const int64_t now = now_ns();
        if (status == ENGINE_SCORE_OK && usable(out)) {
            if (fallbacks_.fetch_add(1, std::memory_order_relaxed) % FALLBACK_OBSERVE_EVERY == 0) {
                sync_margin_.fallback_took(now - start, now);
                async_margin_.fallback_took(now - start, now);
            }
            return {now, Source::fallback, reason};
        }
        reason = Reason::fallback_error;
    }
    std::fill_n(out, limits_.n_outputs, std::numeric_limits<double>::quiet_NaN());
    return {now_ns(), Source::default_value, reason};
}

Outcome Runtime::answer_without_primary(const Request& request, Reason reason, double* out) {
    ENGINE_ASSERT(reason != Reason::ok, "an answer without the primary has a reason");
    if (request.deadline_ns <= request.asked_ns) {
        reason = Reason::expired;
    } else if (request.deployment->has_fallback() &&
               !sync_margin_.time_for_fallback(request.asked_ns, request.deadline_ns, 0)) {
        reason = Reason::no_time;
    }
    const Side side = fallback_or_default(*request.deployment, request.row, request.deadline_ns, reason, out);
    return {next_id(),          request.deployment->number(),
            request.started_ns, request.deadline_ns,
            side.ready_ns,      side.source,
            side.reason,        request.priority};
}

// Why the batch lane rejects the request, or Reason::ok where it does not; then *predicted_ns is its expected finish.
Reason Runtime::rejection(const Request& request, int64_t finish_by_ns, int64_t* predicted_ns) noexcept {
    if (closing_.load(std::memory_order_seq_cst)) return Reason::closing;
    if (request.deadline_ns <= request.asked_ns) return Reason::late;
    if (!warm_.load(std::memory_order_acquire)) return Reason::stalled;
    if (request.deployment->called_here()) return Reason::stalled;  // the primary asks its own engine
    const Reason reason = reason_of(
        lane_of(*request.deployment).policy().admit(request.asked_ns, finish_by_ns, request.priority, predicted_ns));
    if (reason != Reason::ok) return reason;
    // Last, because its yes may be the one probe of an open breaker, and must not be thrown away.
    return request.deployment->breaker().allows(request.asked_ns) ? Reason::ok : Reason::breaker_open;
}

uint32_t Runtime::submit(const Request& request, const Caller& caller, Outcome* rejected, double* out) {
    const bool loop = caller.completions != nullptr;
    std::atomic<uint32_t>& waiting = loop ? async_waiting_ : sync_waiting_;
    const SafetyMargin& margin = loop ? async_margin_ : sync_margin_;
    const int64_t finish_by =
        request.deadline_ns >= NEVER_NS
            ? NEVER_NS
            : margin.fallback_at(request.asked_ns, request.deadline_ns, waiting.load(std::memory_order_relaxed),
                                 request.hedge,
                                 !loop || caller.group != nullptr || dispatch_.value() < SLOW_DISPATCH_NS);
    Lane& lane = lane_of(*request.deployment);
    int64_t predicted = 0;
    Reason reason = rejection(request, finish_by, &predicted);
    uint32_t index = NO_SLOT;
    if (reason == Reason::ok && (index = slots_.acquire()) == NO_SLOT) reason = Reason::full;
    if (index == NO_SLOT) {
        if (reason != Reason::breaker_open) lane.policy().rejected(request.asked_ns);
        *rejected = answer_without_primary(request, reason, out);
        return NO_SLOT;
    }
    fill(index, request, caller, finish_by, predicted);
    waiting.fetch_add(1, std::memory_order_relaxed);
    Slot& slot = slots_[index];
    const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
    // Publishes the fields that fill() wrote to the thread that claims the slot.
    slot.word.store(state_word(generation, State::queued), std::memory_order_release);
    // The executor first: it starts while this thread still sets the deadline timer, which has time until finish_by.
    lane.submit(index);
    if (!lane.announced.load(std::memory_order_seq_cst)) executors_->announce(lane);
    if (caller.wake) executors_->wake();
    if (loop && finish_by < NEVER_NS) executors_->deadline_timer().add({finish_by, this, index, generation});
    // close() sets closing_, then looks at the queue; this thread pushes, then looks at closing_. One of them sees the
    // other, so a request that close() has missed is answered here.
    if (closing_.load(std::memory_order_seq_cst)) fall_back(index, generation, Reason::closing);
    return index;
}

void Runtime::fill(uint32_t index, const Request& request, const Caller& caller, int64_t finish_by_ns,
                   int64_t predicted_ns) noexcept {
    Slot& slot = slots_[index];
    ENGINE_ASSERT(state_of(slot.word.load(std::memory_order_relaxed)) == State::free, "a slot is filled while free");
    slot.started_ns = request.started_ns;
    slot.deadline_ns = request.deadline_ns;
    slot.finish_by_ns = finish_by_ns;
    slot.queued_ns = request.asked_ns;
    slot.predicted_ns = predicted_ns;
    request.deployment->retain();
    slot.deployment = request.deployment;
    slot.lane = &lane_of(*request.deployment);
    std::atomic_ref(slot.completions).store(caller.completions, std::memory_order_relaxed);
    slot.group = caller.group;
    slot.user = caller.user;
    slot.id = next_id();
    slot.ticket = slot.lane->policy().enter(request.asked_ns, finish_by_ns, request.priority);
    std::memcpy(slots_.row(index), request.row, request.deployment->row_bytes());
    if (!request.hedge || !request.deployment->has_fallback()) return;
    double* spare = slots_.fallback_out(index);
    const int status = request.deployment->score_fallback(request.row, 1, thread_scratch(limits_.n_features), spare);
    slot.hedged = status == ENGINE_SCORE_OK && usable(spare);
}

bool Runtime::submit_many(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                          const Caller& caller, uint32_t* slots, Outcome* outcomes, double* out) {
    ENGINE_ASSERT(caller.group != nullptr, "rows that are answered as one have a group");
    const auto* bytes = static_cast<const std::byte*>(rows);
    Group* group = caller.group;
    Request one = request;
    Caller unwoken = caller;
    unwoken.wake = false;
    // One count more than rows, held until the end: nobody can find the group complete while it is being filled.
    group->remaining.store(n + 1, std::memory_order_relaxed);
    uint32_t settled = 1;
    for (uint32_t i = 0; i < n; ++i) {
        one.row = bytes + size_t{i} * request.deployment->row_bytes();
        one.deadline_ns = deadlines_ns[i];
        one.asked_ns = now_ns();  // the rows are queued one after the other
        slots[i] = submit(one, unwoken, &outcomes[i], out + size_t{i} * limits_.n_outputs);
        if (slots[i] == NO_SLOT) ++settled;
        else group->first = slots[i];
        if ((i + 1) % limits_.batch_rows_max == 0) kick();
    }
    kick();
    // Releases `first` to the thread that settles the last row; acquires the answers where this thread does.
    return group->remaining.fetch_sub(settled, std::memory_order_acq_rel) == settled;
}

void Runtime::kick() noexcept {
    const Lane* canary = canary_lane();
    if (lane_.has_submissions() || (canary != nullptr && canary->has_submissions())) executors_->wake();
}

bool Runtime::is_live(uint32_t index, uint32_t generation) noexcept {
    const uint32_t word = slots_[index].word.load(std::memory_order_acquire);
    return generation_of(word) == generation && scheduler::is_live(word);
}

void Runtime::fall_back(uint32_t index, uint32_t generation, Reason reason) {
    bool was_running = false;
    if (!lane_.take_from_executors(index, generation, &was_running)) return;
    const Lane& lane = *slots_[index].lane;
    answer_by_fallback(index, generation, reason);
    if (was_running && reason == Reason::timeout) executors_->suspect(lane);
}

void Runtime::answer_by_fallback(uint32_t index, uint32_t generation, Reason reason) {
    Slot& slot = slots_[index];
    ENGINE_ASSERT(slot.word.load(std::memory_order_relaxed) == state_word(generation, State::falling_back) ||
                      slot.word.load(std::memory_order_relaxed) == state_word(generation, State::failed),
                  "a thread that answers by the fallback has taken the slot");
    ENGINE_ASSERT(reason != Reason::ok, "an answer without the primary has a reason");
    if (slot.hedged && !(limits_.errors_to_default && is_failure(reason))) {
        slot.by_fallback = {now_ns(), Source::fallback, reason};
    } else {
        slot.by_fallback = fallback_or_default(*slot.deployment, slots_.row(index), slot.deadline_ns, reason,
                                               slots_.fallback_out(index));
    }
    slot.word.store(state_word(generation, State::fallback), std::memory_order_release);
    settle_and_signal(slots_, index);
}

Outcome Runtime::outcome(uint32_t index) noexcept {
    const Slot& slot = slots_[index];
    const Side& side = slot.answer();
    return {slot.id,     slot.deployment->number(), slot.started_ns, slot.deadline_ns, side.ready_ns, side.source,
            side.reason, slot.ticket.priority};
}

void Runtime::give_back(uint32_t index) noexcept {
    std::atomic<uint32_t>& waiting = slots_[index].completions != nullptr ? async_waiting_ : sync_waiting_;
    [[maybe_unused]] const uint32_t before = waiting.fetch_sub(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "a slot is given back once");
    slots_.drop_reference(index);
}

bool Runtime::abandon(uint32_t index) noexcept {
    const uint32_t generation = generation_of(slots_[index].word.load(std::memory_order_acquire));
    const bool unanswered = lane_.take_from_executors(index, generation);
    // A caller that waits by itself is the only one to read the slot; a loop finds an answered one in its completions.
    if (unanswered || slots_[index].completions == nullptr) give_back(index);
    return unanswered;
}

void Runtime::abandon_row(uint32_t index) noexcept {
    Slot& slot = slots_[index];
    ENGINE_ASSERT(slot.group != nullptr, "a row belongs to a group");
    const uint32_t generation = generation_of(slot.word.load(std::memory_order_acquire));
    if (!lane_.take_from_executors(index, generation)) return;
    slot.by_fallback = {now_ns(), Source::default_value, Reason::closing};
    slot.word.store(state_word(generation, State::fallback), std::memory_order_release);
    settle_and_signal(slots_, index);
}

void Runtime::account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept {
    const auto source = static_cast<size_t>(outcome.source);
    const auto priority = static_cast<size_t>(outcome.priority);
    ENGINE_ASSERT((outcome.source == Source::primary) == (outcome.reason == Reason::ok),
                  "every answer but the primary's has a reason");
    counters_.answers[priority][source][static_cast<size_t>(outcome.reason)].fetch_add(1, std::memory_order_relaxed);
    counters_.latency_ns[source].record(outcome.ready_ns - outcome.started_ns);
    if (outcome.ready_ns > outcome.deadline_ns) counters_.late_ready.fetch_add(1, std::memory_order_relaxed);
    if (returned_ns > outcome.deadline_ns) counters_.late_returned.fetch_add(1, std::memory_order_relaxed);
    if (!queued) return;
    counters_.returned_ns.record(returned_ns - outcome.started_ns);
    if (!synchronous && outcome.id % DISPATCH_OBSERVE_EVERY == 0)
        dispatch_.record(returned_ns - outcome.ready_ns, returned_ns);
    (synchronous ? sync_margin_ : async_margin_).returned_after(returned_ns - outcome.ready_ns, returned_ns);
}

bool Runtime::answer_before_next_dispatch(const Completions& loop) noexcept {
    const int64_t gap = dispatch_.value();
    if (gap < SLOW_DISPATCH_NS) return false;
    const int64_t before = now_ns() + std::min(gap, limits_.budget_ns);
    bool any = false;
    for (uint32_t i = 0; i < slots_.used(); ++i) {
        Slot& slot = slots_[i];
        // The loop's requests are this thread's own: nobody else fills or frees the slot of one that is live.
        const uint32_t word = slot.word.load(std::memory_order_acquire);
        if (!scheduler::is_live(word) || std::atomic_ref(slot.completions).load(std::memory_order_relaxed) != &loop)
            continue;
        if (slot.group != nullptr || slot.deadline_ns >= before) continue;
        ENGINE_ASSERT(slot.lane != nullptr, "a live request has a lane");
        fall_back(i, generation_of(word), Reason::timeout);
        any = true;
    }
    return any;
}

uint32_t Runtime::close(int64_t patience_ns) noexcept {
    {
        const std::lock_guard<std::mutex> not_starting(start_lock_);
        closing_.store(true, std::memory_order_seq_cst);
    }
    if (!started_.load(std::memory_order_acquire)) return 0;
    const int64_t until = patience_ns >= NEVER_NS ? NEVER_NS : now_ns() + patience_ns;
    uint32_t stuck = 0;
    for (Lane* lane : {canary_lane(), &lane_})
        if (lane != nullptr) drop_queue(*lane);  // at once: an executor may be a long time in its batch, or for ever
    for (Lane* lane : {canary_lane(), &lane_}) {
        if (lane == nullptr) continue;
        stuck += executors_->detach(*lane, until >= NEVER_NS ? NEVER_NS : std::max<int64_t>(0, until - now_ns()));
        drop_queue(*lane);  // requests that were on their way in while we set closing_
    }
    executors_->deadline_timer().forget(*this);
    if (!join_warming(until)) ++stuck;
    if (owns_executors_) executors_->stop(patience_ns);
    return stuck;
}

// False where the calibrating thread does not end in time; it is left behind.
bool Runtime::join_warming(int64_t until_ns) noexcept {
    if (!warming_.joinable()) return true;
    while (!warming_ended_.load(std::memory_order_acquire) && now_ns() < until_ns)
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    const bool ended = warming_ended_.load(std::memory_order_acquire);
    if (ended) warming_.join();
    else warming_.detach();
    return ended;
}

void Runtime::drop_queue(Lane& lane) noexcept {
    std::vector<Entry> left;
    {
        const MutexLock lock(executors_->lock());
        left = lane.take_queue(now_ns());
    }
    for (const Entry& entry : left) lane.drop(entry, Reason::closing);
}

}  // namespace engine::scheduler
