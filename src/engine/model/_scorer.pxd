# The scorer C ABI as Cython sees it; csrc/include/engine/scorer.h documents every field.
from libc.stdint cimport int64_t, uint32_t

cdef extern from "engine/scorer.h":
    const char* ENGINE_SCORER_CAPSULE
    uint32_t ENGINE_SCORER_ABI
    uint32_t ENGINE_SCORER_ABI_MIN
    uint32_t ENGINE_SCORER_TAKES_GIL
    uint32_t ENGINE_SCORER_REENTRANT
    uint32_t ENGINE_SCORER_NATIVE
    int ENGINE_SCORE_OK
    int ENGINE_SCORE_FAILED
    int ENGINE_SCORE_BAD_SHAPE
    int ENGINE_SCORE_OUT_OF_TIME

    ctypedef int (*engine_score_f32)(void* ctx, const float* rows, size_t n_rows, size_t row_stride,
                                     double* out) noexcept nogil
    ctypedef int (*engine_score_f64)(void* ctx, const double* rows, size_t n_rows, size_t row_stride,
                                     double* out) noexcept nogil
    ctypedef int (*engine_score_until_f32)(void* ctx, const float* rows, size_t n_rows, size_t row_stride,
                                           double* out, int64_t deadline_ns) noexcept nogil
    ctypedef int (*engine_score_until_f64)(void* ctx, const double* rows, size_t n_rows, size_t row_stride,
                                           double* out, int64_t deadline_ns) noexcept nogil

    ctypedef int (*engine_begin_f32)(void* ctx, const float* rows, size_t n_rows, size_t row_stride,
                                     uint32_t* ticket) noexcept nogil
    ctypedef int (*engine_begin_f64)(void* ctx, const double* rows, size_t n_rows, size_t row_stride,
                                     uint32_t* ticket) noexcept nogil
    ctypedef int (*engine_poll)(void* ctx, uint32_t ticket, double* out) noexcept nogil
    ctypedef void (*engine_abandon)(void* ctx, uint32_t ticket) noexcept nogil

    ctypedef struct engine_scorer:
        uint32_t abi
        uint32_t flags
        uint32_t n_features
        uint32_t n_outputs
        void* ctx
        engine_score_f32 score
        engine_score_f64 score_f64
        void (*retain)(void* ctx) noexcept nogil
        void (*release)(void* ctx) noexcept nogil
        engine_score_until_f32 score_until
        engine_score_until_f64 score_until_f64
        engine_begin_f32 begin
        engine_begin_f64 begin_f64
        engine_poll poll
        engine_abandon abandon
        uint32_t in_flight_max
        uint32_t rows_max

    engine_scorer engine_scorer_read(const engine_scorer* scorer) noexcept nogil
    const char* engine_scorer_fault(const engine_scorer* scorer) noexcept nogil
    int engine_score_by(const engine_scorer* scorer, const float* rows, size_t n_rows, size_t row_stride, double* out,
                        int64_t deadline_ns) noexcept nogil
    int engine_score_by_f64(const engine_scorer* scorer, const double* rows, size_t n_rows, size_t row_stride,
                            double* out, int64_t deadline_ns) noexcept nogil


# Takes over the caller's reference to `scorer.ctx` and returns a capsule that gives it back when collected.
cdef object scorer_to_capsule(const engine_scorer* scorer)

# Borrowed pointer, valid while the capsule lives, to a struct of the present size whatever version the capsule is of.
# Raises ConfigError for anything but a scorer capsule of a version that is read.
cdef const engine_scorer* scorer_from_capsule(object capsule) except NULL
