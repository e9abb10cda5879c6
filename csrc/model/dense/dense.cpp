// Loads a dense net, packs it for the kernels and chooses among them.
#include "model/dense/dense.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "base/assert.hpp"
#include "model/dense/net.hpp"
#include "model/function_loops.hpp"
#include "model/shared_scorer.hpp"

namespace engine::dense {
namespace {

template <class T>
void activate_in(Activation activation, T* values, std::size_t count) noexcept {
    const model::FunctionLoops<T>& loops = model::active_loops<T>();
    switch (activation) {
        case Activation::identity:
        case Activation::relu:  // the kernels' own business
            return;
        case Activation::tanh: return loops.hyperbolic_tangent(values, count);
        case Activation::logistic:
            // A single output is the commonest, and a call through a pointer is not for nothing.
            if (count == 1) *values = model::logistic(*values);
            else loops.logistic(values, count);
            return;
        case Activation::exponential: return loops.exponential(values, count);
        case Activation::softmax: return loops.softmax(values, count);
    }
}

[[noreturn]] void refuse(std::size_t layer, const std::string& what) {
    throw std::invalid_argument("layer " + std::to_string(layer) + ": " + what);
}

// Whether a number is finite in the net's own type. A weight of infinity would make NaN of an input of 0, and kernels
// that skip such inputs would answer otherwise.
bool finite(double value, bool float32) noexcept {
    return float32 ? std::isfinite(static_cast<float>(value)) : std::isfinite(value);
}

void check(std::span<const LayerSpec> layers, bool float32) {
    if (layers.empty()) throw std::invalid_argument("a dense net needs at least one layer");
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const LayerSpec& layer = layers[l];
        if (layer.n_in < 1 || layer.n_out < 1) refuse(l, "needs at least one input and one output");
        if (layer.n_out > width_max)
            refuse(l, "expected at most " + std::to_string(width_max) + " outputs, got " + std::to_string(layer.n_out));
        if (l && layer.n_in != layers[l - 1].n_out)
            refuse(l, "expected " + std::to_string(layers[l - 1].n_out) + " inputs, got " + std::to_string(layer.n_in));
        if (layer.weights.size() != std::size_t(layer.n_in) * layer.n_out || layer.bias.size() != layer.n_out)
            refuse(l, "weights or bias have the wrong length");
        if (static_cast<int>(layer.activation) >= activation_count) refuse(l, "unknown activation");
        if (layer.activation == Activation::softmax && l + 1 != layers.size())
            refuse(l, "softmax before the last layer");
        for (double weight : layer.weights)
            if (!finite(weight, float32))
                refuse(l, std::string("a weight is not finite") + (float32 ? " in float32" : ""));
        for (double bias : layer.bias)
            if (!finite(bias, float32)) refuse(l, std::string("a bias is not finite") + (float32 ? " in float32" : ""));
    }
}

constexpr std::size_t NEAR_BYTES = 40960;  // weights of a layer up to this size mostly stay in the nearest cache

template <class T>
Layer<T> pack(const LayerSpec& spec) {
    constexpr std::size_t width = panel_width<T>;
    const std::size_t n_in = spec.n_in;
    const std::size_t n_out = spec.n_out;
    const std::size_t panels = n_out <= 2 ? 0 : (n_out + width - 1) / width;
    // Where the weights stay in the nearest cache, rows skip inputs and find the weights of four panels side by side.
    // Weights from farther off are better streamed panel by panel.
    const std::size_t group = panels * n_in * sizeof(Panel<T>) <= NEAR_BYTES ? 4 : 1;
    Layer<T> layer{n_in, n_out, group, panels, {}, {}, spec.activation};
    const std::size_t parts = (n_in + width - 1) / width;  // of a dot product
    layer.weights.resize(layer.panels ? layer.panels * n_in : n_out * parts);
    layer.bias.assign(layer.panels ? layer.panels * width : n_out, T(0));
    for (std::size_t o = 0; o < n_out; ++o) {
        layer.bias[o] = static_cast<T>(spec.bias[o]) + T(0);  // never -0: adding a product of +0 would change it
        const std::size_t panel = o / width;
        for (std::size_t i = 0; i < n_in; ++i) {
            const T weight = static_cast<T>(spec.weights[i * n_out + o]);
            ENGINE_ASSERT(!layer.panels || layer.begin(panel) + i * layer.step(panel) < layer.weights.size(),
                          "a weight lies inside its layer");
            if (layer.panels) layer.weights[layer.begin(panel) + i * layer.step(panel)].values[o % width] = weight;
            else layer.weights[o * parts + i / width].values[i % width] = weight;
        }
    }
    ENGINE_ASSERT(reinterpret_cast<std::uintptr_t>(layer.weights.data()) % 64 == 0, "panels lie on lines of the cache");
    return layer;
}

template <class T>
std::unique_ptr<const Net<T>> pack_all(std::span<const LayerSpec> layers) {
    auto net = std::make_unique<Net<T>>();
    net->narrow = layers.front().n_in <= narrow_max;
    for (const LayerSpec& layer : layers) {
        net->layers.push_back(pack<T>(layer));
        net->narrow = net->narrow && layer.n_out <= narrow_max;
    }
    return net;
}

const Kernels& kernels_of(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512: return kernels_avx512;
        case Isa::avx2: return kernels_avx2;
        case Isa::scalar: break;
    }
    return kernels_scalar;
}

}  // namespace

void activate(Activation activation, float* values, std::size_t count) noexcept {
    activate_in(activation, values, count);
}
void activate(Activation activation, double* values, std::size_t count) noexcept {
    activate_in(activation, values, count);
}

Dense::~Dense() = default;

std::unique_ptr<Dense> Dense::load(std::span<const LayerSpec> layers, bool float32, bool missing_zero) {
    check(layers, float32);
    if (float32 && missing_zero) throw std::invalid_argument("a net that reads NaN as 0 computes in double");
    std::unique_ptr<Dense> net(new Dense());
    net->n_features_ = layers.front().n_in;
    net->n_outputs_ = layers.back().n_out;
    net->missing_zero_ = missing_zero;
    if (float32) net->single_ = pack_all<float>(layers);
    else net->double_ = pack_all<double>(layers);
    return net;
}

int Dense::score_by(Isa isa, const float* rows, std::size_t n_rows, std::size_t row_stride,
                    double* out) const noexcept {
    if (isa > detected_isa()) return ENGINE_SCORE_FAILED;
    ENGINE_ASSERT((single_ != nullptr) != (double_ != nullptr), "a net computes in one type");
    ENGINE_ASSERT(n_rows == 0 || (rows != nullptr && out != nullptr), "rows and answers have memory");
    const Kernels& kernels = kernels_of(isa);
    if (single_) kernels.f32(*single_, rows, n_rows, row_stride, out);
    else if (missing_zero_)
        kernels.f64_present(*double_, reinterpret_cast<const OrZero*>(rows), n_rows, row_stride, out);
    else kernels.f64_f32(*double_, rows, n_rows, row_stride, out);
    return ENGINE_SCORE_OK;
}

int Dense::score(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept {
    return score_by(active_isa(), rows, n_rows, row_stride, out);
}

int Dense::score(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept {
    // A net in float32 offers the socket no entry for double rows: the caller rounds them.
    if (float32_rows()) return ENGINE_SCORE_FAILED;
    kernels_of(active_isa()).f64(*double_, rows, n_rows, row_stride, out);
    return ENGINE_SCORE_OK;
}

engine_scorer Dense::scorer(std::unique_ptr<Dense> net) {
    const std::uint32_t n_features = net->n_features();
    const std::uint32_t n_outputs = net->n_outputs();
    const bool float32_rows = net->float32_rows();
    return model::shared_scorer(std::move(net), n_features, n_outputs, float32_rows);
}

const Dense* Dense::of(const engine_scorer& scorer) noexcept { return model::model_of<Dense>(scorer); }

}  // namespace engine::dense
