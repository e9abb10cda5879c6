/* The socket that every model plugs into: a scorer is a context and a function that scores rows.
 *
 * Plain C, so that an extension module, a Numba cfunc, a captured GPU graph or a user's own library can offer a scorer
 * without linking against anything here. Extension modules hand it on as a PyCapsule named ENGINE_SCORER_CAPSULE whose
 * pointer is an engine_scorer. The capsule owns one reference and gives it back when it is collected.
 */
#ifndef ENGINE_SCORER_H
#define ENGINE_SCORER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_SCORER_CAPSULE "engine.scorer.v1"
/* The maker of a scorer writes ENGINE_SCORER_ABI into `abi`. The struct only ever grows at its end, so scorers of every
 * version from ENGINE_SCORER_ABI_MIN on are read; fields that a version lacks count as NULL. */
#define ENGINE_SCORER_ABI 2u
#define ENGINE_SCORER_ABI_MIN 1u

/* Results of score(). Any other number that is not zero counts as ENGINE_SCORE_FAILED. */
enum engine_score_status {
    ENGINE_SCORE_OK = 0,
    ENGINE_SCORE_FAILED = 1,      /* the model raised or its run-time library returned an error */
    ENGINE_SCORE_BAD_SHAPE = 2,   /* the model did not return n_rows x n_outputs values */
    ENGINE_SCORE_OUT_OF_TIME = 3, /* score_until() only: stopped because its deadline had passed */
    ENGINE_SCORE_PENDING = 4,     /* poll() only: the batch is still with the device */
    ENGINE_SCORE_BUSY = 5,        /* begin() only: as many batches are in flight as the device takes */
};

enum engine_scorer_flags {
    /* score() takes the GIL itself (a Python callable): batch lane only, never a fallback. */
    ENGINE_SCORER_TAKES_GIL = 1u << 0,
    /* Several threads may call score() at once. Without this flag each call is made under a lock. */
    ENGINE_SCORER_REENTRANT = 1u << 1,
    /* One call costs microseconds and never blocks: fit for the inline lane and as a fallback. */
    ENGINE_SCORER_NATIVE = 1u << 2,
};

/* Reads n_rows rows of n_features values and writes n_rows x n_outputs doubles, densely, to out. Row r starts at
 * rows + r * row_stride, counted in elements, not bytes; rows may overlap. NaN stands for a missing value. The function
 * never throws, keeps no pointer after it returns, and gives the same bits for the same row at any n_rows. */
typedef int (*engine_score_f32)(void *ctx, const float *rows, size_t n_rows, size_t row_stride, double *out);
typedef int (*engine_score_f64)(void *ctx, const double *rows, size_t n_rows, size_t row_stride, double *out);

/* The same, but gives up between two parts of the work once CLOCK_MONOTONIC (nanoseconds) has passed deadline_ns. It
 * then returns ENGINE_SCORE_OUT_OF_TIME, and out holds anything. The clock is read before the first part, so a call
 * after the deadline does no work, and before every later part. An answer may be late by the last part, and is then
 * whole. */
typedef int (*engine_score_until_f32)(void *ctx, const float *rows, size_t n_rows, size_t row_stride, double *out,
                                      int64_t deadline_ns);
typedef int (*engine_score_until_f64)(void *ctx, const double *rows, size_t n_rows, size_t row_stride, double *out,
                                      int64_t deadline_ns);

/* In C++ a braced list may leave out the fields since ABI 2. */
#ifdef __cplusplus
#define ENGINE_SCORER_SINCE_2 = nullptr
#else
#define ENGINE_SCORER_SINCE_2
#endif

typedef struct engine_scorer {
    uint32_t abi;               /* ENGINE_SCORER_ABI */
    uint32_t flags;             /* engine_scorer_flags */
    uint32_t n_features;        /* values a row, at least 1 */
    uint32_t n_outputs;         /* doubles a row, at least 1 */
    void *ctx;                  /* the model; lives as long as anybody holds a reference */
    engine_score_f32 score;     /* required */
    engine_score_f64 score_f64; /* NULL where float32 rows lose nothing (the model itself compares in float32) */
    /* Reference counting, from any thread, without the GIL. A scorer whose release() needs the GIL takes it itself. */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
    /* Since ABI 2. Older scorers end before these fields, so read them through the functions below. NULL where the
     * model cannot stop, or is too quick to need it. A scorer that wraps another replaces or clears them too. */
    engine_score_until_f32 score_until ENGINE_SCORER_SINCE_2;
    engine_score_until_f64 score_until_f64 ENGINE_SCORER_SINCE_2; /* NULL where score_f64 is */
} engine_scorer;

/* A copy of a scorer of any version; fields that its version lacks are NULL. */
static inline engine_scorer engine_scorer_read(const engine_scorer *from) {
    engine_scorer read;
    if (from->abi >= 2u) return *from;
    read.abi = from->abi;
    read.flags = from->flags;
    read.n_features = from->n_features;
    read.n_outputs = from->n_outputs;
    read.ctx = from->ctx;
    read.score = from->score;
    read.score_f64 = from->score_f64;
    read.retain = from->retain;
    read.release = from->release;
    read.score_until = NULL;
    read.score_until_f64 = NULL;
    return read;
}

/* Scores with a deadline where the model can stop, and without one where it cannot. */
static inline int engine_score_by(const engine_scorer *scorer, const float *rows, size_t n_rows, size_t row_stride,
                                  double *out, int64_t deadline_ns) {
    if (scorer->abi >= 2u && scorer->score_until != NULL)
        return scorer->score_until(scorer->ctx, rows, n_rows, row_stride, out, deadline_ns);
    return scorer->score(scorer->ctx, rows, n_rows, row_stride, out);
}

/* The same for double rows, where score_f64 is not NULL. */
static inline int engine_score_by_f64(const engine_scorer *scorer, const double *rows, size_t n_rows, size_t row_stride,
                                      double *out, int64_t deadline_ns) {
    if (scorer->abi >= 2u && scorer->score_until_f64 != NULL)
        return scorer->score_until_f64(scorer->ctx, rows, n_rows, row_stride, out, deadline_ns);
    return scorer->score_f64(scorer->ctx, rows, n_rows, row_stride, out);
}

#ifdef __cplusplus
}
#endif
#endif
