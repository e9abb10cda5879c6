// A synchronous caller's wait for its answer, and its fallback when time is up.
#include <sched.h>

#include <algorithm>

#include "base/futex.hpp"
#include "scheduler/runtime.hpp"

namespace engine::scheduler {

// Polls for the answer where it is about to come and sleeping is dear. False when it did not come.
bool Runtime::answer_comes(const Slot& slot) const noexcept {
    if (!answers_soon()) return false;
    const int64_t until = std::min(now_ns() + executors_->watch_ns(), slot.finish_by_ns);
    while (scheduler::is_live(slot.word.load(std::memory_order_acquire))) {
        if (now_ns() >= until) return false;
        sched_yield();
    }
    return true;
}

bool Runtime::wait(uint32_t index) {
    Slot& slot = slots_[index];
    ENGINE_ASSERT(slot.completions == nullptr && slot.group == nullptr, "a loop or a group never waits for one slot");
    if (answer_comes(slot) && state_of(slot.word.load(std::memory_order_acquire)) == State::primary) return true;
    const PreciseTimers precise;
    for (;;) {
        const uint32_t word = slot.word.load(std::memory_order_acquire);
        const uint32_t generation = generation_of(word);
        ENGINE_ASSERT(state_of(word) != State::free, "a caller waits for a slot that it has");
        switch (state_of(word)) {
            case State::failed:  // ours alone: nobody else touches a failed slot
                answer_by_fallback(index, generation, slot.by_fallback.reason);
                return true;
            case State::queued:
            case State::running: break;
            case State::falling_back:  // another thread is about to answer it, or to say that it failed
                futex_wait_until(slot.word, word, NEVER_NS);
                continue;
            default: return true;
        }
        const Wait ended = futex_wait_until(slot.word, word, slot.finish_by_ns);
        if (ended == Wait::interrupted) return false;
        if (ended != Wait::timed_out) continue;
        const int64_t now = now_ns();
        sync_margin_.timer_overshot(now - slot.finish_by_ns, now);
        fall_back(index, generation, Reason::timeout);
    }
}

// Answered rows leave the list; rows whose time is up are answered by the fallback and leave it too. Returns the
// instant at which the next row's time is up.
int64_t Runtime::fall_back_due(std::vector<uint32_t>& open) {
    const int64_t now = now_ns();
    int64_t next = NEVER_NS;
    std::erase_if(open, [&](uint32_t index) {
        Slot& slot = slots_[index];
        const uint32_t word = slot.word.load(std::memory_order_acquire);
        if (!scheduler::is_live(word)) return true;
        if (slot.finish_by_ns <= now) {
            fall_back(index, generation_of(word), Reason::timeout);
            return true;
        }
        next = std::min(next, slot.finish_by_ns);
        return false;
    });
    return next;
}

bool Runtime::wait_group(Group& group, const std::vector<uint32_t>& slots) {
    const PreciseTimers precise;
    std::vector<uint32_t> open(slots);
    while (group.remaining.load(std::memory_order_acquire) != 0) {
        const int64_t next = fall_back_due(open);
        // The futex is woken only at 0, so a change on the way there must not end the wait: compare with the latest.
        const uint32_t left = group.remaining.load(std::memory_order_acquire);
        if (left == 0) return true;
        const Wait ended = futex_wait_until(group.remaining, left, next);
        if (ended == Wait::interrupted) return false;
        if (ended != Wait::timed_out) continue;
        const int64_t woke = now_ns();
        sync_margin_.timer_overshot(woke - next, woke);
    }
    return true;
}

}  // namespace engine::scheduler
