// Embedding vectors gathered and pooled.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "gpu/embedding_view.hpp"

namespace engine::gpu {

// The pooled vectors of every table, side by side.
//   One warp one (row, table), its lanes the dimensions; grid x = ceil(rows * n_tables * 32 / threads).
//   Order: places of a bag ascending; the mean divides their sum by their number. An empty bag gives zeros. No shared
//   memory.
DEVICE void embed_bags_body(const Embedding* tables, std::uint32_t n_tables, const float* rows,
                            std::uint32_t row_stride, const Control* control, float* out, std::uint32_t out_stride) {
    const std::uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    const std::uint32_t row = warp / n_tables;
    if (row >= control->n_rows) return;
    const Embedding table = tables[warp % n_tables];
    for (std::uint32_t d = lane; d < table.width; d += 32) {
        float sum = 0.0f;
        std::uint32_t count = 0;
        for (std::uint32_t place = 0; place < table.bag; ++place) {
            const float id = rows[row * row_stride + table.first_column + place];
            if (!(id >= 0.0f) || !(id < static_cast<float>(table.n_vectors))) continue;
            sum = add_rn(sum, __ldg(table.table + static_cast<std::size_t>(id) * table.width + d));
            ++count;
        }
        out[row * out_stride + table.first_output + d] =
            table.mean != 0 && count != 0 ? sum / static_cast<float>(count) : sum;
    }
}

}  // namespace engine::gpu

KERNEL embed_bags(const engine::gpu::Embedding* tables, std::uint32_t n_tables, const float* rows,
                  std::uint32_t row_stride, const engine::gpu::Control* control, float* out, std::uint32_t out_stride) {
    engine::gpu::embed_bags_body(tables, n_tables, rows, row_stride, control, out, out_stride);
}
