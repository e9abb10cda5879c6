// The walk over wide codes for AVX-512: sixteen trees in the lanes, four groups in flight, three gathers a step.
//
// A node is eight bytes: `ask` (column in the low half, cut in the high one) and `next` (nodes ahead to the left child;
// the right child follows). The gathers of the two read the two halves of the node that a lane stands on, and nothing
// beyond. A gathered code is four bytes. The low two are kept; the high two may lie behind the last column, where
// wide_codes has room. A leaf has the cut 65535: its lane stays where it is, and `next` is the number of its value.
// Additions: lane l to accumulator l, groups in ascending order, as the reference does.
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/wide.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512bw")

namespace engine::forest {
namespace {

#include "model/mask_bits.inc"

template <int groups>
inline __attribute__((always_inline)) void walk(const WideView& forest, const std::uint16_t* codes, std::size_t group,
                                                __m512d& low, __m512d& high) noexcept {
    const auto* asks = reinterpret_cast<const char*>(forest.nodes);
    const __m512i half = _mm512_set1_epi32(0xffff);
    const __m512i leaf = _mm512_set1_epi32(static_cast<int>(wide_leaf));
    const __m512i one = _mm512_set1_epi32(1);
    __m512i at[groups];
    __m512i next[groups];
    for (int g = 0; g < groups; ++g) at[g] = _mm512_loadu_si512(forest.roots + (group + g) * lanes);
    for (;;) {
        unsigned walking = 0;
        for (int g = 0; g < groups; ++g) {
            const __m512i ask = _mm512_i32gather_epi32(at[g], asks, 8);
            next[g] = _mm512_i32gather_epi32(at[g], asks + 4, 8);
            const __mmask16 here = _mm512_cmplt_epu32_mask(ask, leaf);
            walking |= bits_of(here);
            const __m512i code = _mm512_and_si512(_mm512_i32gather_epi32(_mm512_and_si512(ask, half), codes, 2), half);
            const __mmask16 right = _mm512_mask_cmpgt_epu32_mask(here, code, _mm512_srli_epi32(ask, 16));
            at[g] = _mm512_mask_add_epi32(at[g], here, at[g], next[g]);
            at[g] = _mm512_mask_add_epi32(at[g], right, at[g], one);
        }
        if (walking == 0) break;
    }
    for (int g = 0; g < groups; ++g) {
        low = _mm512_add_pd(low, _mm512_i32gather_pd(_mm512_castsi512_si256(next[g]), forest.values, 8));
        high = _mm512_add_pd(high, _mm512_i32gather_pd(_mm512_extracti64x4_epi64(next[g], 1), forest.values, 8));
    }
}

void score(const WideView& forest, const std::uint16_t* codes, std::size_t first, std::size_t end,
           double* sums) noexcept {
    ENGINE_ASSERT(first <= end && reinterpret_cast<std::uintptr_t>(sums) % 64 == 0, "sums lie on a line of the cache");
    __m512d low = _mm512_load_pd(sums);
    __m512d high = _mm512_load_pd(sums + 8);
    std::size_t g = first;
    for (; g + 4 <= end; g += 4) walk<4>(forest, codes, g, low, high);
    for (; g < end; ++g) walk<1>(forest, codes, g, low, high);
    _mm512_store_pd(sums, low);
    _mm512_store_pd(sums + 8, high);
}

// Bit i of the words becomes code i, by a register of ones under a mask. The store is masked too: nothing behind code
// count - 1 is written, and word count / 32 is read only where it has a bit of ours.
void unpack(const std::uint32_t* words, std::size_t count, std::uint16_t* codes) noexcept {
    for (std::size_t i = 0; i < count; i += 32) {
        const __mmask32 there = count - i < 32 ? (1u << (count - i)) - 1 : ~0u;
        _mm512_mask_storeu_epi16(codes + i, there, _mm512_maskz_set1_epi16(words[i / 32], 1));
    }
}

}  // namespace

const WideKernels wide_avx512{score, unpack};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const WideKernels wide_avx512{nullptr, nullptr};
}

#endif
