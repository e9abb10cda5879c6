// A feature program: numbers and texts in, float32 columns out, the same bits for one row and for a million.
//
// A program is a straight list of steps over two files of registers: one of doubles, one of texts. The first registers
// are the inputs. One row and a block of rows run the same step functions, and IEEE 754 fixes every bit that a step
// computes, so offline and online cannot differ. The binding reads Python objects and tables; Python does the fitting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transform/ops.hpp"

namespace engine::transform {

// UTF-8 bytes, borrowed. `data` is null for a missing text.
struct Text {
    const char* data;
    std::size_t size;
};

// How the values of a chunk lie in memory.
enum class Layout : std::uint8_t {
    kF64,
    kF32,
    kI8,
    kI16,
    kI32,
    kI64,
    kU8,
    kU16,
    kU32,
    kU64,
    kBit,        // Arrow's booleans: eight to a byte, lowest bit first
    kText,       // Text structs
    kUtf8,       // Arrow's strings: row i is bytes[values[i] .. values[i + 1]), `values` holds 32-bit offsets
    kLargeUtf8,  // the same with 64-bit offsets
};

// Consecutive rows of a column, borrowed and read in place.
struct Chunk {
    Layout layout;
    const void* values = nullptr;            // of type `layout`; for Arrow's strings the offsets
    const std::uint8_t* validity = nullptr;  // one bit a row, lowest bit first, 0 where missing; null: none is missing
    const char* bytes = nullptr;             // the text of Arrow's strings, else null
    std::size_t first = 0;                   // index of the first row, in each of the three buffers
    std::size_t n_rows = 0;
    std::size_t stride = 1;  // values from one row to the next
};

// A column in one or more chunks, in row order. Where a row is a vector, `component` picks the value to read.
struct Column {
    const Chunk* chunks;
    std::size_t n_chunks;
    std::size_t component = 0;
};

// One step. The op says which fields count, and ops.hpp says what each op does with them.
struct Step {
    Op op;
    std::uint32_t dst = 0;  // the register or output that it writes, or the first of several
    std::uint32_t a = 0;    // source registers
    std::uint32_t b = 0;
    std::uint32_t c = 0;
    std::uint32_t d = 0;
    std::uint32_t table = 0;  // index of a table, of matches, of edges, of a zone, of vectors or of a function
    std::uint32_t count = 0;
    std::uint64_t seed = 0;
    double x = 0.0;
    double y = 0.0;
    double z = 0.0;  // used by fused steps alone
};

// XXH64 as the xxHash specification defines it (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), version 0.2.0.
std::uint64_t xxh64(const char* data, std::size_t size, std::uint64_t seed) noexcept;

class Table;

// Local time minus Unix time in one time zone: offsets_s[i] seconds from edges_s[i - 1] to edges_s[i]. The first offset
// holds for all time before the first edge, the last one for all time after the last.
struct Zone {
    std::vector<double> edges_s;    // Unix time, rising
    std::vector<double> offsets_s;  // one more than edges
};

// A value for each of some numbers.
struct Matches {
    std::vector<double> keys;    // rising
    std::vector<double> values;  // one for each key
};

// A value that a program refuses.
struct Rejection {
    const Step* step = nullptr;  // the step that refused it; null where every value was taken
    std::size_t row = 0;
    double number = 0.0;  // the value, if the step reads a number
    Text text = {};       // the value, if the step reads a text
};

// A pointer to a function of any type.
using NativeFunction = void (*)();

// A compiled function, borrowed: float(float, …) with one result, void(float, …, float* results) with several. It must
// be pure and must not raise. It is called without any lock, from any thread.
struct Function {
    NativeFunction address;
    std::vector<std::uint32_t> arguments;  // number registers
    std::uint32_t n_results;
};

class Program {
public:
    static constexpr std::size_t kArgumentsMax = 8;
    static constexpr std::size_t kResultsMax = 64;
    static constexpr std::uint32_t kCodesMax = 1u << 24;      // the whole numbers that float32 holds exactly
    static constexpr std::uint32_t kRegistersMax = 1u << 20;  // of each file; inputs and outputs too
    // Rows that run_batch holds in registers at once. At 128 the registers of a typical program fit the L2 cache.
    static constexpr std::size_t kBlockRows = 128;

    Program(std::uint32_t n_numbers, std::uint32_t n_texts, std::uint32_t n_outputs);
    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // Building: add tables, matches, edges, zones and vectors first, then the steps in order (a function just before
    // its step), then call finish() once. Each add_* returns the index that a step names as `table`.
    //
    // All throw std::invalid_argument with the reason: add_step for a register that no earlier step has written, an
    // unknown table, or an output outside the row; finish() for an output that no step writes.
    std::uint32_t add_table(const std::vector<std::string>& keys, const std::vector<double>& values);
    std::uint32_t add_matches(const Matches& matches);
    std::uint32_t add_edges(const std::vector<double>& edges);
    std::uint32_t add_zone(const Zone& zone);
    std::uint32_t add_vectors(const std::vector<float>& values, std::uint32_t width);  // rows of `width` values
    std::uint32_t add_function(const Function& function);
    void add_step(const Step& step);
    void finish();

    std::uint32_t n_numbers() const noexcept { return n_numbers_; }
    std::uint32_t n_texts() const noexcept { return n_texts_; }
    std::uint32_t n_outputs() const noexcept { return n_outputs_; }
    // Registers that the caller of run_row provides, inputs included.
    std::uint32_t number_registers() const noexcept { return static_cast<std::uint32_t>(number_written_.size()); }
    std::uint32_t text_registers() const noexcept { return static_cast<std::uint32_t>(text_written_.size()); }

    // Hot: one row. `numbers` and `texts` start with the inputs and have room for every register; the rest is scratch.
    // Writes n_outputs() values. Allocates nothing. Threads may run it at the same time, each on registers of its own.
    // Returns the value that a known step refused, if there is one; then the outputs mean nothing.
    Rejection run_row(double* numbers, Text* texts, float* out) const noexcept;
    // The same without rounding to float32.
    Rejection run_row(double* numbers, Text* texts, double* out) const noexcept;

    // Many rows: columns in, dense rows of n_outputs() values out. numbers[i] and texts[i] are the columns of input i,
    // n_rows values each. Columns are read in place, a block of rows at a time, and nothing as long as a column is
    // allocated. Throws std::bad_alloc before it writes anything. Stops at the first block with a refused value.
    Rejection run_batch(const Column* numbers, const Column* texts, std::size_t n_rows, float* out) const;
    // The same without rounding to float32: fitting takes its statistics from these values.
    Rejection run_batch_f64(const Column* numbers, const Column* texts, std::size_t n_rows, double* out) const;

private:
    // kCapacity is the distance between registers, in rows.
    template <std::size_t kCapacity, class Out>
    Rejection execute(std::size_t n, double* numbers, Text* texts, Out* out) const noexcept;
    template <std::size_t kCapacity, class Out>
    [[gnu::always_inline]] void fused_step(const Step& step, std::size_t n, const double* numbers, const Text* texts,
                                           Out* out) const noexcept;
    template <std::size_t kCapacity>
    void text_step(const Step& step, std::size_t n, double* numbers, Text* texts) const noexcept;
    template <std::size_t kCapacity>
    Rejection known_step(const Step& step, std::size_t n, const double* numbers, const Text* texts) const noexcept;
    template <std::size_t kCapacity>
    void call_step(const Step& step, std::size_t n, double* numbers) const noexcept;
    template <std::size_t kCapacity, class Out>
    void emit_step(const Step& step, std::size_t n, const double* numbers, const Text* texts, Out* out) const noexcept;
    template <class Out>
    Rejection batch(const Column* numbers, const Column* texts, std::size_t n_rows, Out* out) const;

    void check_step(const Step& step) const;
    void write_outputs(const Step& step);
    void write_registers(const Step& step);
    void fuse();
    bool continues_run(const Step& emit) const;
    bool is_place(const Step& lookup, std::uint32_t count) const;
    std::vector<std::uint32_t> count_reads() const;
    bool holds(const Step& step) const noexcept;  // for assertions

    std::uint32_t n_numbers_;
    std::uint32_t n_texts_;
    std::uint32_t n_outputs_;
    std::vector<Step> steps_;
    std::vector<Step> fused_;  // the same program with runs of steps fused; this list is executed
    bool finished_ = false;
    bool clears_outputs_ = false;  // some step writes only the outputs that are not 0
    std::vector<std::unique_ptr<Table>> tables_;
    std::vector<Matches> matches_;
    std::vector<std::vector<double>> edges_;
    std::vector<Zone> zones_;
    struct Vectors {
        std::vector<float> values;
        std::uint32_t width;
    };
    std::vector<Vectors> vectors_;
    std::vector<Function> functions_;
    // One flag for each register and output: 1 once an input or a step has written it. Bytes, not vector<bool>.
    std::vector<std::uint8_t> number_written_;
    std::vector<std::uint8_t> text_written_;
    std::vector<std::uint8_t> output_written_;
};

}  // namespace engine::transform
