#include <array>
#include <atomic>
#include <barrier>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/key_hash.hpp"
#include "base/random.hpp"
#include "cache/cache.hpp"
#include "cache/load.hpp"
#include "tests/cache/twin.hpp"
#include "tests/check.hpp"

using namespace engine;
using cache::Cache;
using cache::Counts;
using cache::Digest;
using cache::Dropped;
using cache::ENTRY_BYTES;
using cache::NEVER_EXPIRES;
using cache::Shard;

namespace {

// A value is a number in a pointer, where nobody counts references.
void* number(uint64_t value) { return reinterpret_cast<void*>(value); }
uint64_t number(void* value) { return reinterpret_cast<uint64_t>(value); }
void keep(void*, void*) {}

// Two words that have nothing to do with each other, as of a real digest.
Digest named(uint64_t name) { return {draw(2 * name + 1), draw(2 * name + 2)}; }

constexpr uint64_t UNIT = 1000 - ENTRY_BYTES;  // a value that counts 1,000 bytes

struct Small {
    Shard shard;
    Dropped dropped;

    explicit Small(uint64_t entries) : shard(entries * 1000) {}
    ~Small() { shard.clear(dropped); }

    bool has(uint64_t name) {
        const uint64_t found = number(shard.get(named(name), 0, keep, nullptr));
        CHECK(found == 0 || found == name);
        return found != 0;
    }
    void put(uint64_t name) { CHECK(shard.put(named(name), number(name), UNIT, NEVER_EXPIRES, dropped)); }
};

}  // namespace

// The vectors of the reference, for the key 00 01 … 0f and the inputs "", "00" and "00 01 … 3e".
TEST(siphash_gives_the_digests_of_its_reference) {
    std::array<unsigned char, 63> input;
    for (size_t i = 0; i < input.size(); ++i) input[i] = static_cast<unsigned char>(i);
    const Digest key{0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    CHECK((cache::siphash(key, input.data(), 0) == Digest{0xe6a825ba047f81a3u, 0x930255c71472f66du}));
    CHECK((cache::siphash(key, input.data(), 1) == Digest{0x44af996bd8c187dau, 0x45fc229b11597634u}));
    CHECK((cache::siphash(key, input.data(), 63) == Digest{0x4a83502f77d15051u, 0x7cbd3f979a063e50u}));
}

TEST(digests_tell_length_content_and_key_apart) {
    const char bytes[32] = {};
    std::set<std::pair<uint64_t, uint64_t>> seen;
    for (uint64_t key = 0; key < 4; ++key)
        for (size_t length = 0; length <= sizeof bytes; ++length) {
            const Digest digest = cache::siphash({key, 7}, bytes, length);
            seen.insert({digest.low, digest.high});
        }
    CHECK(seen.size() == 4 * 33);
}

TEST(an_entry_without_a_use_passes_through_the_small_queue) {
    Small cache(10);
    for (uint64_t name = 1; name <= 10; ++name) cache.put(name);
    CHECK(cache.shard.counts().entries == 10);
    cache.put(11);
    // The small queue holds more than its tenth, so its oldest leaves first.
    CHECK(!cache.has(1));
    CHECK(cache.has(2));
    const Counts counts = cache.shard.counts();
    CHECK(counts.evicted == 1);
    CHECK(counts.ghosts == 1);
    CHECK(counts.bytes == 10'000);
    cache.shard.check();
}

TEST(a_use_moves_an_entry_into_the_main_queue_where_a_scan_leaves_it) {
    Small cache(10);
    cache.put(1);
    CHECK(cache.has(1));
    for (uint64_t name = 100; name < 1'000; ++name) cache.put(name);
    CHECK(cache.has(1));
    cache.shard.check();
}

TEST(a_ghost_that_comes_back_goes_into_the_main_queue) {
    Small cache(10);
    for (uint64_t name = 1; name <= 11; ++name) cache.put(name);
    CHECK(!cache.has(1));
    cache.put(1);
    CHECK(cache.shard.counts().returned == 1);
    // It outlives a scan from now on.
    for (uint64_t name = 100; name < 105; ++name) cache.put(name);
    CHECK(cache.has(1));
    cache.shard.check();
}

TEST(a_value_takes_the_place_of_the_one_before) {
    Small cache(10);
    cache.put(1);
    CHECK(cache.shard.put(named(1), number(7), UNIT, NEVER_EXPIRES, cache.dropped));
    CHECK(cache.dropped == Dropped{number(1)});
    CHECK(number(cache.shard.get(named(1), 0, keep, nullptr)) == 7);
    const Counts counts = cache.shard.counts();
    CHECK(counts.inserted == 2 && counts.replaced == 1 && counts.entries == 1);
}

TEST(a_value_larger_than_the_shard_never_comes_in) {
    Small cache(10);
    cache.put(1);
    CHECK(!cache.shard.put(named(2), number(2), 10'000, NEVER_EXPIRES, cache.dropped));
    CHECK(!cache.shard.put(named(3), number(3), UINT64_MAX, NEVER_EXPIRES, cache.dropped));
    CHECK((cache.dropped == Dropped{number(2), number(3)}));
    CHECK(cache.has(1));
    // The one before it is gone too: it is not the answer any more.
    CHECK(!cache.shard.put(named(1), number(4), 10'000, NEVER_EXPIRES, cache.dropped));
    CHECK(!cache.has(1));
    CHECK(cache.shard.counts().rejected == 3);
    cache.shard.check();
}

TEST(an_entry_is_no_answer_from_its_expiry_on) {
    Small cache(10);
    CHECK(cache.shard.put(named(1), number(1), UNIT, 1'000, cache.dropped));
    CHECK(number(cache.shard.get(named(1), 999, keep, nullptr)) == 1);
    CHECK(cache.shard.get(named(1), 1'000, keep, nullptr) == nullptr);
    const Counts counts = cache.shard.counts();
    CHECK(counts.hits == 1 && counts.misses == 1 && counts.expired == 1);
}

TEST(an_entry_whose_time_is_up_makes_room_however_often_it_was_used) {
    Small cache(10);
    CHECK(cache.shard.put(named(1), number(1), UNIT, now_ns() - 1, cache.dropped));
    for (int i = 0; i < 5; ++i) cache.shard.get(named(1), 0, keep, nullptr);
    for (uint64_t name = 2; name <= 11; ++name) cache.put(name);
    CHECK(cache.dropped == Dropped{number(1)});
    CHECK(cache.shard.counts().ghosts == 0);
}

TEST(a_removed_entry_is_gone_and_no_ghost) {
    Small cache(10);
    cache.put(1);
    CHECK(cache.shard.remove(named(1), cache.dropped));
    CHECK(!cache.shard.remove(named(1), cache.dropped));
    CHECK(!cache.has(1));
    CHECK(cache.dropped == Dropped{number(1)});
    const Counts counts = cache.shard.counts();
    CHECK(counts.removed == 1 && counts.entries == 0 && counts.ghosts == 0 && counts.bytes == 0);
}

TEST(whole_digests_are_compared) {
    Small cache(10);
    Dropped dropped;
    const Digest one{1, 2}, low{1, 3}, high{2, 2};
    CHECK(cache.shard.put(one, number(1), UNIT, NEVER_EXPIRES, dropped));
    CHECK(cache.shard.get(low, 0, keep, nullptr) == nullptr);
    CHECK(cache.shard.get(high, 0, keep, nullptr) == nullptr);
    CHECK(cache.shard.put(low, number(2), UNIT, NEVER_EXPIRES, dropped));
    CHECK(number(cache.shard.get(one, 0, keep, nullptr)) == 1);
    CHECK(number(cache.shard.get(low, 0, keep, nullptr)) == 2);
}

// Sizes, expiries and names at random: every call has the result of the slow twin.
TEST(a_shard_does_what_the_algorithm_says) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
        Random random(seed, 3);
        const uint64_t capacity = 2'000 + random.bits() % 60'000;
        Shard shard(capacity);
        twin::S3Fifo twin(capacity);
        Dropped dropped;
        uint64_t values = 0;
        for (int step = 0; step < 4'000; ++step) {
            // The expiry of an entry lies before any clock, or never comes: the shard evicts by the real clock.
            const uint64_t name = static_cast<uint64_t>(random.exponential(40.0));
            if (random.chance(0.6)) {
                const int64_t at = random.chance(0.5) ? 0 : 10;
                CHECK(number(shard.get(named(name), at, keep, nullptr)) == twin.get(name, at));
            } else if (random.chance(0.95)) {
                const uint64_t bytes = random.chance(0.01) ? capacity : random.bits() % 1'500;
                const int64_t expires = random.chance(0.1) ? 5 : NEVER_EXPIRES;
                const uint64_t value = ++values;
                CHECK(shard.put(named(name), number(value), bytes, expires, dropped) ==
                      twin.put(name, value, bytes, expires, now_ns()));
            } else {
                CHECK(shard.remove(named(name), dropped) == twin.remove(name));
            }
            if (step % 256 == 0) shard.check();
        }
        const Counts counts = shard.counts();
        CHECK(counts.entries == twin.entries());
        CHECK(counts.bytes == twin.bytes());
        CHECK(counts.ghosts == twin.ghosts());
        CHECK(dropped.size() + counts.entries == values);
        shard.clear(dropped);
        shard.check();
        CHECK(std::set<void*>(dropped.begin(), dropped.end()).size() == values);
    }
}

TEST(the_number_of_shards_follows_the_capacity) {
    CHECK(Cache(4'096, 0).shards() == 1);
    CHECK(Cache(uint64_t{9} << 20, 0).shards() == 2);
    CHECK(Cache(uint64_t{1} << 40, 0).shards() == 64);
    CHECK(Cache(uint64_t{1} << 20, 8).shards() == 8);
    CHECK(Cache(8'000, 8).value_bytes_max() == 1'000 - ENTRY_BYTES);
}

namespace {

// A value that knows how many hold it, so that a value given away after its release is seen.
struct Counted {
    std::atomic<int> holders{1};
    uint64_t name;

    explicit Counted(uint64_t of) : name(of) {}
};

void retain(void* value, void*) {
    const int before = static_cast<Counted*>(value)->holders.fetch_add(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "only a value that somebody holds is handed out");
}

void release(void* value) {
    Counted* counted = static_cast<Counted*>(value);
    if (counted->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete counted;
}

void release_all(Dropped& dropped) {
    for (void* value : dropped) release(value);
    dropped.clear();
}

}  // namespace

TEST(threads_get_put_and_remove_at_once) {
    constexpr int THREADS = 4, STEPS = 20'000;
    Cache shared(200'000, 4);
    std::barrier start(THREADS);
    std::atomic<uint64_t> gets{0}, found{0}, wrong{0};
    std::vector<std::thread> threads;
    for (int number_of_thread = 0; number_of_thread < THREADS; ++number_of_thread)
        threads.emplace_back([&, number_of_thread] {
            Random random(11, static_cast<uint64_t>(number_of_thread));
            Dropped dropped;
            start.arrive_and_wait();
            for (int step = 0; step < STEPS; ++step) {
                const uint64_t name = static_cast<uint64_t>(random.exponential(300.0));
                if (random.chance(0.7)) {
                    void* value = shared.get(named(name), 0, retain);
                    gets.fetch_add(1, std::memory_order_relaxed);
                    if (value == nullptr) continue;
                    found.fetch_add(1, std::memory_order_relaxed);
                    wrong.fetch_add(static_cast<Counted*>(value)->name != name, std::memory_order_relaxed);
                    release(value);
                } else if (random.chance(0.9)) {
                    shared.put(named(name), new Counted(name), 100 + name, NEVER_EXPIRES, dropped);
                } else if (random.chance(0.9)) {
                    shared.remove(named(name), dropped);
                } else {
                    const Counts counts = shared.counts();
                    wrong.fetch_add(counts.bytes > shared.capacity_bytes(), std::memory_order_relaxed);
                }
                release_all(dropped);
            }
        });
    for (std::thread& thread : threads) thread.join();
    shared.check();
    const Counts counts = shared.counts();
    CHECK(wrong == 0);
    CHECK(counts.hits == found);
    CHECK(counts.hits + counts.misses == gets);
    CHECK(counts.evicted > 0);
    Dropped dropped;
    shared.clear(dropped);
    release_all(dropped);
    CHECK(shared.counts().entries == 0);
}

TEST(the_load_of_the_benchmark_finds_all_its_keys) {
    CHECK(cache::lookups_per_s(1, 100, 10'000).per_s > 0.0);
    CHECK(cache::lookups_per_s(2, 100, 10'000).per_cpu_s > 0.0);
}

CHECK_MAIN()
