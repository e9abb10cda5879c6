// Reads a column front to back, a block at a time, from whatever layout it has into registers.
#pragma once

#include "transform/program.hpp"

namespace engine::transform {

class ColumnReader {
public:
    ColumnReader(const Column& column) noexcept : column_(column) {}  // implicit: a range of columns makes readers

    // Hot: the next n rows; the caller knows that there are as many. Missing numbers are NaN, missing texts null.
    template <class Value>
    void read(std::size_t n, Value* to) noexcept {
        while (n > 0) {
            const Chunk& chunk = column_.chunks[chunk_];
            const std::size_t here = n < chunk.n_rows - row_ ? n : chunk.n_rows - row_;
            if (here > 0) copy(chunk, chunk.first + row_, here, to);
            to += here;
            n -= here;
            row_ += here;
            if (row_ == chunk.n_rows && n > 0) {
                ++chunk_;
                row_ = 0;
            }
        }
    }

private:
    void copy(const Chunk& chunk, std::size_t row, std::size_t n, double* to) const noexcept;
    void copy(const Chunk& chunk, std::size_t row, std::size_t n, Text* to) const noexcept;

    Column column_;
    std::size_t chunk_ = 0;
    std::size_t row_ = 0;  // within the chunk
};

}  // namespace engine::transform
