// The native feature program: the hash against its published vectors, each step against values worked out by hand,
// and one row against a batch bit for bit.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

#include "check.hpp"
#include "engine/transform.hpp"

using namespace engine::transform;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

std::uint64_t hash_of(const char* text, std::uint64_t seed = 0) { return xxh64(text, std::strlen(text), seed); }

// The value of one step over one number.
double apply(Step step, double v, double w = 0.0) {
    Program program(2, 0, 1);
    if (step.op == Op::kBucket) program.add_edges({-1.0, 0.0, 10.0});
    step.dst = 2;
    step.b = 1;
    program.add_step(step);
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 2});
    program.finish();
    const double* columns[] = {&v, &w};
    double out = 0.0;
    program.run_batch_f64(columns, nullptr, 1, &out);
    return out;
}

template <class Build>
bool refused(Build build) {
    try {
        build();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

// From the sanity checks published with xxHash: a generated buffer, with and without a seed.
TEST(xxh64_published_vectors) {
    char buffer[222];
    std::uint64_t generator = 2654435761u;
    for (char& byte : buffer) {
        byte = static_cast<char>(generator >> 56);
        generator *= 11400714785074694797u;
    }
    const std::uint64_t seed = 2654435761u;
    CHECK(xxh64(buffer, 0, 0) == 0xEF46DB3751D8E999u);
    CHECK(xxh64(buffer, 0, seed) == 0xAC75FDA2929B17EFu);
    CHECK(xxh64(buffer, 1, 0) == 0xE934A84ADB052768u);
    CHECK(xxh64(buffer, 1, seed) == 0x5014607643A9B4C3u);
    CHECK(xxh64(buffer, 4, 0) == 0x9136A0DCA57457EEu);
    CHECK(xxh64(buffer, 14, 0) == 0x8282DCC4994E35C8u);
    CHECK(xxh64(buffer, 14, seed) == 0xC3BD6BF63DEB6DF0u);
    CHECK(xxh64(buffer, 222, 0) == 0xB641AE8CB691C174u);
    CHECK(xxh64(buffer, 222, seed) == 0x20CB8AB7AE10C14Au);
    CHECK(hash_of("a") == 0xD24EC4F1A98C6E5Bu);
    CHECK(hash_of("abc") == 0x44BC2CF5AD770999u);
}

TEST(steps_over_one_number) {
    CHECK(apply({.op = Op::kImpute, .x = 7.0}, kNaN) == 7.0);
    CHECK(apply({.op = Op::kImpute, .x = 7.0}, 2.0) == 2.0);
    CHECK(apply({.op = Op::kMissing}, kNaN) == 1.0);
    CHECK(apply({.op = Op::kMissing}, kInf) == 0.0);
    CHECK(apply({.op = Op::kScale, .x = 1.0, .y = 2.0}, 4.0) == 1.5);
    CHECK(std::isnan(apply({.op = Op::kScale, .x = 1.0, .y = 2.0}, kNaN)));
    CHECK(apply({.op = Op::kClip, .x = -1.0, .y = 2.0}, kInf) == 2.0);
    CHECK(apply({.op = Op::kClip, .x = -1.0, .y = 2.0}, -3.0) == -1.0);
    CHECK(std::isnan(apply({.op = Op::kClip, .x = -1.0, .y = 2.0}, kNaN)));
    CHECK(apply({.op = Op::kSqrt}, 9.0) == 3.0);
    CHECK(std::isnan(apply({.op = Op::kSqrt}, -1.0)));
    CHECK(std::signbit(apply({.op = Op::kSqrt}, -0.0)));
    CHECK(apply({.op = Op::kDifference}, 5.0, 7.0) == -2.0);
    CHECK(apply({.op = Op::kProduct}, 5.0, 7.0) == 35.0);
    CHECK(apply({.op = Op::kRatio, .x = -9.0}, 7.0, 2.0) == 3.5);
    CHECK(apply({.op = Op::kRatio, .x = -9.0}, 7.0, 0.0) == -9.0);
    CHECK(std::isnan(apply({.op = Op::kRatio, .x = -9.0}, kNaN, 0.0)));
}

// Edges -1, 0, 10: an edge belongs to the bucket above it, or with count = 1 to the one below.
TEST(bucket_edges_choose_their_side) {
    CHECK(apply({.op = Op::kBucket}, -2.0) == 0.0);
    CHECK(apply({.op = Op::kBucket}, -1.0) == 1.0);
    CHECK(apply({.op = Op::kBucket, .count = 1}, -1.0) == 0.0);
    CHECK(apply({.op = Op::kBucket}, -0.0) == 2.0);
    CHECK(apply({.op = Op::kBucket}, 10.0) == 3.0);
    CHECK(apply({.op = Op::kBucket, .count = 1}, 10.0) == 2.0);
    CHECK(apply({.op = Op::kBucket}, kInf) == 3.0);
    CHECK(std::isnan(apply({.op = Op::kBucket}, kNaN)));
}

TEST(log1p_is_within_two_units_of_the_c_library) {
    CHECK(apply({.op = Op::kLog1p}, -1.0) == -kInf);
    CHECK(std::isnan(apply({.op = Op::kLog1p}, -1.5)));
    CHECK(apply({.op = Op::kLog1p}, kInf) == kInf);
    CHECK(std::signbit(apply({.op = Op::kLog1p}, -0.0)));
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> exponent(-320.0, 308.0);
    double worst = 0.0;
    for (int i = 0; i < 200000; ++i) {
        double v = std::pow(10.0, i % 2 ? exponent(random) : exponent(random) / 40.0);
        if (i % 3 == 0 && v < 1.0) v = -v;
        const double expected = std::log1p(v);
        const double unit = std::nextafter(std::fabs(expected), kInf) - std::fabs(expected);
        worst = std::max(worst, std::fabs(apply({.op = Op::kLog1p}, v) - expected) / unit);
    }
    if (worst > 2.0) std::fprintf(stderr, "worst error of log1p: %g units\n", worst);
    CHECK(worst <= 2.0);
}

TEST(cycles_are_exact_at_quarter_turns) {
    const Step sine{.op = Op::kSine, .x = 24.0}, cosine{.op = Op::kCosine, .x = 24.0};
    CHECK(apply(sine, 0.0) == 0.0 && apply(sine, 6.0) == 1.0 && apply(sine, 18.0) == -1.0 && apply(sine, 48.0) == 0.0);
    CHECK(apply(cosine, 0.0) == 1.0 && apply(cosine, 6.0) == 0.0 && apply(cosine, 12.0) == -1.0);
    CHECK(std::isnan(apply(sine, kInf)) && std::isnan(apply(sine, kNaN)));
    for (int i = -1000; i < 1000; ++i) {
        const double v = i * 0.1237, angle = 2.0 * 3.14159265358979323846 * v / 24.0;
        CHECK(std::fabs(apply(sine, v) - std::sin(angle)) < 1e-14);
        CHECK(std::fabs(apply(cosine, v) - std::cos(angle)) < 1e-14);
    }
}

TEST(texts_look_up_hash_and_one_hot) {
    Program program(0, 2, 9);
    const std::uint32_t codes = program.add_table({"AA", "", "Zürich"}, {0.0, 1.0, 2.0});
    const std::uint32_t with = program.add_table({"AA"}, {0.0});
    program.add_step({.op = Op::kLookup, .dst = 0, .a = 0, .table = codes, .x = -1.0, .y = kNaN});
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    program.add_step({.op = Op::kOneHot, .dst = 1, .a = 0, .count = 3});
    program.add_step({.op = Op::kHash, .dst = 1, .a = 0, .count = 97, .seed = 5, .y = -2.0});
    program.add_step({.op = Op::kEmit, .dst = 4, .a = 1});
    program.add_step({.op = Op::kHashCross, .dst = 1, .a = 0, .b = 1, .count = 97, .seed = 5, .y = kNaN});
    program.add_step({.op = Op::kEmit, .dst = 5, .a = 1});
    program.add_step({.op = Op::kTextImpute, .dst = 2, .a = 0, .table = with});
    program.add_step({.op = Op::kLookup, .dst = 1, .a = 2, .table = codes, .x = -1.0, .y = kNaN});
    program.add_step({.op = Op::kEmit, .dst = 6, .a = 1});
    program.add_step({.op = Op::kLength, .dst = 1, .a = 0, .y = kNaN});
    program.add_step({.op = Op::kEmit, .dst = 7, .a = 1});
    program.add_step({.op = Op::kTextMissing, .dst = 1, .a = 0});
    program.add_step({.op = Op::kEmit, .dst = 8, .a = 1});
    program.finish();

    const Text first[] = {{"Zürich", 7}, {"", 0}, {"unknown", 7}, {nullptr, 0}};
    const Text second[] = {{"x", 1}, {"x", 1}, {nullptr, 0}, {"x", 1}};
    const Text* columns[] = {first, second};
    float out[4][9];
    program.run_batch(nullptr, columns, 4, &out[0][0]);
    CHECK(out[0][0] == 2.0f && out[1][0] == 1.0f && out[2][0] == -1.0f && std::isnan(out[3][0]));
    CHECK(out[0][1] == 0.0f && out[0][2] == 0.0f && out[0][3] == 1.0f);
    CHECK(out[2][1] == 0.0f && out[2][2] == 0.0f && out[2][3] == 0.0f && out[3][1] == 0.0f);
    CHECK(out[0][4] == static_cast<float>(hash_of("Zürich", 5) % 97) && out[3][4] == -2.0f);
    CHECK(out[0][5] == static_cast<float>(hash_of("x", hash_of("Zürich", 5)) % 97));
    CHECK(std::isnan(out[2][5]) && std::isnan(out[3][5]));
    CHECK(out[3][6] == 0.0f && out[1][6] == 1.0f);
    CHECK(out[0][7] == 7.0f && out[1][7] == 0.0f && std::isnan(out[3][7]));
    CHECK(out[3][8] == 1.0f && out[0][8] == 0.0f);
}

TEST(row_and_batch_give_the_same_bits) {
    const double odd[] = {0.0, -0.0, 5e-324, -1e-310, 1e300, -1e300, kInf, -kInf, kNaN, -kNaN, 0.1, -1.0, 3.5e38};
    constexpr std::size_t kRows = 1000;  // not a multiple of the block
    Program program(2, 0, 9);
    program.add_edges({-1.0, 0.0, 10.0});
    const Step steps[] = {{.op = Op::kImpute, .x = 0.3}, {.op = Op::kScale, .x = 0.1, .y = 0.7},
                          {.op = Op::kLog1p}, {.op = Op::kSqrt}, {.op = Op::kSine, .x = 7.0},
                          {.op = Op::kCosine, .x = 7.0}, {.op = Op::kRatio, .x = kNaN},
                          {.op = Op::kProduct}, {.op = Op::kBucket}};
    std::uint32_t output = 0;
    for (Step step : steps) {
        step.dst = 2;
        step.b = 1;
        program.add_step(step);
        program.add_step({.op = Op::kEmit, .dst = output++, .a = 2});
    }
    program.finish();
    std::mt19937_64 random(7);
    std::vector<double> a(kRows), b(kRows);
    for (std::size_t i = 0; i < kRows; ++i) {
        a[i] = i % 3 ? odd[random() % std::size(odd)] : std::normal_distribution<double>(0.0, 100.0)(random);
        b[i] = i % 5 ? std::normal_distribution<double>(0.0, 100.0)(random) : odd[random() % std::size(odd)];
    }
    std::vector<float> many(kRows * 9);
    const double* columns[] = {a.data(), b.data()};
    program.run_batch(columns, nullptr, kRows, many.data());
    for (std::size_t i = 0; i < kRows; ++i) {
        std::vector<double> registers(program.number_registers());
        registers[0] = a[i];
        registers[1] = b[i];
        float one[9];
        program.run_row(registers.data(), nullptr, one);
        CHECK(std::memcmp(one, many.data() + i * 9, sizeof one) == 0);
    }
}

// Impute, scale and emit are one step on the row: alone, and where another step reads what lies between.
TEST(fused_steps_give_the_same_bits) {
    Program program(1, 0, 4);
    program.add_step({.op = Op::kImpute, .dst = 1, .a = 0, .x = 0.3});
    program.add_step({.op = Op::kScale, .dst = 2, .a = 1, .x = 0.1, .y = 0.7});
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 2});
    program.add_step({.op = Op::kScale, .dst = 3, .a = 0, .x = -0.2, .y = 3.0});
    program.add_step({.op = Op::kEmit, .dst = 1, .a = 3});
    program.add_step({.op = Op::kScale, .dst = 4, .a = 0, .x = 1.0, .y = 2.0});
    program.add_step({.op = Op::kEmit, .dst = 2, .a = 4});
    program.add_step({.op = Op::kEmit, .dst = 3, .a = 4});
    program.finish();
    for (const double v : {kNaN, 5.0, -0.0, kInf, 1e-320}) {
        const double* columns[] = {&v};
        float many[4], one[4];
        program.run_batch(columns, nullptr, 1, many);
        std::vector<double> registers(program.number_registers());
        registers[0] = v;
        program.run_row(registers.data(), nullptr, one);
        CHECK(std::memcmp(one, many, sizeof one) == 0);
        if (v == 5.0) CHECK(one[2] == 2.0f && one[3] == 2.0f);
    }
}

TEST(nonsense_is_refused_while_building) {
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kEmit, .dst = 0, .a = 1}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kEmit, .dst = 1, .a = 0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kImpute, .dst = 0, .a = 0}); }));
    CHECK(refused([] { Program(1, 1, 1).add_step({.op = Op::kLookup, .dst = 1, .a = 0, .table = 0}); }));
    CHECK(refused([] { Program(1, 1, 1).add_step({.op = Op::kHash, .dst = 1, .a = 0, .count = 0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kOneHot, .dst = 0, .a = 0, .count = 2}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = static_cast<Op>(999)}); }));
    CHECK(refused([] { Program(1, 0, 1).add_edges({1.0, 1.0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_table({"a", "a"}, {0.0, 1.0}); }));
    CHECK(refused([] { Program(1, 0, 1).finish(); }));
    CHECK(refused([] {
        Program program(1, 0, 1);
        program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
        program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    }));
}

CHECK_MAIN()
