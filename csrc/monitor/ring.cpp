#include "monitor/ring.hpp"

namespace engine::monitor {

Ring::Ring(uint32_t capacity, uint32_t features_max, uint32_t outputs_max)
    : mask_(std::bit_ceil(uint64_t{capacity < 2 ? 2 : capacity}) - 1),
      features_max_(features_max),
      outputs_max_(outputs_max) {
    const size_t bytes =
        sizeof(std::atomic<uint64_t>) + sizeof(Record) + outputs_max * sizeof(double) + features_max * sizeof(float);
    stride_ = (bytes + LINE - 1) / LINE * LINE;
    const size_t total = stride_ * (mask_ + 1);
    memory_.reset(new (std::align_val_t{LINE}) std::byte[total]);
    ENGINE_ASSERT(std::has_single_bit(mask_ + 1), "a ring's capacity is a power of two");
    ENGINE_ASSERT(stride_ % LINE == 0 && stride_ >= bytes, "a cell fills whole cache lines and holds its record");
    ENGINE_ASSERT(reinterpret_cast<uintptr_t>(memory_.get()) % LINE == 0, "the first cell starts a cache line");
    // Touched now, so that no producer pays for a page fault.
    std::memset(memory_.get(), 0, total);
    for (uint64_t position = 0; position <= mask_; ++position) {
        new (&cell(position)) std::atomic<uint64_t>(position);
    }
}

}  // namespace engine::monitor
