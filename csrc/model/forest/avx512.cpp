// Coded forest kernels for AVX-512 (F, BW, DQ, VL, VBMI).
//
// lanes: sixteen trees in the lanes of a register, four groups of them in flight, because a gather takes some twenty
// cycles and a walk is a chain of gathers. All codes of a row lie in one or two registers, so asking a feature is one
// byte permute; beyond 128 columns it is a gather. Giving a register the next group as soon as its own trees have ended
// saves 15 % of the gathers and only 2 % of the time, because of its branches; it was not kept.
// rows: sixty-four rows in the bytes of a register. Each split is compared once for all of them; the rows that reach a
// place are one 64-bit mask.
//
// Both add the leaf of lane l to accumulator l, groups in ascending order, as the reference does. A lane without a tree
// adds 0.0, which changes no bit: an accumulator begins at +0.0, and no sum of what follows is -0.0.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,bmi2")

namespace engine::forest {
namespace {

#include "model/mask_bits.inc"

// One row into codes.

inline unsigned below16(const float* cuts, __m512 x) noexcept {
    return static_cast<unsigned>(_mm_popcnt_u32(bits_of(_mm512_cmp_ps_mask(_mm512_loadu_ps(cuts), x, _CMP_LT_OQ))));
}
inline unsigned below16(const double* cuts, __m512d x) noexcept {
    const unsigned low = bits_of(_mm512_cmp_pd_mask(_mm512_loadu_pd(cuts), x, _CMP_LT_OQ));
    const unsigned high = bits_of(_mm512_cmp_pd_mask(_mm512_loadu_pd(cuts + 8), x, _CMP_LT_OQ));
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

    // The code of each lane's column, which byte 0 of the lane's word names; bytes 1 to 3 of the result are 0.
    //   one_register   the permute reads the low six bits of each index byte: enough for 64 columns
    //   two_registers  the low seven bits, and the seventh chooses the register: 128 columns
    //   gathered       four bytes from the column's place on; the first is kept. The other three may lie behind column
    //                  255, where codes_bytes has room
    inline __m512i of(__m512i words) const noexcept {
        constexpr __mmask64 byte0 = 0x1111111111111111u;
        if constexpr (how == one_register) return _mm512_maskz_permutexvar_epi8(byte0, words, low);
        if constexpr (how == two_registers) return _mm512_maskz_permutex2var_epi8(byte0, low, words, high);
        const __m512i byte = _mm512_set1_epi32(255);
        return _mm512_and_si512(_mm512_i32gather_epi32(_mm512_and_si512(words, byte), memory, 1), byte);
    }
};

// Walks `groups` groups of sixteen trees from their roots to their leaves. at[g] holds the number of the node that each
// lane stands on, words[g] that node:
//     bits 0-7 column   8-15 cut   16-31 nodes ahead to the left child; the right child follows the left
// A step is at += ahead + (code > cut). A leaf is 0 ahead with a cut of 255, which no code exceeds, so a lane that has
// arrived stays where it is while the others go on; all have arrived when no word has anything in its upper half. Every
// `at` is the number of a node, so a gather reads exactly that word. Empty lanes stand on node 0, a leaf.
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
    // 128 bytes whatever n_columns is: codes_bytes is more.
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
    ENGINE_ASSERT(first <= end && end <= forest.n_groups, "a part lies inside the forest's groups");
    ENGINE_ASSERT(reinterpret_cast<std::uintptr_t>(codes) % 64 == 0, "codes lie on a line of the cache");
    ENGINE_ASSERT(reinterpret_cast<std::uintptr_t>(sums) % 64 == 0, "sums lie on a line of the cache");
    if (forest.n_columns <= 64) return score_lanes_asking<one_register>(forest, codes, first, end, sums);
    if (forest.n_columns <= 128) return score_lanes_asking<two_registers>(forest, codes, first, end, sums);
    score_lanes_asking<gathered>(forest, codes, first, end, sums);
}

// Rows in bytes.

// The number of the leaf that each of the 64 rows reaches in one tree.
//
// reach[slot] is the mask of rows that reach a place: slots 0 to splits-1 are the splits, breadth first, and the leaves
// follow, 2 * splits + 1 slots in all. A parent stands before its children, so the rows that reach a split are known
// before it is asked. Exactly one leaf has a row's bit: writing the leaves' numbers under their masks gives each row
// the number of its own, and leaf 0 needs no writing. Rows beyond the last have codes too, and nobody reads their sums.
inline __m512i leaves_of(const CodedView& forest, const RowTree& tree, const std::uint8_t* codes,
                         std::uint64_t* reach) noexcept {
    const RowSplit* splits = forest.row_splits + tree.first_split;
    reach[0] = ~std::uint64_t{0};
    for (std::uint32_t s = 0; s < tree.splits; ++s) {
        ENGINE_ASSERT(splits[s].left > s && splits[s].left <= 2 * tree.splits, "a left child follows its parent");
        ENGINE_ASSERT(splits[s].right > s && splits[s].right <= 2 * tree.splits, "a right child follows its parent");
        ENGINE_ASSERT(splits[s].column < forest.n_columns, "a split asks a column that exists");
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
    ENGINE_ASSERT(forest.row_trees != nullptr && end <= forest.n_groups, "a part of a forest that is packed by rows");
    std::uint64_t reach[2 * leaves_by_byte];
    for (std::size_t at = first * lanes; at < end * lanes; ++at) {
        const RowTree& tree = forest.row_trees[at];
        ENGINE_ASSERT(tree.splits < leaves_by_byte, "a tree by rows has at most 256 leaves");
        add_leaves(forest.values + tree.first_value, tree.splits + 1, leaves_of(forest, tree, codes, reach),
                   sums[at % lanes]);
    }
}

// fold() for eight rows a register: the halves are added in the same order, each row in its own lane.
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
