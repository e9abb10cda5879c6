// What the host and the kernels agree on about one batch. Plain structs: nvcc reads this file too.
#pragma once

#include <cstdint>

namespace engine::gpu {

// The head of a staged batch; the rows follow it, dense. The host writes it before a launch.
struct alignas(64) Control {
    std::uint32_t n_rows;  // at most the rows that the graph was captured for
    std::uint32_t token;   // the graph's last kernel writes it where the host looks
};

}  // namespace engine::gpu
