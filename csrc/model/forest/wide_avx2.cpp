// The walk over wide codes for AVX2: eight trees a register, four registers in flight. Nodes, reads beyond the last
// column and the order of additions: as wide_avx512.cpp says.
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/wide.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx2")

namespace engine::forest {
namespace {

// Codes and cuts are below 65,536 in 32-bit lanes, where signed comparisons serve. A comparison gives -1 where it
// holds.
template <int halves>
inline __attribute__((always_inline)) void walk(const WideView& forest, const std::uint16_t* codes, std::size_t group,
                                                __m256d* sums) noexcept {
    const auto* asks = reinterpret_cast<const int*>(forest.nodes);
    const auto* memory = reinterpret_cast<const int*>(codes);
    const __m256i low_half = _mm256_set1_epi32(0xffff);
    __m256i at[halves];
    __m256i next[halves];
    for (int h = 0; h < halves; ++h)
        at[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(forest.roots + group * lanes + 8 * h));
    for (;;) {
        __m256i walking = _mm256_setzero_si256();
        for (int h = 0; h < halves; ++h) {
            const __m256i ask = _mm256_i32gather_epi32(asks, at[h], 8);
            next[h] = _mm256_i32gather_epi32(asks + 1, at[h], 8);
            const __m256i cut = _mm256_srli_epi32(ask, 16);
            const __m256i here = _mm256_cmpgt_epi32(low_half, cut);  // not a leaf
            walking = _mm256_or_si256(walking, here);
            const __m256i column = _mm256_and_si256(ask, low_half);
            const __m256i code = _mm256_and_si256(_mm256_i32gather_epi32(memory, column, 2), low_half);
            at[h] = _mm256_add_epi32(at[h], _mm256_and_si256(here, next[h]));
            at[h] = _mm256_sub_epi32(at[h], _mm256_cmpgt_epi32(code, cut));  // no code is above a leaf's cut
        }
        if (_mm256_testz_si256(walking, walking)) break;
    }
    for (int h = 0; h < halves; ++h) {
        __m256d* mine = sums + h % 2 * 2;
        mine[0] = _mm256_add_pd(mine[0], _mm256_i32gather_pd(forest.values, _mm256_castsi256_si128(next[h]), 8));
        mine[1] = _mm256_add_pd(mine[1], _mm256_i32gather_pd(forest.values, _mm256_extracti128_si256(next[h], 1), 8));
    }
}

void score(const WideView& forest, const std::uint16_t* codes, std::size_t first, std::size_t end,
           double* sums) noexcept {
    ENGINE_ASSERT(first <= end && reinterpret_cast<std::uintptr_t>(sums) % 32 == 0, "sums lie on a line of the cache");
    __m256d accumulators[4];
    for (int i = 0; i < 4; ++i) accumulators[i] = _mm256_load_pd(sums + 4 * i);
    std::size_t g = first;
    for (; g + 2 <= end; g += 2) walk<4>(forest, codes, g, accumulators);
    for (; g < end; ++g) walk<2>(forest, codes, g, accumulators);
    for (int i = 0; i < 4; ++i) _mm256_store_pd(sums + 4 * i, accumulators[i]);
}

// Bit i of the words becomes code i, sixteen at a time: each lane keeps its own bit of the half word and compares it
// with itself, and a shift makes 1 of -1. The tail, fewer than sixteen, goes one by one, so nothing behind it is
// written.
void unpack(const std::uint32_t* words, std::size_t count, std::uint16_t* codes) noexcept {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const auto half = static_cast<short>(words[i / 32] >> i % 32);
        const __m256i set = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(half), bit), bit);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_srli_epi16(set, 15));
    }
    for (; i < count; ++i) codes[i] = words[i / 32] >> (i % 32) & 1;
}

}  // namespace

const WideKernels wide_avx2{score, unpack};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const WideKernels wide_avx2{nullptr, nullptr};
}

#endif
