#include "scheduler/slot.hpp"

#include <new>

namespace engine {

namespace {

constexpr const char* REASON_NAMES[REASONS] = {
    "ok",      "late",          "stalled",           "full",               "timeout",        "released", "expired",
    "no_time", "primary_error", "primary_bad_shape", "primary_not_finite", "fallback_error", "closing",
    "shed",    "breaker_open",  "out_of_time",
};
constexpr const char* SOURCE_NAMES[SOURCES] = {"primary", "fallback", "default"};

constexpr uint64_t pack(uint64_t tag, uint32_t index) noexcept { return tag << 32 | index; }

}  // namespace

const char* reason_name(Reason reason) noexcept { return REASON_NAMES[static_cast<int>(reason)]; }
const char* source_name(Source source) noexcept { return SOURCE_NAMES[static_cast<int>(source)]; }

SlotTable::SlotTable(uint32_t count, uint32_t row_bytes, uint32_t n_outputs)
    : count_(count),
      row_stride_((row_bytes + 63) / 64 * 64),  // rows start on cache lines: no false sharing, aligned loads
      n_outputs_(n_outputs),
      slots_(count),
      rows_(size_t{count} * row_stride_),
      outs_(size_t{count} * 2 * n_outputs),
      free_head_(pack(0, NO_SLOT)) {}

uint32_t SlotTable::acquire() noexcept {
    uint64_t head = free_head_.load(std::memory_order_acquire);
    for (;;) {
        auto index = static_cast<uint32_t>(head);
        if (index != NO_SLOT) {
            // Another thread may take this slot first and write its link; the tag then fails our swap.
            const uint32_t next = slots_[index].next.load(std::memory_order_relaxed);
            if (!free_head_.compare_exchange_weak(head, pack((head >> 32) + 1, next), std::memory_order_acq_rel))
                continue;
        } else {
            index = used_.load(std::memory_order_relaxed);
            if (index == count_) return NO_SLOT;
            if (!used_.compare_exchange_weak(index, index + 1, std::memory_order_relaxed)) {
                head = free_head_.load(std::memory_order_acquire);
                continue;
            }
            new (&slots_[index]) Slot;
        }
        Slot& slot = slots_[index];
        const uint32_t generation = generation_of(slot.word.load(std::memory_order_relaxed)) + 1;
        slot.references.store(2, std::memory_order_relaxed);
        slot.group = nullptr;
        slot.completions = nullptr;
        slot.user = nullptr;
        slot.hedged = false;
        slot.by_executor = slot.by_rescue = Side{};
        // Still `free`: no stale timer can claim it until submission makes it `queued`.
        slot.word.store(state_word(generation, State::free), std::memory_order_relaxed);
        in_use_.fetch_add(1, std::memory_order_relaxed);
        return index;
    }
}

bool SlotTable::keep(uint32_t index) noexcept {
    std::atomic<uint32_t>& references = slots_[index].references;
    uint32_t count = references.load(std::memory_order_relaxed);
    while (count > 0)
        if (references.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) return true;
    return false;
}

void SlotTable::drop_reference(uint32_t index) noexcept {
    Slot& slot = slots_[index];
    if (slot.references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    slot.deployment->release();
    slot.deployment = nullptr;
    slot.word.store(state_word(generation_of(slot.word.load(std::memory_order_relaxed)), State::free),
                    std::memory_order_relaxed);
    in_use_.fetch_sub(1, std::memory_order_relaxed);
    uint64_t head = free_head_.load(std::memory_order_relaxed);
    do {
        slot.next.store(static_cast<uint32_t>(head), std::memory_order_relaxed);
    } while (!free_head_.compare_exchange_weak(head, pack((head >> 32) + 1, index), std::memory_order_release,
                                               std::memory_order_relaxed));
}

}  // namespace engine
