#include "cache/load.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <ctime>
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

using Embedding = std::array<float, 384>;

void copy(void* value, void* into) { *static_cast<Embedding*>(into) = *static_cast<const Embedding*>(value); }

// Nanoseconds for which the calling thread had a processor.
int64_t cpu_ns() noexcept {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

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

Rate lookups_per_s(uint64_t threads, uint64_t entries, uint64_t lookups_a_thread) {
    // Keys do not fall evenly into shards.
    Cache cache((2 * entries + 32 * SHARDS_MAX) * (sizeof(Embedding) + ENTRY_BYTES), SHARDS_MAX);
    std::vector<Key> keys(entries);
    std::vector<Embedding> values(entries);
    Dropped dropped;
    for (uint64_t i = 0; i < entries; ++i) {
        keys[i] = key_of(i);
        values[i].fill(static_cast<float>(i));
        cache.put(siphash(SECRET, keys[i].data(), KEY_BYTES), &values[i], sizeof(Embedding), NEVER_EXPIRES, dropped);
    }
    ENGINE_ASSERT(dropped.empty(), "all keys fit");
    std::barrier start(static_cast<ptrdiff_t>(threads));
    std::vector<int64_t> began(threads), ended(threads), used(threads);
    std::atomic<uint64_t> right{0};
    std::vector<std::thread> running;
    for (uint64_t thread = 0; thread < threads; ++thread)
        running.emplace_back([&, thread] {
            const std::vector<uint32_t> drawn = zipf(entries, std::min<uint64_t>(lookups_a_thread, 1u << 16), thread);
            Embedding found{};
            uint64_t as_expected = 0;
            start.arrive_and_wait();
            began[thread] = now_ns();
            const int64_t used_before = cpu_ns();
            for (uint64_t i = 0, at = 0; i < lookups_a_thread; ++i, at = at + 1 == drawn.size() ? 0 : at + 1) {
                const Key& key = keys[drawn[at]];
                const void* value = cache.get(siphash(SECRET, key.data(), KEY_BYTES), 0, copy, &found);
                as_expected += value != nullptr && found.back() == static_cast<float>(drawn[at]);
            }
            used[thread] = cpu_ns() - used_before;
            ended[thread] = now_ns();
            right.fetch_add(as_expected, std::memory_order_relaxed);
        });
    for (std::thread& thread : running) thread.join();
    cache.clear(dropped);
    ENGINE_ASSERT(right == threads * lookups_a_thread, "every look-up finds the value of its key");
    const auto per_s = [](uint64_t count, int64_t ns) {
        return static_cast<double>(count) * 1e9 / static_cast<double>(ns);
    };
    Rate rate{
        per_s(right, *std::max_element(ended.begin(), ended.end()) - *std::min_element(began.begin(), began.end())),
        0.0};
    for (const int64_t ns : used) rate.per_cpu_s += per_s(lookups_a_thread, ns);
    return rate;
}

}  // namespace engine::cache
