// SipHash-2-4 with a result of 128 bits (Aumasson and Bernstein, INDOCRYPT 2012, and their reference for 128 bits).
//
// It is a pseudo-random function of a secret key. Whoever does not know the key cannot find two inputs with one digest
// other than by luck, which for n inputs is less than n^2 / 2^129. So a digest may stand for its input.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace engine::cache {

struct Digest {
    uint64_t low = 0;
    uint64_t high = 0;
    friend bool operator==(const Digest&, const Digest&) = default;
};

namespace detail {

struct SipState {
    uint64_t a, b, c, d;

    void round() noexcept {
        a += b;
        b = std::rotl(b, 13) ^ a;
        a = std::rotl(a, 32);
        c += d;
        d = std::rotl(d, 16) ^ c;
        a += d;
        d = std::rotl(d, 21) ^ a;
        c += b;
        b = std::rotl(b, 17) ^ c;
        c = std::rotl(c, 32);
    }
    void absorb(uint64_t word) noexcept {
        d ^= word;
        round();
        round();
        a ^= word;
    }
    uint64_t squeeze() noexcept {
        for (int i = 0; i < 4; ++i) round();
        return a ^ b ^ c ^ d;
    }
};

}  // namespace detail

// Hot: once per look-up. The digest of `length` bytes under a secret key.
inline Digest siphash(const Digest& key, const void* bytes, size_t length) noexcept {
    static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");
    detail::SipState state{key.low ^ 0x736f6d6570736575u, key.high ^ 0x646f72616e646f6du ^ 0xee,
                           key.low ^ 0x6c7967656e657261u, key.high ^ 0x7465646279746573u};
    const char* at = static_cast<const char*>(bytes);
    size_t left = length;
    for (; left >= 8; left -= 8, at += 8) {
        uint64_t word;
        std::memcpy(&word, at, 8);
        state.absorb(word);
    }
    // The last word holds what is left, and the length in its highest byte.
    uint64_t last = static_cast<uint64_t>(length) << 56;
    for (size_t i = 0; i < left; ++i) last |= static_cast<uint64_t>(static_cast<unsigned char>(at[i])) << (8 * i);
    state.absorb(last);
    Digest digest;
    state.c ^= 0xee;
    digest.low = state.squeeze();
    state.b ^= 0xdd;
    digest.high = state.squeeze();
    return digest;
}

}  // namespace engine::cache
