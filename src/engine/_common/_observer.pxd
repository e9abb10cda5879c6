# The socket of monitors as Cython sees it; csrc/include/engine/observer.h documents every field.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "engine/observer.h" nogil:
    const char* ENGINE_OBSERVER_CAPSULE
    uint32_t ENGINE_OBSERVER_ABI
    uint32_t ENGINE_ANSWER_ROW_FLOAT64
    uint32_t ENGINE_ANSWER_SHADOW
    uint32_t ENGINE_ANSWER_CANARY

    ctypedef struct engine_answer:
        uint64_t id
        uint64_t deployment
        int64_t started_ns
        int64_t deadline_ns
        int64_t ready_ns
        const void* row
        const double* values
        uint32_t n_features
        uint32_t n_outputs
        uint32_t flags
        uint8_t source
        uint8_t reason

    ctypedef struct engine_observer:
        uint32_t abi
        uint32_t n_features
        void* ctx
        void (*observe)(void* ctx, const engine_answer* answer) noexcept
        void (*deployed)(void* ctx, uint64_t deployment, const char* version) noexcept
        void (*retain)(void* ctx) noexcept
        void (*release)(void* ctx) noexcept
