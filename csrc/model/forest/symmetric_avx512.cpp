// Symmetric trees for AVX-512 (F, BW, VBMI): 64 trees a register for one row, or 64 rows a register for one tree.
//
// A chunk is 64 trees, and each of its levels 64 columns and 64 cuts side by side, so the two loads of a level read
// exactly that level. A leaf is the number that its answers spell, a byte; see symmetric_avx2.cpp on trees of fewer
// levels. Places without a tree have leaf 0 of value_base 0, which is 0.0. Trees t and t + 16 share a lane, so groups
// are added in ascending order, as the reference adds them.
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/symmetric.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")

namespace engine::forest {
namespace {

#include "model/forest/leaves_avx512.inc"

// All codes of a row lie in four registers at most, so asking 64 columns is one or two byte permutes. A permute over
// two registers reads the low seven bits of a column's number; its eighth bit chooses between the two pairs. Loads of
// whole registers read up to 256 bytes, which codes_bytes covers.
template <int registers>
void score_lanes_in(const SymmetricView& forest, const std::uint8_t* memory, std::size_t first, std::size_t end,
                    double* sums) noexcept {
    __m512i codes[registers];
    for (int i = 0; i < registers; ++i) codes[i] = _mm512_load_si512(memory + 64 * i);
    const __m512i one = _mm512_set1_epi8(1);
    __m512d low = _mm512_load_pd(sums);
    __m512d high = _mm512_load_pd(sums + 8);
    for (std::size_t c = first; c < end; ++c) {
        const Chunk& chunk = forest.chunks[c];
        ENGINE_ASSERT(chunk.levels <= symmetric_depth_max && chunk.groups >= 1 && chunk.groups <= 4,
                      "a chunk has at most eight levels and four groups");
        __m512i leaf = _mm512_setzero_si512();
        for (std::uint32_t l = 0; l < chunk.levels; ++l) {
            const std::size_t at = (chunk.first_level + l) * chunk_trees;
            const __m512i column = _mm512_loadu_si512(forest.columns + at);
            __m512i code;
            if constexpr (registers == 1) code = _mm512_permutexvar_epi8(column, codes[0]);
            if constexpr (registers >= 2) code = _mm512_permutex2var_epi8(codes[0], column, codes[1]);
            if constexpr (registers == 4) {
                const __mmask64 upper = _mm512_movepi8_mask(column);
                code = _mm512_mask_blend_epi8(upper, code, _mm512_permutex2var_epi8(codes[2], column, codes[3]));
            }
            const __mmask64 right = _mm512_cmpgt_epu8_mask(code, _mm512_loadu_si512(forest.cuts + at));
            leaf = _mm512_add_epi8(leaf, leaf);
            leaf = _mm512_mask_add_epi8(leaf, right, leaf, one);
        }
        alignas(64) std::uint8_t number[chunk_trees];
        _mm512_store_si512(number, leaf);
        for (std::size_t g = 0; g < chunk.groups; ++g) {
            const __m512i wide = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(number + g * lanes)));
            const __m512i base = _mm512_loadu_si512(forest.value_base + c * chunk_trees + g * lanes);
            const __m512i at = _mm512_add_epi32(wide, base);
            low = _mm512_add_pd(low, _mm512_i32gather_pd(_mm512_castsi512_si256(at), forest.values, 8));
            high = _mm512_add_pd(high, _mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), forest.values, 8));
        }
    }
    _mm512_store_pd(sums, low);
    _mm512_store_pd(sums + 8, high);
}

void score_lanes(const SymmetricView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept {
    if (forest.n_columns <= 64) return score_lanes_in<1>(forest, codes, first, end, sums);
    if (forest.n_columns <= 128) return score_lanes_in<2>(forest, codes, first, end, sums);
    score_lanes_in<4>(forest, codes, first, end, sums);
}

void score_rows(const SymmetricView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                double (*sums)[block_rows]) noexcept {
    const __m512i one = _mm512_set1_epi8(1);
    for (std::size_t c = first; c < end; ++c) {
        const Chunk& chunk = forest.chunks[c];
        ENGINE_ASSERT(chunk.levels <= symmetric_depth_max && chunk.groups >= 1 && chunk.groups <= 4,
                      "a chunk has at most eight levels and four groups");
        for (std::size_t t = 0; t < chunk.groups * lanes; ++t) {
            __m512i leaf = _mm512_setzero_si512();
            for (std::uint32_t l = 0; l < chunk.levels; ++l) {
                const std::size_t at = (chunk.first_level + l) * chunk_trees + t;
                const __m512i code = _mm512_load_si512(codes + forest.columns[at] * block_rows);
                const __m512i cut = _mm512_set1_epi8(static_cast<char>(forest.cuts[at]));
                leaf = _mm512_add_epi8(leaf, leaf);
                leaf = _mm512_mask_add_epi8(leaf, _mm512_cmpgt_epu8_mask(code, cut), leaf, one);
            }
            add_leaves(forest.values + forest.value_base[c * chunk_trees + t], 1u << chunk.levels, leaf,
                       sums[t % lanes]);
        }
    }
}

}  // namespace

const SymmetricKernels symmetric_avx512{score_lanes, score_rows};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const SymmetricKernels symmetric_avx512{nullptr, nullptr};
}

#endif
