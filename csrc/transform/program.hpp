// A feature program: numbers and texts in, float32 columns out, the same bits for one row and for a million.
//
// A program is a straight list of steps over two files of registers, one of doubles and one of texts. The first
// registers are the inputs. One row and a block of rows run the same step functions, and every step is arithmetic that
// IEEE 754 defines to the bit, so there is nothing by which offline and online could differ. Reading Python objects and
// tables is the binding's work; fitting is Python's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace engine::transform {

// UTF-8 bytes that somebody else owns; data is null for a missing value.
struct Text {
    const char* data;
    std::size_t size;
};

// How the values of a chunk lie in memory.
enum class Layout : std::uint8_t {
    kF64, kF32, kI8, kI16, kI32, kI64, kU8, kU16, kU32, kU64,
    kBit,        // eight a byte, lowest first, as Arrow packs booleans
    kText,       // Text structs
    kUtf8,       // Arrow's strings: row i is bytes[values[i] .. values[i + 1]), values of 32 bits
    kLargeUtf8,  // the same with values of 64 bits
};

// Some rows of a column, read where they lie. The first row is row `first` of every buffer.
struct Chunk {
    Layout layout;
    const void* values = nullptr;
    const std::uint8_t* validity = nullptr;  // one bit a row, 0 where it is missing; null: every row is there
    const char* bytes = nullptr;
    std::size_t first = 0;
    std::size_t n_rows = 0;
    std::size_t stride = 1;  // values from one row to the next
};

// A column in one or more chunks; of rows that are vectors, the component to read.
struct Column {
    const Chunk* chunks;
    std::size_t n_chunks;
    std::size_t component = 0;
};

enum class Op : std::uint16_t {
    // numbers[dst] = f(numbers[a]); NaN stays NaN unless the step says otherwise.
    kImpute,      // NaN becomes x
    kMissing,     // 1 for NaN, else 0
    kScale,       // (v - x) / y
    kClip,        // at least x, at most y
    kLog1p,       // natural logarithm of 1 + v; -inf at -1, NaN below
    kSqrt,        // NaN below zero
    kBucket,      // how many edges of edges[table] are <= v (count = 0) or < v (count = 1)
    kSine,        // sin(2 pi v / x), exact at quarter turns
    kCosine,      // cos(2 pi v / x)
    kPower,       // v to the power x; NaN below zero unless x is whole
    kDatePart,    // the part (a DatePart in count) of an instant in microseconds of Unix time, in zones[table]
    // numbers[dst] = f(numbers[a], numbers[b])
    kDifference,  // a - b
    kRatio,       // a / b, and x where b is zero
    kProduct,     // a * b
    kCrossCodes,  // a * count + b for whole a >= 0 and whole b in [0, count), else NaN
    // numbers[dst] = f(numbers[a], numbers[b], numbers[c], numbers[d])
    kHaversine,   // kilometres between (latitude a, longitude b) and (c, d), in degrees, on a sphere of radius x
    // numbers[dst, dst + 1, …] = functions[table]
    kCall,        // arguments and results are rounded to float32
    // texts[dst] = f(texts[a])
    kTextImpute,  // a missing text becomes the first key of tables[table]
    // numbers[dst] = f(texts[a])
    kLookup,      // the value of tables[table]; x where the text is unknown, y where it is missing
    kHash,        // xxh64(text, seed) % count; y where it is missing
    kHashCross,   // xxh64(texts[b], xxh64(texts[a], seed)) % count; y where either is missing
    kLength,      // bytes; y where it is missing
    kTextMissing, // 1 for a missing text, else 0
    // out[dst...] = f(numbers[a])
    kEmit,        // rounded to float32; every NaN becomes the same NaN
    kOneHot,      // count columns, column i is 1 where the number equals i, else 0 (all 0 for NaN)
    kVector,      // count columns: vectors[table] row numbers[a]; all 0 where there is no such row
    // out[dst...] = f(texts[a])
    kTokens,      // count columns: how many of the text's tokens hash (xxh64, seed) into each; all NaN where missing
    kCount_,      // not a step a caller may add
    // What finish() makes of the commonest runs of steps: a step costs a row more than its arithmetic, and a block a trip
    // of every value to the registers and back.
    kEmitRun,          // out[dst, dst + 1, …] = numbers[a, a + 1, …], count of them
    kImputeScaleEmit,  // out[dst] = numbers[a] imputed with z, scaled by x and y
    kScaleEmit,
    kHashEmit,         // out[dst] = texts[a] hashed
    kLookupOneHot,     // out[dst...]: the column of the place that texts[a] has in tables[table] is 1
};

enum class DatePart : std::uint32_t {
    kYear, kMonth, kDay, kDayOfYear, kWeekday, kHour, kMinute, kSecond, kSecondOfDay, kUnixSecond, kCount_
};

struct Step {
    Op op;
    std::uint32_t dst = 0;
    std::uint32_t a = 0;
    std::uint32_t b = 0;
    std::uint32_t c = 0;
    std::uint32_t d = 0;
    std::uint32_t table = 0;
    std::uint32_t count = 0;
    std::uint64_t seed = 0;
    double x = 0.0;
    double y = 0.0;
    double z = 0.0;
};

// XXH64 of the xxHash specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), version 0.2.0.
std::uint64_t xxh64(const char* data, std::size_t size, std::uint64_t seed) noexcept;

class Table;

// What is added to Unix time to get the wall clock of a place: offsets_s[i] seconds from edges_s[i - 1] (the first offset:
// from ever) to edges_s[i].
struct Zone {
    std::vector<double> edges_s;
    std::vector<double> offsets_s;
};

// A compiled function that somebody else keeps alive: float(float, …), or for several results void(float, …, float*).
// It must be pure and must not raise; it is called without any lock.
struct Function {
    const void* address;
    std::vector<std::uint32_t> arguments;  // number registers
    std::uint32_t n_results;
};

class Program {
public:
    static constexpr std::size_t kArgumentsMax = 8;
    static constexpr std::size_t kResultsMax = 64;
    // Rows that run_batch holds in its registers at once: the registers of a middling program stay in the L2 cache.
    static constexpr std::size_t kBlockRows = 128;

    Program(std::uint32_t n_numbers, std::uint32_t n_texts, std::uint32_t n_outputs);
    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // Building: tables and edges first, then the steps in order, then finish() once. They throw std::invalid_argument
    // with the reason where a step reads a register that nothing has written, an unknown table, an output outside the
    // row; finish() where an output is written by no step or by two.
    std::uint32_t add_table(const std::vector<std::string>& keys, const std::vector<double>& values);
    std::uint32_t add_edges(const std::vector<double>& edges);
    std::uint32_t add_zone(const Zone& zone);
    // Rows of `width` values each.
    std::uint32_t add_vectors(const std::vector<float>& values, std::uint32_t width);
    std::uint32_t add_function(const Function& function);
    void add_step(const Step& step);
    void finish();

    std::uint32_t n_numbers() const noexcept { return n_numbers_; }
    std::uint32_t n_texts() const noexcept { return n_texts_; }
    std::uint32_t n_outputs() const noexcept { return n_outputs_; }
    // Registers that run_row needs from its caller, inputs included.
    std::uint32_t number_registers() const noexcept { return static_cast<std::uint32_t>(number_written_.size()); }
    std::uint32_t text_registers() const noexcept { return static_cast<std::uint32_t>(text_written_.size()); }

    // Hot: one row. `numbers` and `texts` hold the inputs first and have room for every register; the rest is scratch.
    // Allocates nothing; may run in several threads on registers of their own.
    void run_row(double* numbers, Text* texts, float* out) const noexcept;

    // Many rows, columns in, rows out (densely, n_outputs values each). numbers[i] and texts[i] hold n_rows values, of
    // numbers and of texts. Nothing as long as a column is allocated: each block of rows is read into the registers
    // from wherever it lies. Throws std::bad_alloc before anything is written.
    void run_batch(const Column* numbers, const Column* texts, std::size_t n_rows, float* out) const;
    // The same before rounding to float32: what fitting reads its statistics from.
    void run_batch_f64(const Column* numbers, const Column* texts, std::size_t n_rows, double* out) const;

private:
    template <std::size_t kCapacity, class Out>
    void execute(std::size_t n, double* numbers, Text* texts, Out* out) const noexcept;
    template <std::size_t kCapacity, class Out>
    [[gnu::always_inline]] void fused_step(const Step& step, std::size_t n, const double* numbers, const Text* texts, Out* out) const noexcept;
    template <std::size_t kCapacity>
    void text_step(const Step& step, std::size_t n, double* dst, Text* texts) const noexcept;
    template <std::size_t kCapacity>
    void call_step(const Step& step, std::size_t n, double* numbers) const noexcept;
    template <std::size_t kCapacity, class Out>
    void emit_step(const Step& step, std::size_t n, const double* numbers, const Text* texts, Out* out) const noexcept;
    void check_step(const Step& step) const;
    template <class Out>
    void batch(const Column* numbers, const Column* texts, std::size_t n_rows, Out* out) const;

    std::uint32_t n_numbers_;
    std::uint32_t n_texts_;
    std::uint32_t n_outputs_;
    void fuse();
    bool continues_run(const Step& emit) const;
    bool is_place(const Step& lookup, std::uint32_t count) const;

    std::vector<Step> steps_;
    std::vector<Step> fused_;  // the same program with runs of steps fused: what is run
    bool clears_outputs_ = false;  // some step writes only the outputs that are not 0
    std::vector<std::unique_ptr<Table>> tables_;
    std::vector<std::vector<double>> edges_;
    std::vector<Zone> zones_;
    struct Vectors {
        std::vector<float> values;
        std::uint32_t width;
    };
    std::vector<Vectors> vectors_;
    std::vector<Function> functions_;
    // One flag a register and output: written by an input or a step so far. Bytes, not vector<bool>.
    std::vector<std::uint8_t> number_written_;
    std::vector<std::uint8_t> text_written_;
    std::vector<std::uint8_t> output_written_;
};

}  // namespace engine::transform
