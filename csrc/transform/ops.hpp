// The words of a feature program: the kinds of input, the ops of a step, the parts of a date.
//
// Each word stands in this file alone. The binding reads the tables below when it is imported, so Python keeps no list
// of its own that could differ from the core's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace engine::transform {

// One op is one step of a program; its fields are those of Step. "Missing" is NaN for a number and null for a text.
// Unless a line says otherwise, a missing source makes the result missing.
enum class Op : std::uint16_t {
    // numbers[dst] = f(numbers[a])
    kImpute,    // a missing value becomes x
    kMissing,   // 1 for a missing value, else 0
    kScale,     // (v - x) / y
    kAffine,    // v * x + y, rounded twice
    kClip,      // at least x, at most y
    kLog1p,     // natural logarithm of 1 + v; -inf at -1, NaN below
    kSqrt,      // NaN below zero
    kBucket,    // the number of edges in edges[table] that are <= v (count = 0) or < v (count = 1)
    kMatch,     // the value that matches[table] has for v; x where it has none, y where v is missing
    kSine,      // sin(2 pi v / x), exact at quarter turns
    kCosine,    // cos(2 pi v / x), exact at quarter turns
    kPower,     // v to the power x, which is finite; NaN below zero unless x is whole
    kDatePart,  // the DatePart `count` of an instant in microseconds of Unix time, in zones[table]
    // numbers[dst] = f(numbers[a], numbers[b])
    kDifference,  // a - b
    kRatio,       // a / b; x where b is zero
    kProduct,     // a * b
    kCrossCodes,  // a * count + b for whole a >= 0 and whole b in [0, count), else NaN
    // numbers[dst] = f(numbers[a], numbers[b], numbers[c], numbers[d])
    kHaversine,  // kilometres from (latitude a, longitude b) to (c, d), all in degrees, on a sphere of radius x
    // numbers[dst, dst + 1, …] = functions[table]
    kCall,  // arguments and results are rounded to float32
    // texts[dst] = f(texts[a])
    kTextImpute,  // a missing text becomes the first key of tables[table]
    // numbers[dst] = f(texts[a])
    kLookup,       // the value of tables[table]; x where the text is unknown, y where it is missing
    kHash,         // xxh64(text, seed) % count; y where it is missing
    kHashCross,    // xxh64(texts[b], xxh64(texts[a], seed)) % count; y where either is missing
    kLength,       // length in bytes; y where it is missing
    kTextMissing,  // 1 for a missing text, else 0
    // Nothing is written. The first refused value of a row or a block is the result of running it.
    kKnown,      // refuses numbers[a] unless matches[table] has it; a missing one too if count = 0
    kKnownText,  // refuses texts[a] unless tables[table] has it; a missing one too if count = 0
    // out[dst, …] = f(numbers[a])
    kEmit,    // one output, rounded to float32; every NaN becomes the same NaN
    kOneHot,  // count outputs: output i is 1 where the number equals i; all are 0 for any other number
    kVector,  // count outputs: row numbers[a] of vectors[table]; all are 0 where there is no such row
    // out[dst, …] = f(texts[a])
    kTokens,  // count outputs: the number of tokens whose xxh64(token, seed) % count is i; all NaN where missing

    kCount_,  // the ops that a program is built from end here

    // finish() makes these of common runs of steps. A separate step costs a row more than its arithmetic, and costs a
    // block one more trip of every value to the registers and back.
    kEmitRun,          // out[dst, dst + 1, …] = numbers[a, a + 1, …], count of them
    kImputeScaleEmit,  // out[dst] = numbers[a] imputed with z, then scaled by x and y
    kScaleEmit,        // out[dst] = numbers[a] scaled by x and y
    kHashEmit,         // out[dst] = the hash of texts[a]
    kLookupOneHot,     // out[dst + place] = 1, where place is the value of texts[a] in tables[table]
};

inline constexpr std::size_t kOpCount = static_cast<std::size_t>(Op::kCount_);

// A program has one file of registers for numbers and one for texts.
enum class Registers : std::uint8_t { kNumbers, kTexts };

enum class Result : std::uint8_t {
    kNumber,   // one number register
    kNumbers,  // as many number registers as the function has results
    kText,     // one text register
    kOutputs,  // outputs of the row
    kNothing,
};

struct OpFacts {
    Op op;
    const char* name;  // the op's name in a plan
    Registers reads;
    std::uint8_t n_sources;  // how many of a, b, c, d it reads
    Result result;
};

// Row i describes the op of code i.
inline constexpr OpFacts kOps[] = {
    {Op::kImpute, "impute", Registers::kNumbers, 1, Result::kNumber},
    {Op::kMissing, "missing", Registers::kNumbers, 1, Result::kNumber},
    {Op::kScale, "scale", Registers::kNumbers, 1, Result::kNumber},
    {Op::kAffine, "affine", Registers::kNumbers, 1, Result::kNumber},
    {Op::kClip, "clip", Registers::kNumbers, 1, Result::kNumber},
    {Op::kLog1p, "log1p", Registers::kNumbers, 1, Result::kNumber},
    {Op::kSqrt, "sqrt", Registers::kNumbers, 1, Result::kNumber},
    {Op::kBucket, "bucket", Registers::kNumbers, 1, Result::kNumber},
    {Op::kMatch, "match", Registers::kNumbers, 1, Result::kNumber},
    {Op::kSine, "sine", Registers::kNumbers, 1, Result::kNumber},
    {Op::kCosine, "cosine", Registers::kNumbers, 1, Result::kNumber},
    {Op::kPower, "power", Registers::kNumbers, 1, Result::kNumber},
    {Op::kDatePart, "date_part", Registers::kNumbers, 1, Result::kNumber},
    {Op::kDifference, "difference", Registers::kNumbers, 2, Result::kNumber},
    {Op::kRatio, "ratio", Registers::kNumbers, 2, Result::kNumber},
    {Op::kProduct, "product", Registers::kNumbers, 2, Result::kNumber},
    {Op::kCrossCodes, "cross_codes", Registers::kNumbers, 2, Result::kNumber},
    {Op::kHaversine, "haversine", Registers::kNumbers, 4, Result::kNumber},
    {Op::kCall, "call", Registers::kNumbers, 0, Result::kNumbers},  // its sources are the function's arguments
    {Op::kTextImpute, "text_impute", Registers::kTexts, 1, Result::kText},
    {Op::kLookup, "lookup", Registers::kTexts, 1, Result::kNumber},
    {Op::kHash, "hash", Registers::kTexts, 1, Result::kNumber},
    {Op::kHashCross, "hash_cross", Registers::kTexts, 2, Result::kNumber},
    {Op::kLength, "length", Registers::kTexts, 1, Result::kNumber},
    {Op::kTextMissing, "text_missing", Registers::kTexts, 1, Result::kNumber},
    {Op::kKnown, "known", Registers::kNumbers, 1, Result::kNothing},
    {Op::kKnownText, "known_text", Registers::kTexts, 1, Result::kNothing},
    {Op::kEmit, "emit", Registers::kNumbers, 1, Result::kOutputs},
    {Op::kOneHot, "one_hot", Registers::kNumbers, 1, Result::kOutputs},
    {Op::kVector, "vector", Registers::kNumbers, 1, Result::kOutputs},
    {Op::kTokens, "tokens", Registers::kTexts, 1, Result::kOutputs},
};

consteval bool ops_stand_in_order() {
    for (std::size_t i = 0; i < std::size(kOps); ++i) {
        if (static_cast<std::size_t>(kOps[i].op) != i) return false;
    }
    return std::size(kOps) == kOpCount;
}
static_assert(ops_stand_in_order(), "kOps has one row for each op, in the order of the codes");

// The kinds of input that a program can declare. A category is read into a text register, every other kind into number
// registers: one for a number or a timestamp, as many as its size for a vector.
enum class InputKind : std::uint8_t {
    kNumber,
    kCategory,
    kTimestamp,     // microseconds of Unix time; without a time zone it is refused
    kTimestampUtc,  // the same; without a time zone it is in UTC
    kVector,
    kCount_,
};

// The name of each kind, by its code.
inline constexpr const char* kInputKinds[] = {"number", "category", "timestamp", "timestamp_utc", "vector"};
static_assert(std::size(kInputKinds) == static_cast<std::size_t>(InputKind::kCount_));

enum class DatePart : std::uint32_t {
    kYear,
    kMonth,
    kDay,
    kDayOfYear,
    kWeekday,
    kHour,
    kMinute,
    kSecond,
    kSecondOfDay,
    kUnixSecond,
    kCount_,
};

// The name of each part, by its code.
inline constexpr const char* kDateParts[] = {"year", "month",  "day",    "day_of_year",   "weekday",
                                             "hour", "minute", "second", "second_of_day", "unix_second"};
static_assert(std::size(kDateParts) == static_cast<std::size_t>(DatePart::kCount_));

}  // namespace engine::transform
