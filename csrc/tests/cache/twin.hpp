// S3-FIFO as the paper's algorithm 1 says it, but for one use where that wants two. Slow and obvious: lists, and a
// search through them. A shard must do the same for every sequence of calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>

#include "cache/shard.hpp"

namespace twin {

struct Entry {
    uint64_t name;
    uint64_t value;
    uint64_t bytes;
    int64_t expires_ns;
    int uses;
};

// Queues have their newest entry in front.
class S3Fifo {
public:
    explicit S3Fifo(uint64_t capacity) : capacity_(capacity) {}

    // The value, 0 for none.
    uint64_t get(uint64_t name, int64_t now_ns) {
        Entry* entry = find(small_, name);
        if (entry == nullptr) entry = find(main_, name);
        if (entry == nullptr || entry->expires_ns <= now_ns) return 0;
        entry->uses = std::min(entry->uses + 1, 3);
        return entry->value;
    }

    bool put(uint64_t name, uint64_t value, uint64_t bytes, int64_t expires_ns, int64_t now_ns) {
        int uses = 0;
        bool into_main = false;
        if (const Entry* old = find(small_, name)) {
            uses = old->uses;
        } else if (const Entry* old_main = find(main_, name)) {
            uses = old_main->uses;
            into_main = true;
        } else if (std::find(ghosts_.begin(), ghosts_.end(), name) != ghosts_.end()) {
            into_main = true;
        }
        erase(name);
        const uint64_t whole = bytes + engine::cache::ENTRY_BYTES;
        if (whole > capacity_) return false;
        while (total(small_) + total(main_) + whole > capacity_) evict(now_ns);
        (into_main ? main_ : small_).push_front({name, value, whole, expires_ns, uses});
        trim();
        return true;
    }

    bool remove(uint64_t name) {
        const bool there = find(small_, name) != nullptr || find(main_, name) != nullptr;
        if (there) erase(name);
        if (there) trim();
        return there;
    }

    uint64_t entries() const { return small_.size() + main_.size(); }
    uint64_t bytes() const { return total(small_) + total(main_); }
    uint64_t ghosts() const { return ghosts_.size(); }

private:
    using Queue = std::deque<Entry>;

    static Entry* find(Queue& queue, uint64_t name) {
        for (Entry& entry : queue)
            if (entry.name == name) return &entry;
        return nullptr;
    }
    static uint64_t total(const Queue& queue) {
        uint64_t sum = 0;
        for (const Entry& entry : queue) sum += entry.bytes;
        return sum;
    }
    void erase(uint64_t name) {
        const auto is_it = [name](const Entry& entry) { return entry.name == name; };
        std::erase_if(small_, is_it);
        std::erase_if(main_, is_it);
        std::erase(ghosts_, name);
    }
    void evict(int64_t now_ns) {
        const bool from_small = total(small_) > capacity_ / 10 || main_.empty();
        Queue& queue = from_small ? small_ : main_;
        Entry oldest = queue.back();
        queue.pop_back();
        if (oldest.expires_ns <= now_ns) return;
        if (from_small && oldest.uses > 0) {
            oldest.uses = 0;
            main_.push_front(oldest);
        } else if (!from_small && oldest.uses > 0) {
            --oldest.uses;
            main_.push_front(oldest);
        } else if (from_small) {
            ghosts_.push_front(oldest.name);
            trim();
        }
    }
    void trim() {
        while (ghosts_.size() > entries()) ghosts_.pop_back();
    }

    const uint64_t capacity_;
    Queue small_, main_;
    std::deque<uint64_t> ghosts_;
};

}  // namespace twin
