// A frozen map from UTF-8 text to a double.
//
// It is a hash table with linear probing and at most half its slots taken, so a search always meets an empty slot. A
// slot holds the key's Words beside the entry's number: for a key of up to 16 bytes they decide equality, so a search
// that finds a short key touches one slot and no key. All keys lie in one string, one behind the other.
#pragma once

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/assert.hpp"
#include "transform/program.hpp"

namespace engine::transform {

class Table {
public:
    Table(const std::vector<std::string>& keys, const std::vector<double>& values) : values_(values) {
        if (keys.size() != values.size()) throw std::invalid_argument("a table needs one value a key");
        if (keys.size() > Program::kCodesMax) throw std::invalid_argument("a table holds at most 2^24 keys");
        std::size_t n_slots = 4;
        while (n_slots < keys.size() * 2) n_slots *= 2;
        mask_ = n_slots - 1;
        slots_.resize(n_slots);
        offsets_.push_back(0);
        for (const std::string& key : keys) insert(key);
        ENGINE_ASSERT(offsets_.size() == values_.size() + 1, "every value has a key");
        ENGINE_ASSERT(2 * values_.size() <= slots_.size(), "a table is at most half full");
    }

    // Hot: the index of the entry with this key, or -1. Equal words are equal texts up to 16 bytes; a longer text
    // compares its bytes as well, so two texts with one hash are never confused.
    std::int64_t find(Text text) const noexcept {
        ENGINE_ASSERT(text.data != nullptr || text.size == 0, "a missing text is not looked up");
        const Words words = words_of(text);
        for (std::size_t at = words.hash() & mask_; slots_[at].entry != 0; at = (at + 1) & mask_) {
            const Slot& slot = slots_[at];
            ENGINE_ASSERT(slot.entry < offsets_.size(), "a slot names an entry of the table");
            if (slot.words.low == words.low && slot.words.high == words.high && slot.words.size == words.size &&
                (text.size <= 16 || std::memcmp(key(slot.entry - 1).data, text.data, text.size) == 0)) {
                return slot.entry - 1;
            }
        }
        return -1;
    }

    double value(std::int64_t entry) const noexcept {
        ENGINE_ASSERT(entry >= 0 && static_cast<std::size_t>(entry) < values_.size(), "an entry is inside the table");
        return values_[static_cast<std::size_t>(entry)];
    }
    std::size_t size() const noexcept { return values_.size(); }
    Text key(std::size_t entry) const noexcept {
        ENGINE_ASSERT(entry + 1 < offsets_.size(), "an entry is inside the table");
        return {bytes_.data() + offsets_[entry], offsets_[entry + 1] - offsets_[entry]};
    }

private:
    // A text of up to 16 bytes as itself, in two words that may overlap: with the size, they determine it. A longer
    // text as its XXH64 in `low`.
    struct Words {
        std::uint64_t low = 0;
        std::uint64_t high = 0;
        std::uint64_t size = 0;

        // The high bits of a product depend on all bits of its factors, so the result comes from high bits.
        std::size_t hash() const noexcept {
            const std::uint64_t mixed = (low ^ std::rotl(high, 23) ^ (size << 56)) * 0x9E3779B97F4A7C15u;
            return static_cast<std::size_t>((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93u >> 32);
        }
    };

    struct Slot {
        Words words;
        std::uint32_t entry = 0;  // the entry's index + 1; 0 marks an empty slot
    };

    template <class Word>
    static std::uint64_t word_at(const char* at) noexcept {
        Word word;
        std::memcpy(&word, at, sizeof word);
        return word;
    }

    static Words words_of(Text text) noexcept {
        const char* const data = text.data;
        const std::size_t size = text.size;
        if (size > 16) return {xxh64(data, size, 0), 0, size};
        if (size >= 8) return {word_at<std::uint64_t>(data), word_at<std::uint64_t>(data + size - 8), size};
        if (size >= 4) return {word_at<std::uint32_t>(data), word_at<std::uint32_t>(data + size - 4), size};
        if (size >= 2) return {word_at<std::uint16_t>(data), word_at<std::uint16_t>(data + size - 2), size};
        return {size == 0 ? 0 : word_at<std::uint8_t>(data), 0, size};
    }

    void insert(const std::string& key) {
        const Text text{key.data(), key.size()};
        if (find(text) >= 0) throw std::invalid_argument("a table holds a key twice: " + key);
        bytes_ += key;
        offsets_.push_back(bytes_.size());
        const Words words = words_of(text);
        std::size_t at = words.hash() & mask_;
        while (slots_[at].entry != 0) at = (at + 1) & mask_;
        slots_[at] = {words, static_cast<std::uint32_t>(offsets_.size() - 1)};
        ENGINE_ASSERT(find(text) == static_cast<std::int64_t>(offsets_.size()) - 2, "an inserted key is found");
    }

    std::vector<double> values_;
    std::string bytes_;                 // all keys
    std::vector<std::size_t> offsets_;  // key i is bytes_[offsets_[i] .. offsets_[i + 1])
    std::vector<Slot> slots_;           // 2^n of them
    std::size_t mask_ = 0;              // slots_.size() - 1
};

}  // namespace engine::transform
