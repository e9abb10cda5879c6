// A slot holds one request from the moment it is queued until its answer has been read.
//
// One 32-bit word, generation and state, decides who answers: whoever moves it out of `queued` or `running` by
// compare-and-swap has won, and everybody else drops what they have. Two references keep the slot alive, the asker's
// and the executor's, so nothing ever points into a caller's stack. The generation grows with every reuse, so a timer
// or a queue entry that outlived its request can tell.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/zeroed.hpp"
#include "scheduler/deployment.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"

namespace engine {

enum class State : uint32_t {
    free,
    queued,   // waits for an executor; live
    running,  // an executor is scoring it; live
    primary,  // answered by the primary
    failed,   // the primary failed or let it go: its asker runs the fallback (by_rescue.reason says why)
    rescue,   // its rescue has won and is working
    rescued,  // answered by the rescue
};

inline constexpr uint32_t STATE_BITS = 4;
inline constexpr uint32_t NO_SLOT = UINT32_MAX;

constexpr uint32_t state_word(uint32_t generation, State state) noexcept {
    return generation << STATE_BITS | static_cast<uint32_t>(state);
}
constexpr State state_of(uint32_t word) noexcept { return static_cast<State>(word & ((1u << STATE_BITS) - 1)); }
constexpr uint32_t generation_of(uint32_t word) noexcept { return word >> STATE_BITS; }
constexpr bool is_live(uint32_t word) noexcept {
    return state_of(word) == State::queued || state_of(word) == State::running;
}

class Completions;
struct Group;

struct Side {
    int64_t ready_ns = 0;  // when the answer was there
    Source source = Source::primary;
    Reason reason = Reason::ok;
};

struct alignas(64) Slot {
    std::atomic<uint32_t> word{0};        // generation and state; a synchronous asker's futex
    std::atomic<uint32_t> references{0};  // asker and executor
    std::atomic<uint32_t> next{NO_SLOT};  // link in the submission stack, then in the free list
    std::atomic<uint32_t> next_done{NO_SLOT};  // link in a completion stack
    int64_t started_ns = 0;
    int64_t deadline_ns = 0;
    int64_t finish_by_ns = 0;             // when the rescue takes over
    int64_t queued_ns = 0;
    int64_t predicted_ns = 0;             // the finish that admission expected
    Deployment* deployment = nullptr;     // one reference
    Completions* completions = nullptr;   // where to announce it; null for a synchronous asker
    Group* group = nullptr;               // the predict_many call it belongs to, or null
    void* user = nullptr;                 // the asker's own (a future)
    uint64_t id = 0;
    Ticket ticket;                        // how the policy counts it while queued; has its priority
    bool hedged = false;                  // the fallback's answer lies ready in rescue_out
    // What each side has to say; each writes only its own, so a late loser overwrites nothing.
    Side by_executor, by_rescue;

    const Side& answer() const noexcept {
        return state_of(word.load(std::memory_order_acquire)) == State::primary ? by_executor : by_rescue;
    }
};

// All slots, their rows and their answers, allocated once. acquire() and release() are lock-free.
class SlotTable {
public:
    SlotTable(uint32_t count, uint32_t row_bytes, uint32_t n_outputs);

    // A free slot with a fresh generation and both references, or NO_SLOT.
    uint32_t acquire() noexcept;
    void drop_reference(uint32_t index) noexcept;
    // One reference more, for somebody who has none. False where the slot is free; where it has been reused, it is
    // another request that is kept, which its generation tells.
    bool keep(uint32_t index) noexcept;

    Slot& operator[](uint32_t index) noexcept { return slots_[index]; }
    void* row(uint32_t index) noexcept { return rows_.get() + size_t{index} * row_stride_; }
    // The executor's and the rescue's answers lie apart, so a late loser overwrites nothing.
    double* primary_out(uint32_t index) noexcept { return outs_.get() + size_t{index} * 2 * n_outputs_; }
    double* rescue_out(uint32_t index) noexcept { return primary_out(index) + n_outputs_; }
    double* answer(uint32_t index) noexcept {
        return slots_[index].answer().source == Source::primary ? primary_out(index) : rescue_out(index);
    }
    uint32_t count() const noexcept { return count_; }
    uint32_t in_use() const noexcept { return in_use_.load(std::memory_order_relaxed); }

private:
    uint32_t count_, row_stride_, n_outputs_;
    ZeroedArray<Slot> slots_;
    ZeroedArray<std::byte> rows_;
    ZeroedArray<double> outs_;
    std::atomic<uint64_t> free_head_;  // tag (against ABA) and index
    std::atomic<uint32_t> used_{0};    // slots from here on have never been used
    std::atomic<uint32_t> in_use_{0};
};

// Slot indices pushed by many threads and taken all at once by one; the order of pushing is kept.
class SlotStack {
public:
    // True when the stack was empty: the consumer may need a wake-up.
    bool push(SlotTable& table, uint32_t index, std::atomic<uint32_t> Slot::*link) noexcept {
        uint32_t head = head_.load(std::memory_order_relaxed);
        do {
            (table[index].*link).store(head, std::memory_order_relaxed);
        } while (!head_.compare_exchange_weak(head, index, std::memory_order_seq_cst, std::memory_order_relaxed));
        return head == NO_SLOT;
    }
    // Everything pushed so far as a list, oldest first.
    uint32_t take_all(SlotTable& table, std::atomic<uint32_t> Slot::*link) noexcept {
        uint32_t newest = head_.exchange(NO_SLOT, std::memory_order_acquire);
        uint32_t list = NO_SLOT;
        while (newest != NO_SLOT) {
            const uint32_t older = (table[newest].*link).load(std::memory_order_relaxed);
            (table[newest].*link).store(list, std::memory_order_relaxed);
            list = newest;
            newest = older;
        }
        return list;
    }
    bool empty() const noexcept { return head_.load(std::memory_order_seq_cst) == NO_SLOT; }

private:
    std::atomic<uint32_t> head_{NO_SLOT};
};

}  // namespace engine
