// XXH64, written from the algorithm description of the xxHash specification: five primes, four accumulators over
// stripes of 32 bytes, then 8, 4 and 1 bytes at a time, then the avalanche. Names follow the specification.
#include <bit>
#include <cstring>

#include "base/assert.hpp"
#include "transform/program.hpp"

namespace engine::transform {

namespace {

static_assert(std::endian::native == std::endian::little, "lanes are read as little-endian words");

constexpr std::uint64_t PRIME_1 = 0x9E3779B185EBCA87u;
constexpr std::uint64_t PRIME_2 = 0xC2B2AE3D27D4EB4Fu;
constexpr std::uint64_t PRIME_3 = 0x165667B19E3779F9u;
constexpr std::uint64_t PRIME_4 = 0x85EBCA77C2B2AE63u;
constexpr std::uint64_t PRIME_5 = 0x27D4EB2F165667C5u;

template <class Word>
Word read(const char* at) noexcept {
    Word word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

std::uint64_t round(std::uint64_t accumulator, std::uint64_t lane) noexcept {
    return std::rotl(accumulator + lane * PRIME_2, 31) * PRIME_1;
}

std::uint64_t merge(std::uint64_t hash, std::uint64_t accumulator) noexcept {
    return (hash ^ round(0, accumulator)) * PRIME_1 + PRIME_4;
}

// Steps 1 to 3 for an input of 32 bytes or more. Moves `at` past the last whole stripe.
std::uint64_t stripes(const char*& at, const char* end, std::uint64_t seed) noexcept {
    std::uint64_t lanes[4] = {seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1};
    for (; end - at >= 32; at += 32) {
        for (int i = 0; i < 4; ++i) lanes[i] = round(lanes[i], read<std::uint64_t>(at + 8 * i));
    }
    std::uint64_t hash =
        std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const std::uint64_t lane : lanes) hash = merge(hash, lane);
    return hash;
}

}  // namespace

std::uint64_t xxh64(const char* data, std::size_t size, std::uint64_t seed) noexcept {
    ENGINE_ASSERT(data != nullptr || size == 0, "a missing text is not hashed");
    const char* at = data;
    const char* const end = data + size;
    std::uint64_t hash = (size >= 32 ? stripes(at, end, seed) : seed + PRIME_5) + size;
    ENGINE_ASSERT(end - at < 32, "the stripes leave less than one stripe");
    for (; end - at >= 8; at += 8) {
        hash = std::rotl(hash ^ round(0, read<std::uint64_t>(at)), 27) * PRIME_1 + PRIME_4;
    }
    if (end - at >= 4) {
        hash = std::rotl(hash ^ (read<std::uint32_t>(at) * PRIME_1), 23) * PRIME_2 + PRIME_3;
        at += 4;
    }
    ENGINE_ASSERT(end - at < 4, "single bytes come last");
    for (; at != end; ++at) {
        hash = std::rotl(hash ^ (static_cast<unsigned char>(*at) * PRIME_5), 11) * PRIME_1;
    }
    hash = (hash ^ (hash >> 33)) * PRIME_2;
    hash = (hash ^ (hash >> 29)) * PRIME_3;
    return hash ^ (hash >> 32);
}

}  // namespace engine::transform
