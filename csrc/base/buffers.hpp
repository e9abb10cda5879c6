// Memory for rows, answers and tables.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#include "base/assert.hpp"

namespace engine {

// Memory for one row or one answer: on the stack up to 2 KB, from the heap beyond.
class SmallBuffer {
public:
    SmallBuffer() noexcept {}  // not `= default`, which would zero the inline bytes in `SmallBuffer()`
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

// An array of zeros that takes no memory before its first write. Tables are sized for the worst case at the start, and
// a thousand idle engines cost only the slots they use.
template <class T>
class ZeroedArray {
    static_assert(std::is_trivially_destructible_v<T>, "no destructor runs");

public:
    explicit ZeroedArray(size_t count) : bytes_(std::max<size_t>(count * sizeof(T), 1)) {
        void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<T*>(memory);
    }
    ~ZeroedArray() { munmap(data_, bytes_); }
    ZeroedArray(const ZeroedArray&) = delete;
    ZeroedArray& operator=(const ZeroedArray&) = delete;

    T* get() const noexcept { return data_; }
    T& operator[](size_t index) const noexcept {
        ENGINE_ASSERT((index + 1) * sizeof(T) <= bytes_, "an index lies inside its array");
        return data_[index];
    }

private:
    size_t bytes_;
    T* data_;
};

}  // namespace engine
