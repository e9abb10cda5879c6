// One shard of the cache: S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction",
// SOSP 2023, algorithm 1), bounded by bytes instead of by entries.
//
// A new entry goes into the small queue, a tenth of the bytes. An entry that is used there before it reaches the end
// moves into the main queue; any other leaves, and its digest stays in the ghost queue for a while. A digest that comes
// back while it is a ghost goes into the main queue at once. The end of the main queue gets another round for each use,
// three at most. So a scan, whose entries are never used again, passes through the small queue alone, and a hit moves
// nothing: it only counts.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "base/buffers.hpp"
#include "base/mutex.hpp"
#include "cache/siphash.hpp"

namespace engine::cache {

// A value is an opaque pointer that the cache never looks into. `get` calls `Retain` with the value and the caller's
// context, while nobody can give the value up: it counts a reference, or copies the value. It must be short, throw
// nothing, and call nothing of the cache.
using Retain = void (*)(void* value, void* context);

// Values that the cache gives up. The caller releases them after the call, when no lock is held.
using Dropped = std::vector<void*>;

// An entry counts this beside its own bytes: its node, the node of a ghost that may stand beside it, and their places
// in the table. It bounds the number of nodes too.
inline constexpr uint64_t ENTRY_BYTES = 144;

// Where an expiry never comes.
inline constexpr int64_t NEVER_EXPIRES = INT64_MAX;

struct Counts {
    uint64_t hits = 0;      // look-ups that found a value
    uint64_t misses = 0;    // and those that did not, `expired` ones among them
    uint64_t expired = 0;   // look-ups that found a value whose time was up
    uint64_t inserted = 0;  // values that came in, `replaced` ones among them
    uint64_t replaced = 0;  // values that took the place of another one of their digest
    uint64_t rejected = 0;  // values larger than the shard, which never came in
    uint64_t evicted = 0;   // values that made room, those whose time was up among them
    uint64_t removed = 0;   // values that a caller removed
    uint64_t returned = 0;  // insertions of a digest that was a ghost
    uint64_t entries = 0;   // inserted - replaced - evicted - removed
    uint64_t bytes = 0;     // of all entries, with ENTRY_BYTES for each
    uint64_t ghosts = 0;

    Counts& operator+=(const Counts& other) noexcept;
};

class alignas(64) Shard {
public:
    // A shard reserves address space for the most entries that fit, and uses memory for those that it has.
    explicit Shard(uint64_t capacity_bytes);

    // Hot: once per look-up. The value, retained, or null where there is none or its time is up at `now_ns`.
    void* get(const Digest& digest, int64_t now_ns, Retain retain, void* context) noexcept;
    // Returns false where the value is larger than the shard: it is dropped then, as is an older one of the digest.
    bool put(const Digest& digest, void* value, uint64_t bytes, int64_t expires_ns, Dropped& dropped);
    // Returns whether there was a value.
    bool remove(const Digest& digest, Dropped& dropped);
    void clear(Dropped& dropped);
    Counts counts() const;
    // Walks everything and asserts what must hold; does nothing in a build without assertions.
    void check() const;

private:
    enum Queue : uint8_t { FREE, SMALL, MAIN, GHOST, QUEUES };

    // Nodes are numbered from 1; 0 is none. `chain` leads through the nodes of a bucket, `older` and `newer` through
    // those of a queue, and `chain` of a free node to the next free one.
    struct alignas(64) Node {
        Digest digest;
        void* value;
        int64_t expires_ns;
        uint64_t bytes;
        uint32_t chain;
        uint32_t older;
        uint32_t newer;
        uint8_t uses;
        Queue queue;
    };
    static_assert(sizeof(Node) == 64, "a look-up reads one cache line of a node");

    struct List {
        uint32_t newest = 0;
        uint32_t oldest = 0;
        uint64_t count = 0;
        uint64_t bytes = 0;
    };

    // Threads share a stripe where there are more of them.
    static constexpr size_t STRIPES = 8;

    // Readers of some threads. A reader counts itself in, and out by how it went; so it is inside while these differ.
    struct alignas(64) Stripe {
        std::atomic<uint64_t> entered{0};
        std::atomic<uint64_t> hits{0};
        std::atomic<uint64_t> misses{0};
        std::atomic<uint64_t> expired{0};
    };

    class Writing;

    void* look_up(const Digest& digest, int64_t now_ns, Retain retain, void* context, Stripe& stripe) noexcept;
    uint64_t bucket_of(const Digest& digest) const noexcept;
    uint32_t find(const Digest& digest) const noexcept;
    uint32_t make(const Digest& digest);
    void split_bucket() noexcept;
    void forget(uint32_t at) noexcept;
    void link(uint32_t at, Queue queue) noexcept;
    void unlink(uint32_t at) noexcept;
    void move(uint32_t at, Queue queue) noexcept;
    void drop(uint32_t at, Dropped& dropped);
    void evict(int64_t newest_ns, Dropped& dropped);
    void evict_small(Dropped& dropped);
    void evict_main(Dropped& dropped);
    void trim_ghosts() noexcept;
    uint64_t live_bytes() const noexcept { return lists_[SMALL].bytes + lists_[MAIN].bytes; }
    uint64_t live_count() const noexcept { return lists_[SMALL].count + lists_[MAIN].count; }

    // A hit writes to no line that other threads read, so hits of two threads in one shard cost what they cost in two.
    // A reader enters its stripe and then looks whether somebody writes. A writer says so and then looks into the
    // stripes. All four steps are sequentially consistent, so one of the two sees the other (Dekker). A reader that
    // sees a writer leaves and waits for the lock. A writer waits for the readers inside, which take no lock and call
    // nothing.
    mutable Mutex mutex_;
    mutable std::atomic<bool> writing_{false};
    mutable Stripe stripes_[STRIPES];
    const uint64_t capacity_;
    const uint64_t small_capacity_;
    const uint64_t nodes_max_;
    ZeroedArray<Node> nodes_;
    ZeroedArray<uint32_t> buckets_;
    // Linear hashing (Litwin, VLDB 1980): the table grows by one bucket at a time, so that no insertion pays for a new
    // table. There are buckets_mask_ + 1 + split_ buckets.
    uint64_t buckets_mask_ = 0;
    uint64_t split_ = 0;
    uint64_t nodes_used_ = 0;
    uint32_t free_ = 0;
    List lists_[QUEUES];
    Counts counts_;
};

}  // namespace engine::cache
