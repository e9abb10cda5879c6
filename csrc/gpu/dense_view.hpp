// A dense net in float32 as kernels read it. nvcc reads this file too.
#pragma once

#include <cstdint>

namespace engine::gpu {

inline constexpr std::uint32_t DENSE_LAYERS_MAX = 8;
inline constexpr std::uint32_t DENSE_DOT_OUTPUTS_MAX = 2;  // up to so many outputs are dot products in sixteen sums

struct DenseLayer {
    std::uint32_t n_in;
    std::uint32_t n_out;
    std::uint32_t relu;    // 1: values below 0 become 0
    std::uint32_t dot;     // 1: n_out <= DENSE_DOT_OUTPUTS_MAX
    const float* weights;  // [n_in][n_out]; for dot [n_out][n_in]
    const float* bias;     // [n_out]
};

struct DenseNet {
    std::uint32_t n_layers;
    std::uint32_t n_in;
    std::uint32_t n_out;
    std::uint32_t width;  // of the widest layer or of the input
    DenseLayer layers[DENSE_LAYERS_MAX];
};

}  // namespace engine::gpu
