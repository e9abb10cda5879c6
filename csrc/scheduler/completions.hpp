// How answers reach an event loop: finished slots on a stack, and one eventfd that is written only when the stack was
// empty, so that a burst of answers costs one wake-up.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/slot.hpp"

namespace engine {

class Completions {
public:
    // Throws std::system_error where the process is out of file descriptors.
    Completions();
    ~Completions();
    Completions(const Completions&) = delete;
    Completions& operator=(const Completions&) = delete;

    int fd() const noexcept { return fd_; }
    // Any thread, once per request (or once per group, by its first slot). True when signal() is owed: whoever
    // announces several at once owes it once, at the end.
    [[nodiscard]] bool announce(SlotTable& table, uint32_t index) noexcept {
        return done_.push(table, index, &Slot::next_done);
    }
    // Makes the eventfd readable, unless the loop is polling and will look by itself.
    void signal() noexcept;

    // While it polls, the loop looks at has_answers() every turn and is not signalled. stop_polling() is true when an
    // answer came in at the last moment, for which nobody will signal: look once more.
    void start_polling() noexcept { polled_.store(true, std::memory_order_seq_cst); }
    bool stop_polling() noexcept {
        polled_.store(false, std::memory_order_seq_cst);
        return has_answers();
    }
    bool has_answers() const noexcept { return !done_.empty(); }
    // The loop's thread: clears the eventfd and takes what is done, oldest first, linked by next_done.
    uint32_t take_all(SlotTable& table) noexcept;

    // Requests submitted and not yet taken; only the loop's thread changes it.
    uint32_t pending = 0;

private:
    SlotStack done_;
    std::atomic<bool> polled_{false};
    int fd_;
};

// One predict_many call in the batch lane. Owned by its asker, which frees it only once `remaining` is 0.
struct Group {
    std::atomic<uint32_t> remaining{0};  // rows without an answer; a synchronous asker's futex
    uint32_t first = NO_SLOT;            // the slot that announces the whole group
};

}  // namespace engine
