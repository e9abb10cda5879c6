// Dense nets behind the scorer socket: linear and logistic models and multi-layer perceptrons.
//
// The same row gives the same bits at any batch size, thread count and instruction set. Each output adds its inputs in
// one order, products are rounded before they are added (no fused multiply-add), and vector lanes hold different
// outputs. A layer of one or two outputs is a dot product in sixteen (float) or eight (double) interleaved sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/cpu.hpp"
#include "engine/scorer.h"

namespace engine::dense {

enum class Activation : std::uint8_t {
    identity = 0,
    relu = 1,
    tanh = 2,
    logistic = 3,  // 1 / (1 + exp(-x))
    exponential = 4,
    softmax = 5,  // last layer only
};
inline constexpr int activation_count = 6;
inline constexpr std::uint32_t width_max = 1024;  // outputs a layer: two buffers of four such rows lie on the stack

struct LayerSpec {
    std::uint32_t n_in = 0;
    std::uint32_t n_out = 0;
    std::span<const double>
        weights;                   // [n_in * n_out], input-major: the weight of input i for output o at i * n_out + o
    std::span<const double> bias;  // [n_out]
    Activation activation = Activation::identity;
};

template <class T>
struct Net;

class Dense {
public:
    // float32: computes in float32, else in double. missing_zero: reads rows in float32 and a NaN as 0, as XGBoost's
    // linear models skip it; such a net computes in double. Throws std::invalid_argument naming the layer whose shape
    // does not fit, is too wide, or holds a weight that is not finite.
    static std::unique_ptr<Dense> load(std::span<const LayerSpec> layers, bool float32, bool missing_zero = false);
    ~Dense();

    // Hot: scores rows as engine_scorer says. Reentrant, allocates nothing. A net that computes in or reads
    // float32 fails on double rows: its scorer offers no such entry.
    int score(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept;
    int score(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept;

    // The same with the kernels of one instruction set, for tests: ENGINE_SCORE_FAILED where the CPU lacks it.
    int score_by(Isa isa, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept;

    static engine_scorer scorer(std::unique_ptr<Dense> net);
    // What such a scorer of this module's holds; null for any other scorer.
    static const Dense* of(const engine_scorer& scorer) noexcept;

    std::uint32_t n_features() const noexcept { return n_features_; }
    std::uint32_t n_outputs() const noexcept { return n_outputs_; }
    bool float32_rows() const noexcept { return single_ != nullptr || missing_zero_; }  // double rows are refused
    bool missing_zero() const noexcept { return missing_zero_; }
    // The packed net (model/dense/net.hpp) in the type that it computes in; the other is null.
    const Net<float>* single() const noexcept { return single_.get(); }
    const Net<double>* wide() const noexcept { return double_.get(); }

private:
    Dense() = default;
    std::uint32_t n_features_ = 0;
    std::uint32_t n_outputs_ = 0;
    bool missing_zero_ = false;
    std::unique_ptr<const Net<float>> single_;  // exactly one of the two
    std::unique_ptr<const Net<double>> double_;
};

}  // namespace engine::dense
