// The native feature program: the hash against its published vectors, each step against values worked out by hand,
// and one row against a batch bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/check.hpp"
#include "transform/program.hpp"

using namespace engine::transform;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

std::uint64_t hash_of(const char* text, std::uint64_t seed = 0) { return xxh64(text, std::strlen(text), seed); }

Chunk chunk_of(const double* values, std::size_t n_rows) {
    return {.layout = Layout::kF64, .values = values, .n_rows = n_rows};
}

// The value of one step over one number.
double apply(Step step, double v, double w = 0.0) {
    Program program(2, 0, 1);
    if (step.op == Op::kBucket) program.add_edges({-1.0, 0.0, 10.0});
    if (step.op == Op::kMatch) program.add_matches({{-1.0, 0.0, 10.0}, {5.0, 6.0, 7.0}});
    step.dst = 2;
    step.b = 1;
    program.add_step(step);
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 2});
    program.finish();
    const Chunk chunks[] = {chunk_of(&v, 1), chunk_of(&w, 1)};
    const Column columns[] = {{chunks, 1}, {chunks + 1, 1}};
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
    CHECK(apply({.op = Op::kAffine, .x = 3.0, .y = 0.5}, 2.0) == 6.5);
    CHECK(std::isnan(apply({.op = Op::kAffine, .x = 3.0, .y = 0.5}, kNaN)));
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, -1.0) == 5.0);
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, -0.0) == 6.0);
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, 10.0) == 7.0);
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, 9.5) == -1.0);
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, kInf) == -1.0);
    CHECK(apply({.op = Op::kMatch, .x = -1.0, .y = 9.0}, kNaN) == 9.0);
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
    const Chunk chunks[] = {{.layout = Layout::kText, .values = first, .n_rows = 4},
                            {.layout = Layout::kText, .values = second, .n_rows = 4}};
    const Column columns[] = {{chunks, 1}, {chunks + 1, 1}};
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
    const Step steps[] = {{.op = Op::kImpute, .x = 0.3},
                          {.op = Op::kScale, .x = 0.1, .y = 0.7},
                          {.op = Op::kLog1p},
                          {.op = Op::kSqrt},
                          {.op = Op::kSine, .x = 7.0},
                          {.op = Op::kCosine, .x = 7.0},
                          {.op = Op::kRatio, .x = kNaN},
                          {.op = Op::kProduct},
                          {.op = Op::kBucket}};
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
    const Chunk chunks[] = {chunk_of(a.data(), kRows), chunk_of(b.data(), kRows)};
    const Column columns[] = {{chunks, 1}, {chunks + 1, 1}};
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

// Impute, scale and emit are fused into one step, unless another step reads a register in between.
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
        const Chunk chunk = chunk_of(&v, 1);
        const Column columns[] = {{&chunk, 1}};
        float many[4], one[4];
        program.run_batch(columns, nullptr, 1, many);
        std::vector<double> registers(program.number_registers());
        registers[0] = v;
        program.run_row(registers.data(), nullptr, one);
        CHECK(std::memcmp(one, many, sizeof one) == 0);
        if (v == 5.0) CHECK(one[2] == 2.0f && one[3] == 2.0f);
    }
}

// Chunks that begin inside a byte of validity, a chunk without rows, and a stride.
TEST(columns_are_read_in_every_layout) {
    Program program(1, 0, 1);
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    program.finish();
    constexpr std::size_t kRows = 300, kFirst = 3;
    std::int32_t values[2 * (kFirst + kRows)];
    std::uint8_t validity[(kFirst + kRows + 7) / 8] = {};
    for (std::size_t i = 0; i < kFirst + kRows; ++i) {
        values[2 * i] = -1;
        values[2 * i + 1] = static_cast<std::int32_t>(i);
        if (i % 5 != 0) validity[i / 8] |= static_cast<std::uint8_t>(1u << (i % 8));
    }
    const std::uint8_t bits[] = {0b10110010};
    const Chunk chunks[] = {
        {.layout = Layout::kI32, .values = values, .validity = validity, .first = kFirst, .n_rows = kRows, .stride = 2},
        {.layout = Layout::kF64},
        {.layout = Layout::kBit, .values = bits, .first = 1, .n_rows = 7},
    };
    // The component belongs to the vectors of the first chunk, so that chunk is read alone too.
    const Column column{chunks, 1, 1};
    float out[kRows];
    program.run_batch(&column, nullptr, kRows, out);
    for (std::size_t i = 0; i < kRows; ++i) {
        if ((i + kFirst) % 5 == 0) CHECK(std::isnan(out[i]));
        else CHECK(out[i] == static_cast<float>(i + kFirst));
    }
    const Column rest{chunks + 1, 2};
    program.run_batch(&rest, nullptr, 7, out);
    const float expected[] = {1, 0, 0, 1, 1, 0, 1};
    CHECK(std::equal(expected, expected + 7, out));
}

// Every length at which a table reads a text in another way, and texts that differ from a key in one byte.
TEST(tables_find_their_keys_and_no_others) {
    std::vector<std::string> keys;
    std::vector<double> values;
    for (std::size_t size = 0; size <= 40; ++size) {
        for (const char fill : {'a', '\0', '\xff'}) {
            if (size == 0 && fill != 'a') continue;
            keys.push_back(std::string(size, fill));
            values.push_back(static_cast<double>(values.size()));
        }
    }
    Program program(0, 1, 1);
    const auto table = program.add_table(keys, values);
    program.add_step({.op = Op::kLookup, .dst = 0, .a = 0, .table = table, .x = -1.0});
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    program.finish();
    const auto found = [&](const std::string& text) {
        const std::string exact(text);
        Text input{exact.data(), exact.size()};
        double number;
        float out;
        program.run_row(&number, &input, &out);
        return out;
    };
    for (std::size_t i = 0; i < keys.size(); ++i) {
        CHECK(found(keys[i]) == static_cast<float>(i));
        for (std::size_t at = 0; at < keys[i].size(); ++at) {
            std::string changed = keys[i];
            changed[at] = 'z';
            CHECK(found(changed) == -1.0f);
        }
    }
    CHECK(found(std::string(41, 'a')) == -1.0f);
}

TEST(powers) {
    const auto power = [](double v, double x) { return apply({.op = Op::kPower, .a = 0, .x = x}, v); };
    CHECK(power(3.0, 2.0) == 9.0 && power(-2.0, 3.0) == -8.0 && power(2.0, -2.0) == 0.25 && power(0.0, -1.0) == kInf);
    CHECK(power(-8.0, 0.5) != power(-8.0, 0.5) && std::isnan(power(kNaN, 0.0)) && power(0.0, 0.0) == 1.0);
    CHECK(power(0.0, 0.5) == 0.0 && power(0.0, -0.5) == kInf && power(kInf, 0.5) == kInf && power(kInf, -0.5) == 0.0);
    CHECK(power(1e300, 2.5) == kInf && power(1e-300, 2.5) == 0.0 && power(-2.0, 101.0) == -power(2.0, 101.0));
    for (const double v : {5e-324, 1e-310, 1e-5, 0.3, 1.0, 2.0, 97.0, 1e9, 1e300}) {
        for (const double x : {-1.5, -0.5, 1.0 / 3.0, 0.5, 0.9, 1.1, 65.0, -70.0}) {
            const double expected = std::pow(v, x), got = power(v, x);
            if (expected == kInf || expected < 1e-307) continue;
            CHECK(std::fabs(got / expected - 1.0) < 1e-12);
        }
    }
}

TEST(distances_on_a_sphere) {
    Program program(4, 0, 1);
    program.add_step({.op = Op::kHaversine, .dst = 4, .a = 0, .b = 1, .c = 2, .d = 3, .x = 6371.0});
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 4});
    program.finish();
    const auto distance = [&](double a, double b, double c, double d) {
        double registers[] = {a, b, c, d, 0.0};
        float out;
        program.run_row(registers, nullptr, &out);
        return static_cast<double>(out);
    };
    constexpr double kPi = 3.141592653589793;
    CHECK(distance(12.0, 34.0, 12.0, 34.0) == 0.0);
    CHECK(std::fabs(distance(0.0, 0.0, 0.0, 180.0) - kPi * 6371.0) < 0.001);
    CHECK(std::fabs(distance(90.0, 0.0, 0.0, 77.0) - kPi / 2 * 6371.0) < 0.001);
    CHECK(distance(10.0, 179.0, 10.0, -179.0) == distance(10.0, -1.0, 10.0, 1.0));
    CHECK(std::fabs(distance(52.52, 13.405, 48.8566, 2.3522) - 877.46) < 0.01);  // Berlin, Paris
    CHECK(std::isnan(distance(91.0, 0.0, 0.0, 0.0)) && std::isnan(distance(0.0, kInf, 0.0, 0.0)));
}

TEST(parts_of_dates) {
    const auto part_of = [](double us, DatePart part) {
        Program program(1, 0, 1);
        program.add_zone({{1000.0}, {0.0, 3600.0}});
        program.add_step({.op = Op::kDatePart, .dst = 1, .a = 0, .count = static_cast<std::uint32_t>(part)});
        program.add_step({.op = Op::kEmit, .dst = 0, .a = 1});
        program.finish();
        double registers[] = {us, 0.0};
        float out;
        program.run_row(registers, nullptr, &out);
        return out;
    };
    // The zone is an hour ahead from 16 min 40 s past midnight, 1 January 1970, a Thursday.
    CHECK(part_of(999999999.0, DatePart::kHour) == 0.0f && part_of(1000000000.0, DatePart::kHour) == 1.0f);
    CHECK(part_of(0.0, DatePart::kWeekday) == 3.0f && part_of(-1.0, DatePart::kWeekday) == 2.0f);
    CHECK(part_of(-1.0, DatePart::kYear) == 1969.0f && part_of(-1.0, DatePart::kDayOfYear) == 365.0f);
    CHECK(part_of(-500000.0, DatePart::kSecond) == 59.5f && std::isnan(part_of(kInf, DatePart::kYear)));
    // Every day of four centuries, by counting.
    int year = 1970, month = 1, day = 1, day_of_year = 1;
    for (std::int64_t days = 0; days < 146097 + 1; ++days) {
        const double noon = (static_cast<double>(days) * 86400.0 + 43200.0) * 1e6;
        CHECK(part_of(noon, DatePart::kYear) == static_cast<float>(year));
        CHECK(part_of(noon, DatePart::kMonth) == static_cast<float>(month));
        CHECK(part_of(noon, DatePart::kDay) == static_cast<float>(day));
        CHECK(part_of(noon, DatePart::kDayOfYear) == static_cast<float>(day_of_year));
        const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        const int lengths[] = {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
        ++day_of_year;
        if (++day > lengths[month - 1]) {
            day = 1;
            if (++month > 12) {
                month = 1;
                day_of_year = 1;
                ++year;
            }
        }
    }
}

TEST(vectors_tokens_and_pairs_of_codes) {
    Program program(2, 1, 2 + 5 + 1);
    const std::uint32_t vectors = program.add_vectors({1.0f, 2.0f, 3.0f, 4.0f}, 2);
    program.add_step({.op = Op::kVector, .dst = 0, .a = 0, .table = vectors, .count = 2});
    program.add_step({.op = Op::kTokens, .dst = 2, .a = 0, .count = 5, .seed = 9});
    program.add_step({.op = Op::kCrossCodes, .dst = 2, .a = 0, .b = 1, .count = 10});
    program.add_step({.op = Op::kEmit, .dst = 7, .a = 2});
    program.finish();
    float out[8];
    const auto run = [&](double a, double b, Text text) {
        double registers[] = {a, b, 0.0};
        program.run_row(registers, &text, out);
    };
    run(1.0, 7.0, {" ab--cd ab Zürich", 18});
    CHECK(out[0] == 3.0f && out[1] == 4.0f && out[7] == 17.0f);
    float expected[5] = {};
    for (const char* token : {"ab", "cd", "ab", "Zürich"}) expected[hash_of(token, 9) % 5] += 1.0f;
    CHECK(std::equal(expected, expected + 5, out + 2));
    run(2.0, 10.0, {"", 0});
    CHECK(out[0] == 0.0f && out[1] == 0.0f && out[2] == 0.0f && std::isnan(out[7]));
    run(kNaN, 0.0, {nullptr, 0});
    CHECK(out[0] == 0.0f && std::isnan(out[2]) && std::isnan(out[6]));
}

namespace {
float twice_and(float a, float b) { return 2.0f * a + b; }
void sum_and_difference(float a, float b, float* out) {
    out[0] = a + b;
    out[1] = a - b;
}
}  // namespace

TEST(functions_are_called_with_float32) {
    Program program(2, 0, 3);
    const auto one = program.add_function({reinterpret_cast<NativeFunction>(&twice_and), {0, 1}, 1});
    const auto two = program.add_function({reinterpret_cast<NativeFunction>(&sum_and_difference), {1, 0}, 2});
    program.add_step({.op = Op::kCall, .dst = 2, .table = one});
    program.add_step({.op = Op::kCall, .dst = 3, .table = two});
    for (std::uint32_t i = 0; i < 3; ++i) program.add_step({.op = Op::kEmit, .dst = i, .a = 2 + i});
    program.finish();
    double registers[5] = {0.1, 4.0};
    float out[3];
    program.run_row(registers, nullptr, out);
    CHECK(out[0] == 2.0f * 0.1f + 4.0f && out[1] == 4.0f + 0.1f && out[2] == 4.0f - 0.1f);
    const auto address = reinterpret_cast<NativeFunction>(&twice_and);
    CHECK(refused([&] { program.add_function({nullptr, {0}, 1}); }));
    CHECK(refused([&] { program.add_function({address, {}, 1}); }));
    CHECK(refused([&] { program.add_function({address, {99}, 1}); }));
    CHECK(refused([&] { program.add_step({.op = Op::kCall, .dst = 9, .table = 2}); }));
}

TEST(nonsense_is_refused_while_building) {
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kEmit, .dst = 0, .a = 1}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kEmit, .dst = 1, .a = 0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kImpute, .dst = 0, .a = 0}); }));
    CHECK(refused([] { Program(1, 1, 1).add_step({.op = Op::kLookup, .dst = 1, .a = 0, .table = 0}); }));
    CHECK(refused([] { Program(1, 1, 1).add_step({.op = Op::kHash, .dst = 1, .a = 0, .count = 0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kOneHot, .dst = 0, .a = 0, .count = 2}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = static_cast<Op>(999)}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kPower, .dst = 1, .a = 0, .x = kNaN}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kPower, .dst = 1, .a = 0, .x = kInf}); }));
    CHECK(refused([] {
        Program program(1, 0, 0);
        program.finish();
        program.add_step({.op = Op::kMissing, .dst = 1, .a = 0});
    }));
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

// A known step writes nothing; running a row or a batch tells the first value that it refused.
TEST(values_that_are_not_known_are_refused) {
    Program program(1, 1, 1);
    const std::uint32_t numbers = program.add_matches({{1.0, 2.0}, {0.0, 0.0}});
    const std::uint32_t texts = program.add_table({"a", "b"}, {0.0, 1.0});
    program.add_step({.op = Op::kKnown, .a = 0, .table = numbers, .count = 1});
    program.add_step({.op = Op::kKnownText, .a = 0, .table = texts, .seed = 7});
    program.add_step({.op = Op::kEmit, .dst = 0, .a = 0});
    program.finish();
    const auto run = [&](double number, Text text) {
        float out = 0.0f;
        return program.run_row(&number, &text, &out);
    };
    CHECK(run(1.0, {"b", 1}).step == nullptr);
    CHECK(run(kNaN, {"a", 1}).step == nullptr);
    CHECK(run(3.0, {"a", 1}).number == 3.0);
    const Rejection unknown = run(2.0, {"c", 1});
    CHECK(unknown.step->seed == 7 && unknown.text.size == 1 && unknown.text.data[0] == 'c');
    CHECK(run(2.0, {nullptr, 0}).step->op == Op::kKnownText);

    std::vector<double> column(300, 1.0);
    std::vector<Text> text_column(300, Text{"a", 1});
    column[299] = 4.0;
    text_column[200] = {"x", 1};
    const Chunk number_chunk = chunk_of(column.data(), 300);
    const Chunk text_chunk{.layout = Layout::kText, .values = text_column.data(), .n_rows = 300};
    const Column of_numbers{&number_chunk, 1}, of_texts{&text_chunk, 1};
    std::vector<float> out(300);
    CHECK(program.run_batch(&of_numbers, &of_texts, 300, out.data()).row == 200);
    text_column[200] = {"b", 1};
    const Rejection last = program.run_batch(&of_numbers, &of_texts, 300, out.data());
    CHECK(last.row == 299 && last.number == 4.0);
    column[299] = 2.0;
    CHECK(program.run_batch(&of_numbers, &of_texts, 300, out.data()).step == nullptr);
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kKnown, .table = 0}); }));
    CHECK(refused([] { Program(1, 0, 1).add_step({.op = Op::kMatch, .dst = 1, .table = 0}); }));
    CHECK(refused([] { Program(0, 0, 1).add_matches({{1.0, 1.0}, {0.0, 0.0}}); }));
    CHECK(refused([] { Program(0, 0, 1).add_matches({{1.0}, {}}); }));
}
