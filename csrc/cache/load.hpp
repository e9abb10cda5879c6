// Look-ups by native threads, for the benchmark: what threads cost each other where no interpreter stands in front.
#pragma once

#include <cstdint>

namespace engine::cache {

struct Rate {
    double per_s;  // look-ups of all threads together, a second
    double
        per_cpu_s;  // the same where every thread had a processor for itself: the sum of look-ups a second of its own
};

// Each thread hashes keys of 40 bytes, drawn by Zipf's law with exponent 1
// from `entries` keys that are all in the cache, looks them up, and copies their embeddings of 384 numbers.
Rate lookups_per_s(uint64_t threads, uint64_t entries, uint64_t lookups_a_thread);

}  // namespace engine::cache
