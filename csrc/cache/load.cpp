#include "cache/load.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/random.hpp"
#include "cache/cache.hpp"

namespace engine::cache {

namespace {

constexpr size_t KEY_BYTES = 40;
constexpr Digest SECRET{0x243f6a8885a308d3u, 0x13198a2e03707344u};

using Key = std::array<char, KEY_BYTES>;

Key key_of(uint64_t number) {
    Key key{};
    const std::string text = "the question with number " + std::to_string(number);
    std::copy_n(text.data(), std::min(text.size(), key.size()), key.data());
    return key;
}

struct Value {
    std::atomic<uint32_t> holders{1};
};

void retain(void* value) noexcept { static_cast<Value*>(value)->holders.fetch_add(1, std::memory_order_relaxed); }

std::vector<uint32_t> zipf(uint64_t entries, uint64_t count, uint64_t stream) {
    std::vector<double> cumulated(entries);
    double sum = 0.0;
    for (uint64_t i = 0; i < entries; ++i) cumulated[i] = sum += 1.0 / static_cast<double>(i + 1);
    Random random(7, stream);
    std::vector<uint32_t> drawn(count);
    for (uint32_t& each : drawn) {
        const auto at = std::upper_bound(cumulated.begin(), cumulated.end(), random.uniform() * sum);
        each = static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint64_t>(at - cumulated.begin()), entries - 1));
    }
    return drawn;
}

}  // namespace

double lookups_per_s(uint64_t threads, uint64_t entries, uint64_t lookups_a_thread) {
    constexpr uint64_t VALUE_BYTES = 1'536;
    Cache cache(entries * 8 * (VALUE_BYTES + ENTRY_BYTES), SHARDS_MAX);
    std::vector<Key> keys(entries);
    const auto values = std::make_unique<Value[]>(entries);
    Dropped dropped;
    for (uint64_t i = 0; i < entries; ++i) {
        keys[i] = key_of(i);
        cache.put(siphash(SECRET, keys[i].data(), KEY_BYTES), &values[i], VALUE_BYTES, NEVER_EXPIRES, dropped);
    }
    ENGINE_ASSERT(dropped.empty(), "all keys fit");
    std::barrier start(static_cast<ptrdiff_t>(threads) + 1);
    std::atomic<uint64_t> found{0};
    std::vector<std::thread> running;
    for (uint64_t thread = 0; thread < threads; ++thread)
        running.emplace_back([&, thread] {
            const std::vector<uint32_t> drawn = zipf(entries, std::min<uint64_t>(lookups_a_thread, 1u << 16), thread);
            uint64_t hits = 0;
            start.arrive_and_wait();
            for (uint64_t i = 0, at = 0; i < lookups_a_thread; ++i, at = at + 1 == drawn.size() ? 0 : at + 1) {
                const Key& key = keys[drawn[at]];
                void* value = cache.get(siphash(SECRET, key.data(), KEY_BYTES), 0, retain);
                if (value == nullptr) continue;
                static_cast<Value*>(value)->holders.fetch_sub(1, std::memory_order_acq_rel);
                ++hits;
            }
            found.fetch_add(hits, std::memory_order_relaxed);
        });
    start.arrive_and_wait();
    const int64_t began = now_ns();
    for (std::thread& thread : running) thread.join();
    const double took_s = static_cast<double>(now_ns() - began) * 1e-9;
    cache.clear(dropped);
    return static_cast<double>(found.load()) / took_s;
}

}  // namespace engine::cache
