// Memory for one row or one answer: on the stack up to 2 KB, from the heap beyond.
#pragma once

#include <cstddef>
#include <memory>

namespace engine {

class SmallBuffer {
public:
    SmallBuffer() noexcept {}  // on purpose not `= default`: the inline bytes stay uninitialised
    SmallBuffer(const SmallBuffer&) = delete;
    SmallBuffer& operator=(const SmallBuffer&) = delete;

    void* reserve(size_t bytes) {
        if (bytes <= sizeof inline_) return inline_;
        heap_.reset(new std::byte[bytes]);
        return heap_.get();
    }

private:
    alignas(64) std::byte inline_[2048];
    std::unique_ptr<std::byte[]> heap_;
};

}  // namespace engine
