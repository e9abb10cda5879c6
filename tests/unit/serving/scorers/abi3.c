/* A scorer of ABI 3: a device of four lanes on which a batch takes 3 ms. It counts what it sees. */
#include <engine/scorer.h>
#include <pthread.h>
#include <time.h>

#include "common.h"

enum { LANES = 4, ROWS_MAX = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int out;
    size_t n;
    int64_t ready_ns;
    double answers[ROWS_MAX];
} lanes[LANES];
static uint64_t seen[4]; /* batches, the most at once, calls of score(), hung while not 0 */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}
static int score(void *ctx, const float *rows, size_t n, size_t stride, double *out) {
    (void)ctx;
    __atomic_fetch_add(&seen[2], 1, __ATOMIC_RELAXED);
    return answer(rows, n, stride, 300.0, out);
}
static int begin(void *ctx, const float *rows, size_t n, size_t stride, uint32_t *ticket) {
    (void)ctx;
    int status = ENGINE_SCORE_BUSY;
    if (n > ROWS_MAX) return ENGINE_SCORE_FAILED;
    pthread_mutex_lock(&lock);
    uint64_t out = 1;
    for (int i = 0; i < LANES; ++i) out += lanes[i].out != 0;
    for (uint32_t i = 0; i < LANES && status != ENGINE_SCORE_OK; ++i) {
        if (lanes[i].out) continue;
        lanes[i].out = 1;
        lanes[i].n = n;
        lanes[i].ready_ns = now_ns() + 3000000;
        *ticket = i;
        status = answer(rows, n, stride, 300.0, lanes[i].answers);
        ++seen[0];
        if (out > seen[1]) seen[1] = out;
    }
    pthread_mutex_unlock(&lock);
    return status;
}
static int poll(void *ctx, uint32_t ticket, double *out) {
    (void)ctx;
    int status = ENGINE_SCORE_PENDING;
    pthread_mutex_lock(&lock);
    if (!seen[3] && now_ns() >= lanes[ticket].ready_ns) {
        for (size_t r = 0; out != NULL && r < lanes[ticket].n; ++r) out[r] = lanes[ticket].answers[r];
        lanes[ticket].out = 0;
        status = ENGINE_SCORE_OK;
    }
    pthread_mutex_unlock(&lock);
    return status;
}
static void abandon(void *ctx, uint32_t ticket) {
    (void)ctx;
    (void)ticket;
}

static engine_scorer made = {ENGINE_SCORER_ABI, ENGINE_SCORER_REENTRANT, 2, 1, NULL, score, NULL, retain, release,
                             NULL, NULL, begin, NULL, poll, abandon, LANES, ROWS_MAX};

void *make(void) { return &made; }
uint64_t *counts(void) { return seen; }
void hang(int yes) {
    pthread_mutex_lock(&lock);
    seen[3] = (uint64_t)yes;
    pthread_mutex_unlock(&lock);
}
