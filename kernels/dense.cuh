// Dense nets in float32, in the order of the CPU's sums (csrc/model/dense): products are rounded before they are added,
// each output adds its inputs in one order, and one or two outputs are dot products in sixteen interleaved sums.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "gpu/dense_view.hpp"

namespace engine::gpu {

constexpr std::uint32_t DOT_SUMS = 16;

DEVICE float after_relu(std::uint32_t relu, float x) { return relu != 0 && x < 0.0f ? 0.0f : x; }

// One layer for ROWS rows: a thread has an output, and its weights serve all rows.
template <int ROWS>
DEVICE void dense_layer(const DenseLayer& layer, std::uint32_t width, const float* in, float* out) {
    for (std::uint32_t o = threadIdx.x; o < layer.n_out; o += blockDim.x) {
        float sum[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sum[r] = __ldg(layer.bias + o);
#pragma unroll 4
        for (std::uint32_t i = 0; i < layer.n_in; ++i) {
            const float weight = __ldg(layer.weights + i * layer.n_out + o);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) sum[r] = add_rn(sum[r], mul_rn(in[r * width + i], weight));
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) out[r * width + o] = after_relu(layer.relu, sum[r]);
    }
}

// A layer of one or two outputs: sixteen threads a dot product. Pairs of dot products go together, so that a warp's
// shuffles are complete; the odd one out is computed twice and written once.
template <int ROWS>
DEVICE void dense_dots(const DenseLayer& layer, std::uint32_t width, const float* in, float* out) {
    const std::uint32_t lane = threadIdx.x % DOT_SUMS, dots = ROWS * layer.n_out;
    for (std::uint32_t dot = threadIdx.x / DOT_SUMS; dot < (dots + 1) / 2 * 2; dot += blockDim.x / DOT_SUMS) {
        const std::uint32_t r = dot < dots ? dot / layer.n_out : 0, o = dot < dots ? dot % layer.n_out : 0;
        float sum = 0.0f;
        for (std::uint32_t i = lane; i < layer.n_in; i += DOT_SUMS)
            sum = add_rn(sum, mul_rn(in[r * width + i], __ldg(layer.weights + o * layer.n_in + i)));
        for (int half = DOT_SUMS / 2; half != 0; half /= 2)
            sum = add_rn(sum, __shfl_xor_sync(~0u, sum, half, DOT_SUMS));
        if (dot < dots && lane == 0) out[r * width + o] = after_relu(layer.relu, add_rn(sum, __ldg(layer.bias + o)));
    }
}

// Rows of a block through all layers; activations stay in shared memory.
//   Block     ROWS rows.   Grid  x = ceil(rows of the bucket / ROWS); blocks past the real rows end at once.
//   Threads   a multiple of 32.
//   Shared    2 * ROWS * width floats.
//   Order     fixed, the CPU's. Rows past the end of the batch are zeros and are not written.
//   CPU       Dense::score of a net in float32 whose activations are ReLU or none; to the bit.
template <int ROWS>
DEVICE void dense_rows_body(const DenseNet& net, const float* rows, std::uint32_t row_stride, const Control* control,
                            double* out, unsigned char* shared) {
    const std::uint32_t n_rows = control->n_rows, first = blockIdx.x * ROWS;
    if (first >= n_rows) return;
    const std::uint32_t here = n_rows - first < ROWS ? n_rows - first : ROWS;
    float* in = reinterpret_cast<float*>(shared);
    float* next = in + ROWS * net.width;
    for (std::uint32_t i = threadIdx.x; i < ROWS * net.n_in; i += blockDim.x) {
        const std::uint32_t row = i / net.n_in, c = i % net.n_in;
        in[row * net.width + c] = row < here ? rows[(first + row) * row_stride + c] : 0.0f;
    }
    __syncthreads();  // a layer reads the inputs that all threads loaded
    for (std::uint32_t l = 0; l < net.n_layers; ++l) {
        const DenseLayer& layer = net.layers[l];
        if (layer.dot != 0) dense_dots<ROWS>(layer, net.width, in, next);
        else dense_layer<ROWS>(layer, net.width, in, next);
        __syncthreads();  // the next layer reads all outputs, and writes over these inputs
        float* const swapped = in;
        in = next;
        next = swapped;
    }
    for (std::uint32_t i = threadIdx.x; i < here * net.n_out; i += blockDim.x)
        out[first * net.n_out + i] = static_cast<double>(in[i / net.n_out * net.width + i % net.n_out]);
}

}  // namespace engine::gpu

#define ENGINE_DENSE_ROWS(ROWS)                                                                      \
    KERNEL dense_rows_##ROWS(engine::gpu::DenseNet net, const float* rows, std::uint32_t row_stride, \
                             const engine::gpu::Control* control, double* out) {                     \
        DYNAMIC_SHARED(shared);                                                                      \
        engine::gpu::dense_rows_body<ROWS>(net, rows, row_stride, control, out, shared);             \
    }
ENGINE_DENSE_ROWS(1)
ENGINE_DENSE_ROWS(4)
ENGINE_DENSE_ROWS(8)
#undef ENGINE_DENSE_ROWS
