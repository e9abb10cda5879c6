# The native feature program and its socket as Cython sees them; csrc/include/engine/transform.hpp and features.h
# document every field.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

cdef extern from "engine/features.h":
    const char* ENGINE_FEATURES_CAPSULE
    uint32_t ENGINE_FEATURES_ABI

    ctypedef struct engine_features:
        uint32_t abi
        uint32_t n_features
        void* ctx
        int (*read_row)(void* ctx, void* object, float* out) except -1
        void (*retain)(void* ctx) noexcept
        void (*release)(void* ctx) noexcept


cdef extern from "engine/transform.hpp" namespace "engine::transform" nogil:
    cdef cppclass Text:
        const char* data
        size_t size

    cdef enum class Op(uint16_t):
        kCount_

    cdef cppclass Step:
        Op op
        uint32_t dst
        uint32_t a
        uint32_t b
        uint32_t table
        uint32_t count
        uint64_t seed
        double x
        double y

    uint64_t xxh64_native "engine::transform::xxh64"(const char* data, size_t size, uint64_t seed) noexcept

    cdef cppclass CppProgram "engine::transform::Program":
        CppProgram(uint32_t n_numbers, uint32_t n_texts, uint32_t n_outputs) except +
        uint32_t add_table(const vector[string]& keys, const vector[double]& values) except +
        uint32_t add_edges(const vector[double]& edges) except +
        void add_step(const Step& step) except +
        void finish() except +
        uint32_t n_numbers()
        uint32_t n_texts()
        uint32_t n_outputs()
        uint32_t number_registers()
        uint32_t text_registers()
        void run_row(double* numbers, Text* texts, float* out) noexcept
        void run_batch(const double** numbers, const Text** texts, size_t n_rows, float* out) except +
        void run_batch_f64(const double** numbers, const Text** texts, size_t n_rows, double* out) except +
