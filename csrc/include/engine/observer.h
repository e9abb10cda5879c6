/* The interface of a monitor: an engine shows it every answer.
 *
 * A monitor offers a PyCapsule named ENGINE_OBSERVER_CAPSULE, whose pointer is an engine_observer. The capsule owns one
 * reference and releases it when it is collected; an engine keeps the capsule until the engine is freed.
 */
#ifndef ENGINE_OBSERVER_H
#define ENGINE_OBSERVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_OBSERVER_CAPSULE "engine.observer.v1"
#define ENGINE_OBSERVER_ABI 1u

enum engine_answer_flags {
    ENGINE_ANSWER_ROW_FLOAT64 = 1u << 0, /* row holds doubles instead of floats */
    ENGINE_ANSWER_SHADOW = 1u << 1,      /* a shadow's answer, which no caller got */
    ENGINE_ANSWER_CANARY = 1u << 2,      /* answered by the canary */
};

/* One answer. Its pointers are valid until observe() returns. Times are nanoseconds of CLOCK_MONOTONIC. */
typedef struct engine_answer {
    uint64_t id;         /* Answer.id; a shadow's answer has the id of the live one */
    uint64_t deployment; /* number of the version, as deployed() announced it */
    int64_t started_ns;  /* when the caller called */
    int64_t deadline_ns;
    int64_t ready_ns;     /* when the answer was ready */
    const void *row;      /* n_features values as the models saw them; NULL if the request had expired unread */
    const double *values; /* n_outputs values; those of the default if source is "default" */
    uint32_t n_features;
    uint32_t n_outputs;
    uint32_t flags; /* engine_answer_flags */
    uint8_t source; /* index into Answers.SOURCES */
    uint8_t reason; /* index into Answers.REASONS */
} engine_answer;

typedef struct engine_observer {
    uint32_t abi;        /* ENGINE_OBSERVER_ABI */
    uint32_t n_features; /* width of the rows it expects; 0 for any */
    void *ctx;
    /* Hot: once per answer, from any thread, with or without the GIL. Must not block or throw: drop and count an answer
     * that does not fit. */
    void (*observe)(void *ctx, const engine_answer *answer);
    /* Announces a deployment number before an answer carries it. version is UTF-8; copy it. With the GIL held. */
    void (*deployed)(void *ctx, uint64_t deployment, const char *version);
    /* From any thread, without the GIL. */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
} engine_observer;

#ifdef __cplusplus
}
#endif
#endif
