// A slot holds one request from the moment it is queued until its answer has been read.
//
// One 32-bit word, generation and state, decides who answers: the thread that moves it out of `queued` or `running` by
// compare-and-swap has won, and every other thread drops its own answer. Two references keep the slot alive, the
// caller's and the executor's, so nothing ever points into a caller's stack. The generation grows with every reuse, so
// a timer or a queue entry that outlived its request can tell.
//
//     free -> queued -> running -> primary                    an executor answered
//     queued or running -> falling_back -> fallback           one thread took it and answered without the primary
//     queued or running -> falling_back -> failed -> fallback the primary failed; its synchronous caller answers
//
// Order. A thread that writes a part of the slot for another thread does so before the store or exchange of `word`
// that hands the slot over, which is a release; the other thread loads `word` with acquire first. So the request's
// fields are visible to the executor that claims it, and the answer to the caller that finds it answered. A
// compare-and-swap that takes the slot over is both: it sees the request, and the winner's later writes follow it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/assert.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"

namespace engine::scheduler {

enum class State : uint32_t {
    free,
    queued,        // waits for an executor; live
    running,       // an executor is scoring it; live
    primary,       // answered by the primary
    failed,        // the primary failed or was not asked: its caller runs the fallback (by_fallback.reason says why)
    falling_back,  // one thread has taken it from the executors and is finding its answer
    fallback,      // answered without the primary
};

inline constexpr uint32_t STATE_BITS = 4;
inline constexpr uint32_t NO_SLOT = UINT32_MAX;
static_assert(static_cast<uint32_t>(State::fallback) < 1u << STATE_BITS);

constexpr uint32_t state_word(uint32_t generation, State state) noexcept {
    return generation << STATE_BITS | static_cast<uint32_t>(state);
}
constexpr State state_of(uint32_t word) noexcept { return static_cast<State>(word & ((1u << STATE_BITS) - 1)); }
constexpr uint32_t generation_of(uint32_t word) noexcept { return word >> STATE_BITS; }
// Never zero, so that a word of zeros, as fresh memory holds, is no request's.
constexpr uint32_t generation_after(uint32_t word) noexcept {
    const uint32_t next = generation_of(word + (1u << STATE_BITS));
    return next != 0 ? next : 1;
}
constexpr bool is_live(uint32_t word) noexcept {
    return state_of(word) == State::queued || state_of(word) == State::running;
}
constexpr bool is_answered(uint32_t word) noexcept {
    return state_of(word) == State::primary || state_of(word) == State::fallback;
}

class Completions;
class Lane;
struct Group;

// How one side answers: the executor with the primary, or the thread that falls back.
struct Side {
    int64_t ready_ns = 0;  // when the answer was ready
    Source source = Source::primary;
    Reason reason = Reason::ok;
};

struct alignas(64) Slot {
    std::atomic<uint32_t> word{0};             // generation and state; a synchronous caller's futex
    std::atomic<uint32_t> references{0};       // caller and executor
    std::atomic<uint32_t> next{NO_SLOT};       // link in the submission stack, then in the free list
    std::atomic<uint32_t> next_done{NO_SLOT};  // link in a completion stack
    int64_t started_ns = 0;
    int64_t deadline_ns = 0;
    int64_t finish_by_ns = 0;  // when the fallback takes over
    int64_t queued_ns = 0;
    int64_t predicted_ns = 0;            // the finish that admission expected
    Deployment* deployment = nullptr;    // one reference
    Lane* lane = nullptr;                // in whose queue it is
    Completions* completions = nullptr;  // where to announce it; null for a synchronous caller
    Group* group = nullptr;              // the predict_many call it belongs to, or null
    void* user = nullptr;                // the caller's own (a future)
    uint64_t id = 0;
    Ticket ticket;        // how the policy counts it while queued; has its priority
    bool hedged = false;  // the fallback's answer lies ready in fallback_out
    // Each side writes only its own, so a late loser overwrites nothing.
    Side by_executor, by_fallback;

    const Side& answer() const noexcept {
        const uint32_t seen = word.load(std::memory_order_acquire);
        ENGINE_ASSERT(is_answered(seen), "only an answered slot has an answer");
        return state_of(seen) == State::primary ? by_executor : by_fallback;
    }
};

}  // namespace engine::scheduler
