// The latest answers by id, so that a label that comes later finds what was predicted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"

namespace engine::monitor {

// One answer without its outputs, which the memory keeps beside it.
struct Remembered {
    uint64_t id = 0;
    uint64_t deployment = 0;
    int64_t ready_ns = 0;
    uint8_t source = 0;
    uint8_t labelled = 0;  // 1 once a label was joined to it
    uint8_t used = 0;      // 0: the entry is empty
    uint8_t canary = 0;
    uint8_t valued = 0;      // 1 once its worth was joined to it
    uint8_t foreign = 0;     // 1 where another process gave the answer
    uint16_t n_outputs = 0;  // that the answer had; the others are NaN
};

static_assert(sizeof(Remembered) == 32, "Python reads it by the offsets in _sketch.pyx");

// A fixed number of answers in a circle: the oldest is forgotten first. An open-addressing index finds one by id
// (linear probing; deletion shifts later entries back, so there are no tombstones). All memory is taken by the
// constructor. Not thread-safe.
class AnswerMemory {
public:
    AnswerMemory(uint32_t capacity, uint32_t n_outputs);

    // Remembers an answer and copies n_outputs values (nullptr: NaN). An id that is remembered already is overwritten.
    Remembered* insert(uint64_t id, const double* outputs) noexcept;
    // nullptr where the id was never remembered, or is forgotten.
    Remembered* find(uint64_t id) noexcept;
    void erase(Remembered* entry) noexcept;
    // Appends the latest answers, at most `most`, the oldest first, and their outputs [n, n_outputs].
    void copy(std::vector<Remembered>& entries, std::vector<double>& outputs, size_t most = SIZE_MAX) const;

    const double* outputs(const Remembered* entry) const noexcept {
        return outputs_.data() + place_in_circle(entry) * n_outputs_;
    }
    uint32_t capacity() const noexcept { return static_cast<uint32_t>(entries_.size()); }
    uint32_t n_outputs() const noexcept { return n_outputs_; }
    size_t size() const noexcept { return size_; }

private:
    static constexpr uint32_t EMPTY = UINT32_MAX;

    size_t home(uint64_t id) const noexcept;
    // The place of an id in the index, or the empty place where it would go.
    size_t place_of(uint64_t id) const noexcept;
    void unindex(uint64_t id) noexcept;
    size_t place_in_circle(const Remembered* entry) const noexcept {
        ENGINE_ASSERT(entry >= entries_.data() && entry < entries_.data() + entries_.size(),
                      "an entry lies inside its memory");
        return static_cast<size_t>(entry - entries_.data());
    }

    std::vector<Remembered> entries_;  // a circle; the next answer goes to next_
    std::vector<double> outputs_;      // [capacity, n_outputs], in the order of entries_
    std::vector<uint32_t> index_;      // places in entries_, or EMPTY
    uint32_t n_outputs_;
    uint32_t next_ = 0;
    size_t size_ = 0;
};

}  // namespace engine::monitor
