/* A scorer as it was compiled against the header of ABI 2. What lies behind the struct is not the scorer's. */
#include "common.h"

typedef struct {
    uint32_t abi, flags, n_features, n_outputs;
    void *ctx;
    int (*score)(void *, const float *, size_t, size_t, double *);
    int (*score_f64)(void *, const double *, size_t, size_t, double *);
    void (*retain)(void *);
    void (*release)(void *);
    int (*score_until)(void *, const float *, size_t, size_t, double *, int64_t);
    int (*score_until_f64)(void *, const double *, size_t, size_t, double *, int64_t);
} engine_scorer;

static int score(void *ctx, const float *rows, size_t n, size_t stride, double *out) {
    (void)ctx;
    return answer(rows, n, stride, 200.0, out);
}
static int score_until(void *ctx, const float *rows, size_t n, size_t stride, double *out, int64_t deadline_ns) {
    return deadline_ns <= 0 ? 3 : score(ctx, rows, n, stride, out);
}

static struct {
    engine_scorer scorer;
    uintptr_t not_ours[8];
} made = {{2, 2, 2, 1, NULL, score, NULL, retain, release, score_until, NULL},
          {~0ul, ~0ul, ~0ul, ~0ul, ~0ul, ~0ul, ~0ul, ~0ul}};

void *make(void) { return &made; }
