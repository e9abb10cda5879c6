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
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_SCORER_CAPSULE "engine.scorer.v1"
/* The maker of a scorer writes ENGINE_SCORER_ABI into `abi`. The struct only ever grows at its end, so scorers of every
 * version from ENGINE_SCORER_ABI_MIN on are read; fields that a version lacks count as NULL. */
#define ENGINE_SCORER_ABI 3u
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

/* A model on a device may let its caller go: a batch is begun, and its answers are asked for later. Meanwhile one
 * thread begins others, up to in_flight_max of them. These functions need a scorer that is ENGINE_SCORER_REENTRANT and
 * not ENGINE_SCORER_TAKES_GIL, and stand beside score(), which stays required. None of them waits for the device.
 *
 * begin() takes 1 to rows_max rows. It copies them, keeps no pointer, and gives ENGINE_SCORE_OK with *ticket, or
 * ENGINE_SCORE_BUSY where the device has no room for one more batch, or a failure. Any thread, several at once. */
typedef int (*engine_begin_f32)(void *ctx, const float *rows, size_t n_rows, size_t row_stride, uint32_t *ticket);
typedef int (*engine_begin_f64)(void *ctx, const double *rows, size_t n_rows, size_t row_stride, uint32_t *ticket);
/* ENGINE_SCORE_PENDING while the device works; else the status of the batch, with n_rows x n_outputs doubles in out
 * where that is ENGINE_SCORE_OK. The ticket is then spent, and begin() may give it out again. One thread at a time asks
 * for a ticket, often several times a microsecond. */
typedef int (*engine_poll)(void *ctx, uint32_t ticket, double *out);
/* Nobody waits for the answers any more. The ticket is polled on, from now on with out = NULL, until it is spent. The
 * last release() may come before that, and then ends it. */
typedef void (*engine_abandon)(void *ctx, uint32_t ticket);

/* In C++ a braced list may leave out the fields that ABI 1 had not. */
#ifdef __cplusplus
#define ENGINE_SCORER_OR_NONE = {}
#else
#define ENGINE_SCORER_OR_NONE
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
    engine_score_until_f32 score_until ENGINE_SCORER_OR_NONE;
    engine_score_until_f64 score_until_f64 ENGINE_SCORER_OR_NONE; /* NULL where score_f64 is */
    /* Since ABI 3. NULL and 0 where every batch is a call. */
    engine_begin_f32 begin ENGINE_SCORER_OR_NONE;
    engine_begin_f64 begin_f64 ENGINE_SCORER_OR_NONE; /* NULL where score_f64 is */
    engine_poll poll ENGINE_SCORER_OR_NONE;
    engine_abandon abandon ENGINE_SCORER_OR_NONE;
    uint32_t in_flight_max ENGINE_SCORER_OR_NONE; /* batches that may be out at once, at least 1 */
    uint32_t rows_max ENGINE_SCORER_OR_NONE;      /* rows of a batch that is begun, at least 1 */
} engine_scorer;

/* A copy of a scorer of any version; fields that its version lacks are NULL or 0. */
static inline engine_scorer engine_scorer_read(const engine_scorer *from) {
    engine_scorer read;
    const size_t known = from->abi >= 3u   ? sizeof(engine_scorer)
                         : from->abi == 2u ? offsetof(engine_scorer, begin)
                                           : offsetof(engine_scorer, score_until);
    memset((void *)&read, 0, sizeof read);
    memcpy((void *)&read, (const void *)from, known);
    return read;
}

/* What is wrong with a scorer that engine_scorer_read() has copied, in words; NULL where nothing is. */
static inline const char *engine_scorer_fault(const engine_scorer *scorer) {
    const int asks = scorer->poll != NULL && scorer->abandon != NULL;
    if (scorer->score == NULL || scorer->n_features < 1u || scorer->n_outputs < 1u)
        return "it needs a score function, at least one feature and at least one output";
    if (scorer->begin == NULL) {
        if (scorer->begin_f64 != NULL || scorer->poll != NULL || scorer->abandon != NULL || scorer->in_flight_max > 0u)
            return "poll, abandon, begin_f64 and in_flight_max belong to a scorer that has begin";
        return NULL;
    }
    if (!asks) return "a scorer that has begin needs poll and abandon too";
    if ((scorer->begin_f64 == NULL) != (scorer->score_f64 == NULL))
        return "a scorer that has begin needs begin_f64 where it has score_f64, and only there";
    if (scorer->in_flight_max < 1u) return "in_flight_max is 0; a scorer that has begin takes at least one batch";
    if (scorer->rows_max < 1u) return "rows_max is 0; a batch that is begun has at least one row";
    if (!(scorer->flags & ENGINE_SCORER_REENTRANT)) return "a scorer that has begin must be ENGINE_SCORER_REENTRANT";
    if (scorer->flags & ENGINE_SCORER_TAKES_GIL) return "a scorer that has begin must not take the GIL";
    return NULL;
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
