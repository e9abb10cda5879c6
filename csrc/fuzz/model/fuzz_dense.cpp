// Bytes -> the arrays of a dense net -> a net that load() refuses by std::invalid_argument, or scores.
//
// Accepted nets are scored by the kernels of every instruction set that this CPU has, one row and many, and must give
// the bits of the plain C++ kernel on single rows. NaN is compared as NaN: its sign and payload are the compiler's
// choice.
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "fuzz/model/bytes.hpp"
#include "model/dense/dense.hpp"

using namespace engine::dense;
using engine::Isa;

namespace {

constexpr std::size_t weights_max = 60000;

bool same(const std::vector<double>& a, const std::vector<double>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
        if (std::memcmp(&a[i], &b[i], sizeof(double)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Bytes in(data, size);
    static constexpr std::uint32_t widths[] = {1, 2, 3, 8, 15, 16, 17, 44, 49, 64, 65, 100, 129, 256, 257, 300, 1024, 1025};
    const std::size_t n_layers = in.below(5);
    std::vector<LayerSpec> layers;
    std::vector<std::vector<double>> weights, biases;
    weights.reserve(n_layers);
    biases.reserve(n_layers);
    std::uint32_t n_in = widths[in.below(18)];
    for (std::size_t l = 0, total = 0; l < n_layers; ++l) {
        std::uint32_t n_out = widths[in.below(18)];
        if (std::size_t(n_in) * n_out > weights_max - total) n_out = 1;
        total += std::size_t(n_in) * n_out;
        if (total > weights_max) return 0;
        // A few values over and over: a net of thousands of weights from an input of some hundred bytes.
        std::vector<double> some(1 + in.below(30));
        for (double& value : some) value = in.byte() == 255 ? in.value() : in.real() / 8;
        weights.emplace_back(std::size_t(n_in) * n_out);
        biases.emplace_back(n_out);
        for (std::size_t i = 0; i < weights[l].size(); ++i) weights[l][i] = some[(i * 7 + i / 13) % some.size()];
        for (std::size_t i = 0; i < biases[l].size(); ++i) biases[l][i] = some[i % some.size()];
        if (in.byte() == 77) weights[l].pop_back();
        layers.push_back({in.byte() == 78 ? n_in + 1 : n_in, n_out, weights[l], biases[l],
                          static_cast<Activation>(in.below(activation_count + 1))});
        n_in = n_out;
    }
    const bool float32 = in.byte() % 2;
    std::unique_ptr<Dense> net;
    try {
        net = Dense::load(layers, float32, in.byte() % 4 == 0);
    } catch (const std::invalid_argument&) {
        return 0;
    }
    const std::size_t n_rows = 1 + in.below(40), n_features = net->n_features(), n_outputs = net->n_outputs();
    std::vector<float> some(1 + in.below(30)), rows(n_rows * n_features);
    for (float& value : some) value = static_cast<float>(in.byte() == 255 ? in.value() : in.real());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = some[(i * 31 + i / 7) % some.size()];
    std::vector<double> expected(n_rows * n_outputs), got(expected.size());
    for (std::size_t r = 0; r < n_rows; ++r)
        net->score_by(Isa::scalar, rows.data() + r * n_features, 1, n_features, expected.data() + r * n_outputs);
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (isa > engine::detected_isa()) continue;
        fuzz::require(net->score_by(isa, rows.data(), n_rows, n_features, got.data()) == ENGINE_SCORE_OK);
        fuzz::require(same(got, expected));
    }
    return 0;
}
