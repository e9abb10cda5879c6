# The socket of feature programs as Cython sees it; csrc/include/engine/features.h documents every field.
from libc.stdint cimport uint32_t

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
        void* (*absent)(void* ctx) except NULL
        int (*check_keys)(void* ctx, void* object, void* also_known) except -1
