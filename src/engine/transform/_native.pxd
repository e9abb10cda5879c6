# The native feature program as Cython sees it. The headers document every field: csrc/transform/ops.hpp, program.hpp
# and json.hpp.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

cdef extern from "transform/ops.hpp" namespace "engine::transform" nogil:
    cdef enum class Op(uint16_t):
        kCall, kKnown, kCount_

    cdef enum class Registers(uint8_t):
        kNumbers, kTexts

    cdef cppclass OpFacts:
        const char* name
        Registers reads

    cdef enum class InputKind(uint8_t):
        kNumber, kCategory, kTimestamp, kTimestampUtc, kVector, kCount_

    cdef enum class DatePart(uint32_t):
        kCount_

    const OpFacts* kOps            # [Op.kCount_]
    const char* const* kInputKinds  # [InputKind.kCount_], names
    const char* const* kDateParts   # [DatePart.kCount_], names


cdef extern from "transform/program.hpp" namespace "engine::transform" nogil:
    cdef cppclass Text:
        const char* data
        size_t size

    cdef enum class Layout(uint8_t):
        kF64, kF32, kI8, kI16, kI32, kI64, kU8, kU16, kU32, kU64, kBit, kText, kUtf8, kLargeUtf8

    cdef cppclass Chunk:
        Layout layout
        const void* values
        const uint8_t* validity
        const char* bytes
        size_t first
        size_t n_rows
        size_t stride

    cdef cppclass CppColumn "engine::transform::Column":
        const Chunk* chunks
        size_t n_chunks
        size_t component

    cdef cppclass Step:
        Op op
        uint32_t dst
        uint32_t a
        uint32_t b
        uint32_t c
        uint32_t d
        uint32_t table
        uint32_t count
        uint64_t seed
        double x
        double y

    cdef cppclass Zone:
        vector[double] edges_s
        vector[double] offsets_s

    cdef cppclass Matches:
        vector[double] keys
        vector[double] values

    cdef cppclass Rejection:
        const Step* step
        size_t row
        double number
        Text text

    ctypedef void (*NativeFunction)()

    cdef cppclass Function:
        NativeFunction address
        vector[uint32_t] arguments
        uint32_t n_results

    uint64_t xxh64_native "engine::transform::xxh64"(const char* data, size_t size, uint64_t seed) noexcept

    cdef cppclass CppProgram "engine::transform::Program":
        CppProgram(uint32_t n_numbers, uint32_t n_texts, uint32_t n_outputs) except +
        uint32_t add_table(const vector[string]& keys, const vector[double]& values) except +
        uint32_t add_matches(const Matches& matches) except +
        uint32_t add_edges(const vector[double]& edges) except +
        uint32_t add_zone(const Zone& zone) except +
        uint32_t add_vectors(const vector[float]& values, uint32_t width) except +
        uint32_t add_function(const Function& function) except +
        void add_step(const Step& step) except +
        void finish() except +
        uint32_t n_numbers()
        uint32_t n_texts()
        uint32_t n_outputs()
        uint32_t number_registers()
        uint32_t text_registers()
        Rejection run_row(double* numbers, Text* texts, float* out) noexcept
        Rejection run_batch(const CppColumn* numbers, const CppColumn* texts, size_t n_rows, float* out) except +
        Rejection run_batch_f64(const CppColumn* numbers, const CppColumn* texts, size_t n_rows, double* out) except +

    size_t kArgumentsMax "engine::transform::Program::kArgumentsMax"
    size_t kResultsMax "engine::transform::Program::kResultsMax"
    uint32_t kCodesMax "engine::transform::Program::kCodesMax"


cdef extern from "transform/json.hpp" namespace "engine::transform" nogil:
    cdef cppclass JsonInput "engine::transform::JsonRows::Input":
        string name
        InputKind kind
        uint32_t at
        uint32_t size

    cdef cppclass JsonRows:
        JsonRows(const vector[JsonInput]& inputs, bint refuse_missing) except +
        bint read(const char* data, size_t size, double* numbers, Text* texts) noexcept
