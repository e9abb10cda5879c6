// Symmetric trees for AVX2: 64 rows in the bytes of two registers, one tree at a time. Single rows go to the plain C++
// kernel, because AVX2 has no byte permute over 64 columns.
//
// A tree's leaf is the number that its answers spell, first level first. A chunk has at most eight levels, so the
// number is a byte; a tree with fewer levels than its chunk answers left at the first ones (cut 255), which spells
// leading zeros. values[number] then lies inside the tree: it has 2^levels leaves at most.
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/symmetric.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx2")

namespace engine::forest {
namespace {

// leaf = 2 * leaf + (code > cut), in bytes. AVX2 compares no unsigned bytes: code <= cut where the smaller is the code,
// and that comparison's -1 cancels the 1.
inline __m256i answered(__m256i leaf, const std::uint8_t* codes, __m256i cut) noexcept {
    const __m256i code = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i left = _mm256_cmpeq_epi8(_mm256_min_epu8(code, cut), code);
    return _mm256_add_epi8(_mm256_add_epi8(leaf, leaf), _mm256_add_epi8(left, _mm256_set1_epi8(1)));
}

void score_rows(const SymmetricView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                double (*sums)[block_rows]) noexcept {
    alignas(64) std::uint8_t number[block_rows];
    for (std::size_t c = first; c < end; ++c) {
        const Chunk& chunk = forest.chunks[c];
        ENGINE_ASSERT(chunk.levels <= symmetric_depth_max && chunk.groups >= 1 && chunk.groups <= 4,
                      "a chunk has at most eight levels and four groups");
        for (std::size_t t = 0; t < chunk.groups * lanes; ++t) {
            __m256i low = _mm256_setzero_si256();
            __m256i high = _mm256_setzero_si256();
            for (std::uint32_t l = 0; l < chunk.levels; ++l) {
                const std::size_t at = (chunk.first_level + l) * chunk_trees + t;
                const std::uint8_t* asked = codes + forest.columns[at] * block_rows;
                const __m256i cut = _mm256_set1_epi8(static_cast<char>(forest.cuts[at]));
                low = answered(low, asked, cut);
                high = answered(high, asked + 32, cut);
            }
            _mm256_store_si256(reinterpret_cast<__m256i*>(number), low);
            _mm256_store_si256(reinterpret_cast<__m256i*>(number + 32), high);
            const double* values = forest.values + forest.value_base[c * chunk_trees + t];
            double* mine = sums[t % lanes];
            for (std::size_t r = 0; r < block_rows; ++r) mine[r] += values[number[r]];
        }
    }
}

}  // namespace

const SymmetricKernels symmetric_avx2{nullptr, score_rows};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const SymmetricKernels symmetric_avx2{nullptr, nullptr};
}

#endif
