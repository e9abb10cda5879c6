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
#define ENGINE_FEATURES_ABI 2u

typedef struct engine_features {
    uint32_t abi;        /* ENGINE_FEATURES_ABI; 1 where the struct ends before `absent` */
    uint32_t n_features; /* float32 values that read_row writes: the program's outputs */
    void *ctx;
    /* Hot: once per request, with the GIL held. Reads one mapping, or a sequence in input order, and writes n_features
     * values. Returns how many inputs the mapping has no key for (under ABI 1 always 0), or -1 with a Python exception
     * set that names the key, the expected value and the value. */
    int (*read_row)(void *ctx, void *object, float *out);
    /* With the GIL held. */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
    /* Since ABI 2. */
    /* After read_row returned more than 0, with the GIL held since then: a new reference to the tuple of the names that
     * the mapping has no key for, in input order. NULL with a Python exception set if there is no memory. */
    void *(*absent)(void *ctx);
    /* GIL held. Returns 0 if every key of a mapping is the name of an input, or is in `also_known` (a Python set or
     * frozenset, or NULL); and for any row that is no mapping. Otherwise -1 with an InputError set that names the key
     * and the nearest known one. */
    int (*check_keys)(void *ctx, void *object, void *also_known);
} engine_features;

#ifdef __cplusplus
}
#endif
#endif
