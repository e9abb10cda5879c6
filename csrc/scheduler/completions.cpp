#include "scheduler/completions.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/futex.hpp"

namespace engine::scheduler {

Completions::Completions() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Completions::~Completions() { close(fd_); }

void Completions::signal() noexcept {
    if (polled_.load(std::memory_order_seq_cst)) return;
    const uint64_t one = 1;
    // The write cannot block or fail: the loop reads, and so clears, the counter between any two of our writes.
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
    ENGINE_ASSERT(written == sizeof one, "an eventfd takes every signal");
}

uint32_t Completions::take_all(SlotTable& table) noexcept {
    uint64_t count;
    // Clear first, take second: an announcement in between writes again, and the next call finds it.
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof count);
    return done_.take_all(table, &Slot::next_done);
}

namespace {

// The completions with a reference, where they must be signalled.
Completions* announce(Completions& completions, SlotTable& slots, uint32_t index, const Completions* held) noexcept {
    if (&completions == held) {
        [[maybe_unused]] const bool first = completions.announce(slots, index);
        return nullptr;
    }
    completions.retain();
    if (completions.announce(slots, index)) return &completions;
    completions.release();
    return nullptr;
}

}  // namespace

Completions* settle(SlotTable& slots, uint32_t index, const Completions* held) noexcept {
    Slot& slot = slots[index];
    // Read before anything tells the caller: from then on the slot may be given back and reused.
    Completions* completions = slot.completions;
    Group* group = slot.group;
    if (group != nullptr) {
        // The row's answer is released by this decrement, and seen by the thread that reads the 0 with acquire.
        const uint32_t before = group->remaining.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "a row of a group is settled once");
        if (before != 1) return nullptr;
        // A loop reads the group only when it is announced. A synchronous caller may have seen the 0 and freed the
        // group already; waking an address that nobody sleeps on is harmless.
        if (completions != nullptr) return announce(*completions, slots, group->first, held);
        futex_wake(group->remaining, 1);
        return nullptr;
    }
    if (completions != nullptr) return announce(*completions, slots, index, held);
    futex_wake(slot.word, 1);
    return nullptr;
}

void settle_and_signal(SlotTable& slots, uint32_t index) noexcept {
    if (Completions* loop = settle(slots, index)) {
        loop->signal();
        loop->release();
    }
}

}  // namespace engine::scheduler
