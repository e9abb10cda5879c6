// Reads a column from front to back into registers, a block of rows at a time, from any layout.
#pragma once

#include "base/assert.hpp"
#include "transform/program.hpp"

namespace engine::transform {

class ColumnReader {
public:
    ColumnReader(const Column& column) noexcept : column_(column) {}  // implicit: a range of columns makes readers

    // Hot: reads the next n rows. The caller makes sure that the column has them. A missing number becomes NaN, a
    // missing text null.
    template <class Value>
    void read(std::size_t n, Value* to) noexcept {
        while (n > 0) {
            ENGINE_ASSERT(chunk_ < column_.n_chunks, "a column holds as many rows as are read");
            const Chunk& chunk = column_.chunks[chunk_];
            ENGINE_ASSERT(row_ <= chunk.n_rows, "the next row lies inside its chunk or at its end");
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
    std::size_t row_ = 0;  // the next row, counted within the chunk
};

}  // namespace engine::transform
