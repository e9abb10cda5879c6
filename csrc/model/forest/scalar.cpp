// Coded forest kernels in plain C++: eight trees interleaved, so that the loads of one overlap those of the others.
#include <cmath>
#include <cstring>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"

namespace engine::forest {
namespace {

// How many of 256 sorted cuts are below x, by halving; NaN is below none.
template <class T>
std::uint8_t count_below(const T* cuts, T x) noexcept {
    std::size_t below = 0;
    for (std::size_t step = cuts_padded / 2; step; step /= 2) below += cuts[below + step - 1] < x ? step : 0;
    ENGINE_ASSERT(below <= cuts_max, "a code counts cuts, and a column has at most cuts_max of them");
    return static_cast<std::uint8_t>(below);
}

template <class T>
std::uint8_t code_of(const CodedView& forest, std::size_t c, const T* cuts, T x) noexcept {
    const Column& column = forest.columns[c];
    if (column.split >= 0) {
        if (std::isnan(x)) return column.missing;
        return category_goes_left(*forest.trees, forest.trees->splits[column.split], x) ? 0 : 1;
    }
    if (takes_for_missing(column.rule, x)) return column.missing;
    return count_below(cuts + c * cuts_padded, x);
}

void code_row_f32(const CodedView& forest, const float* row, std::uint8_t* codes) noexcept {
    for (std::size_t c = 0; c < forest.n_columns; ++c)
        codes[c] = code_of(forest, c, forest.cuts_f32, row[forest.columns[c].feature]);
}

void code_row_f64(const CodedView& forest, const double* row, std::uint8_t* codes) noexcept {
    for (std::size_t c = 0; c < forest.n_columns; ++c)
        codes[c] = code_of(forest, c, forest.cuts_f64, row[forest.columns[c].feature]);
}

// Walks eight lanes of one group to their leaves and adds those to `accumulators`.
void walk_eight(const CodedView& forest, std::size_t first, std::uint32_t steps, const std::uint8_t* codes,
                double* accumulators) noexcept {
    std::uint32_t at[8];
    for (int j = 0; j < 8; ++j) at[j] = static_cast<std::uint32_t>(forest.roots[first + j]);
    for (std::uint32_t step = 0; step < steps; ++step) {
        std::uint32_t ahead = 0;
        for (int j = 0; j < 8; ++j) {
            ENGINE_ASSERT(at[j] < forest.n_words, "a lane stands on a node that exists");
            const std::uint32_t word = forest.words[at[j]];
            ahead |= word;
            at[j] += (word >> 16) + (codes[word & 255] > ((word >> 8) & 255) ? 1u : 0u);
        }
        if (ahead < 1u << 16) break;  // every lane stands on a leaf
    }
    for (int j = 0; j < 8; ++j) {
        const std::uint32_t leaf = forest.values_by_node ? at[j] : forest.words[at[j]] & 255;
        const std::uint32_t value = static_cast<std::uint32_t>(forest.value_base[first + j]) + leaf;
        ENGINE_ASSERT(value < forest.n_values, "a leaf has a value");
        accumulators[j] += forest.values[value];
    }
}

void score_lanes(const CodedView& forest, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double* sums) noexcept {
    ENGINE_ASSERT(first <= end && end <= forest.n_groups, "a part lies inside the forest's groups");
    for (std::size_t g = first; g < end; ++g)
        for (std::size_t half = 0; half < lanes; half += 8)
            walk_eight(forest, g * lanes + half, forest.groups[g].steps, codes, sums + half);
}

}  // namespace

const CodedKernels coded_scalar{code_row_f32, code_row_f64, score_lanes, nullptr, nullptr};

}  // namespace engine::forest
