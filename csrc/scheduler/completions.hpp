// How answers reach an event loop: finished slots on a stack, and one eventfd that is written only when the stack was
// empty, so that a burst of answers costs one wake-up.
//
// Order. A finisher pushes its slot and, where the stack was empty, writes the eventfd. The loop reads (clears) the
// eventfd and then takes the stack: a slot pushed after the take finds the stack empty and writes again, so no answer
// waits without a readable eventfd. A loop that polls stores polled_ = false and then looks at the stack once more; a
// finisher pushes and then loads polled_. Both pairs are sequentially consistent, so either the finisher signals or the
// loop sees the slot.
//
// Lifetime. A loop may take an answer before its finisher has signalled, by a look of its own or by another's signal,
// and be gone when the finisher does. So completions are counted: the loop has one reference, and each finisher takes
// one before it announces, which it gives back after the signal, or where none is due.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/slot_stack.hpp"

namespace engine::scheduler {

class Completions {
public:
    // Throws std::system_error where the process is out of file descriptors. Freed by the last release(); the loop has
    // the first reference.
    Completions();
    Completions(const Completions&) = delete;
    Completions& operator=(const Completions&) = delete;
    void retain() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept {
        const uint32_t before = references_.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "a reference is released by its owner, once");
        if (before == 1) delete this;
    }

    int fd() const noexcept { return fd_; }
    // Any thread, once per request (or once per group, by its first slot). True when the caller must signal(). A thread
    // that announces several answers signals once, at the end.
    [[nodiscard]] bool announce(SlotTable& table, uint32_t index) noexcept {
        ENGINE_ASSERT(!is_live(table[index].word.load(std::memory_order_relaxed)), "only an answer is announced");
        return done_.push(table, index, &Slot::next_done);
    }
    // Makes the eventfd readable, unless the loop is polling and will look by itself.
    void signal() noexcept;

    // While it polls, the loop looks at has_answers() in every iteration and gets no signal. stop_polling() is true
    // when an answer came at the last moment, for which nobody signals: the loop looks once more.
    void start_polling() noexcept { polled_.store(true, std::memory_order_seq_cst); }
    bool stop_polling() noexcept {
        polled_.store(false, std::memory_order_seq_cst);
        return has_answers();
    }
    bool has_answers() const noexcept { return !done_.empty(); }
    // The loop's thread: clears the eventfd and takes the answers, oldest first, linked by next_done.
    uint32_t take_all(SlotTable& table) noexcept;

    // Requests submitted and not yet taken. Only the loop's thread changes it, on a cache line no finisher touches.
    alignas(64) uint32_t pending = 0;

private:
    ~Completions();

    alignas(64) SlotStack done_;
    std::atomic<bool> polled_{false};
    std::atomic<uint32_t> references_{1};
    int fd_;
};

// One predict_many call in the batch lane. Its caller owns it and frees it only once `remaining` is 0.
struct Group {
    std::atomic<uint32_t> remaining{0};  // rows without an answer; a synchronous caller's futex
    uint32_t first = NO_SLOT;            // the slot that announces the whole group
};

// Tells the caller that its slot is answered, or failed and the caller's to finish. Afterwards the slot may belong to
// another request: the function reads nothing of it. Returns the loop that must still be signalled, and then released;
// or null. `held` is a loop that the caller has a reference to and is going to signal anyway.
[[nodiscard]] Completions* settle(SlotTable& slots, uint32_t index, const Completions* held = nullptr) noexcept;
// The same, and signals the loop at once.
void settle_and_signal(SlotTable& slots, uint32_t index) noexcept;

}  // namespace engine::scheduler
