// All slots of a runtime, their rows and their answers, allocated once. acquire() and drop_reference() are lock-free.
//
// Free slots form a stack (Treiber, 1986). Its head is one 64-bit word: the index of the first free slot, and a tag
// that every change of the head increments. Without the tag a thread that read head A and A's link could be delayed
// while A is taken, its link changes, and A comes back: its compare-and-swap would then succeed and install a stale
// link (ABA).
//
// Order. drop_reference() writes a slot's link and state before the release exchange of the head; acquire() loads the
// head with acquire, so it sees both, and everything that former owners wrote, because each gave up its reference by an
// acquire-release decrement before the last one pushed the slot.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/buffers.hpp"
#include "scheduler/slot.hpp"

namespace engine::scheduler {

class SlotTable {
public:
    SlotTable(uint32_t count, uint32_t row_bytes, uint32_t n_outputs);

    // A free slot with a fresh generation and both references, or NO_SLOT.
    uint32_t acquire() noexcept;
    void drop_reference(uint32_t index) noexcept;
    // One reference more, for a thread that has none. False where the slot is free. A slot that has been reused is kept
    // for its new request, as its generation tells.
    bool try_retain(uint32_t index) noexcept;

    Slot& operator[](uint32_t index) noexcept {
        ENGINE_ASSERT(index < count_, "a slot's index lies inside the table");
        return slots_[index];
    }
    void* row(uint32_t index) noexcept { return rows_.get() + size_t{index} * row_stride_; }
    // The executor's and the fallback's answers lie apart, so a late loser overwrites nothing.
    double* primary_out(uint32_t index) noexcept { return outs_.get() + size_t{index} * 2 * n_outputs_; }
    double* fallback_out(uint32_t index) noexcept { return primary_out(index) + n_outputs_; }
    double* answer(uint32_t index) noexcept {
        return slots_[index].answer().source == Source::primary ? primary_out(index) : fallback_out(index);
    }
    uint32_t count() const noexcept { return count_; }
    // Slots from here on have never been used.
    uint32_t used() const noexcept { return std::min(used_.load(std::memory_order_acquire), count_); }
    uint32_t in_use() const noexcept { return in_use_.load(std::memory_order_relaxed); }

private:
    uint32_t pop_free() noexcept;
    void push_free(uint32_t index) noexcept;

    uint32_t count_, row_stride_, n_outputs_;
    ZeroedArray<Slot> slots_;
    ZeroedArray<std::byte> rows_;
    ZeroedArray<double> outs_;
    std::atomic<uint64_t> free_head_;  // tag and index
    std::atomic<uint32_t> used_{0};    // slots from here on have never been used
    std::atomic<uint32_t> in_use_{0};
};

}  // namespace engine::scheduler
