// Dense nets built by hand in memory, run under the sanitizers.
#include "model/dense/dense.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/check.hpp"

using engine::dense::Activation;
using engine::dense::Dense;
using engine::dense::LayerSpec;
using engine::Isa;

TEST(a_hidden_layer_answers) {
    // relu(x - 1) and relu(-x), then 10 of the first plus 100 of the second plus 1.
    const double first[] = {1, -1}, second[] = {10, 100}, bias[] = {-1, 0}, last[] = {1};
    const LayerSpec layers[] = {{1, 2, first, bias, Activation::relu}, {2, 1, second, last, Activation::identity}};
    for (bool float32 : {false, true}) {
        auto net = Dense::load(layers, float32);
        const float rows[] = {3.0f, 0.5f, -2.0f};
        double out[3];
        CHECK(net->score(rows, 3, 1, out) == ENGINE_SCORE_OK);
        CHECK(out[0] == 21 && out[1] == 1 && out[2] == 201);
        const double wide[] = {3.0};
        CHECK(net->score(wide, 1, 1, out) == (float32 ? ENGINE_SCORE_FAILED : ENGINE_SCORE_OK));
    }
}

TEST(missing_values_add_nothing_where_the_net_says_so) {
    const double weights[] = {1, 10, 2, 20, 3, 30}, bias[] = {0.25, 0.5};
    const LayerSpec layers[] = {{3, 2, weights, bias, Activation::identity}};
    auto net = Dense::load(layers, false, true);
    const float nan = __builtin_nanf("");
    const float rows[] = {1, nan, 1, nan, nan, nan};
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        double out[4] = {};
        if (net->score_by(isa, rows, 2, 3, out) != ENGINE_SCORE_OK) continue;  // this CPU lacks it
        CHECK(out[0] == 4.25 && out[1] == 40.5 && out[2] == 0.25 && out[3] == 0.5);
    }
    const double wide[] = {1, 1, 1};
    double out[2];
    CHECK(net->score(wide, 1, 3, out) == ENGINE_SCORE_FAILED);
    bool refused = false;
    try {
        Dense::load(layers, true, true);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused);
}

TEST(instruction_sets_agree_bit_for_bit) {
    for (const std::uint32_t width : {1u, 2u, 3u, 16u, 17u, 100u, 129u}) {
        std::vector<double> weights(7 * width), bias(width), back(width * 3), last(3);
        for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 0.1 * static_cast<double>(i % 13) - 0.6;
        for (std::size_t i = 0; i < back.size(); ++i) back[i] = 0.1 * static_cast<double>(i % 17) - 0.7;
        const LayerSpec layers[] = {{7, width, weights, bias, Activation::tanh},
                                         {width, 3, back, last, Activation::softmax}};
        for (bool float32 : {false, true}) {
            auto net = Dense::load(layers, float32);
            std::vector<float> rows(9 * 7);
            for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 19) / 9.0f - 1.0f;
            std::vector<double> expected(9 * 3), got(9 * 3);
            net->score_by(Isa::scalar, rows.data(), 9, 7, expected.data());
            for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
                if (isa > engine::detected_isa()) continue;
                for (std::size_t r = 0; r < 9; ++r) net->score_by(isa, rows.data() + r * 7, 1, 7, got.data() + r * 3);
                CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(double)) == 0);
                net->score_by(isa, rows.data(), 9, 7, got.data());
                CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(double)) == 0);
            }
        }
    }
}

// One layer as dense.hpp defines it, in float: inputs in order, products rounded before they are added.
std::vector<float> by_definition(const std::vector<float>& in, const LayerSpec& layer) {
    std::vector<float> out(layer.n_out);
    for (std::size_t o = 0; o < layer.n_out; ++o) {
        float sum = static_cast<float>(layer.bias[o]) + 0.0f;  // never -0
        for (std::size_t i = 0; i < layer.n_in; ++i) {
            const float product = in[i] * static_cast<float>(layer.weights[i * layer.n_out + o]);
            sum += product;
        }
        out[o] = layer.activation == Activation::relu && sum < 0 ? 0.0f : sum;
    }
    return out;
}

// Whether inputs of 0 are skipped, how rows are tiled and how weights lie must not be seen: behind a ReLU that leaves
// few, half or all of its outputs, in layers that stay near and that do not, narrow and wide, for every number of rows.
TEST(skipping_and_tiling_change_no_bit) {
    constexpr std::size_t most_rows = 37, inputs = 9;
    for (const std::uint32_t width : {3u, 64u, 100u, 129u, 200u, 256u, 300u}) {
        std::vector<double> first(inputs * width), second(width * 70), third(70 * 5), bias(width), rest(70);
        for (std::size_t i = 0; i < first.size(); ++i) first[i] = 0.3 * static_cast<double>(i * 7 % 11) - 1.4;
        for (std::size_t i = 0; i < second.size(); ++i) second[i] = 0.07 * static_cast<double>(i * 5 % 23) - 0.7;
        for (std::size_t i = 0; i < third.size(); ++i) third[i] = 0.1 * static_cast<double>(i % 17) - 0.7;
        for (std::size_t i = 0; i < rest.size(); ++i) rest[i] = i % 3 ? 0.01 * static_cast<double>(i) : -0.0;
        std::vector<float> rows(most_rows * inputs);
        for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 13 % 19) / 9.0f - 1.0f;
        rows[4 * inputs] = __builtin_nanf("");
        rows[5 * inputs] = __builtin_inff();
        for (double level : {-6.0, 0.0, 30.0}) {
            bias.assign(width, level);
            const LayerSpec layers[] = {{inputs, width, first, bias, Activation::relu},
                                             {width, 70, second, rest, Activation::relu},
                                             {70, 5, third, std::span(rest).first(5), Activation::identity}};
            std::vector<double> expected;
            for (std::size_t r = 0; r < most_rows; ++r) {
                std::vector<float> values(rows.begin() + r * inputs, rows.begin() + (r + 1) * inputs);
                for (const LayerSpec& layer : layers) values = by_definition(values, layer);
                expected.insert(expected.end(), values.begin(), values.end());
            }
            auto net = Dense::load(layers, true);
            for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
                if (isa > engine::detected_isa()) continue;
                for (std::size_t n = 1; n <= most_rows; ++n) {
                    std::vector<double> got(n * 5);
                    net->score_by(isa, rows.data(), n, inputs, got.data());
                    bool same = true;
                    for (std::size_t i = 0; i < got.size(); ++i)
                        same = same && (std::memcmp(&got[i], &expected[i], sizeof(double)) == 0 ||
                                        (std::isnan(got[i]) && std::isnan(expected[i])));
                    CHECK(same);
                }
            }
        }
    }
}

// Beyond float32's range a weight would be infinite, and an input of 0 would be NaN in some kernels and skipped in
// others.
TEST(a_weight_must_be_finite_in_the_nets_own_type) {
    const double one[] = {1}, huge[] = {1e39};
    for (const bool in_bias : {false, true}) {
        const LayerSpec layer[] = {{1, 1, in_bias ? one : huge, in_bias ? huge : one, Activation::identity}};
        CHECK(Dense::load(layer, false) != nullptr);
        bool refused = false;
        try {
            Dense::load(layer, true);
        } catch (const std::invalid_argument& error) {
            refused = std::string(error.what()).find("not finite in float32") != std::string::npos;
        }
        CHECK(refused);
    }
}

// 18 rows are a tile of sixteen and two single rows; row 0 of such a tile was once wrong in an instrumented build.
TEST(rows_beyond_a_tile_agree) {
    const std::uint32_t widths[] = {21, 44, 49, 1};
    std::vector<std::vector<double>> weights, biases;
    std::vector<LayerSpec> layers;
    for (std::size_t l = 0; l < 3; ++l) {
        weights.emplace_back(widths[l] * widths[l + 1]);
        biases.emplace_back(widths[l + 1], 0.1);
        for (std::size_t i = 0; i < weights[l].size(); ++i)
            weights[l][i] = 0.01 * static_cast<double>(i * 37 % 101) - 0.5;
    }
    for (std::size_t l = 0; l < 3; ++l)
        layers.push_back({widths[l], widths[l + 1], weights[l], biases[l],
                          l < 2 ? Activation::relu : Activation::identity});
    std::vector<float> rows(18 * 21);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 29 % 103) / 50.0f - 1.0f;
    for (bool float32 : {false, true}) {
        const auto net = Dense::load(layers, float32);
        std::vector<double> expected(18), got(18);
        for (std::size_t r = 0; r < 18; ++r) net->score_by(Isa::scalar, rows.data() + r * 21, 1, 21, &expected[r]);
        for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
            if (net->score_by(isa, rows.data(), 18, 21, got.data()) != ENGINE_SCORE_OK) continue;
            CHECK(got == expected);
        }
    }
}

TEST(what_makes_no_net_is_refused) {
    const double one[] = {1};
    const LayerSpec narrow[] = {{1, 1, one, one, Activation::relu}, {2, 1, one, one, Activation::relu}};
    const LayerSpec early[] = {{1, 1, one, one, Activation::softmax}, {1, 1, one, one, Activation::relu}};
    int refused = 0;
    for (const auto* layers : {narrow, early}) {
        try {
            Dense::load({layers, 2}, false);
        } catch (const std::invalid_argument&) {
            ++refused;
        }
    }
    CHECK(refused == 2);
}

CHECK_MAIN()
