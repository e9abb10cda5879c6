// A key's place between 0 and 2^64, the same in every process and on every machine: FNV-1a over the bytes (Fowler,
// Noll, Vo), then the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine {

constexpr uint64_t spread(uint64_t bits) noexcept {
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}

// The n-th draw of a sequence that visits every value once.
constexpr uint64_t draw(uint64_t n) noexcept { return spread(n * 0x9e3779b97f4a7c15u); }

inline uint64_t key_hash(const char* bytes, size_t length, uint64_t salt) noexcept {
    uint64_t hash = 0xcbf29ce484222325u ^ salt;
    for (size_t i = 0; i < length; ++i) hash = (hash ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3u;
    return spread(hash);
}

}  // namespace engine
