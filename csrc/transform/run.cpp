// Running a feature program. The arithmetic of the steps is in math.hpp and date.hpp.
//
// Every function below that takes kCapacity exists twice. With kCapacity = 1 a register is one value and each loop is a
// single statement: the row. With kCapacity = kBlockRows a register is that many values, and the first n count: the
// block. Register i starts at numbers + i * kCapacity. Because both are one source, they compute the same bits.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/assert.hpp"
#include "transform/columns.hpp"
#include "transform/date.hpp"
#include "transform/math.hpp"
#include "transform/program.hpp"
#include "transform/table.hpp"

namespace engine::transform {

namespace {

std::size_t bucket_of(const std::vector<double>& edges, double v, bool open_left) noexcept {
    const auto end =
        open_left ? std::lower_bound(edges.begin(), edges.end(), v) : std::upper_bound(edges.begin(), edges.end(), v);
    return static_cast<std::size_t>(end - edges.begin());
}

// Rounds to the output's type. Every NaN leaves as the one quiet NaN, because the sign and payload of a computed NaN
// depend on the order in which the compiler names an operation's operands. The NaN is chosen before rounding, so that
// the compiler can select among whole vectors of doubles.
template <class Out>
Out emitted(double v) noexcept {
    return static_cast<Out>(is_missing(v) ? kNaN : v);
}

// The start of a register.
template <std::size_t kCapacity, class Value>
Value* at(Value* file, std::uint32_t index) noexcept {
    return file + index * kCapacity;
}

// The loop of a step that writes one number register. `f` is inlined, so the loop is the whole step.
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

// Writes f(a[i]) to one output column, whose values lie `stride` apart. A block computes its values side by side first,
// because the compiler vectorises that loop and cannot vectorise the scattered stores.
template <std::size_t kCapacity, class Value, class Out, class F>
void emit_each(std::size_t n, std::size_t stride, Out* to, const Value* a, F f) noexcept {
    ENGINE_ASSERT(stride > 0, "a program that emits has outputs");
    if constexpr (kCapacity == 1) {
        to[0] = emitted<Out>(f(a[0]));
    } else {
        double made[kCapacity];
        for (std::size_t i = 0; i < n; ++i) made[i] = f(a[i]);
        for (std::size_t i = 0; i < n; ++i) to[i * stride] = emitted<Out>(made[i]);
    }
}

double hash_of(Text text, const Step& step) noexcept {
    ENGINE_ASSERT(step.count > 0, "a hash has buckets");
    return text.data == nullptr ? step.y : static_cast<double>(xxh64(text.data, text.size, step.seed) % step.count);
}

// The index of the key that equals v, or -1; NaN equals none.
std::int64_t match_of(const Matches& matches, double v) noexcept {
    const auto at = std::lower_bound(matches.keys.begin(), matches.keys.end(), v);
    return at != matches.keys.end() && *at == v ? at - matches.keys.begin() : -1;
}

double match(const Matches& matches, double v, double unknown, double missing) noexcept {
    if (is_missing(v)) return missing;
    const std::int64_t entry = match_of(matches, v);
    return entry < 0 ? unknown : matches.values[static_cast<std::size_t>(entry)];
}

double look_up(Text text, const Table& table, double unknown, double missing) noexcept {
    if (text.data == nullptr) return missing;
    const std::int64_t entry = table.find(text);
    return entry < 0 ? unknown : table.value(entry);
}

// The code as an index below `count`, or -1 where it is none. The comparison as doubles comes first, because converting
// a NaN or a number beyond int64 is undefined.
std::int64_t place_of(double code, std::size_t count) noexcept {
    if (!(code >= 0.0 && code < static_cast<double>(count))) return -1;
    const auto place = static_cast<std::int64_t>(code);
    ENGINE_ASSERT(place >= 0 && static_cast<std::size_t>(place) < count, "a code that was compared is an index");
    return static_cast<double>(place) == code ? place : -1;
}

// Calls f(token) for each token of a text. A token is a longest run of ASCII letters, ASCII digits and bytes above
// 0x7F, so a letter beyond ASCII, whose UTF-8 bytes are all above 0x7F, belongs to its word.
template <class F>
void each_token(Text text, F f) noexcept {
    const auto in_token = [](unsigned char c) {
        return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    };
    for (std::size_t i = 0; i < text.size;) {
        if (!in_token(static_cast<unsigned char>(text.data[i]))) {
            ++i;
            continue;
        }
        const std::size_t start = i;
        while (i < text.size && in_token(static_cast<unsigned char>(text.data[i]))) ++i;
        ENGINE_ASSERT(start < i && i <= text.size, "a token lies inside its text");
        f(Text{text.data + start, i - start});
    }
}

}  // namespace

// The steps that read texts and write a register.
template <std::size_t kCapacity>
void Program::text_step(const Step& step, std::size_t n, double* numbers, Text* texts) const noexcept {
    ENGINE_ASSERT(step.a < text_written_.size(), "a step on texts reads a text register");
    const Text* const text = at<kCapacity>(texts, step.a);
    const double x = step.x, y = step.y;
    switch (step.op) {
        case Op::kTextImpute: {
            ENGINE_ASSERT(step.dst >= n_texts_ && step.dst < text_written_.size(), "an imputed text is no input");
            Text* const to = at<kCapacity>(texts, step.dst);
            const Text with = tables_[step.table]->key(0);
            for (std::size_t i = 0; i < n; ++i) to[i] = text[i].data == nullptr ? with : text[i];
            break;
        }
        case Op::kLookup: {
            const Table& table = *tables_[step.table];
            each<kCapacity>(n, at<kCapacity>(numbers, step.dst), text,
                            [&table, x, y](Text t) { return look_up(t, table, x, y); });
            break;
        }
        case Op::kHash:
            each<kCapacity>(n, at<kCapacity>(numbers, step.dst), text, [&step](Text t) { return hash_of(t, step); });
            break;
        case Op::kHashCross: {
            const Text* const other = at<kCapacity>(texts, step.b);
            double* const dst = at<kCapacity>(numbers, step.dst);
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
            each<kCapacity>(n, at<kCapacity>(numbers, step.dst), text,
                            [y](Text t) { return t.data == nullptr ? y : static_cast<double>(t.size); });
            break;
        case Op::kTextMissing:
            each<kCapacity>(n, at<kCapacity>(numbers, step.dst), text,
                            [](Text t) { return t.data == nullptr ? 1.0 : 0.0; });
            break;
        default: ENGINE_ASSERT(false, "every op has code that runs it");
    }
}

// The steps that write several outputs. execute() has set those outputs to 0.
template <std::size_t kCapacity, class Out>
void Program::emit_step(const Step& step, std::size_t n, const double* numbers, const Text* texts,
                        Out* out) const noexcept {
    ENGINE_ASSERT(clears_outputs_, "a program clears the outputs that a step may leave alone");
    ENGINE_ASSERT(step.dst + step.count <= n_outputs_, "a step writes outputs of its own row");
    for (std::size_t i = 0; i < n; ++i) {
        Out* const to = out + i * n_outputs_ + step.dst;
        if (step.op == Op::kTokens) {
            const Text text = at<kCapacity>(texts, step.a)[i];
            if (text.data == nullptr) std::fill_n(to, step.count, std::numeric_limits<Out>::quiet_NaN());
            else each_token(text, [&](Text token) { to[xxh64(token.data, token.size, step.seed) % step.count] += 1; });
            continue;
        }
        const std::size_t rows = step.op == Op::kOneHot ? step.count : vectors_[step.table].values.size() / step.count;
        const std::int64_t code = place_of(at<kCapacity>(numbers, step.a)[i], rows);
        if (code < 0) continue;
        if (step.op == Op::kOneHot) to[code] = Out{1};
        else std::copy_n(vectors_[step.table].values.data() + code * step.count, step.count, to);
    }
}

template <std::size_t kCapacity, class Out>
inline void Program::fused_step(const Step& step, std::size_t n, const double* numbers, const Text* texts,
                                Out* out) const noexcept {
    ENGINE_ASSERT(step.dst <= n_outputs_, "a fused step writes outputs of its own row");
    const double x = step.x, y = step.y, z = step.z;
    Out* const to = out + step.dst;
    if (step.op == Op::kImputeScaleEmit) {
        const double* const a = at<kCapacity>(numbers, step.a);
        emit_each<kCapacity>(n, n_outputs_, to, a, [x, y, z](double v) { return scale(impute(v, z), x, y); });
    } else if (step.op == Op::kScaleEmit) {
        const double* const a = at<kCapacity>(numbers, step.a);
        emit_each<kCapacity>(n, n_outputs_, to, a, [x, y](double v) { return scale(v, x, y); });
    } else if (step.op == Op::kHashEmit) {
        const Text* const text = at<kCapacity>(texts, step.a);
        emit_each<kCapacity>(n, n_outputs_, to, text, [&step](Text t) { return hash_of(t, step); });
    } else {
        const Text* const text = at<kCapacity>(texts, step.a);
        const Table& table = *tables_[step.table];
        for (std::size_t i = 0; i < n; ++i) {
            const std::int64_t place = text[i].data == nullptr ? -1 : table.find(text[i]);
            ENGINE_ASSERT(place < static_cast<std::int64_t>(step.count), "a place in the table is one of the outputs");
            if (place >= 0) to[i * n_outputs_ + static_cast<std::size_t>(place)] = Out{1};
        }
    }
}

namespace {

template <std::size_t>
using Single = float;

// Calls a function of sizeof...(kIndex) floats. Its real type is known here alone: from the number of arguments, and
// from the number of results, as the comment on Function says.
template <std::size_t... kIndex>
void call(NativeFunction address, const float* arguments, std::uint32_t n_results, float* results,
          std::index_sequence<kIndex...>) noexcept {
    if (n_results == 1) {
        results[0] = reinterpret_cast<float (*)(Single<kIndex>...)>(address)(arguments[kIndex]...);
    } else {
        reinterpret_cast<void (*)(Single<kIndex>..., float*)>(address)(arguments[kIndex]..., results);
    }
}

using Call = void (*)(NativeFunction, const float*, std::uint32_t, float*);

template <std::size_t kArguments>
void call_with(NativeFunction address, const float* arguments, std::uint32_t n_results, float* results) noexcept {
    call(address, arguments, n_results, results, std::make_index_sequence<kArguments>{});
}

// Entry i calls a function of i + 1 arguments.
constexpr Call CALLS[] = {call_with<1>, call_with<2>, call_with<3>, call_with<4>,
                          call_with<5>, call_with<6>, call_with<7>, call_with<8>};
static_assert(std::size(CALLS) == Program::kArgumentsMax);

}  // namespace

template <std::size_t kCapacity>
void Program::call_step(const Step& step, std::size_t n, double* numbers) const noexcept {
    const Function& function = functions_[step.table];
    const std::size_t n_arguments = function.arguments.size();
    ENGINE_ASSERT(n_arguments >= 1 && n_arguments <= kArgumentsMax, "a function has 1 to 8 arguments");
    ENGINE_ASSERT(function.n_results >= 1 && function.n_results <= kResultsMax, "a function has 1 to 64 results");
    const Call call = CALLS[n_arguments - 1];
    float arguments[kArgumentsMax];
    float results[kResultsMax];
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n_arguments; ++j) {
            arguments[j] = emitted<float>(numbers[function.arguments[j] * kCapacity + i]);
        }
        call(function.address, arguments, function.n_results, results);
        for (std::size_t j = 0; j < function.n_results; ++j) {
            numbers[(step.dst + j) * kCapacity + i] = results[j];
        }
    }
}

// The first value of a block that a known step refuses.
template <std::size_t kCapacity>
Rejection Program::known_step(const Step& step, std::size_t n, const double* numbers,
                              const Text* texts) const noexcept {
    const bool takes_missing = step.count != 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (step.op == Op::kKnown) {
            const double v = at<kCapacity>(numbers, step.a)[i];
            const bool known = is_missing(v) ? takes_missing : match_of(matches_[step.table], v) >= 0;
            if (!known) return {.step = &step, .row = i, .number = v};
        } else {
            const Text text = at<kCapacity>(texts, step.a)[i];
            const bool known = text.data == nullptr ? takes_missing : tables_[step.table]->find(text) >= 0;
            if (!known) return {.step = &step, .row = i, .text = text};
        }
    }
    return {};
}

template <std::size_t kCapacity, class Out>
Rejection Program::execute(std::size_t n, double* numbers, Text* texts, Out* out) const noexcept {
    ENGINE_ASSERT(finished_, "a program runs after finish()");
    ENGINE_ASSERT(n >= 1 && n <= kCapacity, "a block has at least one row and fits the registers");
    ENGINE_ASSERT(numbers != nullptr || number_written_.empty(), "the caller provides the number registers");
    ENGINE_ASSERT(texts != nullptr || text_written_.empty(), "the caller provides the text registers");
    if (clears_outputs_) std::fill_n(out, n * n_outputs_, Out{0});
    Rejection rejection;
    for (const Step& step : fused_) {
        // Formed only where a case uses them, because the same fields can number texts or outputs.
        const auto dst = [&] { return at<kCapacity>(numbers, step.dst); };
        const auto a = [&]() -> const double* { return at<kCapacity>(numbers, step.a); };
        const auto b = [&]() -> const double* { return at<kCapacity>(numbers, step.b); };
        const double x = step.x, y = step.y;
        switch (step.op) {
            case Op::kImpute: each<kCapacity>(n, dst(), a(), [x](double v) { return impute(v, x); }); break;
            case Op::kMissing:
                each<kCapacity>(n, dst(), a(), [](double v) { return is_missing(v) ? 1.0 : 0.0; });
                break;
            case Op::kScale: each<kCapacity>(n, dst(), a(), [x, y](double v) { return scale(v, x, y); }); break;
            case Op::kAffine: each<kCapacity>(n, dst(), a(), [x, y](double v) { return v * x + y; }); break;
            case Op::kClip: each<kCapacity>(n, dst(), a(), [x, y](double v) { return clip(v, x, y); }); break;
            case Op::kLog1p: each<kCapacity>(n, dst(), a(), [](double v) { return log1p(v); }); break;
            case Op::kSqrt: each<kCapacity>(n, dst(), a(), [](double v) { return square_root(v); }); break;
            case Op::kBucket: {
                ENGINE_ASSERT(step.table < edges_.size(), "a bucket step names edges of the program");
                const std::vector<double>& edges = edges_[step.table];
                const bool open_left = step.count != 0;
                each<kCapacity>(n, dst(), a(), [&edges, open_left](double v) {
                    return is_missing(v) ? v : static_cast<double>(bucket_of(edges, v, open_left));
                });
                break;
            }
            case Op::kMatch: {
                ENGINE_ASSERT(step.table < matches_.size(), "a match step names matches of the program");
                const Matches& matches = matches_[step.table];
                each<kCapacity>(n, dst(), a(), [&matches, x, y](double v) { return match(matches, v, x, y); });
                break;
            }
            case Op::kKnown:
            case Op::kKnownText:
                if (rejection.step == nullptr) rejection = known_step<kCapacity>(step, n, numbers, texts);
                break;
            case Op::kSine: each<kCapacity>(n, dst(), a(), [x](double v) { return sine_of_cycle(v, x, 0); }); break;
            case Op::kCosine: each<kCapacity>(n, dst(), a(), [x](double v) { return sine_of_cycle(v, x, 1); }); break;
            case Op::kDifference: each<kCapacity>(n, dst(), a(), b(), [](double v, double w) { return v - w; }); break;
            case Op::kRatio:
                each<kCapacity>(n, dst(), a(), b(), [x](double v, double w) { return ratio(v, w, x); });
                break;
            case Op::kProduct: each<kCapacity>(n, dst(), a(), b(), [](double v, double w) { return v * w; }); break;
            case Op::kCrossCodes:
                each<kCapacity>(n, dst(), a(), b(),
                                [&step](double v, double w) { return cross_codes(v, w, step.count); });
                break;
            case Op::kPower: each<kCapacity>(n, dst(), a(), [x](double v) { return power(v, x); }); break;
            case Op::kHaversine: {
                double* const to = dst();
                const double* const latitude = a();
                const double* const longitude = b();
                const double* const c = at<kCapacity>(numbers, step.c);
                const double* const d = at<kCapacity>(numbers, step.d);
                for (std::size_t i = 0; i < n; ++i) to[i] = x * central_angle(latitude[i], longitude[i], c[i], d[i]);
                break;
            }
            case Op::kDatePart: {
                ENGINE_ASSERT(step.table < zones_.size(), "a date step names a zone of the program");
                const Zone& zone = zones_[step.table];
                ENGINE_ASSERT(zone.offsets_s.size() == zone.edges_s.size() + 1, "every bucket of a zone has an offset");
                const auto part = static_cast<DatePart>(step.count);
                each<kCapacity>(n, dst(), a(), [&zone, part](double v) {
                    if (is_missing(v)) return v;
                    // Exact: instants are whole microseconds and edges are whole seconds.
                    return date_part(v, zone.offsets_s[bucket_of(zone.edges_s, v / 1e6, false)], part);
                });
                break;
            }
            case Op::kCall: call_step<kCapacity>(step, n, numbers); break;
            case Op::kEmitRun:
                ENGINE_ASSERT(step.a + step.count <= number_written_.size(), "a run emits registers that exist");
                ENGINE_ASSERT(step.dst + step.count <= n_outputs_, "a run emits outputs of its own row");
                for (std::size_t j = 0; j < step.count; ++j) {
                    emit_each<kCapacity>(n, n_outputs_, out + step.dst + j, a() + j * kCapacity,
                                         [](double v) { return v; });
                }
                break;
            case Op::kImputeScaleEmit:
            case Op::kScaleEmit:
            case Op::kHashEmit:
            case Op::kLookupOneHot: fused_step<kCapacity>(step, n, numbers, texts, out); break;
            case Op::kOneHot:
            case Op::kVector:
            case Op::kTokens: emit_step<kCapacity>(step, n, numbers, texts, out); break;
            default: text_step<kCapacity>(step, n, numbers, texts);
        }
    }
    return rejection;
}

Rejection Program::run_row(double* numbers, Text* texts, float* out) const noexcept {
    return execute<1, float>(1, numbers, texts, out);
}

Rejection Program::run_row(double* numbers, Text* texts, double* out) const noexcept {
    return execute<1, double>(1, numbers, texts, out);
}

template <class Out>
Rejection Program::batch(const Column* numbers, const Column* texts, std::size_t n_rows, Out* out) const {
    ENGINE_ASSERT(numbers != nullptr || n_numbers_ == 0, "every number input has a column");
    ENGINE_ASSERT(texts != nullptr || n_texts_ == 0, "every text input has a column");
    ENGINE_ASSERT(out != nullptr || n_rows == 0 || n_outputs_ == 0, "a batch has somewhere to write");
    std::vector<double> number_file(number_written_.size() * kBlockRows);
    std::vector<Text> text_file(text_written_.size() * kBlockRows);
    std::vector<ColumnReader> number_readers(numbers, numbers + n_numbers_);
    std::vector<ColumnReader> text_readers(texts, texts + n_texts_);
    for (std::size_t start = 0; start < n_rows; start += kBlockRows) {
        const std::size_t n = std::min(kBlockRows, n_rows - start);
        for (std::size_t i = 0; i < n_numbers_; ++i) number_readers[i].read(n, number_file.data() + i * kBlockRows);
        for (std::size_t i = 0; i < n_texts_; ++i) text_readers[i].read(n, text_file.data() + i * kBlockRows);
        Rejection rejection =
            execute<kBlockRows, Out>(n, number_file.data(), text_file.data(), out + start * n_outputs_);
        if (rejection.step != nullptr) {
            rejection.row += start;
            return rejection;
        }
    }
    return {};
}

Rejection Program::run_batch(const Column* numbers, const Column* texts, std::size_t n_rows, float* out) const {
    return batch<float>(numbers, texts, n_rows, out);
}

Rejection Program::run_batch_f64(const Column* numbers, const Column* texts, std::size_t n_rows, double* out) const {
    return batch<double>(numbers, texts, n_rows, out);
}

}  // namespace engine::transform
