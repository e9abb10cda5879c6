/* The interface of a feature program: one Python object in, one float32 row out.
 *
 * A program offers a PyCapsule named ENGINE_FEATURES_CAPSULE, whose pointer is an engine_features. The capsule owns one
 * reference and releases it when it is collected. `object` is a PyObject*; void here, so that csrc needs no Python.h.
 */
#ifndef ENGINE_FEATURES_H
#define ENGINE_FEATURES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_FEATURES_CAPSULE "engine.features.v1"
#define ENGINE_FEATURES_ABI 1u

typedef struct engine_features {
    uint32_t abi;        /* ENGINE_FEATURES_ABI */
    uint32_t n_features; /* float32 values that read_row writes: the program's outputs */
    void *ctx;
    /* Hot: once per request, with the GIL held. Reads one mapping, or a sequence in input order, and writes n_features
     * values. Returns 0, or -1 with a Python exception set that names the key, the expected value and the value. */
    int (*read_row)(void *ctx, void *object, float *out);
    /* With the GIL held. */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
} engine_features;

#ifdef __cplusplus
}
#endif
#endif
