# What bindings that take arrays share: C++ spans of numbers, and the instruction sets of this CPU.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "<span>" namespace "std" nogil:
    cdef cppclass span_i32 "std::span<const std::int32_t>":
        span_i32()
        span_i32(const int32_t*, size_t)
    cdef cppclass span_u32 "std::span<const std::uint32_t>":
        span_u32()
        span_u32(const uint32_t*, size_t)
    cdef cppclass span_u8 "std::span<const std::uint8_t>":
        span_u8()
        span_u8(const uint8_t*, size_t)
    cdef cppclass span_f64 "std::span<const double>":
        span_f64()
        span_f64(const double*, size_t)

cdef extern from "base/cpu.hpp" namespace "engine" nogil:
    cdef enum class Isa(int):
        scalar
        avx2
        avx512
    Isa active_isa()
    Isa detected_isa()
    const char* isa_name(Isa isa)
