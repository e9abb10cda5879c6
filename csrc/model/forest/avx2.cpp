// Coded forest kernels for AVX2.
//
// lanes: eight trees a register, four registers in flight. AVX2 has no byte permute over 64 columns, so codes are
// gathered too: two gathers a step. rows: sixty-four rows in the bytes of two registers, as the AVX-512 kernel does it,
// with its mask registers spelled out. The words of a node, the order of additions and why empty lanes change no bit:
// as avx512.cpp says.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx2,popcnt")

namespace engine::forest {
namespace {

inline unsigned below16(const float* cuts, float x) noexcept {
    const __m256 wide = _mm256_set1_ps(x);
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(cuts), wide, _CMP_LT_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(cuts + 8), wide, _CMP_LT_OQ));
    return static_cast<unsigned>(__builtin_popcount(static_cast<unsigned>(low | high << 8)));
}
inline unsigned below16(const double* cuts, double x) noexcept {
    const __m256d wide = _mm256_set1_pd(x);
    int below = 0;
    for (int i = 0; i < 16; i += 4)
        below |= _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(cuts + i), wide, _CMP_LT_OQ)) << i;
    return static_cast<unsigned>(__builtin_popcount(static_cast<unsigned>(below)));
}

// below16() spreads x itself.
inline float spread(float x) noexcept { return x; }
inline double spread(double x) noexcept { return x; }

#include "model/forest/code_row.inc"

// Walks `halves` half groups of eight trees to their leaves; half h is lanes 8 * (h % 2) on of group + h / 2. A
// gathered code is four bytes. The first is kept; the other three may lie behind column 255, where codes_bytes has
// room. A comparison gives -1 where it holds, so `at` goes one further by subtracting it. Codes and cuts are below 256
// in 32-bit lanes, where the signed comparison serves.
//
// sums[0] and sums[1] are accumulators 0 to 7, sums[2] and sums[3] the rest. Halves come in ascending order, so each
// accumulator gets its groups in theirs.
template <int halves>
inline __attribute__((always_inline)) void walk(const CodedView& forest, const std::uint8_t* codes, std::size_t group,
                                                __m256d* sums) noexcept {
    const __m256i byte = _mm256_set1_epi32(255);
    const auto* nodes = reinterpret_cast<const int*>(forest.words);
    const auto* memory = reinterpret_cast<const int*>(codes);
    __m256i at[halves];
    __m256i words[halves];
    for (int h = 0; h < halves; ++h)
        at[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(forest.roots + group * lanes + 8 * h));
    for (;;) {
        __m256i ahead = _mm256_setzero_si256();
        for (int h = 0; h < halves; ++h) {
            words[h] = _mm256_i32gather_epi32(nodes, at[h], 4);
            ahead = _mm256_or_si256(ahead, words[h]);
        }
        if (_mm256_testz_si256(ahead, _mm256_set1_epi32(-65536))) break;  // all stand on leaves
        for (int h = 0; h < halves; ++h) {
            const __m256i cut = _mm256_and_si256(_mm256_srli_epi32(words[h], 8), byte);
            const __m256i asked = _mm256_i32gather_epi32(memory, _mm256_and_si256(words[h], byte), 1);
            const __m256i right = _mm256_cmpgt_epi32(_mm256_and_si256(asked, byte), cut);
            at[h] = _mm256_sub_epi32(_mm256_add_epi32(at[h], _mm256_srli_epi32(words[h], 16)), right);
        }
    }
    for (int h = 0; h < halves; ++h) {
        __m256i leaf = forest.values_by_node ? at[h] : _mm256_and_si256(words[h], byte);
        leaf = _mm256_add_epi32(
            leaf, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(forest.value_base + group * lanes + 8 * h)));
        __m256d* mine = sums + h % 2 * 2;
        mine[0] = _mm256_add_pd(mine[0], _mm256_i32gather_pd(forest.values, _mm256_castsi256_si128(leaf), 8));
        mine[1] = _mm256_add_pd(mine[1], _mm256_i32gather_pd(forest.values, _mm256_extracti128_si256(leaf, 1), 8));
    }
}

void score_lanes(const CodedView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept {
    ENGINE_ASSERT(first <= end && end <= forest.n_groups, "a part lies inside the forest's groups");
    ENGINE_ASSERT(reinterpret_cast<std::uintptr_t>(sums) % 32 == 0, "sums lie on a line of the cache");
    __m256d accumulators[4];
    for (int i = 0; i < 4; ++i) accumulators[i] = _mm256_load_pd(sums + 4 * i);
    std::size_t g = first;
    for (; g + 2 <= end; g += 2) walk<4>(forest, codes, g, accumulators);
    for (; g < end; ++g) walk<2>(forest, codes, g, accumulators);
    for (int i = 0; i < 4; ++i) _mm256_store_pd(sums + 4 * i, accumulators[i]);
}

// Rows in bytes.

inline __m256i load32(const std::uint8_t* bytes) noexcept {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
}

// Bit r of `bits` into all bits of byte r. The shuffle copies byte r / 8 of the word to byte r, within each half of the
// register, which is why all four bytes are in both; the AND keeps bit r % 8, and the comparison spreads it.
inline __m256i spread_bits(std::uint32_t bits) noexcept {
    const __m256i byte_of_row = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of_row = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of_row);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of_row), bit_of_row);
}

// The number of the leaf that each of the 64 rows reaches in one tree; reach[] and its order are as in avx512.cpp.
// Every row lies in the mask of exactly one leaf, so OR puts the numbers together.
inline void leaves_of(const CodedView& forest, const RowTree& tree, const std::uint8_t* codes, std::uint64_t* reach,
                      std::uint8_t* number) noexcept {
    const RowSplit* splits = forest.row_splits + tree.first_split;
    reach[0] = ~std::uint64_t{0};
    for (std::uint32_t s = 0; s < tree.splits; ++s) {
        ENGINE_ASSERT(splits[s].left > s && splits[s].left <= 2 * tree.splits, "a left child follows its parent");
        ENGINE_ASSERT(splits[s].right > s && splits[s].right <= 2 * tree.splits, "a right child follows its parent");
        ENGINE_ASSERT(splits[s].column < forest.n_columns, "a split asks a column that exists");
        const std::uint8_t* asked = codes + splits[s].column * block_rows;
        const __m256i cut = _mm256_set1_epi8(static_cast<char>(splits[s].cut));
        // AVX2 compares no unsigned bytes: code <= cut where the smaller of the two is the code.
        const __m256i low = load32(asked);
        const __m256i high = load32(asked + 32);
        const auto left_low =
            static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(low, cut), low)));
        const auto left_high =
            static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(high, cut), high)));
        const std::uint64_t left = left_low | static_cast<std::uint64_t>(left_high) << 32;
        const std::uint64_t here = reach[s];
        reach[splits[s].left] = here & left;
        reach[splits[s].right] = here & ~left;
    }
    const __m256i one = _mm256_set1_epi8(1);
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
    __m256i leaf_number = one;
    for (std::uint32_t leaf = 1; leaf <= tree.splits; ++leaf) {
        const std::uint64_t here = reach[tree.splits + leaf];
        low = _mm256_or_si256(low, _mm256_and_si256(spread_bits(static_cast<std::uint32_t>(here)), leaf_number));
        high = _mm256_or_si256(high, _mm256_and_si256(spread_bits(static_cast<std::uint32_t>(here >> 32)), leaf_number));
        leaf_number = _mm256_add_epi8(leaf_number, one);
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(number), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(number + 32), high);
}

void score_rows(const CodedView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                double (*sums)[block_rows]) noexcept {
    alignas(64) std::uint8_t number[block_rows];
    std::uint64_t reach[2 * leaves_by_byte];
    for (std::size_t tree_at = first * lanes; tree_at < end * lanes; ++tree_at) {
        const RowTree& tree = forest.row_trees[tree_at];
        ENGINE_ASSERT(tree.splits < leaves_by_byte, "a tree by rows has at most 256 leaves");
        leaves_of(forest, tree, codes, reach, number);
        const double* values = forest.values + tree.first_value;
        double* mine = sums[tree_at % lanes];
        for (std::size_t r = 0; r < block_rows; ++r) mine[r] += values[number[r]];
    }
}

// fold() for four rows a register: the halves are added in the same order, each row in its own lane.
void fold_rows(const double (*sums)[block_rows], double* folded) noexcept {
    for (std::size_t r = 0; r < block_rows; r += 4) {
        __m256d half[8];
        for (int i = 0; i < 8; ++i)
            half[i] = _mm256_add_pd(_mm256_load_pd(sums[i] + r), _mm256_load_pd(sums[i + 8] + r));
        for (int i = 0; i < 4; ++i) half[i] = _mm256_add_pd(half[i], half[i + 4]);
        _mm256_store_pd(folded + r, _mm256_add_pd(_mm256_add_pd(half[0], half[2]), _mm256_add_pd(half[1], half[3])));
    }
}

}  // namespace

const CodedKernels coded_avx2{code_row_f32, code_row_f64, score_lanes, score_rows, fold_rows};

}  // namespace engine::forest

ENGINE_TARGET_END

#else

namespace engine::forest {
const CodedKernels coded_avx2{nullptr, nullptr, nullptr, nullptr, nullptr};
}

#endif
