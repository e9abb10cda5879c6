// The last answers by id, so that a label that comes later finds what was predicted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine::monitor {

struct Remembered {
    uint64_t id = 0;
    uint64_t deployment = 0;
    int64_t ready_ns = 0;
    uint8_t source = 0;
    uint8_t labelled = 0;
    uint8_t used = 0;
    uint8_t canary = 0;
};

// A fixed number of answers, the oldest forgotten first; an open-addressing index (linear probing, deletion by shifting
// back) finds one by id. All memory is taken at the start. Not thread-safe.
class AnswerMemory {
public:
    AnswerMemory(uint32_t capacity, uint32_t n_outputs);

    // Remembers an answer, copying n_outputs values (nullptr: NaN). An id that is there already is overwritten.
    Remembered* insert(uint64_t id, const double* outputs) noexcept;
    // nullptr where the id was never there or is forgotten.
    Remembered* find(uint64_t id) noexcept;
    void erase(Remembered* entry) noexcept;

    const double* outputs(const Remembered* entry) const noexcept {
        return outputs_.data() + static_cast<size_t>(entry - entries_.data()) * n_outputs_;
    }
    uint32_t capacity() const noexcept { return static_cast<uint32_t>(entries_.size()); }
    uint32_t n_outputs() const noexcept { return n_outputs_; }
    size_t size() const noexcept { return size_; }

private:
    static constexpr uint32_t EMPTY = UINT32_MAX;

    size_t home(uint64_t id) const noexcept;
    size_t place_of(uint64_t id) const noexcept;  // its place in the index, or the empty one where it would go
    void unindex(uint64_t id) noexcept;

    std::vector<Remembered> entries_;
    std::vector<double> outputs_;
    std::vector<uint32_t> index_;
    uint32_t n_outputs_;
    uint32_t next_ = 0;
    size_t size_ = 0;
};

}  // namespace engine::monitor
