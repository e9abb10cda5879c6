#include "cache/cache.hpp"

#include <algorithm>
#include <bit>

namespace engine::cache {

namespace {

uint64_t shards_for(uint64_t capacity_bytes, uint64_t shards) {
    if (shards == 0) shards = std::bit_floor(std::max<uint64_t>(capacity_bytes / SHARD_BYTES_MIN, 1));
    return std::min(shards, SHARDS_MAX);
}

}  // namespace

Cache::Cache(uint64_t capacity_bytes, uint64_t shards)
    : capacity_(capacity_bytes),
      mask_(shards_for(capacity_bytes, shards) - 1),
      shards_(std::make_unique<std::unique_ptr<Shard>[]>(mask_ + 1)) {
    ENGINE_ASSERT(std::has_single_bit(mask_ + 1), "the number of shards is a power of two");
    ENGINE_ASSERT(capacity_ / (mask_ + 1) > ENTRY_BYTES, "a shard has room for an entry");
    for (uint64_t i = 0; i <= mask_; ++i) shards_[i] = std::make_unique<Shard>(capacity_ / (mask_ + 1));
}

Cache::~Cache() { ENGINE_ASSERT(counts().entries == 0, "a cache is cleared before it is destroyed"); }

void Cache::clear(Dropped& dropped) {
    for (uint64_t i = 0; i <= mask_; ++i) shards_[i]->clear(dropped);
}

Counts Cache::counts() const {
    Counts all;
    for (uint64_t i = 0; i <= mask_; ++i) all += shards_[i]->counts();
    return all;
}

void Cache::check() const {
    for (uint64_t i = 0; i <= mask_; ++i) shards_[i]->check();
}

}  // namespace engine::cache
