// The input's bytes build a random program and rows for it. The program must give the same bits for every row by itself
// and in a batch, whatever chunks and layouts the batch's columns come in.
//
// A step that the builder refuses is left out, so most inputs reach the run. Assertions in the core check that every
// step stays inside the registers, the outputs and the tables.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "transform/program.hpp"

using namespace engine::transform;

namespace {

// The input as a supply of choices. At its end every choice is 0.
class Choices {
public:
    Choices(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    bool done() const { return at_ == end_; }
    std::uint8_t byte() { return done() ? std::uint8_t{0} : *at_++; }
    std::uint32_t below(std::uint32_t n) { return n == 0 ? 0 : byte() % n; }
    std::uint64_t word() {
        std::uint64_t made = 0;
        for (int i = 0; i < 8; ++i) made = made << 8 | byte();
        return made;
    }

    // A number: mostly one at which arithmetic is special, else any bits.
    double number() {
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        static constexpr double kOdd[] = {0.0,    -0.0,      1.0,        -1.0,   0.5,     2.0,   3.0,
                                          24.0,   90.0,      -180.0,     1e-310, 5e-324,  1e300, -1e300,
                                          3.5e38, kInfinity, -kInfinity, 1.7e15, -6.2e16, 0.125};
        const std::uint8_t choice = byte();
        if (choice < 64) return std::numeric_limits<double>::quiet_NaN();
        if (choice < 224) return kOdd[choice % std::size(kOdd)];
        const std::uint64_t bits = word();
        double made;
        std::memcpy(&made, &bits, sizeof made);
        return made;
    }

    std::string text() {
        static constexpr std::size_t kSizes[] = {0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33};
        const std::uint8_t choice = byte();
        std::string made(kSizes[choice % std::size(kSizes)], "ab -\xc3"[choice % 5]);
        if (!made.empty()) made.back() = static_cast<char>(byte());
        return made;
    }

private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

float twice_and(float a, float b) { return 2.0f * a + b; }
void sum_and_difference(float a, float b, float* out) {
    out[0] = a + b;
    out[1] = a - b;
}

constexpr std::uint32_t kOutputsMax = 64;

struct Built {
    std::unique_ptr<Program> program;
    std::uint32_t n_numbers, n_texts;
};

// Appends steps until the choices say stop, then emits registers into the outputs that no step has written. The number
// of outputs is fixed beforehand, so outputs are handed out in order.
Built build(Choices& from) {
    const std::uint32_t n_numbers = 1 + from.below(4), n_texts = from.below(3), n_outputs = 1 + from.below(kOutputsMax);
    auto program = std::make_unique<Program>(n_numbers, n_texts, n_outputs);
    program->add_table({"", "a", "ab", "aaaaaaaa", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa"}, {0, 1, 2, 3, 4, 5});
    program->add_table({"b"}, {from.number()});
    program->add_matches({{-1.0, 0.0, 10.0}, {from.number(), 1.0, 2.0}});
    program->add_matches({});
    program->add_edges({-1.0, 0.0, 10.0});
    program->add_edges({});
    program->add_zone({{}, {0.0}});
    program->add_zone({{0.0, 1e9}, {3600.0, -7200.0, 86399.0}});
    program->add_vectors({1, 2, 3, 4, 5, 6}, 3);
    std::uint32_t numbers = n_numbers, texts = n_texts, outputs = 0;
    for (std::uint32_t n_steps = from.below(40); n_steps > 0; --n_steps) {
        Step step{.op = static_cast<Op>(from.below(static_cast<std::uint32_t>(kOpCount)))};
        const OpFacts& facts = kOps[static_cast<std::size_t>(step.op)];
        const std::uint32_t sources = facts.reads == Registers::kTexts ? texts : numbers;
        step.a = from.below(sources);
        step.b = from.below(sources);
        step.c = from.below(sources);
        step.d = from.below(sources);
        step.table = from.below(2);
        step.count = 1 + from.below(8);
        step.seed = from.byte();
        step.x = from.number();
        step.y = from.number();
        std::uint32_t results = 1;
        if (facts.result == Result::kNothing) results = 0;
        if (step.op == Op::kVector) step.table = 0, step.count = 3;
        if (step.op == Op::kEmit) step.count = 1;
        if (step.op == Op::kCall) {
            results = 1 + from.below(2);
            const auto address = results == 1 ? reinterpret_cast<NativeFunction>(&twice_and)
                                              : reinterpret_cast<NativeFunction>(&sum_and_difference);
            step.table = program->add_function({address, {from.below(numbers), from.below(numbers)}, results});
        }
        // A fresh register, or again one that a step has written; never an input.
        const bool text = facts.result == Result::kText;
        std::uint32_t& used = text ? texts : numbers;
        const std::uint32_t inputs = text ? n_texts : n_numbers;
        if (facts.result == Result::kOutputs) step.dst = outputs;
        else step.dst = results == 1 && used > inputs && from.below(4) == 0 ? inputs + from.below(used - inputs) : used;
        try {
            program->add_step(step);
        } catch (const std::invalid_argument&) {
            continue;
        }
        if (facts.result == Result::kOutputs) outputs += step.count;
        else if (step.dst == used) used += results;
    }
    for (; outputs < n_outputs; ++outputs) {
        program->add_step({.op = Op::kEmit, .dst = outputs, .a = (outputs + from.below(2)) % numbers});
    }
    program->finish();
    return {std::move(program), n_numbers, n_texts};
}

// A column's values, and the chunks that hold them. Numbers lie in one of three layouts.
struct NumberColumn {
    std::vector<double> values;  // as the program reads them
    std::vector<double> wide;
    std::vector<float> narrow;
    std::vector<std::uint8_t> validity;
    std::vector<Chunk> chunks;
};

void cut(std::vector<Chunk>& chunks, Chunk whole, std::size_t n_rows, std::size_t stride, Choices& from) {
    for (std::size_t row = 0; row < n_rows;) {
        whole.first = row;
        whole.n_rows = std::min<std::size_t>(n_rows - row, 1 + from.below(200));
        whole.stride = stride;
        chunks.push_back(whole);
        row += whole.n_rows;
        if (from.below(8) == 0) chunks.push_back({.layout = whole.layout});  // a chunk without rows
    }
}

void fill(NumberColumn& column, std::size_t n_rows, Choices& from) {
    const std::uint32_t layout = from.below(3);
    const std::size_t stride = 1 + from.below(2);
    column.validity.assign(n_rows / 8 + 1, 0xFF);
    column.wide.resize(n_rows * stride, -1.0);
    column.narrow.resize(n_rows * stride, -1.0f);
    for (std::size_t i = 0; i < n_rows; ++i) {
        double value = from.number();
        // Converting a number beyond float32 is undefined.
        if (layout == 1) value = std::fabs(value) > 3e38 ? 3.0 : static_cast<double>(static_cast<float>(value));
        column.wide[i * stride] = value;
        column.narrow[i * stride] = layout == 1 ? static_cast<float>(value) : 0.0f;
        if (layout == 2 && from.below(3) == 0) {
            column.validity[i / 8] &= static_cast<std::uint8_t>(~(1u << (i % 8)));
            value = std::numeric_limits<double>::quiet_NaN();
        }
        column.values.push_back(value);
    }
    Chunk whole{.layout = layout == 1 ? Layout::kF32 : Layout::kF64};
    whole.values = layout == 1 ? static_cast<const void*>(column.narrow.data()) : column.wide.data();
    whole.validity = layout == 2 ? column.validity.data() : nullptr;
    cut(column.chunks, whole, n_rows, stride, from);
}

struct TextColumn {
    std::vector<std::string> values;
    std::vector<Text> texts;
    std::string bytes;
    std::vector<std::int32_t> offsets;
    std::vector<std::uint8_t> validity;
    std::vector<Chunk> chunks;
};

void fill(TextColumn& column, std::size_t n_rows, Choices& from) {
    const bool arrow = from.below(2) == 1;
    column.validity.assign(n_rows / 8 + 1, 0xFF);
    column.offsets.push_back(0);
    for (std::size_t i = 0; i < n_rows; ++i) {
        column.values.push_back(from.text());
        column.bytes += column.values.back();
        column.offsets.push_back(static_cast<std::int32_t>(column.bytes.size()));
        column.texts.push_back({nullptr, column.values.back().size()});
        if (from.below(4) == 0) column.validity[i / 8] &= static_cast<std::uint8_t>(~(1u << (i % 8)));
    }
    for (std::size_t i = 0; i < n_rows; ++i) {
        if (column.validity[i / 8] >> (i % 8) & 1) column.texts[i].data = column.values[i].data();
    }
    Chunk whole{.layout = arrow ? Layout::kUtf8 : Layout::kText};
    if (arrow) {
        whole.values = column.offsets.data();
        whole.validity = column.validity.data();
        whole.bytes = column.bytes.empty() ? nullptr : column.bytes.data();
    } else {
        whole.values = column.texts.data();
    }
    cut(column.chunks, whole, n_rows, 1, from);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Choices from(data, size);
    const Built built = build(from);
    const Program& program = *built.program;
    // More than a block now and then: kBlockRows is 128.
    const std::size_t n_rows = from.below(4) == 0 ? from.byte() * 2u : from.below(12);
    std::vector<NumberColumn> numbers(built.n_numbers);
    std::vector<TextColumn> texts(built.n_texts);
    std::vector<Column> number_columns, text_columns;
    for (NumberColumn& column : numbers) {
        fill(column, n_rows, from);
        number_columns.push_back({column.chunks.data(), column.chunks.size()});
    }
    for (TextColumn& column : texts) {
        fill(column, n_rows, from);
        text_columns.push_back({column.chunks.data(), column.chunks.size()});
    }

    const std::size_t width = program.n_outputs();
    std::vector<float> many(n_rows * width, -7.0f);
    const Rejection rejection = program.run_batch(number_columns.data(), text_columns.data(), n_rows, many.data());
    bool refused = false;
    for (std::size_t i = 0; i < n_rows; ++i) {
        std::vector<double> number_file(program.number_registers(), -7.0);
        std::vector<Text> text_file(program.text_registers(), Text{nullptr, 0});
        for (std::size_t j = 0; j < numbers.size(); ++j) number_file[j] = numbers[j].values[i];
        for (std::size_t j = 0; j < texts.size(); ++j) text_file[j] = texts[j].texts[i];
        std::vector<float> one(width, -9.0f);
        const bool refused_here = program.run_row(number_file.data(), text_file.data(), one.data()).step != nullptr;
        refused |= refused_here;
        if (rejection.step != nullptr && rejection.row == i && !refused_here) {
            std::fprintf(stderr, "row %zu of %zu is refused in the batch alone\n", i, n_rows);
            std::abort();
        }
        if (rejection.step == nullptr && std::memcmp(one.data(), many.data() + i * width, width * sizeof(float)) != 0) {
            std::fprintf(stderr, "row %zu of %zu has other bits by itself than in the batch\n", i, n_rows);
            std::abort();
        }
    }
    if (refused != (rejection.step != nullptr)) {
        std::fprintf(stderr, "a row is refused by itself and taken in the batch\n");
        std::abort();
    }
    return 0;
}
