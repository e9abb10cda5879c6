// Forests over the CPU's own layouts (csrc/model/forest): byte codes, symmetric trees, and wide codes. The sums of
// leaves have the bits of every CPU layout: sixteen accumulators an output, slot s of each group into accumulator s,
// groups ascending, folded by halves. Scale, base and link follow as in Forest::finish().
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "gpu/forest_view.hpp"
#include "model/functions.hpp"
#include "rows.cuh"

namespace engine::gpu {

// Bits of a column's rule and the links, as model/forest/forest.hpp has them.
constexpr std::uint32_t RULE_MISSING_LEFT = 1;
constexpr std::uint32_t RULE_MISSING_MASK = 6;
constexpr std::uint32_t RULE_MISSING_NAN = 2;
constexpr std::uint32_t RULE_MISSING_ZERO = 4;
constexpr std::uint32_t RULE_TRUNCATES = 32;
constexpr double ZERO_BAND = 1e-35f;            // LightGBM's kZeroThreshold, a float32 in double
constexpr std::uint32_t LEAF_WORDS = 1u << 16;  // a word below this leads nowhere: it is a leaf
constexpr std::uint32_t WIDE_LEAF = 0xffffu << 16;
enum ForestLinks : std::uint32_t {
    LINK_IDENTITY = 0,
    LINK_SIGMOID = 1,
    LINK_EXPONENTIAL = 2,
    LINK_SOFTMAX = 3,
    LINK_SIGNED_SQUARE = 4,
    LINK_SOFTPLUS = 5,
    LINK_POSITIVE = 6,
    LINK_ARGMAX = 7,
    LINK_ANOMALY = 8,
};

// One sum of leaves to an answer; softmax and argmax, which take the sums of a whole row, leave it at the sum.
DEVICE double linked(const ForestLink& link, std::uint32_t output, double sum) {
    const double x = add_rn(mul_rn(sum, link.scale), __ldg(link.base + output));
    switch (link.link) {
        case LINK_SIGMOID: return model::logistic(mul_rn(link.parameter, x));
        case LINK_EXPONENTIAL: return model::exponential(x);
        case LINK_SIGNED_SQUARE: {
            constexpr std::uint64_t SIGN = 0x8000000000000000u;
            return model::of_bits((model::bits_of(mul_rn(x, x)) & ~SIGN) | (model::bits_of(x) & SIGN));
        }
        case LINK_SOFTPLUS: return model::softplus(x);
        case LINK_POSITIVE: return x > 0.0 ? 1.0 : 0.0;
        case LINK_ANOMALY: return model::subtract(link.parameter, model::exponential(x));
        default: return x;
    }
}

// Whether x is missing to a column of thresholds. A NaN that its rule does not know is read as 0.
template <class Row>
DEVICE bool takes_for_missing(std::uint32_t rule, Row& x) {
    const std::uint32_t missing = rule & RULE_MISSING_MASK;
    const bool nan = x != x;
    const double wide = static_cast<double>(x);
    if (missing == RULE_MISSING_NAN) return nan;
    if (missing == RULE_MISSING_ZERO) return nan || (wide <= ZERO_BAND && wide >= -ZERO_BAND);
    if (nan) x = 0;
    return false;
}

// Whether a category set sends x, which is not NaN, to the left. Categories are whole numbers below 2^24.
DEVICE bool set_goes_left(const ForestSet& set, const std::uint32_t* words, double x) {
    bool member = x > -1.0 && x < 16777216.0 && (x >= 0.0 || set.truncates != 0);
    if (member) {
        const std::uint32_t category = static_cast<std::uint32_t>(static_cast<std::int32_t>(x));
        member = category / 32 < set.n_words &&
                 ((__ldg(words + set.first_word + category / 32) >> (category % 32)) & 1u) != 0;
    }
    return member == (set.members_left != 0);
}

// How many of 256 sorted cuts are below x, by halving: eight steps, no branch.
template <class Row>
DEVICE std::uint32_t count_below(const Row* cuts, Row x) {
    std::uint32_t below = 0;
    for (std::uint32_t step = CUTS_PADDED / 2; step != 0; step /= 2)
        below += __ldg(cuts + below + step - 1) < x ? step : 0;
    return below;
}

// The byte code of one value: see model/forest/coded.hpp.
template <class Row>
DEVICE std::uint8_t byte_code(const CodeView<Row>& code, std::uint32_t c, const Row* row) {
    const ForestColumn column = code.columns[c];
    Row x = row[column.feature];
    if (column.split >= 0) {
        if (x != x) return column.missing;
        return set_goes_left(code.sets[c], code.set_words, static_cast<double>(x)) ? 0 : 1;
    }
    if (takes_for_missing(column.rule, x)) return column.missing;
    return static_cast<std::uint8_t>(count_below(code.cuts + c * CUTS_PADDED, x));
}

// Byte codes, and trees of nodes of four bytes. Walks `many` trees at once, each for a row of its own, so that the
// loads of one hide behind those of the others.
template <class Row_>
struct NarrowTrees {
    using Row = Row_;
    using View = ForestView<Row>;
    using Code = std::uint8_t;
    DEVICE static Code code_of(const View& forest, std::uint32_t c, const Row* row) {
        return byte_code(forest.code, c, row);
    }
    template <int many>
    DEVICE static void leaves_of(const View& forest, const Code* const (&codes)[many],
                                 const std::uint32_t (&trees)[many], double (&leaves)[many]) {
        std::uint32_t at[many], steps = 0;
#pragma unroll
        for (int j = 0; j < many; ++j) {
            at[j] = static_cast<std::uint32_t>(__ldg(forest.roots + trees[j]));
            const std::uint32_t its = __ldg(&forest.groups[trees[j] / TREES_A_GROUP].steps);
            steps = steps < its ? its : steps;
        }
        for (std::uint32_t step = 0; step < steps; ++step) {
            std::uint32_t any = 0;
#pragma unroll
            for (int j = 0; j < many; ++j) {
                const std::uint32_t word = __ldg(forest.words + at[j]);
                any |= word;
                // A leaf's first byte is its number, which may lie beyond the columns: it asks column 0.
                const std::uint32_t column = word < LEAF_WORDS ? 0u : word & 255u;
                at[j] += (word >> 16) + (codes[j][column] > ((word >> 8) & 255u) ? 1u : 0u);
            }
            if (any < LEAF_WORDS) break;
        }
#pragma unroll
        for (int j = 0; j < many; ++j) {
            const std::uint32_t leaf = forest.values_by_node != 0 ? at[j] : __ldg(forest.words + at[j]) & 255u;
            leaves[j] = __ldg(forest.values + __ldg(forest.value_base + trees[j]) + leaf);
        }
    }
};

// Byte codes, and trees that ask one question a level: the answers spell the leaf's number.
template <class Row_>
struct SymmetricTrees {
    using Row = Row_;
    using View = SymmetricForestView<Row>;
    using Code = std::uint8_t;
    DEVICE static Code code_of(const View& forest, std::uint32_t c, const Row* row) {
        return byte_code(forest.code, c, row);
    }
    template <int many>
    DEVICE static void leaves_of(const View& forest, const Code* const (&codes)[many],
                                 const std::uint32_t (&trees)[many], double (&leaves)[many]) {
#pragma unroll
        for (int j = 0; j < many; ++j) {
            const SymmetricGroup group = forest.groups[trees[j] / TREES_A_GROUP];
            const std::uint32_t place = group.place + trees[j] % TREES_A_GROUP;
            const std::uint32_t first = group.first_level * TREES_A_CHUNK + place;
            std::uint32_t leaf = 0;
            for (std::uint32_t level = 0; level < group.levels; ++level) {
                const std::uint32_t at = first + level * TREES_A_CHUNK;
                leaf = 2 * leaf + (codes[j][__ldg(forest.columns + at)] > __ldg(forest.cuts + at) ? 1u : 0u);
            }
            const std::int32_t base = __ldg(forest.value_base + group.chunk * TREES_A_CHUNK + place);
            leaves[j] = __ldg(forest.values + base + leaf);
        }
    }
};

// Codes of 16 bits, and trees of nodes of eight bytes.
template <class Row_>
struct WideTrees {
    using Row = Row_;
    using View = WideForestView<Row>;
    using Code = std::uint16_t;
    DEVICE static Code code_of(const View& forest, std::uint32_t c, const Row* row) {
        const WideForestColumn column = forest.columns[c];
        Row x = row[column.feature];
        if (column.kind == WIDE_THRESHOLDS) {
            if (takes_for_missing(column.rule, x)) return column.missing;
            const Row* const cuts = forest.cuts + column.first;
            std::uint32_t below = 0;
            for (std::uint32_t count = column.count; count > 1;) {
                const std::uint32_t half = count / 2;
                below += __ldg(cuts + below + half - 1) < x ? half : 0;
                count -= half;
            }
            return static_cast<Code>(below + (__ldg(cuts + below) < x ? 1 : 0));
        }
        if (x != x) return column.missing;
        const double wide = static_cast<double>(x);
        if (column.kind == WIDE_SET_ALONE)
            return set_goes_left(forest.sets[column.first], forest.set_words, wide) ? 0 : 1;
        std::uint32_t line = column.count;  // in no set
        if (wide > -1.0 && wide < static_cast<double>(column.count) &&
            (wide >= 0.0 || (column.rule & RULE_TRUNCATES) != 0))
            line = static_cast<std::uint32_t>(static_cast<std::int32_t>(wide));
        const std::uint32_t word = __ldg(forest.table + column.first + line * column.line + column.place / 32);
        return static_cast<Code>((word >> (column.place % 32)) & 1u);
    }
    template <int many>
    DEVICE static void leaves_of(const View& forest, const Code* const (&codes)[many],
                                 const std::uint32_t (&trees)[many], double (&leaves)[many]) {
        std::uint32_t at[many];
        WideForestNode here[many];
#pragma unroll
        for (int j = 0; j < many; ++j) at[j] = static_cast<std::uint32_t>(__ldg(forest.roots + trees[j]));
        for (bool walking = true; walking;) {
            walking = false;
#pragma unroll
            for (int j = 0; j < many; ++j) {
                here[j] = forest.nodes[at[j]];
                const bool split = here[j].ask < WIDE_LEAF;
                walking = walking || split;
                at[j] += split ? here[j].next + (codes[j][here[j].ask & 0xffffu] > here[j].ask >> 16 ? 1u : 0u) : 0u;
            }
        }
#pragma unroll
        for (int j = 0; j < many; ++j) leaves[j] = __ldg(forest.values + here[j].next);
    }
};

// Rows of a block against all trees.
//   Block     ROWS rows. One thread walks one tree for one row; then one thread adds one (slot, row).
//   Grid      x = ceil(rows of the bucket / ROWS); blocks past the real rows end at once.
//   Threads   a multiple of 32, at least 16 * ROWS.
//   Shared    align16(ROWS * code_stride codes), then 8 * 16 * chunk_groups * ROWS bytes of leaves;
//             code_stride >= n_columns; chunk_groups groups are walked before their leaves are added.
//   Order     fixed: see the head of this file. Rows past the end of the batch walk row 0 and are not written.
//   Out       [rows][n_outputs], each linked by itself; softmax and argmax leave that to forest_row_links.
//   CPU       Forest::score_by(any layout); to the bit.
template <class Trees, int ROWS, int many>
DEVICE void forest_rows_body(const typename Trees::View& forest, const ForestLink& link,
                             const typename Trees::Row* rows, std::uint32_t row_stride, const Control* control,
                             double* out, std::uint32_t code_stride, std::uint32_t chunk_groups,
                             unsigned char* shared) {
    using Code = typename Trees::Code;
    const ForestShape& shape = forest.shape;
    const std::uint32_t n_rows = control->n_rows;
    const std::uint32_t first = blockIdx.x * ROWS;
    if (first >= n_rows) return;  // the whole block: nobody waits for it
    const std::uint32_t here = n_rows - first < ROWS ? n_rows - first : ROWS;
    Code* codes = reinterpret_cast<Code*>(shared);
    double* leaves = reinterpret_cast<double*>(shared + (ROWS * code_stride * sizeof(Code) + 15) / 16 * 16);
    for (std::uint32_t i = threadIdx.x; i < ROWS * shape.n_columns; i += blockDim.x) {
        const std::uint32_t row = i / shape.n_columns, c = i % shape.n_columns;
        if (row < here) codes[row * code_stride + c] = Trees::code_of(forest, c, rows + (first + row) * row_stride);
    }
    __syncthreads();  // walks read the codes of all threads
    const std::uint32_t slot = threadIdx.x / ROWS, own_row = threadIdx.x % ROWS;
    for (std::uint32_t output = 0; output < shape.n_outputs; ++output) {
        const std::uint32_t begin = shape.output_begin[output], end = shape.output_begin[output + 1];
        double sum = 0.0;
        for (std::uint32_t chunk = begin; chunk < end; chunk += chunk_groups) {
            const std::uint32_t last = chunk + chunk_groups < end ? chunk + chunk_groups : end;
            const std::uint32_t tasks = (last - chunk) * TREES_A_GROUP * ROWS;
            for (std::uint32_t task = threadIdx.x; task < tasks; task += blockDim.x * many) {
                const Code* of[many];
                std::uint32_t trees[many];
                double found[many];
#pragma unroll
                for (int j = 0; j < many; ++j) {
                    const std::uint32_t mine = task + j * blockDim.x < tasks ? task + j * blockDim.x : task;
                    const std::uint32_t row = mine % ROWS;
                    trees[j] = chunk * TREES_A_GROUP + mine / ROWS;
                    of[j] = codes + (row < here ? row : 0) * code_stride;
                }
                Trees::template leaves_of<many>(forest, of, trees, found);
#pragma unroll
                for (int j = 0; j < many; ++j)
                    if (task + j * blockDim.x < tasks) leaves[task + j * blockDim.x] = found[j];
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
        if (slot == 0 && own_row < here)
            out[(first + own_row) * shape.n_outputs + output] = linked(link, output, leaves[own_row]);
        __syncthreads();  // the next output writes over sums that the last step of the fold reads
    }
}

// Codes all rows, for forest_trees.
//   One thread one (row, column); grid x = ceil(rows * n_columns / threads). No shared memory.
template <class Row>
DEVICE void forest_code_body(const ForestView<Row>& forest, const Row* rows, std::uint32_t row_stride,
                             const Control* control, std::uint8_t* codes, std::uint32_t code_stride) {
    const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const std::uint32_t row = i / forest.shape.n_columns, c = i % forest.shape.n_columns;
    if (row < control->n_rows) codes[row * code_stride + c] = byte_code(forest.code, c, rows + row * row_stride);
}

// For many rows: a block keeps a few trees in shared memory and takes rows past them.
//   Block     trees_a_block trees and rows_a_block rows; one thread one (tree, row).
//   Grid      x = parts of the rows, y = parts of the trees.
//   Shared    4 * words_max bytes of nodes, then rows_a_block * code_stride bytes of codes; code_stride is a multiple
//             of 4.
//   Out       leaf_at[tree][rows_max], the leaf of each row: forest_sum adds them in order.
//   Wants     the trees of a block to lie one behind the other, as they do; spans[y] holds the words of block y. A
//             group's lane without a tree has the root 0, and leaf 0.
template <class Row>
DEVICE void forest_trees_body(const ForestView<Row>& forest, const std::uint8_t* codes, std::uint32_t code_stride,
                              const Control* control, std::uint16_t* leaf_at, std::uint32_t rows_max,
                              std::uint32_t trees_a_block, std::uint32_t n_trees, std::uint32_t rows_a_block,
                              std::uint32_t words_max, const ForestSpan* spans, unsigned char* shared) {
    const std::uint32_t n_rows = control->n_rows;
    const std::uint32_t first_tree = blockIdx.y * trees_a_block;
    const std::uint32_t last_tree = first_tree + trees_a_block < n_trees ? first_tree + trees_a_block : n_trees;
    const std::uint32_t first_row = blockIdx.x * rows_a_block;
    if (first_row >= n_rows) return;
    const std::uint32_t here = n_rows - first_row < rows_a_block ? n_rows - first_row : rows_a_block;
    const std::uint32_t first_word = spans[blockIdx.y].first_word, n_words = spans[blockIdx.y].n_words;
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
        const std::uint32_t root_word = static_cast<std::uint32_t>(forest.roots[tree]);
        std::uint32_t leaf = 0;
        if (root_word != 0) {
            const std::uint32_t root = root_word - first_word;
            const std::uint8_t* of = mine + row * code_stride;
            std::uint32_t at = root;
            for (std::uint32_t word = words[at]; word >= LEAF_WORDS; word = words[at])
                at += (word >> 16) + (of[word & 255u] > ((word >> 8) & 255u) ? 1u : 0u);
            leaf = forest.values_by_node != 0 ? at - root : words[at] & 255u;
        }
        leaf_at[tree * rows_max + first_row + row] = static_cast<std::uint16_t>(leaf);
    }
}

// Adds the leaves of forest_trees in the CPU's order, and links the sums.
//   Sixteen threads a row, folded by shuffles; a block of T threads takes T / 16 rows. No shared memory.
template <class Row>
DEVICE void forest_sum_body(const ForestView<Row>& forest, const ForestLink& link, const std::uint16_t* leaf_at,
                            std::uint32_t rows_max, const Control* control, double* out) {
    const std::uint32_t slot = threadIdx.x % TREES_A_GROUP;
    const std::uint32_t row = blockIdx.x * (blockDim.x / TREES_A_GROUP) + threadIdx.x / TREES_A_GROUP;
    const bool live = row < control->n_rows;
    for (std::uint32_t output = 0; output < forest.shape.n_outputs; ++output) {
        double sum = 0.0;
        if (live)
            for (std::uint32_t g = forest.shape.output_begin[output]; g < forest.shape.output_begin[output + 1]; ++g) {
                const std::uint32_t tree = g * TREES_A_GROUP + slot;
                const std::int32_t base = forest.values_by_node != 0 ? forest.roots[tree] : forest.value_base[tree];
                sum = add_rn(sum, __ldg(forest.values + base + leaf_at[tree * rows_max + row]));
            }
        // Whole warps shuffle, rows past the end too.
        for (int half = TREES_A_GROUP / 2; half != 0; half /= 2)
            sum = add_rn(sum, __shfl_xor_sync(~0u, sum, half, TREES_A_GROUP));
        if (live && slot == 0) out[row * forest.shape.n_outputs + output] = linked(link, output, sum);
    }
}

}  // namespace engine::gpu

#define ENGINE_FOREST_ROWS(name, Trees, Row, ROWS, many)                                                               \
    KERNEL name(engine::gpu::Trees<Row>::View forest, engine::gpu::ForestLink link, const Row* rows,                   \
                std::uint32_t row_stride, const engine::gpu::Control* control, double* out, std::uint32_t code_stride, \
                std::uint32_t chunk_groups) {                                                                          \
        DYNAMIC_SHARED(shared);                                                                                        \
        engine::gpu::forest_rows_body<engine::gpu::Trees<Row>, ROWS, many>(forest, link, rows, row_stride, control,    \
                                                                           out, code_stride, chunk_groups, shared);    \
    }
#define ENGINE_FOREST_ROWS_OF(layout, Trees, suffix, Row)         \
    ENGINE_FOREST_ROWS(layout##_rows_1##suffix, Trees, Row, 1, 1) \
    ENGINE_FOREST_ROWS(layout##_rows_4##suffix, Trees, Row, 4, 2) \
    ENGINE_FOREST_ROWS(layout##_rows_8##suffix, Trees, Row, 8, 4) \
    ENGINE_FOREST_ROWS(layout##_rows_16##suffix, Trees, Row, 16, 4)
ENGINE_FOREST_ROWS_OF(forest, NarrowTrees, _f32, float)
ENGINE_FOREST_ROWS_OF(forest, NarrowTrees, _f64, double)
ENGINE_FOREST_ROWS_OF(symmetric, SymmetricTrees, _f32, float)
ENGINE_FOREST_ROWS_OF(symmetric, SymmetricTrees, _f64, double)
ENGINE_FOREST_ROWS_OF(wide, WideTrees, _f32, float)
ENGINE_FOREST_ROWS_OF(wide, WideTrees, _f64, double)
#undef ENGINE_FOREST_ROWS_OF
#undef ENGINE_FOREST_ROWS

#define ENGINE_FOREST_TREES(suffix, Row)                                                                              \
    KERNEL forest_code##suffix(engine::gpu::ForestView<Row> forest, const Row* rows, std::uint32_t row_stride,        \
                               const engine::gpu::Control* control, std::uint8_t* codes, std::uint32_t code_stride) { \
        engine::gpu::forest_code_body(forest, rows, row_stride, control, codes, code_stride);                         \
    }
ENGINE_FOREST_TREES(_f32, float)
ENGINE_FOREST_TREES(_f64, double)
#undef ENGINE_FOREST_TREES

// These read codes and no rows, so they serve both types.
KERNEL forest_trees(engine::gpu::ForestView<float> forest, const std::uint8_t* codes, std::uint32_t code_stride,
                    const engine::gpu::Control* control, std::uint16_t* leaf_at, std::uint32_t rows_max,
                    std::uint32_t trees_a_block, std::uint32_t n_trees, std::uint32_t rows_a_block,
                    std::uint32_t words_max, const engine::gpu::ForestSpan* spans) {
    DYNAMIC_SHARED(shared);
    engine::gpu::forest_trees_body(forest, codes, code_stride, control, leaf_at, rows_max, trees_a_block, n_trees,
                                   rows_a_block, words_max, spans, shared);
}

KERNEL forest_sum(engine::gpu::ForestView<float> forest, engine::gpu::ForestLink link, const std::uint16_t* leaf_at,
                  std::uint32_t rows_max, const engine::gpu::Control* control, double* out) {
    engine::gpu::forest_sum_body(forest, link, leaf_at, rows_max, control, out);
}

// Softmax, or the place of the largest, of each row's sums.
//   One warp a row; grid x = ceil(rows * 32 / threads). No shared memory. Writes over the sums.
//   Out       [rows][n_outputs]; argmax: [rows].
//   CPU       Forest::finish(); to the bit.
KERNEL forest_row_links(std::uint32_t n_outputs, std::uint32_t link, double* sums, const engine::gpu::Control* control,
                        double* out) {
    using namespace engine::gpu;
    const std::uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= control->n_rows) return;  // a whole warp
    double* const mine = sums + row * n_outputs;
    if (link == LINK_ARGMAX) {
        const Placed<double> best = largest_in_row(mine, n_outputs, lane);
        if (lane == 0) out[row] = static_cast<double>(best.at);
        return;
    }
    softmax_of_row(mine, n_outputs, lane);
    for (std::uint32_t i = lane; i < n_outputs; i += WARP) out[row * n_outputs + i] = mine[i];
}
