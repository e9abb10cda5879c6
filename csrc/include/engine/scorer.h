/* The socket that every model plugs into: a scorer is a context and a function that scores rows.
 *
 * Plain C, so that an extension module, a Numba cfunc, a captured GPU graph or a user's own library can offer one
 * without linking against anything here. Handed between extension modules as a PyCapsule named ENGINE_SCORER_CAPSULE
 * whose pointer is an engine_scorer; the capsule owns one reference and gives it back when it is collected.
 */
#ifndef ENGINE_SCORER_H
#define ENGINE_SCORER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_SCORER_CAPSULE "engine.scorer.v1"
#define ENGINE_SCORER_ABI 1u

/* What score() returns. Anything else that is not zero counts as ENGINE_SCORE_FAILED. */
enum engine_score_status {
    ENGINE_SCORE_OK = 0,
    ENGINE_SCORE_FAILED = 1,    /* the model raised or its run-time library returned an error */
    ENGINE_SCORE_BAD_SHAPE = 2, /* the model returned other than n_rows x n_outputs values */
};

enum engine_scorer_flags {
    /* score() takes the GIL itself (a Python callable): batch lane only, refused as a fallback. */
    ENGINE_SCORER_TAKES_GIL = 1u << 0,
    /* score() may be called by several threads at once. Without it each call is made under a lock. */
    ENGINE_SCORER_REENTRANT = 1u << 1,
    /* One call costs microseconds and never blocks: fit for the inline lane and as a fallback. */
    ENGINE_SCORER_NATIVE = 1u << 2,
};

/* Reads n_rows rows of n_features values, row r starting at rows + r * row_stride (in elements, not bytes), and writes
 * n_rows x n_outputs doubles, densely, to out. Never throws, keeps no pointer after it returns, and gives the same
 * bits for the same row at any n_rows. NaN stands for a missing value. */
typedef int (*engine_score_f32)(void *ctx, const float *rows, size_t n_rows, size_t row_stride, double *out);
typedef int (*engine_score_f64)(void *ctx, const double *rows, size_t n_rows, size_t row_stride, double *out);

typedef struct engine_scorer {
    uint32_t abi;        /* ENGINE_SCORER_ABI */
    uint32_t flags;      /* engine_scorer_flags */
    uint32_t n_features; /* values a row, at least 1 */
    uint32_t n_outputs;  /* doubles a row, at least 1 */
    void *ctx;           /* the model; owned by whoever holds a reference */
    engine_score_f32 score;     /* required */
    engine_score_f64 score_f64; /* NULL where float32 rows lose nothing (the model itself compares in float32) */
    /* Reference counting, from any thread, without the GIL (a scorer that needs it to let go takes it itself). */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
} engine_scorer;

#ifdef __cplusplus
}
#endif
#endif
