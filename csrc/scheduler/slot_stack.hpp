// Slot indices pushed by many threads and taken all at once by one. take_all() returns them in the order of pushing.
//
// Order. push() writes the link before the exchange of the head, which releases it; take_all() swaps the whole list out
// with acquire, so it sees every link, and every field that was written before the push. There is no ABA: the consumer
// never exchanges one head for the next, and a producer's link to the head is right whatever happened to it meanwhile.
//
// take_all() also releases: a later push, which exchanges the same head, then sees all that the consumer wrote before
// the swap (the lane's `announced`, executors.hpp). push() and empty() are sequentially consistent, because a producer
// pushes and then reads a flag of the consumer (Completions::polled_), and the consumer writes the flag and then calls
// empty(). Weaker orders would allow both to miss the other.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/slot_table.hpp"

namespace engine::scheduler {

class SlotStack {
public:
    // True when the stack was empty: the consumer may need a wake-up.
    bool push(SlotTable& table, uint32_t index, std::atomic<uint32_t> Slot::*link) noexcept {
        ENGINE_ASSERT(index < table.count(), "a slot's index lies inside the table");
        uint32_t head = head_.load(std::memory_order_relaxed);
        do {
            ENGINE_ASSERT(head != index, "a slot is pushed once");
            (table[index].*link).store(head, std::memory_order_relaxed);
        } while (!head_.compare_exchange_weak(head, index, std::memory_order_seq_cst, std::memory_order_relaxed));
        return head == NO_SLOT;
    }
    // Everything pushed so far as a list, oldest first.
    uint32_t take_all(SlotTable& table, std::atomic<uint32_t> Slot::*link) noexcept {
        uint32_t newest = head_.exchange(NO_SLOT, std::memory_order_acq_rel);
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

}  // namespace engine::scheduler
