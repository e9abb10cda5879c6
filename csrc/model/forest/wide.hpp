// A forest over wide codes, for what does not fit bytes: over 256 columns, trees of over 32,767 leaves, many category
// sets. Columns, cuts and codes are 16 bits wide and a node is eight bytes; otherwise it works as coded.hpp does.
//
// The category sets of a feature are columns side by side. A table, made at load, has a line for each category with one
// bit a set: the side that the set sends the category to. A row's category becomes codes by unpacking one line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/forest/coded.hpp"

namespace engine::forest {

inline constexpr std::size_t wide_columns_max = 32704;
inline constexpr std::size_t wide_codes = 32768 + 32;  // of a few rows together; gathers read two bytes further
inline constexpr std::size_t wide_cuts_max = 65534;    // codes 0..65534, and 65535 for missing-goes-right
inline constexpr std::uint32_t wide_leaf = 0xffffu << 16;

// A node: `ask` holds the column in its low and the cut in its high half; a leaf has the cut 65535, which no code
// exceeds. `next` is nodes ahead to the left child, or the leaf's number among all values.
struct WideNode {
    std::uint32_t ask;
    std::uint32_t next;
};
static_assert(sizeof(WideNode) == 8, "kernels gather both halves");

struct WideColumn {  // of thresholds
    std::int32_t feature;
    std::uint32_t first_cut;
    std::uint32_t cuts;
    std::uint16_t column;
    std::uint16_t missing;
    std::uint8_t rule;
};

struct WideCategories {  // all sets of one feature under one rule
    std::int32_t feature;
    std::uint16_t first_column;
    std::uint16_t sets;
    std::uint32_t categories;  // lines of the table, followed by one for what is in no set; 0 where there is no table
    std::size_t first_word;
    std::uint8_t rule;
    std::uint32_t first_split;  // into Wide::set_splits: one that asks for each set
};

struct WideView {
    std::uint32_t n_outputs;
    const WideNode* nodes;
    std::uint32_t n_nodes;
    std::uint32_t n_values;
    const std::int32_t* roots;  // [groups][lanes]; a lane without a tree leads to a leaf of 0.0
    const double* values;
};

struct Wide {
    WideView view;
    std::shared_ptr<const Trees> trees;
    std::size_t n_columns = 0;
    std::vector<WideColumn> columns;
    std::vector<WideCategories> categories;
    std::vector<std::int32_t> set_splits;
    std::vector<std::uint32_t> table;
    std::vector<float> cuts_f32;
    std::vector<double> cuts_f64;
    std::vector<WideNode> nodes;
    std::vector<std::int32_t> roots;
    std::vector<double> values;
    std::vector<Part> parts;
};

// Null where the forest has over wide_columns_max columns or 2^30 nodes.
std::shared_ptr<const Wide> make_wide(std::shared_ptr<const Trees> trees);

struct WideKernels {
    // Leaves of groups [first, end) are added to `sums`, lane by lane; they are aligned to 64 bytes.
    void (*walk)(const WideView&, const std::uint16_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept;
    // Bit i of `words` becomes code i, for `count` of them and no more.
    void (*unpack)(const std::uint32_t* words, std::size_t count, std::uint16_t* codes) noexcept;
};
extern const WideKernels wide_scalar;
extern const WideKernels wide_avx2;  // null where they were not compiled
extern const WideKernels wide_avx512;

// The layouts that this CPU runs; none where make_wide() is null.
void add_wide_layouts(std::shared_ptr<const Trees> trees, std::vector<std::unique_ptr<Layout>>& layouts);

}  // namespace engine::forest
