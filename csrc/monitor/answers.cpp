#include "monitor/answers.hpp"

#include <algorithm>
#include <bit>
#include <limits>

namespace engine::monitor {

AnswerMemory::AnswerMemory(uint32_t capacity, uint32_t n_outputs)
    : entries_(std::max(capacity, 1u)),
      outputs_(size_t{std::max(capacity, 1u)} * n_outputs),
      // At most half full, so that probes stay short and always meet an empty place.
      index_(std::bit_ceil(size_t{std::max(capacity, 1u)} * 2), EMPTY),
      n_outputs_(n_outputs) {
    ENGINE_ASSERT(std::has_single_bit(index_.size()), "the index wraps by a mask");
    ENGINE_ASSERT(index_.size() >= 2 * entries_.size(), "the index is at most half full");
}

size_t AnswerMemory::home(uint64_t id) const noexcept {
    // Ids count up, so their bits are spread first (the multiplier of Fibonacci hashing, Knuth vol. 3, 6.4).
    return static_cast<size_t>((id * 0x9E3779B97F4A7C15u) >> 20) & (index_.size() - 1);
}

size_t AnswerMemory::place_of(uint64_t id) const noexcept {
    const size_t mask = index_.size() - 1;
    size_t at = home(id);
    while (index_[at] != EMPTY && entries_[index_[at]].id != id) {
        at = (at + 1) & mask;
        ENGINE_ASSERT(at != home(id), "the index has an empty place");
    }
    ENGINE_ASSERT(index_[at] == EMPTY || entries_[index_[at]].used, "the index names only entries in use");
    return at;
}

void AnswerMemory::unindex(uint64_t id) noexcept {
    const size_t mask = index_.size() - 1;
    size_t hole = place_of(id);
    ENGINE_ASSERT(index_[hole] != EMPTY, "an entry in use is in the index");
    // A later entry that was pushed past the hole by a collision moves back into it. Probing would stop at the hole
    // otherwise and miss that entry (Knuth vol. 3, 6.4, algorithm R).
    for (size_t at = (hole + 1) & mask; index_[at] != EMPTY; at = (at + 1) & mask) {
        const size_t wanted = home(entries_[index_[at]].id);
        if (((at - wanted) & mask) >= ((at - hole) & mask)) {
            index_[hole] = index_[at];
            hole = at;
        }
    }
    index_[hole] = EMPTY;
}

Remembered* AnswerMemory::insert(uint64_t id, const double* outputs) noexcept {
    size_t place = place_of(id);
    if (index_[place] == EMPTY) {
        Remembered& oldest = entries_[next_];
        if (oldest.used) {
            ENGINE_ASSERT(size_ > 0, "an entry in use is counted");
            unindex(oldest.id);
            oldest.used = 0;
            --size_;
            place = place_of(id);  // the index may have moved
        }
        index_[place] = next_;
        next_ = next_ + 1 == entries_.size() ? 0 : next_ + 1;
        ++size_;
    }
    ENGINE_ASSERT(index_[place] < entries_.size(), "the index names a place in the circle");
    Remembered& entry = entries_[index_[place]];
    entry = Remembered{};
    entry.id = id;
    entry.used = 1;
    double* to = outputs_.data() + size_t{index_[place]} * n_outputs_;
    for (uint32_t i = 0; i < n_outputs_; ++i) to[i] = outputs ? outputs[i] : std::numeric_limits<double>::quiet_NaN();
    ENGINE_ASSERT(size_ <= entries_.size(), "a memory holds no more than its capacity");
    ENGINE_ASSERT(find(id) == &entry, "an answer is found after it was remembered");
    return &entry;
}

Remembered* AnswerMemory::find(uint64_t id) noexcept {
    const uint32_t at = index_[place_of(id)];
    return at == EMPTY ? nullptr : &entries_[at];
}

void AnswerMemory::copy(std::vector<Remembered>& entries, std::vector<double>& outputs, size_t most) const {
    const size_t n = std::min(most, entries_.size());
    entries.reserve(entries.size() + std::min(n, size_));
    outputs.reserve(outputs.size() + std::min(n, size_) * n_outputs_);
    for (size_t i = entries_.size() - n; i < entries_.size(); ++i) {
        const Remembered& entry = entries_[(next_ + i) % entries_.size()];
        if (!entry.used) continue;
        entries.push_back(entry);
        const double* from = this->outputs(&entry);
        outputs.insert(outputs.end(), from, from + n_outputs_);
    }
}

void AnswerMemory::erase(Remembered* entry) noexcept {
    ENGINE_ASSERT(entry->used && &entries_[place_in_circle(entry)] == entry, "only an entry in use is erased");
    ENGINE_ASSERT(size_ > 0, "an entry in use is counted");
    unindex(entry->id);
    entry->used = 0;
    --size_;
}

}  // namespace engine::monitor
