#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "scheduler/completions.hpp"

namespace engine {

Completions::Completions() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Completions::~Completions() { close(fd_); }

void Completions::signal() noexcept {
    if (polled_.load(std::memory_order_seq_cst)) return;
    const uint64_t one = 1;
    // Cannot block or fill up: the counter is read, and so cleared, between any two of our writes.
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
}

uint32_t Completions::take_all(SlotTable& table) noexcept {
    uint64_t count;
    // Clear first, take second: an announcement in between writes again and is found by the next call.
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof count);
    return done_.take_all(table, &Slot::next_done);
}

}  // namespace engine
