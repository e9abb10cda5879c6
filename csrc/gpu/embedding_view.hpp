// Embedding tables as kernels read them. nvcc reads this file too.
#pragma once

#include <cstdint>

namespace engine::gpu {

// One table and the bag of ids that a row has for it: `bag` columns of the row, whole numbers as float32. A negative
// id, one beyond the table, or NaN is an empty place.
struct Embedding {
    const float* table;  // [n_vectors][width]
    std::uint32_t n_vectors;
    std::uint32_t width;
    std::uint32_t bag;
    std::uint32_t first_column;  // of the row
    std::uint32_t first_output;  // of the result
    std::uint32_t mean;          // 1: the mean of the bag; 0: its sum
};

}  // namespace engine::gpu
