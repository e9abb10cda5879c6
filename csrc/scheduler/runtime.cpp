// The asker's side of the runtime: admission, waiting, rescue and reading the answer.
#include "scheduler/runtime.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/futex.hpp"
#include "scheduler/runtime_detail.hpp"

namespace engine {

namespace {

constexpr int GUARD_SEED_WAITS = 24;
constexpr int64_t GUARD_SEED_WAIT_NS = 30'000;
constexpr int64_t GUARD_PRIOR_NS = 1'000'000;
constexpr uint32_t FALLBACK_SEED_RUNS = 64;
constexpr int64_t LATE_FALLBACK_NS_MAX = 50'000;
constexpr size_t CALIBRATION_REPEATS = 5;
constexpr int64_t CALIBRATION_BUDGET_NS = 400'000'000;

bool is_failure(Reason reason) noexcept {
    return reason == Reason::primary_error || reason == Reason::primary_bad_shape ||
           reason == Reason::primary_not_finite || reason == Reason::breaker_open;
}

uint32_t cores() noexcept { return std::max(1u, std::thread::hardware_concurrency()); }

}  // namespace

namespace detail {

float* thread_scratch(size_t floats) {
    thread_local std::vector<float> scratch;
    if (scratch.size() < floats) scratch.resize(floats);
    return scratch.data();
}

bool all_finite(const double* values, uint32_t n) noexcept {
    for (uint32_t i = 0; i < n; ++i)
        if (!std::isfinite(values[i])) return false;
    return true;
}

Reason reason_of(int status) noexcept {
    switch (status) {
        case ENGINE_SCORE_BAD_SHAPE: return Reason::primary_bad_shape;
        case ENGINE_SCORE_OUT_OF_TIME: return Reason::out_of_time;
        default: return Reason::primary_error;
    }
}

}  // namespace detail

Runtime::Runtime(const RuntimeLimits& limits, std::shared_ptr<Executors> executors, bool owns_executors)
    : limits_(limits),
      executors_(std::move(executors)),
      owns_executors_(owns_executors),
      slots_(limits.slots, limits.row_bytes, limits.n_outputs),
      cost_(limits.batch_rows_max),
      inline_cost_(std::max(limits.batch_rows_max, 64u)),
      policy_({limits.batch_rows_max, limits.slots, executors_->count()}, cost_, executors_->shared(), limits.weight),
      sync_guard_(limits.miss_rate, cores()),
      async_guard_(limits.miss_rate, 1),  // one rescue thread and one loop drain what expires together
      next_id_(limits.first_id) {
    seed_guards();
}

Runtime::~Runtime() { close(NEVER_NS); }

// A guard that knows nothing would trust the first timer. A few real waits tell what this machine does when quiet, and
// one made-up record what a shared one does now and then (the 99.99th percentile measured there); it is the first to be
// forgotten once there is enough that is real.
void Runtime::seed_guards() noexcept {
    const detail::PreciseTimers precise;
    const int64_t begun = now_ns();
    sync_guard_.timer_overshot(GUARD_PRIOR_NS, begun);
    async_guard_.timer_overshot(GUARD_PRIOR_NS, begun);
    std::atomic<uint32_t> nobody{0};
    for (int i = 0; i < GUARD_SEED_WAITS; ++i) {
        const int64_t until = now_ns() + GUARD_SEED_WAIT_NS;
        detail::futex_wait_until(nobody, 0, until);
        const int64_t now = now_ns();
        sync_guard_.timer_overshot(now - until, now);
        async_guard_.timer_overshot(now - until, now);
    }
}

namespace {

// The first run of a batch size touches cold code and memory: it counts only where there is no other.
int64_t median_of(std::vector<int64_t>& took) {
    if (took.size() > 1) took.erase(took.begin());
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
}

}  // namespace

Calibration Runtime::calibrate(Deployment& deployment, const void* rows, uint32_t n_rows) {
    Calibration calibration;
    std::vector<double> out(size_t{n_rows} * limits_.n_outputs);
    float* scratch = detail::thread_scratch(size_t{n_rows} * limits_.n_features);
    const int64_t begun = now_ns();
    for (uint32_t batch = 1;; batch = std::min(batch * 2, n_rows)) {
        std::vector<int64_t> took;
        while (took.size() < CALIBRATION_REPEATS && (took.size() < 2 || now_ns() - begun < CALIBRATION_BUDGET_NS)) {
            const int64_t start = now_ns();
            calibration.failed = deployment.score_primary(rows, batch, scratch, out.data()) != ENGINE_SCORE_OK;
            if (calibration.failed) return calibration;
            took.push_back(now_ns() - start);
        }
        calibration.points.push_back({batch, median_of(took)});
        if (batch == n_rows) return calibration;
    }
}

int64_t Runtime::adopt(const Calibration& calibration) {
    if (calibration.failed) return 0;
    const std::lock_guard<std::mutex> lock(executors_->lock());
    for (const Calibration::Point& point : calibration.points) {
        if (point.rows <= limits_.batch_rows_max) cost_.prime(point.rows, point.ns);
        inline_cost_.prime(point.rows, point.ns);
    }
    return inline_cost_.expected_ns(1);
}

void Runtime::time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows) {
    if (!deployment.has_fallback() || n_rows == 0) return;
    const auto* bytes = static_cast<const std::byte*>(rows);
    float* scratch = detail::thread_scratch(limits_.n_features);
    std::vector<double> out(limits_.n_outputs);
    for (uint32_t i = 0; i < FALLBACK_SEED_RUNS; ++i) {
        const int64_t start = now_ns();
        deployment.score_fallback(bytes + size_t{i % n_rows} * deployment.row_bytes(), 1, scratch, out.data());
        const int64_t now = now_ns();
        sync_guard_.fallback_took(now - start, now);
        async_guard_.fallback_took(now - start, now);
    }
}

void Runtime::start_threads(Deployment* deployment, const void* rows, uint32_t n_rows) {
    const std::lock_guard<std::mutex> starting(start_lock_);
    if (closing_.load(std::memory_order_acquire) || started_.exchange(true)) return;
    for (uint32_t i = 0; i < executors_->count(); ++i) buffers_.push_back(std::make_unique<Buffers>(limits_));
    executors_->start();
    if (n_rows == 0) {
        warm_.store(true, std::memory_order_release);
        return;
    }
    const auto* bytes = static_cast<const std::byte*>(rows);
    std::vector<std::byte> kept(bytes, bytes + size_t{n_rows} * limits_.row_bytes);
    deployment->retain();
    warming_ = std::thread([this, deployment, n_rows, kept = std::move(kept)] {
        const Calibration calibration = calibrate(*deployment, kept.data(), n_rows);
        adopt(calibration);
        if (!calibration.failed) time_fallback(*deployment, kept.data(), n_rows);
        deployment->release();
        warm_.store(true, std::memory_order_release);
        warming_ended_.store(true, std::memory_order_release);
    });
    pthread_setname_np(warming_.native_handle(), "engine-warm");
}

bool Runtime::usable(const double* values) const noexcept {
    return !limits_.only_finite || detail::all_finite(values, limits_.n_outputs);
}

Side Runtime::fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason,
                                  double* out) {
    const int64_t start = now_ns();
    // A request that expired before it came is answered by the default at once. One whose rescue woke up too late has
    // nothing to lose by a few microseconds more for the better answer.
    const bool worth_it =
        sync_guard_.time_for_fallback(start, deadline_ns, 0) ||
        (reason != Reason::expired && start > deadline_ns && sync_guard_.terms().typical_ns <= LATE_FALLBACK_NS_MAX);
    const bool wanted = !(limits_.errors_to_default && is_failure(reason));
    if (deployment.has_fallback() && worth_it && wanted) {
        const int status = deployment.score_fallback(row, 1, detail::thread_scratch(limits_.n_features), out);
        const int64_t now = now_ns();
        if (status == ENGINE_SCORE_OK && usable(out)) {
            if (fallbacks_.fetch_add(1, std::memory_order_relaxed) % 16 == 0) {
                sync_guard_.fallback_took(now - start, now);
                async_guard_.fallback_took(now - start, now);
            }
            return {now, Source::fallback, reason};
        }
        reason = Reason::fallback_error;
    }
    std::fill_n(out, limits_.n_outputs, std::numeric_limits<double>::quiet_NaN());
    return {now_ns(), Source::default_value, reason};
}

Outcome Runtime::answer_without_primary(const Request& request, Reason reason, double* out) {
    if (request.deadline_ns <= request.asked_ns) {
        reason = Reason::expired;
    } else if (request.deployment->has_fallback() &&
               !sync_guard_.time_for_fallback(request.asked_ns, request.deadline_ns, 0)) {
        reason = Reason::no_time;
    }
    const Side side = fallback_or_default(*request.deployment, request.row, request.deadline_ns, reason, out);
    return {next_id(),     request.deployment->number(), request.started_ns, request.deadline_ns,
            side.ready_ns, side.source,                  side.reason,        request.priority};
}

// Why the batch lane does not take the request, or Reason::ok where it does; then *predicted_ns is its expected finish.
Reason Runtime::refusal(const Request& request, int64_t finish_by_ns, int64_t* predicted_ns) noexcept {
    if (closing_.load(std::memory_order_seq_cst)) return Reason::closing;
    if (request.deadline_ns <= request.asked_ns) return Reason::late;
    if (!warm_.load(std::memory_order_acquire)) return Reason::stalled;
    const Reason reason =
        detail::reason_of(policy_.admit(request.asked_ns, finish_by_ns, request.priority, predicted_ns));
    if (reason != Reason::ok) return reason;
    // Last, because its yes may be the one probe of a rest, and must not be thrown away.
    return request.deployment->breaker().allows(request.asked_ns) ? Reason::ok : Reason::breaker_open;
}

uint32_t Runtime::submit(const Request& request, const Asker& asker, Outcome* refused, double* out) {
    const bool loop = asker.completions != nullptr;
    std::atomic<uint32_t>& waiting = loop ? async_waiting_ : sync_waiting_;
    const Guard& guard = loop ? async_guard_ : sync_guard_;
    const int64_t finish_by =
        request.deadline_ns >= NEVER_NS
            ? NEVER_NS
            : guard.rescue_at(request.asked_ns, request.deadline_ns, waiting.load(std::memory_order_relaxed),
                              request.hedge);
    int64_t predicted = 0;
    Reason reason = refusal(request, finish_by, &predicted);
    uint32_t index = NO_SLOT;
    if (reason == Reason::ok && (index = slots_.acquire()) == NO_SLOT) reason = Reason::full;
    if (index == NO_SLOT) {
        if (reason != Reason::breaker_open) policy_.refused(request.asked_ns);
        *refused = answer_without_primary(request, reason, out);
        return NO_SLOT;
    }
    fill(index, request, asker, finish_by, predicted);
    waiting.fetch_add(1, std::memory_order_relaxed);
    Slot& slot = slots_[index];
    const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
    slot.word.store(state_word(generation, State::queued), std::memory_order_release);
    // The executor first: it starts while this thread still sees to the rescue, which has time until finish_by.
    submitted_.push(slots_, index, &Slot::next);
    if (!announced.load(std::memory_order_seq_cst)) executors_->announce(*this);
    if (asker.wake) executors_->wake();
    if (loop && finish_by < NEVER_NS) executors_->rescuer().watch({finish_by, this, index, generation});
    // A close() that missed this request in its last look has set closing_ before it looked.
    if (closing_.load(std::memory_order_seq_cst)) rescue(index, generation, Reason::closing);
    return index;
}

void Runtime::fill(uint32_t index, const Request& request, const Asker& asker, int64_t finish_by_ns,
                   int64_t predicted_ns) noexcept {
    Slot& slot = slots_[index];
    slot.started_ns = request.started_ns;
    slot.deadline_ns = request.deadline_ns;
    slot.finish_by_ns = finish_by_ns;
    slot.queued_ns = request.asked_ns;
    slot.predicted_ns = predicted_ns;
    request.deployment->retain();
    slot.deployment = request.deployment;
    slot.completions = asker.completions;
    slot.group = asker.group;
    slot.user = asker.user;
    slot.id = next_id();
    slot.ticket = policy_.enter(request.asked_ns, finish_by_ns, request.priority);
    std::memcpy(slots_.row(index), request.row, limits_.row_bytes);
    if (!request.hedge || !request.deployment->has_fallback()) return;
    double* spare = slots_.rescue_out(index);
    const int status =
        request.deployment->score_fallback(request.row, 1, detail::thread_scratch(limits_.n_features), spare);
    slot.hedged = status == ENGINE_SCORE_OK && usable(spare);
}

bool Runtime::submit_many(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                          const Asker& asker, uint32_t* slots, Outcome* outcomes, double* out) {
    const auto* bytes = static_cast<const std::byte*>(rows);
    Group* group = asker.group;
    Request one = request;
    Asker unwoken = asker;
    unwoken.wake = false;
    // One count more than rows, held until the end: nobody can find the group complete while it is being filled.
    group->remaining.store(n + 1, std::memory_order_relaxed);
    uint32_t settled = 1;
    for (uint32_t i = 0; i < n; ++i) {
        one.row = bytes + size_t{i} * limits_.row_bytes;
        one.deadline_ns = deadlines_ns[i];
        one.asked_ns = now_ns();  // the rows are queued one after the other
        slots[i] = submit(one, unwoken, &outcomes[i], out + size_t{i} * limits_.n_outputs);
        if (slots[i] == NO_SLOT) ++settled;
        else group->first = slots[i];
        if ((i + 1) % limits_.batch_rows_max == 0) kick();
    }
    kick();
    return group->remaining.fetch_sub(settled, std::memory_order_acq_rel) == settled;
}

void Runtime::kick() noexcept {
    if (!submitted_.empty()) executors_->wake();
}

bool Runtime::is_live(uint32_t index, uint32_t generation) noexcept {
    const uint32_t word = slots_[index].word.load(std::memory_order_acquire);
    return generation_of(word) == generation && engine::is_live(word);
}

// Moves a live slot to `rescue`: from here on its answer is this thread's to give.
bool Runtime::take_from_executors(uint32_t index, uint32_t generation, bool* was_running) noexcept {
    Slot& slot = slots_[index];
    uint32_t word = slot.word.load(std::memory_order_acquire);
    while (generation_of(word) == generation && engine::is_live(word)) {
        if (!slot.word.compare_exchange_weak(word, state_word(generation, State::rescue), std::memory_order_acq_rel))
            continue;
        if (state_of(word) == State::queued) policy_.leave(slot.ticket);
        else if (was_running != nullptr) *was_running = true;
        return true;
    }
    return false;
}

void Runtime::rescue(uint32_t index, uint32_t generation, Reason reason) {
    bool was_running = false;
    if (!take_from_executors(index, generation, &was_running)) return;
    finish_rescue(index, generation, reason);
    if (was_running && reason == Reason::timeout) executors_->suspect(*this);
}

// The slot is in `rescue` and ours.
void Runtime::finish_rescue(uint32_t index, uint32_t generation, Reason reason) {
    Slot& slot = slots_[index];
    if (slot.hedged && !(limits_.errors_to_default && is_failure(reason))) {
        slot.by_rescue = {now_ns(), Source::fallback, reason};
    } else {
        slot.by_rescue = fallback_or_default(*slot.deployment, slots_.row(index), slot.deadline_ns, reason,
                                             slots_.rescue_out(index));
    }
    slot.word.store(state_word(generation, State::rescued), std::memory_order_release);
    settle_and_signal(index);
}

void Runtime::settle_and_signal(uint32_t index) noexcept {
    if (Completions* owed = settle(index)) owed->signal();
}

// Tells the asker. After this the slot may belong to somebody else: nothing of it is read. Returns the loop that must
// still be signalled, or null.
Completions* Runtime::settle(uint32_t index) noexcept {
    Slot& slot = slots_[index];
    Completions* completions = slot.completions;
    Group* group = slot.group;
    if (group != nullptr) {
        if (group->remaining.fetch_sub(1, std::memory_order_acq_rel) != 1) return nullptr;
        // A loop reads the group only when it is announced. A synchronous asker may have seen the 0 and freed it
        // already; waking an address that nobody sleeps on is harmless.
        if (completions != nullptr) return completions->announce(slots_, group->first) ? completions : nullptr;
        detail::futex_wake(group->remaining, 1);
        return nullptr;
    }
    if (completions != nullptr) return completions->announce(slots_, index) ? completions : nullptr;
    detail::futex_wake(slot.word, 1);
    return nullptr;
}

// Watches for the answer where one is about to come and sleeping is dear. False when it did not come.
bool Runtime::answer_comes(const Slot& slot) const noexcept {
    if (!answers_soon()) return false;
    const int64_t until = std::min(now_ns() + executors_->watch_ns(), slot.finish_by_ns);
    while (engine::is_live(slot.word.load(std::memory_order_acquire))) {
        if (now_ns() >= until) return false;
        sched_yield();
    }
    return true;
}

bool Runtime::wait(uint32_t index) {
    Slot& slot = slots_[index];
    if (answer_comes(slot) && state_of(slot.word.load(std::memory_order_acquire)) == State::primary) return true;
    const detail::PreciseTimers precise;
    for (;;) {
        const uint32_t word = slot.word.load(std::memory_order_acquire);
        const uint32_t generation = generation_of(word);
        switch (state_of(word)) {
            case State::failed:  // ours alone: nobody else touches a failed slot
                finish_rescue(index, generation, slot.by_rescue.reason);
                return true;
            case State::queued:
            case State::running: break;
            case State::rescue:  // another thread is a microsecond from the answer, or from saying that there is none
                detail::futex_wait_until(slot.word, word, NEVER_NS);
                continue;
            default: return true;
        }
        const detail::Wait ended = detail::futex_wait_until(slot.word, word, slot.finish_by_ns);
        if (ended == detail::Wait::interrupted) return false;
        if (ended != detail::Wait::timed_out) continue;
        const int64_t now = now_ns();
        sync_guard_.timer_overshot(now - slot.finish_by_ns, now);
        rescue(index, generation, Reason::timeout);
    }
}

bool Runtime::wait_group(Group& group, const std::vector<uint32_t>& slots) {
    const detail::PreciseTimers precise;
    std::vector<uint32_t> open(slots);
    for (;;) {
        const uint32_t remaining = group.remaining.load(std::memory_order_acquire);
        if (remaining == 0) return true;
        const int64_t now = now_ns();
        int64_t next = NEVER_NS;
        // Rows that are answered leave the list, rows whose time is up are rescued, the others say when to look again.
        std::erase_if(open, [&](uint32_t index) {
            Slot& slot = slots_[index];
            const uint32_t word = slot.word.load(std::memory_order_acquire);
            if (!engine::is_live(word)) return true;
            if (slot.finish_by_ns <= now) {
                rescue(index, generation_of(word), Reason::timeout);
                return true;
            }
            next = std::min(next, slot.finish_by_ns);
            return false;
        });
        const uint32_t left = group.remaining.load(std::memory_order_acquire);
        if (left == 0) return true;
        // `remaining` is woken only at 0, so a change on the way there must not end the wait: compare with what it is.
        const detail::Wait ended = detail::futex_wait_until(group.remaining, left, next);
        if (ended == detail::Wait::interrupted) return false;
        if (ended == detail::Wait::timed_out) {
            const int64_t woke = now_ns();
            sync_guard_.timer_overshot(woke - next, woke);
        }
    }
}

Outcome Runtime::outcome(uint32_t index) noexcept {
    const Slot& slot = slots_[index];
    const Side& side = slot.answer();
    return {slot.id,       slot.deployment->number(), slot.started_ns, slot.deadline_ns,
            side.ready_ns, side.source,               side.reason,     slot.ticket.priority};
}

void Runtime::give_back(uint32_t index) noexcept {
    (slots_[index].completions ? async_waiting_ : sync_waiting_).fetch_sub(1, std::memory_order_relaxed);
    slots_.drop_reference(index);
}

bool Runtime::abandon(uint32_t index) noexcept {
    const bool unanswered = take_from_executors(index, generation_of(slots_[index].word.load(std::memory_order_acquire)));
    // An asker that waits by itself is the only one to read the slot; a loop finds an answered one in its completions.
    if (unanswered || slots_[index].completions == nullptr) give_back(index);
    return unanswered;
}

void Runtime::abandon_row(uint32_t index) noexcept {
    Slot& slot = slots_[index];
    const uint32_t generation = generation_of(slot.word.load(std::memory_order_acquire));
    if (!take_from_executors(index, generation)) return;
    slot.by_rescue = {now_ns(), Source::default_value, Reason::closing};
    slot.word.store(state_word(generation, State::rescued), std::memory_order_release);
    settle_and_signal(index);
}

void Runtime::account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept {
    const auto source = static_cast<size_t>(outcome.source);
    const auto priority = static_cast<size_t>(outcome.priority);
    counters_.answers[priority][source][static_cast<size_t>(outcome.reason)].fetch_add(1, std::memory_order_relaxed);
    counters_.latency_ns[source].record(outcome.ready_ns - outcome.started_ns);
    if (outcome.ready_ns > outcome.deadline_ns) counters_.late_ready.fetch_add(1, std::memory_order_relaxed);
    if (returned_ns > outcome.deadline_ns) counters_.late_returned.fetch_add(1, std::memory_order_relaxed);
    if (!queued) return;
    counters_.returned_ns.record(returned_ns - outcome.started_ns);
    (synchronous ? sync_guard_ : async_guard_).returned_after(returned_ns - outcome.ready_ns, returned_ns);
}

}  // namespace engine
