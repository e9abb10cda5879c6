// The coded forest as kernels read it: the arrays of model/forest/coded.hpp, in device memory. nvcc reads this file
// too, so it repeats the three structs; forest_body.cpp asserts that they are the same.
#pragma once

#include <cstdint>

namespace engine::gpu {

inline constexpr std::uint32_t TREES_A_GROUP = 16;
inline constexpr std::uint32_t CUTS_PADDED = 256;  // of a column, filled up with +inf

struct ForestColumn {
    std::int32_t feature;
    std::int32_t split;  // of a category set: a split that asks for it; -1 for thresholds
    std::uint8_t rule;
    std::uint8_t missing;  // the code of a missing value
};

struct ForestGroup {
    std::uint32_t output;
    std::uint32_t steps;  // the deepest tree's depth
};

// Which categories a column of a set sends left: words[first_word + c / 32] bit c % 32 for c below 32 * n_words.
struct ForestSet {
    std::uint32_t first_word;
    std::uint32_t n_words;
    std::uint8_t members_left;  // 1: members go left; 0: they go right
    std::uint8_t truncates;     // 1: a value in (-1, 0) counts as category 0
};

struct ForestView {
    std::uint32_t n_outputs;
    std::uint32_t n_columns;
    std::uint32_t n_groups;
    std::uint32_t values_by_node;  // 1: a leaf's value is found by its node, not by its number in the tree
    const ForestColumn* columns;
    const float* cuts;           // [columns][CUTS_PADDED]
    const std::uint32_t* words;  // nodes: bits 0-7 column or leaf, 8-15 cut, 16-31 nodes ahead to the left child
    const ForestGroup* groups;
    const std::int32_t* roots;       // [groups][TREES_A_GROUP]
    const std::int32_t* value_base;  // [groups][TREES_A_GROUP]
    const double* values;
    const std::uint32_t* output_begin;  // [outputs + 1] first group of each output
    const ForestSet* sets;              // by column; read where the column's split is not -1
    const std::uint32_t* set_words;
};

// What follows the sums of leaves: the same arithmetic as Forest::finish().
struct ForestLink {
    double scale;
    const double* base;  // [outputs]
};

}  // namespace engine::gpu
