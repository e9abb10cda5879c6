// Coded forest kernels for AVX-512 (F, BW, DQ, VL, VBMI).
//
// lanes: sixteen trees in the lanes of a register, four groups of them in flight, because a gather takes some twenty
// cycles and a walk is a chain of gathers. All codes of a row lie in one or two registers, so asking a feature is one
// byte permute; beyond 128 columns it is a gather. Giving a register the next group as soon as its own trees have ended
// saves 15 % of the gathers but, for its branches, no more than 2 % of the time; it was not kept.
// rows: sixty-four rows in the bytes of a register. Each split is compared once for all of them; which rows reach a
// place is one 64-bit mask.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "model/forest/coded.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi2")

namespace engine::forest {
namespace {

// One row into codes.

inline unsigned below16(const float* cuts, __m512 x) noexcept {
    return static_cast<unsigned>(_mm_popcnt_u32(_mm512_cmp_ps_mask(_mm512_loadu_ps(cuts), x, _CMP_LT_OQ)));
}
inline unsigned below16(const double* cuts, __m512d x) noexcept {
    const unsigned low = _mm512_cmp_pd_mask(_mm512_loadu_pd(cuts), x, _CMP_LT_OQ);
    const unsigned high = _mm512_cmp_pd_mask(_mm512_loadu_pd(cuts + 8), x, _CMP_LT_OQ);
    return static_cast<unsigned>(_mm_popcnt_u32(low | high << 8));
}
inline __m512 spread(float x) noexcept { return _mm512_set1_ps(x); }
inline __m512d spread(double x) noexcept { return _mm512_set1_pd(x); }

#include "model/forest/code_row.inc"

// Trees in lanes.

enum Asking { one_register, two_registers, gathered };

template <Asking how>
struct Codes {
    __m512i low, high;
    const std::uint8_t* memory;

    // The code of the column in byte 0 of each 32-bit lane.
    inline __m512i of(__m512i words) const noexcept {
        constexpr __mmask64 byte0 = 0x1111111111111111u;
        if constexpr (how == one_register) return _mm512_maskz_permutexvar_epi8(byte0, words, low);
        if constexpr (how == two_registers) return _mm512_maskz_permutex2var_epi8(byte0, low, words, high);
        const __m512i byte = _mm512_set1_epi32(255);
        return _mm512_and_si512(_mm512_i32gather_epi32(_mm512_and_si512(words, byte), memory, 1), byte);
    }
};

template <Asking how, int groups>
inline __attribute__((always_inline)) void walk(const CodedView& forest, const Codes<how>& codes, std::size_t group,
                                                __m512d& sums_low, __m512d& sums_high) noexcept {
    const __m512i byte = _mm512_set1_epi32(255);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i at[groups];
    __m512i words[groups];
    for (int g = 0; g < groups; ++g) at[g] = _mm512_loadu_si512(forest.roots + (group + g) * lanes);
    for (;;) {
        __m512i ahead = _mm512_setzero_si512();
        for (int g = 0; g < groups; ++g) {
            words[g] = _mm512_i32gather_epi32(at[g], forest.words, 4);
            ahead = _mm512_or_si512(ahead, words[g]);
        }
        if (_mm512_test_epi32_mask(ahead, _mm512_set1_epi32(-65536)) == 0) break;  // all stand on leaves
        for (int g = 0; g < groups; ++g) {
            const __m512i cut = _mm512_and_si512(_mm512_srli_epi32(words[g], 8), byte);
            const __mmask16 right = _mm512_cmpgt_epu32_mask(codes.of(words[g]), cut);
            at[g] = _mm512_add_epi32(at[g], _mm512_srli_epi32(words[g], 16));
            at[g] = _mm512_mask_add_epi32(at[g], right, at[g], one);
        }
    }
    for (int g = 0; g < groups; ++g) {
        __m512i leaf = forest.values_by_node ? at[g] : _mm512_and_si512(words[g], byte);
        leaf = _mm512_add_epi32(leaf, _mm512_loadu_si512(forest.value_base + (group + g) * lanes));
        sums_low = _mm512_add_pd(sums_low, _mm512_i32gather_pd(_mm512_castsi512_si256(leaf), forest.values, 8));
        sums_high = _mm512_add_pd(sums_high, _mm512_i32gather_pd(_mm512_extracti64x4_epi64(leaf, 1), forest.values, 8));
    }
}

template <Asking how>
void score_lanes_asking(const CodedView& forest, const std::uint8_t* memory, std::size_t first, std::size_t end,
                        double* sums) noexcept {
    const Codes<how> codes{_mm512_load_si512(memory), _mm512_load_si512(memory + 64), memory};
    __m512d low = _mm512_load_pd(sums);
    __m512d high = _mm512_load_pd(sums + 8);
    std::size_t g = first;
    for (; g + 4 <= end; g += 4) walk<how, 4>(forest, codes, g, low, high);
    if (end - g == 3) walk<how, 3>(forest, codes, g, low, high);
    if (end - g == 2) walk<how, 2>(forest, codes, g, low, high);
    if (end - g == 1) walk<how, 1>(forest, codes, g, low, high);
    _mm512_store_pd(sums, low);
    _mm512_store_pd(sums + 8, high);
}

void score_lanes(const CodedView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept {
    if (forest.n_columns <= 64) return score_lanes_asking<one_register>(forest, codes, first, end, sums);
    if (forest.n_columns <= 128) return score_lanes_asking<two_registers>(forest, codes, first, end, sums);
    score_lanes_asking<gathered>(forest, codes, first, end, sums);
}

// Rows in bytes.

// Which leaf each of the 64 rows reaches in one tree.
inline __m512i leaves_of(const CodedView& forest, const RowTree& tree, const std::uint8_t* codes,
                         std::uint64_t* reach) noexcept {
    const RowSplit* splits = forest.row_splits + tree.first_split;
    reach[0] = ~std::uint64_t{0};
    // Breadth first: the rows that reach a split are known before it is asked.
    for (std::uint32_t s = 0; s < tree.splits; ++s) {
        const __m512i asked = _mm512_load_si512(codes + splits[s].column * block_rows);
        const __mmask64 left = _mm512_cmple_epu8_mask(asked, _mm512_set1_epi8(static_cast<char>(splits[s].cut)));
        const std::uint64_t here = reach[s];
        reach[splits[s].left] = here & left;
        reach[splits[s].right] = here & ~left;
    }
    __m512i leaves = _mm512_setzero_si512();
    const __m512i one = _mm512_set1_epi8(1);
    __m512i number = one;
    for (std::uint32_t leaf = 1; leaf <= tree.splits; ++leaf) {
        leaves = _mm512_mask_mov_epi8(leaves, reach[tree.splits + leaf], number);
        number = _mm512_add_epi8(number, one);
    }
    return leaves;
}

#include "model/forest/leaves_avx512.inc"

void score_rows(const CodedView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                double (*sums)[block_rows]) noexcept {
    std::uint64_t reach[2 * leaves_by_byte];
    for (std::size_t at = first * lanes; at < end * lanes; ++at) {
        const RowTree& tree = forest.row_trees[at];
        add_leaves(forest.values + tree.first_value, tree.splits + 1, leaves_of(forest, tree, codes, reach),
                   sums[at % lanes]);
    }
}

void fold_rows(const double (*sums)[block_rows], double* folded) noexcept {
    for (std::size_t r = 0; r < block_rows; r += 8) {
        __m512d half[8];
        for (int i = 0; i < 8; ++i)
            half[i] = _mm512_add_pd(_mm512_load_pd(sums[i] + r), _mm512_load_pd(sums[i + 8] + r));
        for (int i = 0; i < 4; ++i) half[i] = _mm512_add_pd(half[i], half[i + 4]);
        _mm512_store_pd(folded + r, _mm512_add_pd(_mm512_add_pd(half[0], half[2]), _mm512_add_pd(half[1], half[3])));
    }
}

}  // namespace

const CodedKernels coded_avx512{code_row_f32, code_row_f64, score_lanes, score_rows, fold_rows};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const CodedKernels coded_avx512{nullptr, nullptr, nullptr, nullptr, nullptr};
}

#endif
