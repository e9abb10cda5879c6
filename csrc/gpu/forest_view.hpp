// A forest as kernels read it: the CPU's own arrays (model/forest/coded.hpp, symmetric.hpp, wide.hpp) in device memory.
// nvcc reads this file too, so it repeats some of their structs; forest_body.cpp asserts that they are the same.
#pragma once

#include <cstdint>

namespace engine::gpu {

inline constexpr std::uint32_t TREES_A_GROUP = 16;
inline constexpr std::uint32_t CUTS_PADDED = 256;   // of a column of byte codes, filled up with +inf
inline constexpr std::uint32_t TREES_A_CHUNK = 64;  // of symmetric trees

// What every layout has.
struct ForestShape {
    std::uint32_t n_outputs;
    std::uint32_t n_columns;
    std::uint32_t n_groups;
    const std::uint32_t* output_begin;  // [outputs + 1] first group of each output
};

// What follows the sums of leaves, as Forest::finish() has it.
struct ForestLink {
    double scale;
    double parameter;
    const double* base;  // [outputs]
    std::uint32_t link;  // forest::Link
};

// Which categories a set sends left: words[first_word + c / 32] bit c % 32 for c below 32 * n_words.
struct ForestSet {
    std::uint32_t first_word;
    std::uint32_t n_words;
    std::uint8_t members_left;  // 1: members go left; 0: they go right
    std::uint8_t truncates;     // 1: a value in (-1, 0) counts as category 0
};

struct ForestColumn {
    std::int32_t feature;
    std::int32_t split;  // of a category set: a split that asks for it; -1 for thresholds
    std::uint8_t rule;
    std::uint8_t missing;  // the code of a missing value
};

// How rows become byte codes. Row is float or double, the type of the rows.
template <class Row>
struct CodeView {
    const ForestColumn* columns;
    const Row* cuts;        // [columns][CUTS_PADDED]
    const ForestSet* sets;  // by column; read where the column's split is not -1
    const std::uint32_t* set_words;
};

struct ForestGroup {
    std::uint32_t output;
    std::uint32_t steps;  // the deepest tree's depth
};

template <class Row>
struct ForestView {
    ForestShape shape;
    CodeView<Row> code;
    std::uint32_t values_by_node;  // 1: a leaf's value is found by its node, not by its number in the tree
    const std::uint32_t* words;    // nodes: bits 0-7 column or leaf, 8-15 cut, 16-31 nodes ahead to the left child
    const ForestGroup* groups;
    const std::int32_t* roots;       // [groups][TREES_A_GROUP]
    const std::int32_t* value_base;  // [groups][TREES_A_GROUP]
    const double* values;
};

// The nodes of some trees, one behind the other.
struct ForestSpan {
    std::uint32_t first_word;
    std::uint32_t n_words;
};

// Sixteen trees of a chunk of symmetric ones.
struct SymmetricGroup {
    std::uint32_t first_level;  // into columns and cuts, in levels
    std::uint32_t levels;
    std::uint32_t chunk;
    std::uint32_t place;  // of the first tree in its chunk: 0, 16, 32 or 48
};

template <class Row>
struct SymmetricForestView {
    ForestShape shape;
    CodeView<Row> code;
    const SymmetricGroup* groups;
    const std::uint8_t* columns;     // [levels][TREES_A_CHUNK]
    const std::uint8_t* cuts;        // the same
    const std::int32_t* value_base;  // [chunks][TREES_A_CHUNK]
    const double* values;
};

enum WideKind : std::uint32_t {
    WIDE_THRESHOLDS = 0,
    WIDE_SET_IN_TABLE = 1,  // a line for each category, a bit for each set of the feature
    WIDE_SET_ALONE = 2,
};

struct WideForestColumn {
    std::int32_t feature;
    std::uint32_t first;  // the first cut; the table's first word; or the set's number
    std::uint32_t count;  // cuts; or categories, with one line more for what is in no set
    std::uint32_t place;  // in a table: the set's bit in a line
    std::uint32_t line;   // in a table: words a line
    std::uint32_t kind;
    std::uint16_t missing;  // the code of a missing value
    std::uint8_t rule;
};

struct WideForestNode {
    std::uint32_t ask;   // the column in its low and the cut in its high half; a leaf has the cut 65535
    std::uint32_t next;  // nodes ahead to the left child, or the leaf's number among all values
};

template <class Row>
struct WideForestView {
    ForestShape shape;
    const WideForestColumn* columns;
    const Row* cuts;
    const std::uint32_t* table;
    const ForestSet* sets;
    const std::uint32_t* set_words;
    const WideForestNode* nodes;
    const std::int32_t* roots;  // [groups][TREES_A_GROUP]
    const double* values;
};

}  // namespace engine::gpu
