// Building a feature program. Every step is checked here, so running it (run.cpp) checks nothing.
#include "transform/program.hpp"

#include <algorithm>
#include <stdexcept>

#include "base/assert.hpp"
#include "transform/math.hpp"
#include "transform/table.hpp"

namespace engine::transform {

namespace {

void require(bool holds, const char* words) {
    if (!holds) throw std::invalid_argument(words);
}

void require_rising(const std::vector<double>& edges, const char* words) {
    for (std::size_t i = 0; i < edges.size(); ++i) {
        require(!is_missing(edges[i]) && (i == 0 || edges[i - 1] < edges[i]), words);
    }
}

void require_written(const std::vector<std::uint8_t>& file, std::uint32_t index) {
    if (index >= file.size() || !file[index]) {
        throw std::invalid_argument("a step reads register " + std::to_string(index) + ", which nothing has written");
    }
}

void write(std::vector<std::uint8_t>& file, std::uint32_t index) {
    require(index < Program::kRegistersMax, "a program has at most 2^20 registers of a kind");
    if (index >= file.size()) file.resize(index + 1, 0);
    file[index] = 1;
}

const OpFacts& facts_of(Op op) {
    const auto code = static_cast<std::size_t>(op);
    ENGINE_ASSERT(code < kOpCount, "a step that add_step took has an op of the table");
    return kOps[code];
}

bool emits(Op op) { return facts_of(op).result == Result::kOutputs; }

std::uint32_t output_count(const Step& step) { return step.op == Op::kEmit ? 1 : step.count; }

}  // namespace

Program::Program(std::uint32_t n_numbers, std::uint32_t n_texts, std::uint32_t n_outputs)
    : n_numbers_(n_numbers), n_texts_(n_texts), n_outputs_(n_outputs) {
    require(n_numbers <= kRegistersMax && n_texts <= kRegistersMax && n_outputs <= kRegistersMax,
            "a program has at most 2^20 inputs and outputs");
    number_written_.assign(n_numbers, 1);
    text_written_.assign(n_texts, 1);
    output_written_.assign(n_outputs, 0);
}

Program::~Program() = default;

std::uint32_t Program::add_table(const std::vector<std::string>& keys, const std::vector<double>& values) {
    tables_.push_back(std::make_unique<Table>(keys, values));
    return static_cast<std::uint32_t>(tables_.size() - 1);
}

std::uint32_t Program::add_matches(const Matches& matches) {
    require_rising(matches.keys, "the numbers to match must rise strictly");
    require(matches.keys.size() == matches.values.size(), "each number to match has one value");
    matches_.push_back(matches);
    return static_cast<std::uint32_t>(matches_.size() - 1);
}

std::uint32_t Program::add_edges(const std::vector<double>& edges) {
    require_rising(edges, "bucket edges must rise strictly");
    edges_.push_back(edges);
    return static_cast<std::uint32_t>(edges_.size() - 1);
}

std::uint32_t Program::add_zone(const Zone& zone) {
    require_rising(zone.edges_s, "the changes of a time zone must rise strictly");
    require(zone.offsets_s.size() == zone.edges_s.size() + 1, "a time zone has one offset more than changes");
    for (const double offset : zone.offsets_s) {
        require(offset > -86400.0 && offset < 86400.0 && offset == static_cast<int>(offset),
                "the offset of a time zone is in whole seconds, less than a day");
    }
    zones_.push_back(zone);
    return static_cast<std::uint32_t>(zones_.size() - 1);
}

std::uint32_t Program::add_vectors(const std::vector<float>& values, std::uint32_t width) {
    require(width > 0 && values.size() % width == 0, "vectors have one width");
    vectors_.push_back({values, width});
    return static_cast<std::uint32_t>(vectors_.size() - 1);
}

std::uint32_t Program::add_function(const Function& function) {
    require(function.address != nullptr, "a function has an address");
    require(!function.arguments.empty() && function.arguments.size() <= kArgumentsMax,
            "a function has 1 to 8 arguments");
    require(function.n_results > 0 && function.n_results <= kResultsMax, "a function has 1 to 64 results");
    for (const std::uint32_t argument : function.arguments) require_written(number_written_, argument);
    functions_.push_back(function);
    return static_cast<std::uint32_t>(functions_.size() - 1);
}

void Program::check_step(const Step& step) const {
    require(step.op < Op::kCount_, "an unknown step");
    const OpFacts& facts = facts_of(step.op);
    const std::vector<std::uint8_t>& file = facts.reads == Registers::kTexts ? text_written_ : number_written_;
    const std::uint32_t sources[] = {step.a, step.b, step.c, step.d};
    for (std::size_t i = 0; i < facts.n_sources; ++i) require_written(file, sources[i]);
    switch (step.op) {
        case Op::kTextImpute:
            require(step.table < tables_.size() && tables_[step.table]->size() > 0,
                    "imputing a text needs a table of one key");
            break;
        case Op::kKnownText:
        case Op::kLookup: require(step.table < tables_.size(), "a step names an unknown table"); break;
        case Op::kKnown:
        case Op::kMatch: require(step.table < matches_.size(), "a step names unknown matches"); break;
        case Op::kBucket: require(step.table < edges_.size(), "a step names unknown bucket edges"); break;
        case Op::kCall: require(step.table < functions_.size(), "a step calls an unknown function"); break;
        case Op::kPower: require(step.x - step.x == 0.0, "an exponent is finite"); break;
        case Op::kDatePart:
            require(step.table < zones_.size(), "a step names an unknown time zone");
            require(step.count < static_cast<std::uint32_t>(DatePart::kCount_), "an unknown part of a date");
            break;
        case Op::kVector:
            require(step.table < vectors_.size() && vectors_[step.table].width == step.count,
                    "a step names unknown vectors, or a width that is not theirs");
            break;
        case Op::kHash:
        case Op::kHashCross:
        case Op::kTokens:
            if (step.count < 1 || step.count > kCodesMax) {
                throw std::invalid_argument("a hash needs 1 to 2^24 buckets, got " + std::to_string(step.count));
            }
            break;
        default: break;
    }
}

void Program::write_outputs(const Step& step) {
    const std::uint32_t count = output_count(step);
    clears_outputs_ |= step.op != Op::kEmit;
    require(step.dst <= n_outputs_ && count <= n_outputs_ - step.dst, "output out of range");
    for (std::uint32_t i = 0; i < count; ++i) {
        require(!output_written_[step.dst + i]++, "an output is written twice");
    }
}

// Inputs are never overwritten, because another feature may read them later.
void Program::write_registers(const Step& step) {
    const bool text = facts_of(step.op).result == Result::kText;
    const std::uint32_t count = step.op == Op::kCall ? functions_[step.table].n_results : 1;
    require(step.dst >= (text ? n_texts_ : n_numbers_), "a step overwrites an input");
    for (std::uint32_t i = 0; i < count; ++i) write(text ? text_written_ : number_written_, step.dst + i);
}

void Program::add_step(const Step& step) {
    require(!finished_, "a finished program takes no more steps");
    check_step(step);
    if (emits(step.op)) write_outputs(step);
    else if (facts_of(step.op).result != Result::kNothing) write_registers(step);
    steps_.push_back(step);
}

void Program::finish() {
    require(!finished_, "a program is finished once");
    const auto missing = std::find(output_written_.begin(), output_written_.end(), 0);
    if (missing != output_written_.end()) {
        throw std::invalid_argument("no step writes output " + std::to_string(missing - output_written_.begin()));
    }
    fuse();
    finished_ = true;
}

// Whether a look-up gives each key its own place, and a negative number or NaN for any other text. A one-hot can then
// use the place itself.
bool Program::is_place(const Step& lookup, std::uint32_t count) const {
    const Table& table = *tables_[lookup.table];
    for (std::size_t i = 0; i < table.size(); ++i) {
        if (table.value(static_cast<std::int64_t>(i)) != static_cast<double>(i)) return false;
    }
    return table.size() <= count && !(lookup.x >= 0.0) && !(lookup.y >= 0.0);
}

// Whether `emit` reads the register beside the last one and writes the output beside the last one.
bool Program::continues_run(const Step& emit) const {
    if (fused_.empty() || fused_.back().op != Op::kEmitRun) return false;
    const Step& run = fused_.back();
    return emit.a == run.a + run.count && emit.dst == run.dst + run.count;
}

// How many steps read each number register.
std::vector<std::uint32_t> Program::count_reads() const {
    std::vector<std::uint32_t> reads(number_written_.size(), 0);
    for (const Step& step : steps_) {
        if (step.op == Op::kCall) {
            for (const std::uint32_t argument : functions_[step.table].arguments) ++reads[argument];
        }
        const OpFacts& facts = facts_of(step.op);
        if (facts.reads == Registers::kTexts) continue;
        const std::uint32_t sources[] = {step.a, step.b, step.c, step.d};
        for (std::size_t i = 0; i < facts.n_sources; ++i) {
            ENGINE_ASSERT(sources[i] < reads.size(), "a step reads a register that exists");
            ++reads[sources[i]];
        }
    }
    return reads;
}

// Turns common runs of steps into one step, where no other step reads the registers in between.
void Program::fuse() {
    const std::vector<std::uint32_t> reads = count_reads();
    const auto feeds = [&](std::size_t i, Op next) {
        return i + 1 < steps_.size() && steps_[i + 1].op == next && steps_[i + 1].a == steps_[i].dst &&
               reads[steps_[i].dst] == 1;
    };
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        Step step = steps_[i];
        if (step.op == Op::kImpute && feeds(i, Op::kScale) && feeds(i + 1, Op::kEmit)) {
            const Step& scale = steps_[i + 1];
            step = {.op = Op::kImputeScaleEmit,
                    .dst = steps_[i + 2].dst,
                    .a = step.a,
                    .x = scale.x,
                    .y = scale.y,
                    .z = step.x};
            i += 2;
        } else if (step.op == Op::kScale && feeds(i, Op::kEmit)) {
            step.op = Op::kScaleEmit;
            step.dst = steps_[++i].dst;
        } else if (step.op == Op::kHash && feeds(i, Op::kEmit)) {
            step.op = Op::kHashEmit;
            step.dst = steps_[++i].dst;
        } else if (step.op == Op::kLookup && feeds(i, Op::kOneHot) && is_place(step, steps_[i + 1].count)) {
            step.op = Op::kLookupOneHot;
            step.dst = steps_[++i].dst;
            step.count = steps_[i].count;
        } else if (step.op == Op::kEmit) {
            if (continues_run(step)) {
                ++fused_.back().count;
                continue;
            }
            step.op = Op::kEmitRun;
            step.count = 1;
        }
        fused_.push_back(step);
    }
    for (const Step& step : fused_) ENGINE_ASSERT(holds(step), "a step stays inside registers, outputs and tables");
}

// Whether running `step` stays inside the registers, the outputs and the tables of the program.
bool Program::holds(const Step& step) const noexcept {
    const std::size_t numbers = number_written_.size(), texts = text_written_.size(), outputs = n_outputs_;
    const auto inside = [](std::size_t first, std::size_t count, std::size_t size) {
        return first <= size && count <= size - first;
    };
    switch (step.op) {
        case Op::kEmitRun: return inside(step.a, step.count, numbers) && inside(step.dst, step.count, outputs);
        case Op::kImputeScaleEmit:
        case Op::kScaleEmit: return step.a < numbers && step.dst < outputs;
        case Op::kHashEmit: return step.a < texts && step.dst < outputs && step.count > 0;
        case Op::kLookupOneHot:
            return step.a < texts && inside(step.dst, step.count, outputs) && step.table < tables_.size() &&
                   tables_[step.table]->size() <= step.count;
        case Op::kCall: {
            if (step.table >= functions_.size()) return false;
            const Function& function = functions_[step.table];
            return inside(step.dst, function.n_results, numbers) &&
                   std::all_of(function.arguments.begin(), function.arguments.end(),
                               [numbers](std::uint32_t argument) { return argument < numbers; });
        }
        default: break;
    }
    const OpFacts& facts = facts_of(step.op);
    const std::uint32_t sources[] = {step.a, step.b, step.c, step.d};
    for (std::size_t i = 0; i < facts.n_sources; ++i) {
        if (sources[i] >= (facts.reads == Registers::kTexts ? texts : numbers)) return false;
    }
    switch (facts.result) {
        case Result::kText: return step.dst < texts && step.dst >= n_texts_;
        case Result::kOutputs: return inside(step.dst, output_count(step), outputs);
        case Result::kNothing: return true;
        default: return step.dst < numbers && step.dst >= n_numbers_;
    }
}

}  // namespace engine::transform
