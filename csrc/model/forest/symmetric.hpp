// A forest of symmetric trees, as CatBoost grows them: all splits of a level ask the same question. A tree is then a
// list of questions, its leaf is the number that their answers spell, and no node is ever looked up.
//
// It uses the columns and codes of coded.hpp. 64 trees of one output make a chunk: level by level, the columns and cuts
// of all of them lie side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/forest/coded.hpp"

namespace engine::forest {

inline constexpr std::size_t chunk_trees = 64;
inline constexpr std::uint32_t symmetric_depth_max = 8;  // a leaf's number is a byte

struct Chunk {
    std::uint32_t levels;       // of its deepest tree; the first levels of the others always answer left
    std::uint32_t first_level;  // into columns and cuts, in levels
    std::uint32_t groups;       // of sixteen trees, 1 to 4
};

struct SymmetricView {
    std::uint32_t n_columns;
    const Chunk* chunks;
    const std::uint8_t* columns;     // [levels][chunk_trees]
    const std::uint8_t* cuts;        // the same
    const std::int32_t* value_base;  // [chunks][chunk_trees]; a place without a tree leads to 0.0
    const double* values;
};

struct SymmetricKernels {
    // Codes and sums as CodedKernels has them; chunks [first, end).
    void (*lanes)(const SymmetricView&, const std::uint8_t* codes, std::size_t first, std::size_t end,
                  double* sums) noexcept;
    void (*rows)(const SymmetricView&, const std::uint8_t* codes, std::size_t first, std::size_t end,
                 double (*sums)[block_rows]) noexcept;
};
extern const SymmetricKernels symmetric_scalar;
extern const SymmetricKernels symmetric_avx2;
extern const SymmetricKernels symmetric_avx512;

struct Symmetric {
    SymmetricView view;
    std::shared_ptr<const Coded> coded;
    std::vector<Chunk> chunks;
    std::vector<std::uint8_t> columns, cuts;
    std::vector<std::int32_t> value_base;
    std::vector<Part> parts;  // of chunks
};

// Null where a tree is not symmetric or is deeper than symmetric_depth_max.
std::shared_ptr<const Symmetric> make_symmetric(std::shared_ptr<const Coded> coded);

}  // namespace engine::forest
