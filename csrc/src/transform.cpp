// Building a feature program and running it; what each step computes is in detail/transform_math.hpp.
#include "engine/transform.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "detail/transform_math.hpp"
#include "detail/transform_table.hpp"

namespace engine::transform {

namespace {

constexpr std::uint32_t kRegistersMax = 1u << 20;
constexpr std::uint32_t kBucketsMax = 1u << 24;  // the whole numbers that float32 holds exactly

bool reads_text(Op op) {
    return op == Op::kTextImpute || op == Op::kLookup || op == Op::kHash || op == Op::kHashCross ||
           op == Op::kLength || op == Op::kTextMissing;
}

bool is_binary(Op op) {
    return op == Op::kDifference || op == Op::kRatio || op == Op::kProduct || op == Op::kHashCross;
}

void require_written(const std::vector<std::uint8_t>& file, std::uint32_t index) {
    if (index >= file.size() || !file[index]) {
        throw std::invalid_argument("a step reads register " + std::to_string(index) + ", which nothing has written");
    }
}

void write(std::vector<std::uint8_t>& file, std::uint32_t index) {
    if (index >= kRegistersMax) throw std::invalid_argument("a program has at most 2^20 registers of a kind");
    if (index >= file.size()) file.resize(index + 1, 0);
    file[index] = 1;
}

std::size_t bucket_of(const std::vector<double>& edges, double v, bool open_left) noexcept {
    const auto end = open_left ? std::lower_bound(edges.begin(), edges.end(), v)
                               : std::upper_bound(edges.begin(), edges.end(), v);
    return static_cast<std::size_t>(end - edges.begin());
}

template <class Out>
Out emitted(double v) noexcept {
    // Which NaN an operation returns depends on the order in which the compiler names its operands.
    return is_missing(v) ? std::numeric_limits<Out>::quiet_NaN() : static_cast<Out>(v);
}

// One loop for every step of one number: `f` is inlined, so the loop is the step.
template <std::size_t kCapacity, class F>
void each(std::size_t n, double* dst, const double* a, F f) noexcept {
    const std::size_t rows = kCapacity == 1 ? 1 : n;
    for (std::size_t i = 0; i < rows; ++i) dst[i] = f(a[i]);
}

template <std::size_t kCapacity, class F>
void each(std::size_t n, double* dst, const double* a, const double* b, F f) noexcept {
    const std::size_t rows = kCapacity == 1 ? 1 : n;
    for (std::size_t i = 0; i < rows; ++i) dst[i] = f(a[i], b[i]);
}

template <std::size_t kCapacity, class F>
void each(std::size_t n, double* dst, const Text* a, F f) noexcept {
    const std::size_t rows = kCapacity == 1 ? 1 : n;
    for (std::size_t i = 0; i < rows; ++i) dst[i] = f(a[i]);
}

}  // namespace

Program::Program(std::uint32_t n_numbers, std::uint32_t n_texts, std::uint32_t n_outputs)
    : n_numbers_(n_numbers), n_texts_(n_texts), n_outputs_(n_outputs) {
    if (n_numbers > kRegistersMax || n_texts > kRegistersMax || n_outputs > kRegistersMax) {
        throw std::invalid_argument("a program has at most 2^20 inputs and outputs");
    }
    number_written_.assign(n_numbers, 1);
    text_written_.assign(n_texts, 1);
    output_written_.assign(n_outputs, 0);
}

Program::~Program() = default;

std::uint32_t Program::add_table(const std::vector<std::string>& keys, const std::vector<double>& values) {
    tables_.push_back(std::make_unique<Table>(keys, values));
    return static_cast<std::uint32_t>(tables_.size() - 1);
}

std::uint32_t Program::add_edges(const std::vector<double>& edges) {
    for (std::size_t i = 0; i < edges.size(); ++i) {
        if (is_missing(edges[i]) || (i > 0 && !(edges[i - 1] < edges[i]))) {
            throw std::invalid_argument("bucket edges must rise strictly");
        }
    }
    edges_.push_back(edges);
    return static_cast<std::uint32_t>(edges_.size() - 1);
}

void Program::add_step(const Step& step) {
    if (step.op >= Op::kCount_) throw std::invalid_argument("an unknown step");
    const std::vector<std::uint8_t>& source = reads_text(step.op) ? text_written_ : number_written_;
    require_written(source, step.a);
    if (is_binary(step.op)) require_written(source, step.b);
    const bool uses_table = step.op == Op::kLookup || step.op == Op::kTextImpute;
    if (uses_table && step.table >= tables_.size()) throw std::invalid_argument("a step names an unknown table");
    if (step.op == Op::kTextImpute && tables_[step.table]->size() == 0) {
        throw std::invalid_argument("imputing a text needs a table of one key");
    }
    if (step.op == Op::kBucket && step.table >= edges_.size()) throw std::invalid_argument("unknown bucket edges");
    const bool hashes = step.op == Op::kHash || step.op == Op::kHashCross;
    if (hashes && (step.count < 1 || step.count > kBucketsMax)) {
        throw std::invalid_argument("a hash needs 1 to 2^24 buckets, got " + std::to_string(step.count));
    }
    if (step.op == Op::kEmit || step.op == Op::kOneHot) {
        const std::uint32_t count = step.op == Op::kEmit ? 1 : step.count;
        has_one_hot_ |= step.op == Op::kOneHot;
        if (step.dst > n_outputs_ || count > n_outputs_ - step.dst) throw std::invalid_argument("output out of range");
        for (std::uint32_t i = 0; i < count; ++i) {
            if (output_written_[step.dst + i]++) throw std::invalid_argument("an output is written twice");
        }
    } else {
        // Inputs are never overwritten: another feature may read them later.
        const bool text = step.op == Op::kTextImpute;
        if (step.dst < (text ? n_texts_ : n_numbers_)) throw std::invalid_argument("a step overwrites an input");
        write(text ? text_written_ : number_written_, step.dst);
    }
    steps_.push_back(step);
}

void Program::finish() {
    const auto missing = std::find(output_written_.begin(), output_written_.end(), 0);
    if (missing != output_written_.end()) {
        throw std::invalid_argument("no step writes output " + std::to_string(missing - output_written_.begin()));
    }
    fuse();
}

// Impute, scale and emit in a row become one step where no other step reads what lies between.
void Program::fuse() {
    std::vector<std::uint32_t> reads(number_written_.size(), 0);
    for (const Step& step : steps_) {
        if (reads_text(step.op)) continue;
        ++reads[step.a];
        if (is_binary(step.op)) ++reads[step.b];
    }
    const auto feeds = [&](std::size_t i, Op next) {
        return i + 1 < steps_.size() && steps_[i + 1].op == next && steps_[i + 1].a == steps_[i].dst &&
               reads[steps_[i].dst] == 1;
    };
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        const Step& step = steps_[i];
        if (step.op == Op::kImpute && feeds(i, Op::kScale) && feeds(i + 1, Op::kEmit)) {
            const Step &scale = steps_[i + 1], &emit = steps_[i + 2];
            row_steps_.push_back(
                {.op = Op::kImputeScaleEmit, .dst = emit.dst, .a = step.a, .x = scale.x, .y = scale.y, .z = step.x});
            i += 2;
        } else if (step.op == Op::kScale && feeds(i, Op::kEmit)) {
            row_steps_.push_back({.op = Op::kScaleEmit, .dst = steps_[i + 1].dst, .a = step.a, .x = step.x, .y = step.y});
            i += 1;
        } else {
            row_steps_.push_back(step);
        }
    }
}

// kCapacity is the distance between registers, in rows; with 1 every loop below is a single statement.
// First the steps that read texts; `dst` is the number register that all but one of them write.
template <std::size_t kCapacity>
void Program::text_step(const Step& step, std::size_t n, double* dst, Text* texts) const noexcept {
    const Text* const text = texts + step.a * kCapacity;
    const double x = step.x, y = step.y;
    switch (step.op) {
        case Op::kTextImpute: {
            Text* const to = texts + step.dst * kCapacity;
            const Text with = tables_[step.table]->key(0);
            for (std::size_t i = 0; i < n; ++i) to[i] = text[i].data == nullptr ? with : text[i];
            break;
        }
        case Op::kLookup: {
            const Table& table = *tables_[step.table];
            each<kCapacity>(n, dst, text, [&table, x, y](Text t) {
                if (t.data == nullptr) return y;
                const std::int64_t entry = table.find(t);
                return entry < 0 ? x : table.value(entry);
            });
            break;
        }
        case Op::kHash:
            each<kCapacity>(n, dst, text, [&step, y](Text t) {
                return t.data == nullptr ? y : static_cast<double>(xxh64(t.data, t.size, step.seed) % step.count);
            });
            break;
        case Op::kHashCross: {
            const Text* const other = texts + step.b * kCapacity;
            for (std::size_t i = 0; i < n; ++i) {
                if (text[i].data == nullptr || other[i].data == nullptr) {
                    dst[i] = y;
                    continue;
                }
                const std::uint64_t first = xxh64(text[i].data, text[i].size, step.seed);
                dst[i] = static_cast<double>(xxh64(other[i].data, other[i].size, first) % step.count);
            }
            break;
        }
        case Op::kLength:
            each<kCapacity>(n, dst, text, [y](Text t) {
                return t.data == nullptr ? y : static_cast<double>(t.size);
            });
            break;
        case Op::kTextMissing:
            each<kCapacity>(n, dst, text, [](Text t) { return t.data == nullptr ? 1.0 : 0.0; });
            break;
        default: break;
    }
}

template <std::size_t kCapacity, class Out>
void Program::execute(const std::vector<Step>& steps, std::size_t n, double* numbers, Text* texts,
                      Out* out) const noexcept {
    if (has_one_hot_) std::fill_n(out, n * n_outputs_, Out{0});
    for (const Step& step : steps) {
        double* const dst = numbers + step.dst * kCapacity;
        const double* const a = numbers + step.a * kCapacity;
        const double* const b = numbers + step.b * kCapacity;
        const double x = step.x, y = step.y;
        switch (step.op) {
            case Op::kImpute:
                each<kCapacity>(n, dst, a, [x](double v) { return impute(v, x); });
                break;
            case Op::kMissing:
                each<kCapacity>(n, dst, a, [](double v) { return is_missing(v) ? 1.0 : 0.0; });
                break;
            case Op::kScale:
                each<kCapacity>(n, dst, a, [x, y](double v) { return scale(v, x, y); });
                break;
            case Op::kClip:
                each<kCapacity>(n, dst, a, [x, y](double v) { return clip(v, x, y); });
                break;
            case Op::kLog1p:
                each<kCapacity>(n, dst, a, [](double v) { return log1p(v); });
                break;
            case Op::kSqrt:
                each<kCapacity>(n, dst, a, [](double v) { return square_root(v); });
                break;
            case Op::kBucket: {
                const std::vector<double>& edges = edges_[step.table];
                const bool open_left = step.count != 0;
                each<kCapacity>(n, dst, a, [&edges, open_left](double v) {
                    return is_missing(v) ? v : static_cast<double>(bucket_of(edges, v, open_left));
                });
                break;
            }
            case Op::kSine:
                each<kCapacity>(n, dst, a, [x](double v) { return sine_of_cycle(v, x, 0); });
                break;
            case Op::kCosine:
                each<kCapacity>(n, dst, a, [x](double v) { return sine_of_cycle(v, x, 1); });
                break;
            case Op::kDifference:
                each<kCapacity>(n, dst, a, b, [](double v, double w) { return v - w; });
                break;
            case Op::kRatio:
                each<kCapacity>(n, dst, a, b, [x](double v, double w) { return ratio(v, w, x); });
                break;
            case Op::kProduct:
                each<kCapacity>(n, dst, a, b, [](double v, double w) { return v * w; });
                break;
            case Op::kEmit:
                for (std::size_t i = 0; i < n; ++i) out[i * n_outputs_ + step.dst] = emitted<Out>(a[i]);
                break;
            case Op::kOneHot:
                for (std::size_t i = 0; i < n; ++i) {
                    Out* const to = out + i * n_outputs_ + step.dst;
                    // Compared as a number first: a code that is negative, NaN or too large sets nothing.
                    if (!(a[i] >= 0.0 && a[i] < step.count)) continue;
                    const std::size_t code = static_cast<std::size_t>(a[i]);
                    if (static_cast<double>(code) == a[i]) to[code] = Out{1};
                }
                break;
            case Op::kImputeScaleEmit:
                for (std::size_t i = 0; i < n; ++i) {
                    out[i * n_outputs_ + step.dst] = emitted<Out>(scale(impute(a[i], step.z), x, y));
                }
                break;
            case Op::kScaleEmit:
                for (std::size_t i = 0; i < n; ++i) out[i * n_outputs_ + step.dst] = emitted<Out>(scale(a[i], x, y));
                break;
            default: text_step<kCapacity>(step, n, dst, texts);
        }
    }
}

void Program::run_row(double* numbers, Text* texts, float* out) const noexcept {
    execute<1, float>(row_steps_, 1, numbers, texts, out);
}

template <class Out>
void Program::batch(const double* const* numbers, const Text* const* texts, std::size_t n_rows, Out* out) const {
    std::vector<double> number_file(number_written_.size() * kBlockRows);
    std::vector<Text> text_file(text_written_.size() * kBlockRows);
    for (std::size_t start = 0; start < n_rows; start += kBlockRows) {
        const std::size_t n = std::min(kBlockRows, n_rows - start);
        for (std::size_t i = 0; i < n_numbers_; ++i) {
            std::copy_n(numbers[i] + start, n, number_file.data() + i * kBlockRows);
        }
        for (std::size_t i = 0; i < n_texts_; ++i) {
            std::copy_n(texts[i] + start, n, text_file.data() + i * kBlockRows);
        }
        execute<kBlockRows, Out>(steps_, n, number_file.data(), text_file.data(), out + start * n_outputs_);
    }
}

void Program::run_batch(const double* const* numbers, const Text* const* texts, std::size_t n_rows, float* out) const {
    batch<float>(numbers, texts, n_rows, out);
}

void Program::run_batch_f64(const double* const* numbers, const Text* const* texts, std::size_t n_rows,
                            double* out) const {
    batch<double>(numbers, texts, n_rows, out);
}

}  // namespace engine::transform
