// Every kernel, compiled for this processor, through the class that launches it, against the CPU's own code: to the
// bit, under every order of threads. The driver here runs a kernel where it is launched, on the launching thread.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gpu/dense_body.hpp"
#include "gpu/forest_body.hpp"
#include "model/dense/dense.hpp"
#include "tests/gpu/host_kernels.cpp"
#include "tests/gpu/random_forests.hpp"
#include "tests/check.hpp"

using namespace engine;
using namespace gpu_tests;

namespace {

constexpr double POISON = -77.0;  // of outputs before a launch
const char* const ORDERS[] = {"ascending", "descending", "random", "one warp ahead"};

struct Registered {
    void* kernel;
    fake_driver_run run;
};
std::map<std::string, Registered>& kernels() {
    static std::map<std::string, Registered> all;
    return all;
}
std::string last_error, last_kernel;
int shared_bytes_max = 96 * 1024;

}  // namespace

extern "C" void fake_driver_register(const char* name, void* kernel, fake_driver_run run, const std::size_t*,
                                     unsigned) {
    kernels()[name] = {kernel, run};
}

namespace {

// A driver that runs at once. Memory is the process's own, so that a sanitizer sees every access.
std::shared_ptr<gpu::Device> direct_device() {
    using namespace gpu;
    if (kernels().empty()) register_kernels();
    auto driver = std::make_shared<Driver>();
    driver->cuDeviceGetCount = [](int* count) { return *count = 1, SUCCESS; };
    driver->cuDeviceGet = [](int* device, int) { return *device = 0, SUCCESS; };
    driver->cuDeviceGetName = [](char*, int, int) { return SUCCESS; };
    driver->cuDeviceGetAttribute = [](int* value, int which, int) {
        return *value = which == 97 ? shared_bytes_max : 9, SUCCESS;
    };
    driver->cuDevicePrimaryCtxRetain = [](Context*, int) { return SUCCESS; };
    driver->cuDevicePrimaryCtxRelease = [](int) { return SUCCESS; };
    driver->cuCtxGetCurrent = [](Context* now) { return *now = nullptr, SUCCESS; };
    driver->cuCtxSetCurrent = [](Context) { return SUCCESS; };
    driver->cuMemGetInfo = [](std::size_t* free, std::size_t* total) { return *free = *total = 1ull << 40, SUCCESS; };
    driver->cuGetErrorName = [](Result, const char** name) { return *name = "an error", SUCCESS; };
    driver->cuMemAlloc = [](DevicePointer* at, std::size_t bytes) {
        void* got = nullptr;
        if (posix_memalign(&got, 256, bytes)) return OUT_OF_MEMORY;
        *at = reinterpret_cast<DevicePointer>(got);
        return SUCCESS;
    };
    driver->cuMemFree = [](DevicePointer at) { return std::free(reinterpret_cast<void*>(at)), SUCCESS; };
    driver->cuMemcpyHtoD = [](DevicePointer to, const void* from, std::size_t bytes) {
        return std::memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
    };
    driver->cuModuleGetFunction = [](Function* function, Module, const char* name) {
        const auto it = kernels().find(name);
        if (it == kernels().end()) return 500;
        *function = reinterpret_cast<Function>(&*it);
        return SUCCESS;
    };
    driver->cuFuncSetAttribute = [](Function, int, int) { return SUCCESS; };
    driver->cuLaunchKernel = [](Function function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                unsigned bz, unsigned shared, Stream, void** parameters, void**) {
        const auto& [name, kernel] = *reinterpret_cast<std::pair<const std::string, Registered>*>(function);
        const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        last_kernel = name;
        const char* wrong = kernel.run(kernel.kernel, parameters, grid, block, shared);
        if (wrong != nullptr) last_error = name + ": " + wrong;
        return wrong == nullptr ? SUCCESS : 719;
    };
    std::string error;
    return Device::on(driver, 0, &error);
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
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

// What a body makes of some rows, in a batch that is larger than they are.
template <class BodyOf, class Row>
std::vector<double> answers_of(BodyOf& body, const std::vector<Row>& rows, uint32_t n, uint32_t n_outputs,
                               const std::string& what) {
    const uint32_t bucket = n + 3;
    const gpu::PipelineOptions options = body.options(bucket);
    CHECK(options.float64_rows == (sizeof(Row) == sizeof(double)));
    const auto features = rows.size() / n;
    std::vector<Row> staged(rows);
    staged.resize(bucket * features, static_cast<Row>(POISON));
    std::vector<double> out(size_t{bucket} * n_outputs, POISON);
    // NaN, as all ones are in floats: what nobody wrote shows.
    std::unique_ptr<unsigned char[]> scratch(new unsigned char[options.scratch_bytes + 1]);
    std::memset(scratch.get(), 0xff, options.scratch_bytes);
    const gpu::Control control{n, 7};
    const auto at = [](const void* pointer) { return reinterpret_cast<gpu::DevicePointer>(pointer); };
    const gpu::Body run = body.body();
    last_error.clear();
    const gpu::Result result =
        run.enqueue(run.ctx, nullptr, {bucket, at(&control), at(staged.data()), at(out.data()), at(scratch.get())});
    if (result != gpu::SUCCESS) std::fprintf(stderr, "%s: %s\n", what.c_str(), last_error.c_str());
    CHECK(result == gpu::SUCCESS);
    for (size_t i = size_t{n} * n_outputs; i < out.size(); ++i) CHECK(out[i] == POISON);
    out.resize(size_t{n} * n_outputs);
    return out;
}

// Every variant of every layout that this forest has, under every order.
template <class Row>
void check_forest(const Arrays& arrays, const forest::Spec& spec, uint32_t seed, uint32_t n, bool with_trees) {
    const auto forest = forest::Forest::load(spec);
    const auto narrow = random_rows(seed, n, arrays.n_features);
    const std::vector<Row> rows(narrow.begin(), narrow.end());
    std::vector<double> expected(size_t{n} * forest->n_answers());
    forest->score_by("reference", rows.data(), n, arrays.n_features, expected.data());
    const auto device = direct_device();
    int layouts = 0;
    for (const auto trees : {gpu::ForestBody::Trees::codes, gpu::ForestBody::Trees::symmetric,
                             gpu::ForestBody::Trees::wide, gpu::ForestBody::Trees::best}) {
        std::string error;
        const auto body = gpu::ForestBody::load(device, nullptr, *forest, trees, &error);
        if (!body) continue;
        ++layouts;
        in_every_order(seed, [&](const std::string& tag) {
            for (int variant = 0; variant < 5; ++variant) {
                if (variant == 4 && (!with_trees || body->layout() != std::string("codes"))) continue;
                body->variant = variant;
                body->threads = variant == 0 ? 32 : 64 << (variant % 2);
                const std::string what =
                    std::string(body->layout()) + ", variant " + std::to_string(variant) + ", " + tag;
                expect(same(answers_of(*body, rows, n, forest->n_answers(), what), expected), what);
            }
        });
    }
    CHECK(layouts >= 2);
}

void check_random_forest(uint32_t seed, bool small) {
    Draw draw{seed};
    const uint32_t outputs = 1 + static_cast<uint32_t>(draw(3));
    const size_t trees = !small ? 200 : seed % 4 < 2 ? 64 * outputs : 20 + draw(50);
    const size_t splits = small ? 1 + draw(20) : 62;
    // Each set is a column under every rule: few features, or bytes do not suffice.
    const bool with_sets = seed % 3 == 0;
    const uint32_t features = 3 + static_cast<uint32_t>(draw(with_sets || seed % 4 == 1 ? 4 : 20)),
                   n = small ? 1 + static_cast<uint32_t>(draw(20)) : 37;
    Arrays arrays =
        random_arrays(seed, trees, splits, features, outputs, draw(2) || with_sets ? 40 : 400, with_sets ? 4 : 0);
    for (double& base : arrays.base) base = static_cast<double>(draw(100)) / 50 - 1;
    forest::Spec spec = arrays.spec();
    spec.link = static_cast<forest::Link>(seed % forest::link_count);
    spec.link_parameter = 0.8;
    spec.scale = spec.link == forest::Link::identity ? 1.0 : 0.3;
    spec.float32_rows = seed % 2 != 0;
    // Little shared memory for four groups an output: leaves are added in several chunks. In 1,400 bytes four rows have
    // chunks of two groups, so that a thread adds leaves of others.
    shared_bytes_max = !small || seed % 4 > 1 ? 96 * 1024 : seed % 4 == 1 ? 1400 : 3000;
    if (spec.float32_rows) check_forest<float>(arrays, spec, seed, n, true);
    else check_forest<double>(arrays, spec, seed, n, true);
    shared_bytes_max = 96 * 1024;
}

// Trees that ask one question a level, numbered as symmetric ones are.
Arrays symmetric_arrays(uint32_t seed, size_t trees, uint32_t features) {
    Draw draw{seed};
    Arrays made;
    made.n_features = features;
    made.base = {0.25};
    for (size_t t = 0; t < trees; ++t) {
        const auto depth = static_cast<uint32_t>(draw(5));
        const auto first = static_cast<int32_t>(made.feature.size());
        const auto first_leaf = static_cast<int32_t>(made.leaf.size());
        const auto splits = (1 << depth) - 1;
        made.root.push_back(splits > 0 ? first : ~first_leaf);
        made.output.push_back(0);
        for (uint32_t level = 0; level < depth; ++level) {
            const auto feature = static_cast<int32_t>(draw(features));
            const double threshold = static_cast<double>(draw(40)) / 7.0 - 3.0;
            const auto rule = static_cast<uint8_t>(draw(6));
            for (int32_t s = (1 << level) - 1; s < (1 << (level + 1)) - 1; ++s) {
                const auto child = [&](int32_t c) { return c < splits ? first + c : ~(first_leaf + c - splits); };
                made.feature.push_back(feature);
                made.threshold.push_back(threshold);
                made.rules.push_back(rule);
                made.left.push_back(child(2 * s + 1));
                made.right.push_back(child(2 * s + 2));
            }
        }
        for (int32_t leaf = 0; leaf <= splits; ++leaf)
            made.leaf.push_back(static_cast<double>(draw(1000)) / 999.0 - 0.3);
    }
    return made;
}

// A random net: every activation, the last layer's by the seed, and layers of one and two outputs among them.
struct RandomNet {
    std::vector<std::vector<double>> weights, bias;
    std::vector<dense::LayerSpec> spec;
    uint32_t n_in = 0, n_out = 0;

    RandomNet(Draw& draw, uint32_t seed) {
        const auto last_activation = static_cast<dense::Activation>(seed % dense::activation_count);
        const auto n_layers = 1 + static_cast<uint32_t>(draw(3));
        std::vector<uint32_t> widths{3 + static_cast<uint32_t>(draw(40))};
        for (uint32_t l = 0; l < n_layers; ++l)
            widths.push_back(1 + static_cast<uint32_t>(draw(4) == 0 ? 0 : l + 1 == n_layers ? draw(40) : draw(70)));
        if (last_activation == dense::Activation::softmax) widths.back() += 40;  // more than a warp
        const auto value = [&] {
            return static_cast<double>(static_cast<float>((static_cast<double>(draw(2001)) - 1000.0) / 1000.0));
        };
        for (uint32_t l = 0; l < n_layers; ++l) {
            weights.emplace_back(size_t{widths[l]} * widths[l + 1]), bias.emplace_back(widths[l + 1]);
            for (double& x : weights.back()) x = value();
            for (double& x : bias.back()) x = draw(9) == 0 ? -0.0 : value();
        }
        for (uint32_t l = 0; l < n_layers; ++l) {
            const bool last = l + 1 == n_layers;
            const auto activation = last ? last_activation : static_cast<dense::Activation>(draw(4));
            spec.push_back({widths[l], widths[l + 1], weights[l], bias[l], activation});
        }
        n_in = widths.front(), n_out = widths.back();
    }
};

template <class Row>
void check_dense(uint32_t seed, bool missing_zero) {
    Draw draw{seed};
    const RandomNet net(draw, seed);
    const auto cpu = dense::Dense::load(net.spec, sizeof(Row) == sizeof(float), missing_zero);
    const uint32_t n = 1 + static_cast<uint32_t>(draw(17));
    std::vector<float> narrow(size_t{n} * net.n_in);
    for (float& x : narrow) x = static_cast<float>((static_cast<double>(draw(4001)) - 2000.0) / 777.0);
    if (missing_zero)
        for (float& x : narrow) x = draw(5) == 0 ? std::numeric_limits<float>::quiet_NaN() : x;
    const std::vector<Row> rows(narrow.begin(), narrow.end());
    std::vector<double> expected(size_t{n} * net.n_out);
    cpu->score(narrow.data(), n, net.n_in, expected.data());
    std::string error;
    const auto body = gpu::DenseBody::load(direct_device(), nullptr, *cpu, &error);
    CHECK(body != nullptr);
    if (!body) return void(std::fprintf(stderr, "%s\n", error.c_str()));
    in_every_order(seed, [&](const std::string& tag) {
        for (int variant = 0; variant < 3; ++variant) {
            body->variant = variant;
            body->threads = variant == 0 ? 32 : 96;
            const std::string what = "dense, variant " + std::to_string(variant) + ", " + tag;
            expect(same(answers_of(*body, rows, n, net.n_out, what), expected), what);
        }
    });
}

void launch(const std::string& what, dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel) {
    const char* wrong = cuhost::launch(grid, block, shared, kernel);
    if (wrong != nullptr) std::fprintf(stderr, "%s: %s\n", what.c_str(), wrong);
    CHECK(wrong == nullptr);
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

void check_top_k(uint32_t seed) {
    Draw draw{seed};
    constexpr double NOT_A_VALUE = std::numeric_limits<double>::quiet_NaN();
    const uint32_t n = 1 + static_cast<uint32_t>(draw(5)), count = 1 + static_cast<uint32_t>(draw(90)),
                   k = 1 + static_cast<uint32_t>(draw(8));
    std::vector<double> values(size_t{n} * count);
    for (double& x : values)
        x = draw(9) == 0   ? NOT_A_VALUE
            : draw(9) == 0 ? -std::numeric_limits<double>::infinity()
                           : static_cast<double>(draw(20));
    std::vector<double> expected;
    for (uint32_t r = 0; r < n; ++r) {
        std::vector<uint32_t> places;
        for (uint32_t i = 0; i < count; ++i)
            if (!std::isnan(values[r * count + i])) places.push_back(i);
        std::stable_sort(places.begin(), places.end(),
                         [&](uint32_t a, uint32_t b) { return values[r * count + a] > values[r * count + b]; });
        for (uint32_t j = 0; j < k; ++j)
            expected.push_back(j < places.size() ? values[r * count + places[j]] : NOT_A_VALUE);
        for (uint32_t j = 0; j < k; ++j) expected.push_back(j < places.size() ? places[j] : -1.0);
    }
    const gpu::Control control{n, 1};
    in_every_order(seed, [&](const std::string& tag) {
        std::vector<double> out(expected.size(), POISON);
        launch("top_k, " + tag, dim3{(n * 32 + 63) / 64}, dim3{64}, 0,
               [&] { top_k(values.data(), count, k, &control, out.data()); });
        expect(same(out, expected), "top_k, " + tag);
    });
}

}  // namespace

#ifndef ENGINE_KERNEL_SEEDS
#define ENGINE_KERNEL_SEEDS 18
#endif

TEST(forests_have_the_bits_of_the_cpu) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_random_forest(seed, true);
}

#ifndef ENGINE_KERNELS_SHORT
TEST(a_large_forest_has_the_bits_of_the_cpu) { check_random_forest(1001, false); }
#endif

TEST(symmetric_forests_have_the_bits_of_the_cpu) {
    for (uint32_t seed = 1; seed <= 3; ++seed) {
        const Arrays arrays = symmetric_arrays(seed, 10 + 45 * seed, 6);
        forest::Spec spec = arrays.spec();
        spec.link = forest::Link::sigmoid;
        const auto forest = forest::Forest::load(spec);
        std::string error;
        const auto body =
            gpu::ForestBody::load(direct_device(), nullptr, *forest, gpu::ForestBody::Trees::best, &error);
        CHECK(body != nullptr && body->layout() == std::string("symmetric"));
        check_forest<double>(arrays, spec, seed, 11, false);
    }
}

TEST(a_forest_that_fits_no_bytes_goes_wide) {
    // 300 columns are more than a byte counts.
    const Arrays arrays = random_arrays(5, 40, 15, 300, 2, 500);
    const auto forest = forest::Forest::load(arrays.spec());
    std::string error;
    const auto device = direct_device();
    using Trees = gpu::ForestBody::Trees;
    CHECK(gpu::ForestBody::load(device, nullptr, *forest, Trees::codes, &error) == nullptr);
    CHECK(error == "the forest has no layout of this kind");
    const auto body = gpu::ForestBody::load(device, nullptr, *forest, Trees::best, &error);
    CHECK(body != nullptr && body->layout() == std::string("wide"));
    const auto narrow = random_rows(9, 6, 300);
    const std::vector<double> rows(narrow.begin(), narrow.end());
    std::vector<double> expected(12);
    forest->score_by("reference", rows.data(), 6, 300, expected.data());
    in_every_order(5, [&](const std::string& tag) { expect(same(answers_of(*body, rows, 6, 2, tag), expected), tag); });
    shared_bytes_max = 500;
    CHECK(gpu::ForestBody::load(direct_device(), nullptr, *forest, Trees::best, &error) == nullptr);
    CHECK(error.find("do not fit the 500 bytes of shared memory of a block") != std::string::npos);
    shared_bytes_max = 96 * 1024;
}

TEST(dense_nets_have_the_bits_of_the_cpu) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) {
        if (seed % 3 == 0) check_dense<float>(seed, false);
        else check_dense<double>(seed, seed % 3 == 1);
    }
}

TEST(a_net_too_deep_or_too_wide_is_refused) {
    const std::vector<double> one{1.0}, zero{0.0};
    const std::vector<dense::LayerSpec> deep(9, {1, 1, one, zero, dense::Activation::relu});
    std::string error;
    CHECK(gpu::DenseBody::load(direct_device(), nullptr, *dense::Dense::load(deep, true), &error) == nullptr);
    CHECK(error == "a net on the GPU has at most 8 layers, got 9");
    const std::vector<double> many(20'000, 1.0);
    const std::vector<dense::LayerSpec> wide{{20'000, 1, many, zero, dense::Activation::identity}};
    CHECK(gpu::DenseBody::load(direct_device(), nullptr, *dense::Dense::load(wide, true), &error) == nullptr);
    CHECK(error == "a row of 20000 values does not fit the shared memory of a block");
}

TEST(embeddings_are_pooled_in_order) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_embeddings(seed);
}

TEST(the_k_largest_are_found_in_order) {
    for (uint32_t seed = 1; seed <= ENGINE_KERNEL_SEEDS; ++seed) check_top_k(seed);
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
