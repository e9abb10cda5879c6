// Dense nets in the order of the CPU's sums (csrc/model/dense): products are rounded before they are added, each output
// adds its inputs in one order, and one or two outputs are dot products in interleaved sums.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "gpu/dense_view.hpp"
#include "model/functions.hpp"
#include "rows.cuh"

namespace engine::gpu {

enum DenseActivations : std::uint32_t {  // as model/dense/dense.hpp has them
    ACTIVATION_RELU = 1,
    ACTIVATION_TANH = 2,
    ACTIVATION_LOGISTIC = 3,
    ACTIVATION_EXPONENTIAL = 4,
    ACTIVATION_SOFTMAX = 5,
};

template <class T>
constexpr std::uint32_t DOT_SUMS = 64 / sizeof(T);

// Softmax takes a whole row, and comes after the layer.
template <class T>
DEVICE T activated(std::uint32_t activation, T x) {
    switch (activation) {
        case ACTIVATION_RELU: return x < T(0) ? T(0) : x;
        case ACTIVATION_TANH: return model::hyperbolic_tangent(x);
        case ACTIVATION_LOGISTIC: return model::logistic(x);
        case ACTIVATION_EXPONENTIAL: return model::exponential(x);
        default: return x;
    }
}

// One layer for ROWS rows: a thread has an output, and its weights serve all rows.
template <class T, int ROWS>
DEVICE void dense_layer(const DenseLayer<T>& layer, std::uint32_t width, const T* in, T* out) {
    for (std::uint32_t o = threadIdx.x; o < layer.n_out; o += blockDim.x) {
        T sum[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sum[r] = __ldg(layer.bias + o);
#pragma unroll 4
        for (std::uint32_t i = 0; i < layer.n_in; ++i) {
            const T weight = __ldg(layer.weights + i * layer.n_out + o);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sum[r] = add_rn(sum[r], mul_rn(in[r * width + i], weight));
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) out[r * width + o] = activated(layer.activation, sum[r]);
    }
}

// A layer of one or two outputs: sixteen threads a dot product in float, eight in double. As many dot products as a
// warp holds go together, so that its shuffles are complete; those past the end are computed and not written.
template <class T, int ROWS>
DEVICE void dense_dots(const DenseLayer<T>& layer, std::uint32_t width, const T* in, T* out) {
    constexpr std::uint32_t SUMS = DOT_SUMS<T>, A_WARP = WARP / SUMS;
    const std::uint32_t lane = threadIdx.x % SUMS, dots = ROWS * layer.n_out;
    for (std::uint32_t dot = threadIdx.x / SUMS; dot < (dots + A_WARP - 1) / A_WARP * A_WARP;
         dot += blockDim.x / SUMS) {
        const std::uint32_t r = dot < dots ? dot / layer.n_out : 0, o = dot < dots ? dot % layer.n_out : 0;
        T sum = 0;
        for (std::uint32_t i = lane; i < layer.n_in; i += SUMS)
            sum = add_rn(sum, mul_rn(in[r * width + i], __ldg(layer.weights + o * layer.n_in + i)));
        for (int half = SUMS / 2; half != 0; half /= 2) sum = add_rn(sum, __shfl_xor_sync(~0u, sum, half, SUMS));
        if (dot < dots && lane == 0)
            out[r * width + o] = activated(layer.activation, add_rn(sum, __ldg(layer.bias + o)));
    }
}

// Rows of a block through all layers; activations stay in shared memory.
//   Block     ROWS rows.   Grid  x = ceil(rows of the bucket / ROWS); blocks past the real rows end at once.
//   Threads   a multiple of 32.
//   Shared    2 * ROWS * width numbers of the net's type.
//   Order     fixed, the CPU's. Rows past the end of the batch are zeros and are not written.
//   CPU       Dense::score; to the bit, but for the bits of a NaN.
template <class T, int ROWS>
DEVICE void dense_rows_body(const DenseNet<T>& net, const T* rows, std::uint32_t row_stride, const Control* control,
                            double* out, unsigned char* shared) {
    const std::uint32_t n_rows = control->n_rows, first = blockIdx.x * ROWS;
    if (first >= n_rows) return;
    const std::uint32_t here = n_rows - first < ROWS ? n_rows - first : ROWS;
    T* in = reinterpret_cast<T*>(shared);
    T* next = in + ROWS * net.width;
    for (std::uint32_t i = threadIdx.x; i < ROWS * net.n_in; i += blockDim.x) {
        const std::uint32_t row = i / net.n_in, c = i % net.n_in;
        T x = 0;
        if (row < here) x = rows[(first + row) * row_stride + c];
        in[row * net.width + c] = net.missing_zero != 0 && x != x ? T(0) : x;
    }
    __syncthreads();  // a layer reads the inputs that all threads loaded
    for (std::uint32_t l = 0; l < net.n_layers; ++l) {
        const DenseLayer<T>& layer = net.layers[l];
        if (layer.dot != 0) dense_dots<T, ROWS>(layer, net.width, in, next);
        else dense_layer<T, ROWS>(layer, net.width, in, next);
        __syncthreads();  // the next layer reads all outputs, and writes over these inputs
        T* const swapped = in;
        in = next;
        next = swapped;
    }
    if (net.layers[net.n_layers - 1].activation == ACTIVATION_SOFTMAX) {
        for (std::uint32_t row = threadIdx.x / WARP; row < here; row += blockDim.x / WARP)
            softmax_of_row(in + row * net.width, net.n_out, threadIdx.x % WARP);
        __syncthreads();  // answers are written by other threads than those of a row's warp
    }
    for (std::uint32_t i = threadIdx.x; i < here * net.n_out; i += blockDim.x)
        out[first * net.n_out + i] = static_cast<double>(in[i / net.n_out * net.width + i % net.n_out]);
}

}  // namespace engine::gpu

#define ENGINE_DENSE_ROWS(suffix, T, ROWS)                                                                  \
    KERNEL dense_rows_##ROWS##suffix(engine::gpu::DenseNet<T> net, const T* rows, std::uint32_t row_stride, \
                                     const engine::gpu::Control* control, double* out) {                    \
        DYNAMIC_SHARED(shared);                                                                             \
        engine::gpu::dense_rows_body<T, ROWS>(net, rows, row_stride, control, out, shared);                 \
    }
ENGINE_DENSE_ROWS(_f32, float, 1)
ENGINE_DENSE_ROWS(_f32, float, 4)
ENGINE_DENSE_ROWS(_f32, float, 8)
ENGINE_DENSE_ROWS(_f64, double, 1)
ENGINE_DENSE_ROWS(_f64, double, 4)
ENGINE_DENSE_ROWS(_f64, double, 8)
#undef ENGINE_DENSE_ROWS
