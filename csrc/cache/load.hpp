// Look-ups by native threads, for the benchmark: what the shards' locks cost where no interpreter stands in front.
#pragma once

#include <cstdint>

namespace engine::cache {

// Look-ups a second of all threads together. Each thread hashes keys of 40 bytes, drawn by Zipf's law with exponent 1
// from `entries` keys that are all in the cache, looks them up, and gives the value back.
double lookups_per_s(uint64_t threads, uint64_t entries, uint64_t lookups_a_thread);

}  // namespace engine::cache
