// A frozen map from UTF-8 text to a double: open addressing, at most half full, keys in one piece of memory.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/transform.hpp"

namespace engine::transform {

class Table {
public:
    Table(const std::vector<std::string>& keys, const std::vector<double>& values) : values_(values) {
        if (keys.size() != values.size()) throw std::invalid_argument("a table needs one value a key");
        if (keys.size() > kKeysMax) throw std::invalid_argument("a table holds at most 2^24 keys");
        std::size_t n_slots = 4;
        while (n_slots < keys.size() * 2) n_slots *= 2;
        mask_ = n_slots - 1;
        slots_.resize(n_slots);
        offsets_.push_back(0);
        for (const std::string& key : keys) insert(key);
    }

    // Hot: the entry's index, or -1. Equal hashes still compare the bytes, so a collision is never a wrong answer.
    std::int64_t find(Text text) const noexcept {
        const std::uint64_t hash = xxh64(text.data, text.size, 0);
        for (std::size_t at = hash & mask_; slots_[at].entry != 0; at = (at + 1) & mask_) {
            if (slots_[at].hash == hash && equals(slots_[at].entry - 1, text)) return slots_[at].entry - 1;
        }
        return -1;
    }

    double value(std::int64_t entry) const noexcept { return values_[static_cast<std::size_t>(entry)]; }
    std::size_t size() const noexcept { return values_.size(); }
    Text key(std::size_t entry) const noexcept {
        return {bytes_.data() + offsets_[entry], offsets_[entry + 1] - offsets_[entry]};
    }

private:
    static constexpr std::size_t kKeysMax = std::size_t{1} << 24;

    struct Slot {
        std::uint64_t hash = 0;
        std::uint32_t entry = 0;  // index + 1; 0 is an empty slot
    };

    bool equals(std::size_t entry, Text text) const noexcept {
        const Text have = key(entry);
        return have.size == text.size && (text.size == 0 || std::memcmp(have.data, text.data, text.size) == 0);
    }

    void insert(const std::string& key) {
        if (find({key.data(), key.size()}) >= 0) throw std::invalid_argument("a table holds a key twice: " + key);
        bytes_ += key;
        offsets_.push_back(bytes_.size());
        const std::uint64_t hash = xxh64(key.data(), key.size(), 0);
        std::size_t at = hash & mask_;
        while (slots_[at].entry != 0) at = (at + 1) & mask_;
        slots_[at] = {hash, static_cast<std::uint32_t>(offsets_.size() - 1)};
    }

    std::vector<double> values_;
    std::string bytes_;
    std::vector<std::size_t> offsets_;
    std::vector<Slot> slots_;
    std::size_t mask_ = 0;
};

}  // namespace engine::transform
