// The cache: any sequence of look-ups, insertions and removals does what the slow twin does, and what must hold holds.
//
// Input: two bytes for the capacity, then three bytes a call: what to do, a name, and a size.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.hpp"
#include "base/key_hash.hpp"
#include "cache/shard.hpp"
#include "tests/cache/twin.hpp"

namespace {

using namespace engine;
using cache::Digest;
using cache::Shard;

[[gnu::noinline]] void require(bool holds) {
    if (!holds) __builtin_trap();
}

void keep(void*, void*) {}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    const uint64_t capacity = 256 + 16u * (data[0] << 8 | data[1]) % 60'000;
    Shard shard(capacity);
    twin::S3Fifo twin(capacity);
    cache::Dropped dropped;
    uint64_t values = 0;
    for (size_t at = 2; at + 3 <= size && at < 6'000; at += 3) {
        const uint64_t name = data[at + 1];
        // Names share buckets, and whole words of their digests.
        const Digest digest{draw(name / 16), draw(name % 16)};
        const uint64_t bytes = 8u * data[at + 2];
        const int64_t expires = data[at] & 64 ? 5 : cache::NEVER_EXPIRES;
        const int64_t now = data[at] & 128 ? 10 : 0;
        switch (data[at] % 4) {
            case 0: require(shard.remove(digest, dropped) == twin.remove(name)); break;
            case 1:
                ++values;
                require(shard.put(digest, reinterpret_cast<void*>(values), bytes, expires, dropped) ==
                        twin.put(name, values, bytes, expires, now_ns()));
                break;
            default: require(reinterpret_cast<uint64_t>(shard.get(digest, now, keep, nullptr)) == twin.get(name, now));
        }
    }
    shard.check();
    const cache::Counts counts = shard.counts();
    require(counts.entries == twin.entries() && counts.bytes == twin.bytes() && counts.ghosts == twin.ghosts());
    require(dropped.size() + counts.entries == values);
    shard.clear(dropped);
    require(dropped.size() == values);
    return 0;
}
