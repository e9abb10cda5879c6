// A forest over coded features. Each row's features are turned once into small codes, and a split is then one byte
// compared with another.
//
// A column is a feature under one missing-value rule. A code is how many of the column's thresholds are below x, so `x
// <= threshold k` is `code <= k` in any precision. A missing value takes code 0 where it goes left and 255 where it
// goes right, so no split has a branch for it. More than 254 thresholds make several columns. A category set is a
// column of its own: code 0 for the left side, 1 for the right.
//
// A node is four bytes, its children lie side by side, and a leaf is a node that leads to itself:
//   bits 0-7 column (leaf: index of the leaf in its tree), 8-15 cut (leaf: 255), 16-31 nodes ahead to the left child
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/forest/trees.hpp"

namespace engine::forest {

inline constexpr std::size_t columns_max = 256;  // a column number is a byte
inline constexpr std::size_t codes_bytes = columns_max + 64;  // gathers of codes read three bytes further
inline constexpr std::size_t cuts_max = 254;     // codes 0..254, and 255 for missing-goes-right
inline constexpr std::size_t cuts_padded = 256;  // sixteen blocks of sixteen, filled up with +inf
inline constexpr std::size_t leaves_by_byte = 256;

struct Column {
    std::int32_t feature;
    std::int32_t split;   // for a category set: a split that asks for it; -1 for thresholds
    std::uint8_t rule;    // missing_* bits
    std::uint8_t missing;  // the code of a missing value
};

// One split in row-parallel order, and the slots of the masks of rows that go left and right.
struct RowSplit {
    std::uint8_t column;
    std::uint8_t cut;
    std::uint16_t left;   // slots: splits first, then leaves
    std::uint16_t right;
};

struct CodedGroup {
    std::uint32_t output;
    std::uint32_t steps;  // the deepest tree's depth
};

// Groups [first, end) of one output, scored for all rows of a block before the next part, because together they fit the
// second-level cache. A scorer can stop between parts.
struct Part {
    std::uint32_t output;
    std::uint32_t first;
    std::uint32_t end;
    bool opens;   // the first of its output
    bool closes;  // the last
};
inline constexpr std::size_t part_bytes = 384 * 1024;
inline constexpr std::size_t part_groups_min = 4;  // the kernels keep four groups in flight

// The parts of groups whose outputs (ascending) and sizes in bytes are given; at least one an output.
std::vector<Part> make_parts(std::uint32_t n_outputs, const std::vector<std::uint32_t>& group_output,
                             const std::vector<std::size_t>& group_bytes);

struct RowTree {
    std::uint32_t first_split;  // into row_splits
    std::uint32_t splits;       // leaves are one more
    std::uint32_t first_value;
};

// The packed forest as kernels read it: plain pointers, so that a file compiled for another instruction set
// instantiates no templates.
struct CodedView {
    std::uint32_t n_outputs;
    std::uint32_t n_columns;
    std::uint32_t n_groups;
    std::uint32_t n_words;
    std::uint32_t n_values;        // without the 32 zeros behind them
    std::uint32_t values_by_node;  // 1 where a tree has over 256 leaves: values are found by node, not by leaf
    const Column* columns;
    const float* cuts_f32;    // [columns][cuts_padded]
    const double* cuts_f64;   // the same
    const float* tops_f32;    // [columns][16] last cut of each block of sixteen
    const double* tops_f64;   // the same
    const std::uint32_t* words;
    const CodedGroup* groups;
    const std::int32_t* roots;       // [groups][lanes]; a lane without a tree leads to a leaf of 0.0
    const std::int32_t* value_base;  // [groups][lanes]; 0 where values are found by node
    const double* values;            // [n_values + 32]: loads of 32 values at a tree's first stay inside
    const RowTree* row_trees;  // [groups][lanes], splits 0 and value 0.0 where a lane has no tree; null if by node
    const RowSplit* row_splits;
    const Trees* trees;
};

struct Coded {
    CodedView view;
    std::shared_ptr<const Trees> trees;
    std::vector<Column> columns;
    std::vector<float> cuts_f32, tops_f32;
    std::vector<double> cuts_f64, tops_f64;
    std::vector<std::uint32_t> words;
    std::vector<CodedGroup> groups;
    std::vector<std::int32_t> roots, value_base;
    std::vector<double> values;
    std::vector<RowTree> row_trees;
    std::vector<RowSplit> row_splits;
    std::vector<Part> parts;
    std::size_t n_sets = 0;  // columns that are category sets
};

// Null where the forest does not fit: over 256 columns, or a tree of over 32,767 leaves.
std::shared_ptr<const Coded> make_coded(std::shared_ptr<const Trees> trees);

// The kernels of one instruction set; a kernel that it does not have is null. Codes of one row are [codes_bytes],
// aligned to 64; codes of a block are [column][block_rows]. Leaves of groups [first, end) are added to `sums`, lane by
// lane.
struct CodedKernels {
    void (*code_row_f32)(const CodedView&, const float* row, std::uint8_t* codes) noexcept;
    void (*code_row_f64)(const CodedView&, const double* row, std::uint8_t* codes) noexcept;
    void (*lanes)(const CodedView&, const std::uint8_t* codes, std::size_t first, std::size_t end,
                  double* sums) noexcept;
    void (*rows)(const CodedView&, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double (*sums)[block_rows]) noexcept;
    // fold() for each of block_rows rows: the same additions in the same order.
    void (*fold_rows)(const double (*sums)[block_rows], double* folded) noexcept;
};
extern const CodedKernels coded_scalar;
extern const CodedKernels coded_avx2;
extern const CodedKernels coded_avx512;

// Whether a split's category set sends x to the left, by the reference's own rule; x is not NaN.
bool category_goes_left(const Trees& trees, const Split& split, double x) noexcept;

// The layouts of `coded` that this CPU runs.
void add_coded_layouts(std::shared_ptr<const Coded> coded, std::vector<std::unique_ptr<Layout>>& layouts);

}  // namespace engine::forest
