// A cache of opaque values by digest: bounded by bytes, and cut into shards, each with a lock of its own for writers.
//
// It knows nothing of Python, of embeddings, or of how values are made. Their owner counts references (`Retain`). So a
// hit hands a value out without copying it, and an eviction gives it back for release once the lock is free.
#pragma once

#include <memory>

#include "cache/shard.hpp"

namespace engine::cache {

// Below this many bytes a shard the queues hold too few entries to tell which of them are worth keeping.
inline constexpr uint64_t SHARD_BYTES_MIN = uint64_t{4} << 20;
inline constexpr uint64_t SHARDS_MAX = 64;
inline constexpr uint64_t CAPACITY_BYTES_MIN = 4096;
inline constexpr uint64_t CAPACITY_BYTES_MAX = uint64_t{1} << 44;

class Cache {
public:
    // `shards` is a power of two up to SHARDS_MAX, or 0 for as many as the capacity is worth.
    Cache(uint64_t capacity_bytes, uint64_t shards);
    Cache(const Cache&) = delete;
    Cache& operator=(const Cache&) = delete;
    // Clear a cache before you destroy it, because nobody could release its values afterwards.
    ~Cache();

    void* get(const Digest& digest, int64_t now_ns, Retain retain, void* context = nullptr) noexcept {
        return shard_of(digest).get(digest, now_ns, retain, context);
    }
    bool put(const Digest& digest, void* value, uint64_t bytes, int64_t expires_ns, Dropped& dropped) {
        return shard_of(digest).put(digest, value, bytes, expires_ns, dropped);
    }
    bool remove(const Digest& digest, Dropped& dropped) { return shard_of(digest).remove(digest, dropped); }
    void clear(Dropped& dropped);
    Counts counts() const;
    void check() const;

    uint64_t capacity_bytes() const noexcept { return capacity_; }
    uint64_t shards() const noexcept { return mask_ + 1; }
    // The largest value that comes in: a shard holds it whole.
    uint64_t value_bytes_max() const noexcept { return capacity_ / shards() - ENTRY_BYTES; }

private:
    // The low word chooses the bucket, so the high word chooses the shard.
    Shard& shard_of(const Digest& digest) const noexcept { return *shards_[digest.high & mask_]; }

    const uint64_t capacity_;
    const uint64_t mask_;
    std::unique_ptr<std::unique_ptr<Shard>[]> shards_;
};

}  // namespace engine::cache
