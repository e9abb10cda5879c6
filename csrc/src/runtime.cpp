// The asker's side of the runtime: admission, waiting, rescue and reading the answer.
#include "engine/runtime.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "detail/futex.hpp"
#include "detail/runtime.hpp"

namespace engine {

namespace {

constexpr int GUARD_SEED_WAITS = 24;
constexpr int64_t GUARD_SEED_WAIT_NS = 30'000;
constexpr int64_t GUARD_PRIOR_NS = 1'000'000;
constexpr uint32_t FALLBACK_SEED_RUNS = 64;
constexpr int64_t LATE_FALLBACK_NS_MAX = 50'000;
constexpr size_t CALIBRATION_REPEATS = 5;
constexpr int64_t CALIBRATION_BUDGET_NS = 400'000'000;

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
    return status == ENGINE_SCORE_BAD_SHAPE ? Reason::primary_bad_shape : Reason::primary_error;
}

}  // namespace detail

Runtime::Runtime(const RuntimeLimits& limits, Deployment* deployment)
    : limits_(limits),
      slots_(limits.slots, limits.row_bytes, limits.n_outputs),
      cost_(limits.batch_rows_max),
      inline_cost_(std::max(limits.batch_rows_max, 64u)),
      policy_({limits.batch_rows_max, limits.slots, limits.executors}, cost_),
      sync_guard_(limits.miss_rate, cores()),
      async_guard_(limits.miss_rate, 1),  // one rescue thread and one loop drain what expires together
      current_(deployment),
      next_id_(limits.first_id) {
    deployment->retain();
    timers_inbox_.reserve(2 * size_t{limits.slots});
    seed_guards();
}

Runtime::~Runtime() {
    close(NEVER_NS);
    current_.load()->release();
}

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

int64_t Runtime::calibrate(const void* rows, uint32_t n_rows) {
    Deployment& deployment = *current();
    std::vector<double> out(size_t{n_rows} * limits_.n_outputs);
    float* scratch = detail::thread_scratch(size_t{n_rows} * limits_.n_features);
    const int64_t begun = now_ns();
    for (uint32_t batch = 1;; batch = std::min(batch * 2, n_rows)) {
        std::vector<int64_t> took;
        while (took.size() < CALIBRATION_REPEATS && (took.size() < 2 || now_ns() - begun < CALIBRATION_BUDGET_NS)) {
            const int64_t start = now_ns();
            if (deployment.score_primary(rows, batch, scratch, out.data()) != ENGINE_SCORE_OK) return 0;
            took.push_back(now_ns() - start);
        }
        const int64_t median = median_of(took);
        const std::lock_guard<std::mutex> lock(executors_lock_);
        if (batch <= limits_.batch_rows_max) cost_.prime(batch, median);
        inline_cost_.prime(batch, median);
        if (batch == n_rows) break;
    }
    if (deployment.has_fallback()) time_fallback(deployment, rows, n_rows, scratch, out.data());
    return inline_cost_.expected_ns(1);
}

void Runtime::time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows, float* scratch, double* out) {
    const auto* bytes = static_cast<const std::byte*>(rows);
    for (uint32_t i = 0; i < FALLBACK_SEED_RUNS; ++i) {
        const int64_t start = now_ns();
        deployment.score_fallback(bytes + size_t{i % n_rows} * deployment.row_bytes(), 1, scratch, out);
        const int64_t now = now_ns();
        sync_guard_.fallback_took(now - start, now);
        async_guard_.fallback_took(now - start, now);
    }
}

void Runtime::swap(Deployment* deployment) noexcept {
    deployment->retain();
    Deployment* before;
    {
        const std::lock_guard<std::mutex> lock(swap_lock_);
        before = current_.exchange(deployment, std::memory_order_acq_rel);
    }
    before->release();
}

Deployment* Runtime::retain_current() noexcept {
    const std::lock_guard<std::mutex> lock(swap_lock_);
    Deployment* deployment = current();
    deployment->retain();
    return deployment;
}

Side Runtime::fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason,
                                  double* out) {
    const int64_t start = now_ns();
    // A request that expired before it came is answered by the default at once. One whose rescue woke up too late has
    // nothing to lose by a few microseconds more for the better answer.
    const bool worth_it =
        sync_guard_.time_for_fallback(start, deadline_ns, 0) ||
        (reason != Reason::expired && start > deadline_ns && sync_guard_.terms().typical_ns <= LATE_FALLBACK_NS_MAX);
    if (deployment.has_fallback() && worth_it) {
        const int status = deployment.score_fallback(row, 1, detail::thread_scratch(limits_.n_features), out);
        const int64_t now = now_ns();
        if (status == ENGINE_SCORE_OK && detail::all_finite(out, limits_.n_outputs)) {
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

Outcome Runtime::answer_without_primary(Deployment& deployment, const void* row, int64_t started_ns,
                                        int64_t deadline_ns, Reason reason, double* out) {
    if (deadline_ns <= started_ns) {
        reason = Reason::expired;
    } else if (deployment.has_fallback() && !sync_guard_.time_for_fallback(started_ns, deadline_ns, 0)) {
        reason = Reason::no_time;
    }
    const Side side = fallback_or_default(deployment, row, deadline_ns, reason, out);
    return {next_id(), deployment.number(), started_ns, deadline_ns, side.ready_ns, side.source, side.reason};
}

namespace {

Reason refusal(Verdict verdict) noexcept {
    switch (verdict) {
        case Verdict::full: return Reason::full;
        case Verdict::stalled: return Reason::stalled;
        default: return Reason::late;
    }
}

}  // namespace

uint32_t Runtime::submit(const void* row, int64_t started_ns, int64_t deadline_ns, Completions* completions,
                         Group* group, void* user, bool wake, Outcome* refused, double* out) {
    Deployment* deployment = retain_current();
    const bool loop = completions != nullptr;
    std::atomic<uint32_t>& waiting = loop ? async_waiting_ : sync_waiting_;
    const Guard& guard = loop ? async_guard_ : sync_guard_;
    const int64_t finish_by =
        deadline_ns >= NEVER_NS ? NEVER_NS
                                : guard.rescue_at(started_ns, deadline_ns, waiting.load(std::memory_order_relaxed));
    const int64_t now = group ? now_ns() : started_ns;  // the rows of a group are queued one after the other

    Reason reason = Reason::closing;
    uint32_t index = NO_SLOT;
    if (!closing_.load(std::memory_order_seq_cst)) {
        const Verdict verdict = deadline_ns <= started_ns ? Verdict::late : policy_.admit(now, finish_by);
        reason = refusal(verdict);
        if (verdict == Verdict::admit && (index = slots_.acquire()) == NO_SLOT) reason = Reason::full;
    }
    if (index == NO_SLOT) {
        policy_.refused(now);
        *refused = answer_without_primary(*deployment, row, started_ns, deadline_ns, reason, out);
        deployment->release();
        return NO_SLOT;
    }

    Slot& slot = slots_[index];
    slot.started_ns = started_ns;
    slot.deadline_ns = deadline_ns;
    slot.finish_by_ns = finish_by;
    slot.queued_ns = now;
    slot.predicted_ns = policy_.predicted_finish_ns(now, finish_by);
    slot.deployment = deployment;
    slot.completions = completions;
    slot.group = group;
    slot.user = user;
    slot.id = next_id();
    slot.bucket = policy_.enter(now, finish_by);
    std::memcpy(slots_.row(index), row, limits_.row_bytes);
    waiting.fetch_add(1, std::memory_order_relaxed);
    const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed));
    slot.word.store(state_word(generation, State::queued), std::memory_order_release);
    // The executor first: it starts while this thread still sees to the rescue, which has time until finish_by.
    if (submitted_.push(slots_, index, &Slot::next) && wake) wake_executor();
    if (loop && finish_by < NEVER_NS) watch({finish_by, index, generation});
    // A close() that missed this request in its last look has set closing_ before it looked.
    if (closing_.load(std::memory_order_seq_cst)) rescue(index, generation, Reason::closing);
    return index;
}

bool Runtime::submit_many(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                          Completions* completions, Group* group, void* user, uint32_t* slots, Outcome* outcomes,
                          double* out) {
    const auto* bytes = static_cast<const std::byte*>(rows);
    // One count more than rows, held until the end: nobody can find the group complete while it is being filled.
    group->remaining.store(n + 1, std::memory_order_relaxed);
    uint32_t settled = 1;
    for (uint32_t i = 0; i < n; ++i) {
        slots[i] = submit(bytes + size_t{i} * limits_.row_bytes, started_ns, deadlines_ns[i], completions, group, user,
                          false, &outcomes[i], out + size_t{i} * limits_.n_outputs);
        if (slots[i] == NO_SLOT) ++settled;
        else group->first = slots[i];
        if ((i + 1) % limits_.batch_rows_max == 0) kick();
    }
    kick();
    return group->remaining.fetch_sub(settled, std::memory_order_acq_rel) == settled;
}

void Runtime::kick() noexcept {
    if (!submitted_.empty()) wake_executor();
}

void Runtime::wake_executor() noexcept {
    if (parked_.load(std::memory_order_seq_cst) == 0) return;
    work_.fetch_add(1, std::memory_order_seq_cst);
    detail::futex_wake(work_, 1);
}

// Moves a live slot to `rescue`: from here on its answer is this thread's to give.
bool Runtime::take_from_executors(uint32_t index, uint32_t generation) noexcept {
    Slot& slot = slots_[index];
    uint32_t word = slot.word.load(std::memory_order_acquire);
    while (generation_of(word) == generation && is_live(word)) {
        if (!slot.word.compare_exchange_weak(word, state_word(generation, State::rescue), std::memory_order_acq_rel))
            continue;
        if (state_of(word) == State::queued) policy_.leave(slot.bucket);
        return true;
    }
    return false;
}

void Runtime::rescue(uint32_t index, uint32_t generation, Reason reason) {
    if (take_from_executors(index, generation)) finish_rescue(index, generation, reason);
}

// The slot is in `rescue` and ours.
void Runtime::finish_rescue(uint32_t index, uint32_t generation, Reason reason) {
    Slot& slot = slots_[index];
    slot.by_rescue = fallback_or_default(*slot.deployment, slots_.row(index), slot.deadline_ns, reason,
                                         slots_.rescue_out(index));
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
    const int64_t until = std::min(now_ns() + watch_ns(), slot.finish_by_ns);
    while (is_live(slot.word.load(std::memory_order_acquire))) {
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
                finish_rescue(index, generation, slot.by_executor.reason);
                return true;
            case State::queued:
            case State::running: break;
            case State::rescue:  // closing: another thread is a microsecond from the answer
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
            if (!is_live(word)) return true;
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
    return {slot.id, slot.deployment->number(), slot.started_ns, slot.deadline_ns, side.ready_ns, side.source,
            side.reason};
}

void Runtime::give_back(uint32_t index) noexcept {
    (slots_[index].completions ? async_waiting_ : sync_waiting_).fetch_sub(1, std::memory_order_relaxed);
    slots_.drop_reference(index);
}

void Runtime::abandon(uint32_t index) noexcept {
    take_from_executors(index, generation_of(slots_[index].word.load(std::memory_order_acquire)));
    give_back(index);
}

void Runtime::account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept {
    const auto source = static_cast<size_t>(outcome.source);
    counters_.answers[source][static_cast<size_t>(outcome.reason)].fetch_add(1, std::memory_order_relaxed);
    counters_.latency_ns[source].record(outcome.ready_ns - outcome.started_ns);
    if (outcome.ready_ns <= outcome.deadline_ns) counters_.on_time_ready.fetch_add(1, std::memory_order_relaxed);
    if (returned_ns <= outcome.deadline_ns) counters_.on_time_returned.fetch_add(1, std::memory_order_relaxed);
    if (!queued) return;
    counters_.returned_ns.record(returned_ns - outcome.started_ns);
    (synchronous ? sync_guard_ : async_guard_).returned_after(returned_ns - outcome.ready_ns, returned_ns);
}

}  // namespace engine
