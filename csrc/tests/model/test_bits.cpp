// The same bits from every compiler: answers of fixed models on fixed rows, as one number that is written down here.
//
// Nothing in them calls libm, whose last bits differ from version to version: links and activations are functions of
// our own. g++ and clang++ run this test, and any CPU.
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "model/dense/dense.hpp"
#include "model/forest/forest.hpp"
#include "model/function_loops.hpp"
#include "tests/check.hpp"

using engine::Isa;

namespace {

// FNV-1a over the bytes of doubles.
std::uint64_t fingerprint(const std::vector<double>& values) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (double value : values) {
        unsigned char bytes[sizeof value];
        std::memcpy(bytes, &value, sizeof value);
        for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
    }
    return hash;
}

// A linear congruential generator of its own, so that the numbers never change.
struct Numbers {
    std::uint64_t state;
    std::uint64_t below(std::uint64_t count) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (state >> 33) % count;
    }
    double real() { return static_cast<double>(below(2000001)) / 1e6 - 1.0; }
};

constexpr std::uint64_t written_f32 = 0x408d3f1b0e417939u;
constexpr std::uint64_t written_f64 = 0x7b2aff7fdaef1762u;
constexpr std::uint64_t written_forest = 0x02f7f7f601a968b5u;
constexpr std::uint64_t written_functions = 0x951bc53e11f68e69u;
constexpr std::size_t n_rows = 83, n_features = 13;

std::vector<float> rows_of(Numbers& numbers) {
    std::vector<float> rows(n_rows * n_features);
    for (float& value : rows) value = static_cast<float>(numbers.real());
    return rows;
}

}  // namespace

TEST(a_dense_net_gives_the_written_bits) {
    Numbers numbers{1};
    const std::vector<std::uint32_t> widths{n_features, 44, 49, 3};
    std::vector<std::vector<double>> weights, biases;
    for (std::size_t l = 0; l + 1 < widths.size(); ++l) {
        weights.emplace_back(widths[l] * widths[l + 1]);
        biases.emplace_back(widths[l + 1]);
        for (double& value : weights.back()) value = numbers.real();
        for (double& value : biases.back()) value = numbers.real();
    }
    std::vector<engine::dense::LayerSpec> layers;
    for (std::size_t l = 0; l < weights.size(); ++l)
        layers.push_back(
            {widths[l], widths[l + 1], weights[l], biases[l],
             l + 1 < weights.size() ? engine::dense::Activation::relu : engine::dense::Activation::identity});
    const std::vector<float> rows = rows_of(numbers);
    for (const auto& [float32, expected] : {std::pair{true, written_f32}, {false, written_f64}}) {
        const auto net = engine::dense::Dense::load(layers, float32);
        for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
            std::vector<double> out(n_rows * 3);
            if (net->score_by(isa, rows.data(), n_rows, n_features, out.data()) != ENGINE_SCORE_OK) continue;
            CHECK(fingerprint(out) == expected);
        }
    }
}

TEST(a_forest_gives_the_written_bits) {
    Numbers numbers{2};
    std::vector<std::int32_t> root, output, feature, left, right;
    std::vector<double> threshold, leaf;
    std::vector<std::uint8_t> rules;
    for (int tree = 0; tree < 50; ++tree) {
        // A chain: one child of each split is a leaf, the other the next split.
        const auto first = static_cast<std::int32_t>(feature.size());
        const auto splits = static_cast<std::int32_t>(1 + numbers.below(9));
        root.push_back(first);
        output.push_back(static_cast<std::int32_t>(tree % 2));
        for (std::int32_t s = first; s < first + splits; ++s) {
            const std::int32_t end = ~static_cast<std::int32_t>(leaf.size());
            leaf.push_back(numbers.real());
            std::int32_t onward = s + 1;
            if (s + 1 == first + splits) {
                onward = ~static_cast<std::int32_t>(leaf.size());
                leaf.push_back(numbers.real());
            }
            const bool turn = numbers.below(2);
            left.push_back(turn ? end : onward);
            right.push_back(turn ? onward : end);
            feature.push_back(static_cast<std::int32_t>(numbers.below(n_features)));
            threshold.push_back(numbers.real());
            rules.push_back(engine::forest::rule::missing_nan);
        }
    }
    const std::vector<double> base{0.25, -0.5};
    engine::forest::Spec spec;
    spec.n_features = n_features;
    spec.n_outputs = 2;
    spec.root = root;
    spec.output = output;
    spec.feature = feature;
    spec.threshold = threshold;
    spec.left = left;
    spec.right = right;
    spec.rule = rules;
    spec.leaf = leaf;
    spec.base = base;
    spec.scale = 0.1;
    const std::vector<float> rows = rows_of(numbers);
    const auto forest = engine::forest::Forest::load(spec);
    for (const std::string& layout : forest->layouts()) {
        std::vector<double> out(n_rows * 2);
        CHECK(forest->score_by(layout, rows.data(), n_rows, n_features, out.data()) == ENGINE_SCORE_OK);
        CHECK(fingerprint(out) == written_forest);
    }
}

TEST(links_and_activations_give_the_written_bits) {
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (isa > engine::detected_isa()) continue;
        const engine::model::AllFunctionLoops& loops = engine::model::function_loops(isa);
        Numbers numbers{3};
        std::vector<double> all;
        const auto keep = [&](auto loop, auto scale) {
            std::vector<decltype(scale)> values(1001);
            for (auto& value : values) value = static_cast<decltype(scale)>(numbers.real()) * scale;
            loop(values.data(), values.size());
            all.insert(all.end(), values.begin(), values.end());
        };
        keep(loops.f64.exponential, 700.0), keep(loops.f64.logistic, 40.0), keep(loops.f64.hyperbolic_tangent, 3.0);
        keep(loops.f64.softplus, 50.0), keep(loops.f64.softmax, 10.0);
        keep(loops.f32.exponential, 90.0f), keep(loops.f32.logistic, 20.0f), keep(loops.f32.hyperbolic_tangent, 3.0f);
        keep(loops.f32.softmax, 10.0f);
        if (fingerprint(all) != written_functions)
            std::fprintf(stderr, "%s: 0x%016llx\n", engine::isa_name(isa),
                         static_cast<unsigned long long>(fingerprint(all)));
        CHECK(fingerprint(all) == written_functions);
    }
}

CHECK_MAIN()
