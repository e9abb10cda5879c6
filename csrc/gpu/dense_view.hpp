// A dense net as kernels read it. nvcc reads this file too.
#pragma once

#include <cstdint>

namespace engine::gpu {

inline constexpr std::uint32_t DENSE_LAYERS_MAX = 8;
inline constexpr std::uint32_t DENSE_DOT_OUTPUTS_MAX =
    2;  // up to so many outputs are dot products in sums side by side

// T is float or double, the type that the net computes in.
template <class T>
struct DenseLayer {
    std::uint32_t n_in;
    std::uint32_t n_out;
    std::uint32_t activation;  // dense::Activation
    std::uint32_t dot;         // 1: n_out <= DENSE_DOT_OUTPUTS_MAX
    const T* weights;          // [n_in][n_out]; for dot [n_out][n_in]
    const T* bias;             // [n_out]
};

template <class T>
struct DenseNet {
    std::uint32_t n_layers;
    std::uint32_t n_in;
    std::uint32_t n_out;
    std::uint32_t width;         // of the widest layer or of the input
    std::uint32_t missing_zero;  // 1: NaN in a row reads as 0
    DenseLayer<T> layers[DENSE_LAYERS_MAX];
};

}  // namespace engine::gpu
