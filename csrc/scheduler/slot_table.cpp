#include "scheduler/slot_table.hpp"

#include <new>

#include "scheduler/deployment.hpp"

namespace engine::scheduler {

namespace {

constexpr uint64_t pack(uint64_t tag, uint32_t index) noexcept { return tag << 32 | index; }

}  // namespace

SlotTable::SlotTable(uint32_t count, uint32_t row_bytes, uint32_t n_outputs)
    : count_(count),
      row_stride_((row_bytes + 63) / 64 * 64),  // rows start on cache lines: no false sharing, aligned loads
      n_outputs_(n_outputs),
      slots_(count),
      rows_(size_t{count} * row_stride_),
      outs_(size_t{count} * 2 * n_outputs),
      free_head_(pack(0, NO_SLOT)) {}

// A slot without an owner, from the free list or never used before; NO_SLOT when all are in use.
uint32_t SlotTable::pop_free() noexcept {
    uint64_t head = free_head_.load(std::memory_order_acquire);
    for (;;) {
        auto index = static_cast<uint32_t>(head);
        if (index != NO_SLOT) {
            // Another thread may take this slot first and write its link; the tag then fails our exchange.
            const uint32_t next = slots_[index].next.load(std::memory_order_relaxed);
            if (free_head_.compare_exchange_weak(head, pack((head >> 32) + 1, next), std::memory_order_acq_rel))
                return index;
            continue;
        }
        index = used_.load(std::memory_order_relaxed);
        if (index == count_) return NO_SLOT;
        // Relaxed: the slot's memory is fresh zeros that no other thread has touched.
        if (used_.compare_exchange_weak(index, index + 1, std::memory_order_relaxed)) {
            ENGINE_ASSERT(index < count_, "no more slots than the table holds");
            new (&slots_[index]) Slot;
            return index;
        }
        head = free_head_.load(std::memory_order_acquire);
    }
}

void SlotTable::push_free(uint32_t index) noexcept {
    uint64_t head = free_head_.load(std::memory_order_relaxed);
    do {
        slots_[index].next.store(static_cast<uint32_t>(head), std::memory_order_relaxed);
    } while (!free_head_.compare_exchange_weak(head, pack((head >> 32) + 1, index), std::memory_order_release,
                                               std::memory_order_relaxed));
}

uint32_t SlotTable::acquire() noexcept {
    const uint32_t index = pop_free();
    if (index == NO_SLOT) return NO_SLOT;
    Slot& slot = slots_[index];
    const uint32_t word = slot.word.load(std::memory_order_relaxed);
    ENGINE_ASSERT(state_of(word) == State::free, "a slot in the free list is free");
    ENGINE_ASSERT(slot.references.load(std::memory_order_relaxed) == 0, "nobody refers to a free slot");
    ENGINE_ASSERT(slot.deployment == nullptr, "a free slot keeps no deployment");
    slot.references.store(2, std::memory_order_relaxed);
    slot.group = nullptr;
    slot.completions = nullptr;
    slot.user = nullptr;
    slot.hedged = false;
    slot.by_executor = slot.by_fallback = Side{};
    // Still `free`: no stale timer can claim it until submission makes it `queued`.
    slot.word.store(state_word(generation_after(word), State::free), std::memory_order_relaxed);
    [[maybe_unused]] const uint32_t before = in_use_.fetch_add(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before < count_, "no more slots are in use than there are");
    return index;
}

bool SlotTable::try_retain(uint32_t index) noexcept {
    std::atomic<uint32_t>& references = slots_[index].references;
    uint32_t count = references.load(std::memory_order_relaxed);
    // Never from zero: a free slot has no owner that could hand out a reference.
    while (count > 0)
        if (references.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) return true;
    return false;
}

void SlotTable::drop_reference(uint32_t index) noexcept {
    Slot& slot = slots_[index];
    // Release, so that this owner's accesses come before the slot's reuse. Acquire, so that the last owner's come after
    // all others'.
    const uint32_t before = slot.references.fetch_sub(1, std::memory_order_acq_rel);
    ENGINE_ASSERT(before > 0, "a reference is dropped by its owner, once");
    if (before != 1) return;
    const uint32_t word = slot.word.load(std::memory_order_relaxed);
    ENGINE_ASSERT(!is_live(word), "a request is answered or given up before its slot is free");
    ENGINE_ASSERT(slot.deployment != nullptr, "a slot in use keeps its deployment");
    slot.deployment->release();
    slot.deployment = nullptr;
    slot.word.store(state_word(generation_of(word), State::free), std::memory_order_relaxed);
    [[maybe_unused]] const uint32_t used = in_use_.fetch_sub(1, std::memory_order_relaxed);
    ENGINE_ASSERT(used > 0, "the count of slots in use stays above zero");
    push_free(index);
}

}  // namespace engine::scheduler
