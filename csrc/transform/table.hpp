// A frozen map from UTF-8 text to a double: open addressing, at most half full, keys in one piece of memory.
#pragma once

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "transform/program.hpp"

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

    // Hot: the entry's index, or -1. The words of a text of up to 16 bytes are the text, so equal words need no further
    // look; longer texts compare their bytes. A collision of hashes is never a wrong answer.
    std::int64_t find(Text text) const noexcept {
        const Words words = words_of(text);
        for (std::size_t at = words.hash() & mask_; slots_[at].entry != 0; at = (at + 1) & mask_) {
            const Slot& slot = slots_[at];
            if (slot.words.low == words.low && slot.words.high == words.high && slot.words.size == words.size &&
                (text.size <= 16 || std::memcmp(key(slot.entry - 1).data, text.data, text.size) == 0)) {
                return slot.entry - 1;
            }
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

    // Of a short text its bytes, in two words that may overlap; of a long one its hash.
    struct Words {
        std::uint64_t low = 0;
        std::uint64_t high = 0;
        std::uint64_t size = 0;

        // The high bits of a product depend on all bits of its factors.
        std::size_t hash() const noexcept {
            const std::uint64_t mixed = (low ^ std::rotl(high, 23) ^ (size << 56)) * 0x9E3779B97F4A7C15u;
            return static_cast<std::size_t>((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93u >> 32);
        }
    };

    struct Slot {
        Words words;
        std::uint32_t entry = 0;  // index + 1; 0 is an empty slot
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
    }

    std::vector<double> values_;
    std::string bytes_;
    std::vector<std::size_t> offsets_;
    std::vector<Slot> slots_;
    std::size_t mask_ = 0;
};

}  // namespace engine::transform
