// Forests over the CPU's own coded layout (csrc/model/forest/coded.hpp). The sums of leaves have the bits of every CPU
// layout: sixteen accumulators an output, slot s of each group into accumulator s, groups ascending, folded by halves.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "gpu/forest_view.hpp"

namespace engine::gpu {

// Bits of a column's rule, as model/forest/forest.hpp has them.
constexpr std::uint32_t RULE_MISSING_MASK = 6;
constexpr std::uint32_t RULE_MISSING_NAN = 2;
constexpr std::uint32_t RULE_MISSING_ZERO = 4;
constexpr float ZERO_BAND = 1e-35f;             // LightGBM's kZeroThreshold
constexpr std::uint32_t LEAF_WORDS = 1u << 16;  // a word below this leads nowhere: it is a leaf

// How many of 256 sorted cuts are below x, by halving: eight steps, no branch. NaN is above none.
DEVICE std::uint32_t count_below(const float* cuts, float x) {
    std::uint32_t below = 0;
    for (std::uint32_t step = CUTS_PADDED / 2; step != 0; step /= 2)
        below += __ldg(cuts + below + step - 1) < x ? step : 0;
    return below;
}

// Whether a category set sends x, which is not NaN, to the left. Categories are whole numbers below 2^24.
DEVICE bool set_goes_left(const ForestSet& set, const std::uint32_t* words, float x) {
    bool member = x > -1.0f && x < 16777216.0f && (x >= 0.0f || set.truncates != 0);
    if (member) {
        const std::uint32_t category = static_cast<std::uint32_t>(static_cast<std::int32_t>(x));
        member = category / 32 < set.n_words &&
                 ((__ldg(words + set.first_word + category / 32) >> (category % 32)) & 1u) != 0;
    }
    return member == (set.members_left != 0);
}

// The code of one value of one column: see coded.hpp.
DEVICE std::uint8_t code_of(const ForestView& forest, std::uint32_t c, float x) {
    const ForestColumn column = forest.columns[c];
    const bool nan = x != x;
    if (column.split >= 0) {
        if (nan) return column.missing;
        return set_goes_left(forest.sets[c], forest.set_words, x) ? 0 : 1;
    }
    const std::uint32_t missing = column.rule & RULE_MISSING_MASK;
    const bool zero = x <= ZERO_BAND && x >= -ZERO_BAND;
    if ((missing == RULE_MISSING_NAN && nan) || (missing == RULE_MISSING_ZERO && (nan || zero))) return column.missing;
    return static_cast<std::uint8_t>(count_below(forest.cuts + c * CUTS_PADDED, nan ? 0.0f : x));
}

// Walks `many` trees at once, each for a row of its own, so that the loads of one hide behind those of the others.
template <int many>
DEVICE void walk(const std::uint32_t* words, const std::uint8_t* const (&codes)[many], std::uint32_t (&at)[many],
                 std::uint32_t steps) {
    for (std::uint32_t step = 0; step < steps; ++step) {
        std::uint32_t any = 0;
#pragma unroll
        for (int j = 0; j < many; ++j) {
            const std::uint32_t word = __ldg(words + at[j]);
            any |= word;
            at[j] += (word >> 16) + (codes[j][word & 255u] > ((word >> 8) & 255u) ? 1u : 0u);
        }
        if (any < LEAF_WORDS) break;
    }
}

DEVICE double leaf_value(const ForestView& forest, std::uint32_t node, std::uint32_t base) {
    const std::uint32_t leaf = forest.values_by_node != 0 ? node : __ldg(forest.words + node) & 255u;
    return __ldg(forest.values + base + leaf);
}

// Rows of a block against all trees.
//   Block     ROWS rows. One thread walks one tree for one row; then one thread adds one (slot, row).
//   Grid      x = ceil(rows of the bucket / ROWS); blocks past the real rows end at once.
//   Threads   a multiple of 32, at least 16 * ROWS.
//   Shared    align16(ROWS * code_stride) bytes of codes, then 8 * 16 * chunk_groups * ROWS bytes of leaves;
//             code_stride >= n_columns; chunk_groups groups are walked before their leaves are added.
//   Order     fixed: see the head of this file. Rows past the end of the batch walk row 0 and are not written.
//   CPU       Forest::score_by(any layout) before scale, base and link; to the bit.
template <int ROWS, int many>
DEVICE void forest_rows_body(const ForestView& forest, const float* rows, std::uint32_t row_stride,
                             const Control* control, double* raw, std::uint32_t code_stride, std::uint32_t chunk_groups,
                             unsigned char* shared) {
    const std::uint32_t n_rows = control->n_rows;
    const std::uint32_t first = blockIdx.x * ROWS;
    if (first >= n_rows) return;  // the whole block: nobody waits for it
    const std::uint32_t here = n_rows - first < ROWS ? n_rows - first : ROWS;
    std::uint8_t* codes = shared;
    double* leaves = reinterpret_cast<double*>(shared + (ROWS * code_stride + 15) / 16 * 16);
    for (std::uint32_t i = threadIdx.x; i < ROWS * forest.n_columns; i += blockDim.x) {
        const std::uint32_t row = i / forest.n_columns, c = i % forest.n_columns;
        if (row < here)
            codes[row * code_stride + c] =
                code_of(forest, c, rows[(first + row) * row_stride + forest.columns[c].feature]);
    }
    __syncthreads();  // walks read the codes of all threads
    const std::uint32_t slot = threadIdx.x / ROWS, own_row = threadIdx.x % ROWS;
    for (std::uint32_t output = 0; output < forest.n_outputs; ++output) {
        const std::uint32_t begin = forest.output_begin[output], end = forest.output_begin[output + 1];
        double sum = 0.0;
        for (std::uint32_t chunk = begin; chunk < end; chunk += chunk_groups) {
            const std::uint32_t last = chunk + chunk_groups < end ? chunk + chunk_groups : end;
            const std::uint32_t tasks = (last - chunk) * TREES_A_GROUP * ROWS;
            for (std::uint32_t task = threadIdx.x; task < tasks; task += blockDim.x * many) {
                const std::uint8_t* of[many];
                std::uint32_t at[many], base[many], steps = 0;
#pragma unroll
                for (int j = 0; j < many; ++j) {
                    const std::uint32_t mine = task + j * blockDim.x < tasks ? task + j * blockDim.x : task;
                    const std::uint32_t tree = chunk * TREES_A_GROUP + mine / ROWS, row = mine % ROWS;
                    of[j] = codes + (row < here ? row : 0) * code_stride;
                    at[j] = static_cast<std::uint32_t>(__ldg(forest.roots + tree));
                    base[j] = static_cast<std::uint32_t>(__ldg(forest.value_base + tree));
                    const std::uint32_t its = __ldg(&forest.groups[tree / TREES_A_GROUP].steps);
                    steps = steps < its ? its : steps;
                }
                walk<many>(forest.words, of, at, steps);
#pragma unroll
                for (int j = 0; j < many; ++j)
                    if (task + j * blockDim.x < tasks)
                        leaves[task + j * blockDim.x] = leaf_value(forest, at[j], base[j]);
            }
            __syncthreads();  // sums read the leaves of all threads
            if (slot < TREES_A_GROUP)
                for (std::uint32_t g = 0; g < last - chunk; ++g)
                    sum = add_rn(sum, leaves[(g * TREES_A_GROUP + slot) * ROWS + own_row]);
            __syncthreads();  // the next chunk writes over these leaves
        }
        // Fold by halves. In each step a thread writes only what it alone has read: one barrier a step is enough.
        if (slot < TREES_A_GROUP) leaves[slot * ROWS + own_row] = sum;
        for (std::uint32_t half = TREES_A_GROUP / 2; half != 0; half /= 2) {
            __syncthreads();  // the other half of the sums
            if (slot < half)
                leaves[slot * ROWS + own_row] =
                    add_rn(leaves[slot * ROWS + own_row], leaves[(slot + half) * ROWS + own_row]);
        }
        if (slot == 0 && own_row < here) raw[(first + own_row) * forest.n_outputs + output] = leaves[own_row];
        __syncthreads();  // the next output writes over sums that the last step of the fold reads
    }
}

// Codes all rows, for forest_trees.
//   One thread one (row, column); grid x = ceil(rows * n_columns / threads). No shared memory.
DEVICE void forest_code_body(const ForestView& forest, const float* rows, std::uint32_t row_stride,
                             const Control* control, std::uint8_t* codes, std::uint32_t code_stride) {
    const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const std::uint32_t row = i / forest.n_columns, c = i % forest.n_columns;
    if (row < control->n_rows)
        codes[row * code_stride + c] = code_of(forest, c, rows[row * row_stride + forest.columns[c].feature]);
}

// For many rows: a block keeps a few trees in shared memory and takes rows past them.
//   Block     trees_a_block trees and rows_a_block rows; one thread one (tree, row).
//   Grid      x = parts of the rows, y = parts of the trees.
//   Shared    4 * words_max bytes of nodes, then rows_a_block * code_stride bytes of codes; code_stride is a multiple
//             of 4.
//   Out       leaf_at[tree][rows_max], the leaf of each row: forest_sum adds them in order.
//   Wants     the trees of a block to lie one behind the other; tree_end[t] is the word behind tree t.
DEVICE void forest_trees_body(const ForestView& forest, const std::uint8_t* codes, std::uint32_t code_stride,
                              const Control* control, std::uint16_t* leaf_at, std::uint32_t rows_max,
                              std::uint32_t trees_a_block, std::uint32_t n_trees, std::uint32_t rows_a_block,
                              std::uint32_t words_max, const std::uint32_t* tree_end, unsigned char* shared) {
    const std::uint32_t n_rows = control->n_rows;
    const std::uint32_t first_tree = blockIdx.y * trees_a_block;
    const std::uint32_t last_tree = first_tree + trees_a_block < n_trees ? first_tree + trees_a_block : n_trees;
    const std::uint32_t first_row = blockIdx.x * rows_a_block;
    if (first_row >= n_rows) return;
    const std::uint32_t here = n_rows - first_row < rows_a_block ? n_rows - first_row : rows_a_block;
    const std::uint32_t first_word = static_cast<std::uint32_t>(forest.roots[first_tree]);
    const std::uint32_t n_words = tree_end[last_tree - 1] - first_word;
    std::uint32_t* words = reinterpret_cast<std::uint32_t*>(shared);
    std::uint8_t* mine = shared + words_max * 4;
    for (std::uint32_t i = threadIdx.x; i < n_words; i += blockDim.x) words[i] = __ldg(forest.words + first_word + i);
    const std::uint32_t bytes = here * code_stride;
    for (std::uint32_t i = threadIdx.x * 4; i < bytes; i += blockDim.x * 4)
        *reinterpret_cast<std::uint32_t*>(mine + i) =
            __ldg(reinterpret_cast<const std::uint32_t*>(codes + first_row * code_stride + i));
    __syncthreads();  // nodes and codes come from all threads
    for (std::uint32_t task = threadIdx.x; task < (last_tree - first_tree) * rows_a_block; task += blockDim.x) {
        const std::uint32_t tree = first_tree + task / rows_a_block, row = task % rows_a_block;
        if (row >= here) continue;
        const std::uint32_t root = static_cast<std::uint32_t>(forest.roots[tree]) - first_word;
        const std::uint8_t* of = mine + row * code_stride;
        std::uint32_t at = root;
        for (std::uint32_t word = words[at]; word >= LEAF_WORDS; word = words[at])
            at += (word >> 16) + (of[word & 255u] > ((word >> 8) & 255u) ? 1u : 0u);
        leaf_at[tree * rows_max + first_row + row] =
            static_cast<std::uint16_t>(forest.values_by_node != 0 ? at - root : words[at] & 255u);
    }
}

// Adds the leaves of forest_trees in the CPU's order.
//   Sixteen threads a row, folded by shuffles; a block of T threads takes T / 16 rows. No shared memory.
DEVICE void forest_sum_body(const ForestView& forest, const std::uint16_t* leaf_at, std::uint32_t rows_max,
                            const Control* control, double* raw) {
    const std::uint32_t slot = threadIdx.x % TREES_A_GROUP;
    const std::uint32_t row = blockIdx.x * (blockDim.x / TREES_A_GROUP) + threadIdx.x / TREES_A_GROUP;
    const bool live = row < control->n_rows;
    for (std::uint32_t output = 0; output < forest.n_outputs; ++output) {
        double sum = 0.0;
        if (live)
            for (std::uint32_t g = forest.output_begin[output]; g < forest.output_begin[output + 1]; ++g) {
                const std::uint32_t tree = g * TREES_A_GROUP + slot;
                const std::int32_t base = forest.values_by_node != 0 ? forest.roots[tree] : forest.value_base[tree];
                sum = add_rn(sum, __ldg(forest.values + base + leaf_at[tree * rows_max + row]));
            }
        // Whole warps shuffle, rows past the end too.
        for (int half = TREES_A_GROUP / 2; half != 0; half /= 2)
            sum = add_rn(sum, __shfl_xor_sync(~0u, sum, half, TREES_A_GROUP));
        if (live && slot == 0) raw[row * forest.n_outputs + output] = sum;
    }
}

// raw * scale + base, in place: what precedes a link. One thread one (row, output).
DEVICE void forest_scale_body(std::uint32_t n_outputs, ForestLink link, const Control* control, double* raw) {
    const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < control->n_rows * n_outputs) raw[i] = add_rn(mul_rn(raw[i], link.scale), __ldg(link.base + i % n_outputs));
}

}  // namespace engine::gpu

#define ENGINE_FOREST_ROWS(ROWS, many)                                                                               \
    KERNEL forest_rows_##ROWS(engine::gpu::ForestView forest, const float* rows, std::uint32_t row_stride,           \
                              const engine::gpu::Control* control, double* raw, std::uint32_t code_stride,           \
                              std::uint32_t chunk_groups) {                                                          \
        DYNAMIC_SHARED(shared);                                                                                      \
        engine::gpu::forest_rows_body<ROWS, many>(forest, rows, row_stride, control, raw, code_stride, chunk_groups, \
                                                  shared);                                                           \
    }
ENGINE_FOREST_ROWS(1, 1)
ENGINE_FOREST_ROWS(4, 2)
ENGINE_FOREST_ROWS(8, 4)
ENGINE_FOREST_ROWS(16, 4)
#undef ENGINE_FOREST_ROWS

KERNEL forest_code(engine::gpu::ForestView forest, const float* rows, std::uint32_t row_stride,
                   const engine::gpu::Control* control, std::uint8_t* codes, std::uint32_t code_stride) {
    engine::gpu::forest_code_body(forest, rows, row_stride, control, codes, code_stride);
}

KERNEL forest_trees(engine::gpu::ForestView forest, const std::uint8_t* codes, std::uint32_t code_stride,
                    const engine::gpu::Control* control, std::uint16_t* leaf_at, std::uint32_t rows_max,
                    std::uint32_t trees_a_block, std::uint32_t n_trees, std::uint32_t rows_a_block,
                    std::uint32_t words_max, const std::uint32_t* tree_end) {
    DYNAMIC_SHARED(shared);
    engine::gpu::forest_trees_body(forest, codes, code_stride, control, leaf_at, rows_max, trees_a_block, n_trees,
                                   rows_a_block, words_max, tree_end, shared);
}

KERNEL forest_sum(engine::gpu::ForestView forest, const std::uint16_t* leaf_at, std::uint32_t rows_max,
                  const engine::gpu::Control* control, double* raw) {
    engine::gpu::forest_sum_body(forest, leaf_at, rows_max, control, raw);
}

KERNEL forest_scale(std::uint32_t n_outputs, engine::gpu::ForestLink link, const engine::gpu::Control* control,
                    double* raw) {
    engine::gpu::forest_scale_body(n_outputs, link, control, raw);
}
