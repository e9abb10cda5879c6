// An array of zeros that takes no memory before it is first written to: tables are sized for the worst case at the start,
// and a thousand idle engines cost what they use.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>

namespace engine {

template <class T>
class ZeroedArray {
    static_assert(std::is_trivially_destructible_v<T>);

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
    T& operator[](size_t index) const noexcept { return data_[index]; }

private:
    size_t bytes_;
    T* data_;
};

}  // namespace engine
