// Every kernel, compiled for this processor, against the CPU's own code: to the bit, under every order of threads.
#include "kernels/engine.cu"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "model/dense/dense.hpp"
#include "model/forest/coded.hpp"
#include "tests/gpu/random_forests.hpp"
#include "tests/check.hpp"

using namespace engine;
using namespace gpu_tests;

namespace {

constexpr double POISON = -77.0;  // of outputs before a launch
const char* const ORDERS[] = {"ascending", "descending", "random", "one warp ahead"};

// A forest in the arrays that kernels read, and what the CPU makes of some rows.
struct Case {
    Arrays arrays;
    std::shared_ptr<const forest::Coded> coded;
    std::vector<float> rows;
    uint32_t n_rows;
    std::vector<double> expected;
    std::vector<uint32_t> begins, tree_ends;
    std::vector<gpu::ForestSet> sets;
    gpu::ForestView view{};

    Case(uint32_t seed, size_t trees, size_t splits, uint32_t features, uint32_t outputs, uint32_t kinds,
         uint32_t n_sets, uint32_t n)
        : arrays(random_arrays(seed, trees, splits, features, outputs, kinds, n_sets)),
          rows(random_rows(seed, n, features)),
          n_rows(n) {
        const auto forest = forest::Forest::load(arrays.spec());
        coded = forest::make_coded(std::make_shared<const forest::Trees>(forest::make_trees(arrays.spec())));
        expected.assign(size_t{n} * outputs, 0.0);
        forest->score_by("reference", rows.data(), n, features, expected.data());
        CHECK(coded != nullptr);
        const auto& v = coded->view;
        for (uint32_t o = 0, g = 0; o <= outputs; ++o) {
            while (g < v.n_groups && v.groups[g].output < o) ++g;
            begins.push_back(g);
        }
        for (const auto& column : coded->columns) {
            gpu::ForestSet set{};
            if (column.split >= 0) {
                const auto& split = coded->trees->splits[static_cast<size_t>(column.split)];
                const auto at = static_cast<size_t>(split.set);
                const auto begin = static_cast<uint32_t>(coded->trees->set_begin[at]);
                set = {begin, static_cast<uint32_t>(coded->trees->set_begin[at + 1]) - begin,
                       static_cast<uint8_t>((split.rule & forest::rule::members_left) != 0),
                       static_cast<uint8_t>((split.rule & forest::rule::truncates) != 0)};
            }
            sets.push_back(set);
        }
        find_tree_ends();
        view = {v.n_outputs,
                v.n_columns,
                v.n_groups,
                v.values_by_node,
                reinterpret_cast<const gpu::ForestColumn*>(v.columns),
                v.cuts_f32,
                v.words,
                reinterpret_cast<const gpu::ForestGroup*>(v.groups),
                v.roots,
                v.value_base,
                v.values,
                begins.data(),
                sets.data(),
                coded->trees->set_words.data()};
    }

    // The word behind each tree. Lanes without a tree share the leaf at word 0; real trees lie one behind the other.
    void find_tree_ends() {
        for (size_t t = 0; t < coded->roots.size(); ++t) {
            auto end = static_cast<uint32_t>(coded->words.size());
            for (size_t u = t + 1; u < coded->roots.size(); ++u)
                if (coded->roots[u] > coded->roots[t]) {
                    end = static_cast<uint32_t>(coded->roots[u]);
                    break;
                }
            tree_ends.push_back(coded->roots[t] == 0 ? 1 : end);
        }
    }
};

bool same(const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

template <class F>
void launch(const std::string& what, dim3 grid, dim3 block, size_t shared, F kernel) {
    const char* wrong = cuhost::launch(grid, block, shared, kernel);
    if (wrong != nullptr) std::fprintf(stderr, "%s: %s\n", what.c_str(), wrong);
    CHECK(wrong == nullptr);
}

void expect(bool ok, const std::string& what) {
    if (!ok) std::fprintf(stderr, "other bits: %s\n", what.c_str());
    CHECK(ok);
}

// Calls `test` under each order of threads.
template <class F>
void in_every_order(uint32_t seed, F test) {
    for (int order = 0; order < 4; ++order) {
        cuhost::options.order = static_cast<cuhost::Order>(order);
        cuhost::options.seed = seed + static_cast<uint64_t>(order);
        test("seed " + std::to_string(seed) + ", " + ORDERS[order]);
    }
}

void check_rows(const Case& c, const std::string& tag) {
    const gpu::Control control{c.n_rows, 7};
    const uint32_t stride = (c.view.n_columns + 7) / 4 * 4;
    const auto one = [&](auto kernel, uint32_t rows, unsigned threads, uint32_t chunk) {
        std::vector<double> out(c.expected.size(), POISON);
        const size_t shared = (rows * stride + 15) / 16 * 16 + size_t{chunk} * 16 * 8 * rows;
        const std::string what =
            "forest_rows_" + std::to_string(rows) + ", chunks of " + std::to_string(chunk) + ", " + tag;
        launch(what, dim3{(c.n_rows + rows - 1) / rows}, dim3{threads}, shared,
               [&] { kernel(c.view, c.rows.data(), c.arrays.n_features, &control, out.data(), stride, chunk); });
        expect(same(out, c.expected), what);
    };
    one(forest_rows_1, 1, 64, c.view.n_groups);
    one(forest_rows_1, 1, 32, 1);
    one(forest_rows_4, 4, 128, 3);
    one(forest_rows_4, 4, 96, 1);
    one(forest_rows_8, 8, 128, 2);
    one(forest_rows_16, 16, 256, 1);
}

void check_trees(const Case& c, uint32_t trees_a_block, const std::string& tag) {
    constexpr uint32_t ROWS_A_BLOCK = 32;
    const gpu::Control control{c.n_rows, 7};
    const uint32_t stride = (c.view.n_columns + 7) / 4 * 4, n_trees = c.view.n_groups * 16;
    // Tree-stationary blocks want whole groups: trees one behind the other.
    if (std::count(c.view.roots, c.view.roots + n_trees, 0) != 0) return;
    uint32_t words_max = 0;
    for (uint32_t t = 0; t < n_trees; t += trees_a_block) {
        const uint32_t last = std::min(t + trees_a_block, n_trees);
        words_max = std::max(words_max, c.tree_ends[last - 1] - static_cast<uint32_t>(c.view.roots[t]));
    }
    const uint32_t rows_max = (c.n_rows + 31) / 32 * 32;
    std::vector<uint8_t> codes(size_t{rows_max} * stride, 0xEE);
    std::vector<uint16_t> leaf_at(size_t{n_trees} * rows_max, 0xEEEE);
    std::vector<double> out(c.expected.size(), POISON);
    launch("forest_code, " + tag, dim3{(c.n_rows * c.view.n_columns + 255) / 256}, dim3{256}, 0,
           [&] { forest_code(c.view, c.rows.data(), c.arrays.n_features, &control, codes.data(), stride); });
    launch("forest_trees, " + tag,
           dim3{(c.n_rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK, (n_trees + trees_a_block - 1) / trees_a_block}, dim3{128},
           size_t{words_max} * 4 + ROWS_A_BLOCK * stride, [&] {
               forest_trees(c.view, codes.data(), stride, &control, leaf_at.data(), rows_max, trees_a_block, n_trees,
                            ROWS_A_BLOCK, words_max, c.tree_ends.data());
           });
    launch("forest_sum, " + tag, dim3{(c.n_rows + 15) / 16}, dim3{256}, 0,
           [&] { forest_sum(c.view, leaf_at.data(), rows_max, &control, out.data()); });
    expect(same(out, c.expected), "forest_trees, " + tag);
}

void check_forest(uint32_t seed, bool small) {
    Draw draw{seed};
    const uint32_t outputs = 1 + static_cast<uint32_t>(draw(3));
    const size_t trees = !small ? 200 : draw(2) ? 16 * outputs * (1 + draw(5)) : 20 + draw(80);
    const size_t splits = small ? 1 + draw(30) : 62;
    const bool with_sets =
        seed % 3 == 0;  // each set is a column under every rule: few features, or bytes do not suffice
    const uint32_t features = 3 + static_cast<uint32_t>(draw(with_sets ? 4 : 20)),
                   n = small ? 1 + static_cast<uint32_t>(draw(40)) : 37;
    const Case c(seed, trees, splits, features, outputs, draw(2) || with_sets ? 40 : 400, with_sets ? 4 : 0, n);
    const auto trees_a_block = 1 + static_cast<uint32_t>(draw(12));
    in_every_order(seed, [&](const std::string& tag) {
        check_rows(c, tag);
        check_trees(c, trees_a_block, tag);
    });
}

// A random net in the CPU's form and in the kernels'.
struct Net {
    std::vector<std::vector<double>> weights, bias;
    std::vector<std::vector<float>> packed, bias_f32;
    std::vector<dense::LayerSpec> spec;
    gpu::DenseNet view{};

    explicit Net(Draw& draw) {
        const auto n_layers = 1 + static_cast<uint32_t>(draw(4));
        std::vector<uint32_t> widths{3 + static_cast<uint32_t>(draw(50))};
        for (uint32_t l = 0; l < n_layers; ++l)
            widths.push_back(1 + static_cast<uint32_t>(l + 1 == n_layers ? draw(4) : draw(90)));
        for (uint32_t l = 0; l < n_layers; ++l) add(draw, widths[l], widths[l + 1], l + 1 < n_layers);
        for (uint32_t l = 0; l < n_layers; ++l) {
            spec.push_back({widths[l], widths[l + 1], weights[l], bias[l],
                            l + 1 < n_layers ? dense::Activation::relu : dense::Activation::identity});
            view.layers[l].weights = packed[l].data();
            view.layers[l].bias = bias_f32[l].data();
            view.width = std::max({view.width, widths[l], widths[l + 1]});
        }
        view.n_layers = n_layers, view.n_in = widths.front(), view.n_out = widths.back();
    }

    void add(Draw& draw, uint32_t n_in, uint32_t n_out, bool relu) {
        const auto value = [&] {
            return static_cast<double>(static_cast<float>((static_cast<double>(draw(2001)) - 1000.0) / 1000.0));
        };
        weights.emplace_back(), bias.emplace_back();
        for (uint32_t i = 0; i < n_in * n_out; ++i) weights.back().push_back(value());
        for (uint32_t i = 0; i < n_out; ++i) bias.back().push_back(value());
        const bool dot = n_out <= gpu::DENSE_DOT_OUTPUTS_MAX;
        std::vector<float> floats(weights.back().size());
        for (uint32_t i = 0; i < n_in; ++i)
            for (uint32_t o = 0; o < n_out; ++o)
                floats[dot ? o * n_in + i : i * n_out + o] = static_cast<float>(weights.back()[i * n_out + o]);
        view.layers[packed.size()] = {n_in, n_out, relu ? 1u : 0u, dot ? 1u : 0u, nullptr, nullptr};
        packed.push_back(floats);
        bias_f32.emplace_back(bias.back().begin(), bias.back().end());
    }
};

void check_dense(uint32_t seed) {
    Draw draw{seed};
    Net net(draw);
    const auto cpu = dense::Dense::load(net.spec, true);
    const uint32_t n = 1 + static_cast<uint32_t>(draw(20)), width = net.view.n_in;
    std::vector<float> rows(size_t{n} * width);
    for (float& x : rows) x = static_cast<float>((static_cast<double>(draw(4001)) - 2000.0) / 777.0);
    std::vector<double> expected(size_t{n} * net.view.n_out);
    cpu->score(rows.data(), n, width, expected.data());
    const gpu::Control control{n, 1};
    in_every_order(seed, [&](const std::string& tag) {
        const auto one = [&](auto kernel, uint32_t rows_a_block) {
            std::vector<double> out(expected.size(), POISON);
            const std::string what = "dense_rows_" + std::to_string(rows_a_block) + ", " + tag;
            launch(what, dim3{(n + rows_a_block - 1) / rows_a_block}, dim3{64},
                   size_t{2} * rows_a_block * net.view.width * 4,
                   [&] { kernel(net.view, rows.data(), width, &control, out.data()); });
            expect(same(out, expected), what);
        };
        one(dense_rows_1, 1);
        one(dense_rows_4, 4);
        one(dense_rows_8, 8);
    });
}

void check_embeddings(uint32_t seed) {
    Draw draw{seed};
    constexpr uint32_t N = 5, TABLES = 3;
    std::vector<std::vector<float>> data;
    std::vector<gpu::Embedding> tables;
    uint32_t column = 0, width = 0;
    for (uint32_t t = 0; t < TABLES; ++t) {
        const auto vectors = 10 + static_cast<uint32_t>(draw(50)), d = 1 + static_cast<uint32_t>(draw(70)),
                   bag = 1 + static_cast<uint32_t>(draw(4));
        data.emplace_back(size_t{vectors} * d);
        for (float& x : data.back()) x = static_cast<float>(draw(1000)) / 999.0f;
        tables.push_back({nullptr, vectors, d, bag, column, width, static_cast<uint32_t>(draw(2))});
        column += bag, width += d;
    }
    for (uint32_t t = 0; t < TABLES; ++t) tables[t].table = data[t].data();
    std::vector<float> rows(size_t{N} * column), out(size_t{N} * width, -77.0f), expected(size_t{N} * width);
    for (float& x : rows) x = static_cast<float>(draw(70)) - 5.0f;
    for (uint32_t r = 0; r < N; ++r)
        for (const gpu::Embedding& table : tables)
            for (uint32_t d = 0; d < table.width; ++d) {
                float sum = 0.0f;
                int count = 0;
                for (uint32_t b = 0; b < table.bag; ++b) {
                    const float id = rows[r * column + table.first_column + b];
                    if (id < 0 || id >= static_cast<float>(table.n_vectors)) continue;
                    sum += table.table[static_cast<size_t>(id) * table.width + d];
                    ++count;
                }
                expected[r * width + table.first_output + d] =
                    table.mean && count ? sum / static_cast<float>(count) : sum;
            }
    const gpu::Control control{N, 1};
    launch("embed_bags", dim3{(N * TABLES * 32 + 127) / 128}, dim3{128}, 0,
           [&] { embed_bags(tables.data(), TABLES, rows.data(), column, &control, out.data(), width); });
    expect(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) == 0,
           "embed_bags, seed " + std::to_string(seed));
}

}  // namespace

#ifndef ENGINE_KERNEL_SEEDS
#define ENGINE_KERNEL_SEEDS 12
#endif

TEST(forests_have_the_bits_of_the_cpu) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_forest(seed, true);
}

#ifndef ENGINE_KERNELS_SHORT
TEST(a_large_forest_has_the_bits_of_the_cpu) { check_forest(1001, false); }
#endif

TEST(dense_nets_have_the_bits_of_the_cpu) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_dense(seed);
}

TEST(embeddings_are_pooled_in_order) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_embeddings(seed);
}

TEST(scale_and_base_are_those_of_the_forest) {
    const double base[] = {0.25, -3.5};
    std::vector<double> raw{1.0, 2.0, -0.3, 1e300, 7.0, 7.0};
    const std::vector<double> before = raw;
    const gpu::Control control{2, 1};  // the third row is past the end
    launch("forest_scale", dim3{1}, dim3{32}, 0, [&] { forest_scale(2, {0.1, base}, &control, raw.data()); });
    for (size_t i = 0; i < 4; ++i) CHECK(raw[i] == before[i] * 0.1 + base[i % 2]);
    CHECK(raw[4] == 7.0 && raw[5] == 7.0);
}

TEST(publishing_writes_the_token) {
    const gpu::Control control{3, 41};
    uint32_t token = 40;
    launch("publish", dim3{1}, dim3{1}, 0, [&] { publish(&control, &token); });
    CHECK(token == 41);
}

TEST(a_barrier_that_some_never_reach_is_named) {
    const char* wrong = cuhost::launch(dim3{1}, dim3{64}, 0, [] {
        if (threadIdx.x < 32) return;
        if (threadIdx.x == 40) __syncwarp();
        else __syncthreads();
    });
    CHECK(wrong != nullptr && std::strstr(wrong, "wait for ever") != nullptr);
}

CHECK_MAIN()
