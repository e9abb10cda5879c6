// Compiling part of a file for a newer instruction set than the package's baseline.
//
//     #include <immintrin.h>             // and every other header
//     ENGINE_TARGET_BEGIN("avx2,popcnt")
//     namespace { ... }                  // functions of this file alone
//     ENGINE_TARGET_END
//
// No header may follow BEGIN: an inline function of a header, compiled here for AVX-512, could be the copy that the
// linker keeps for code that runs on every CPU. For the same reason everything between the two lies in an unnamed
// namespace.
//
// GCC sets the target for the rest of the file, and it has to: templates are instantiated at the file's end. Clang adds
// an attribute to each function that follows, but not to the call operator of a lambda, which would then be compiled
// for the baseline and could take no vector by value nor inline a function that does. So there are no lambdas between
// the two, only functions and structs with named members.
#pragma once

#define ENGINE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ENGINE_TARGET_BEGIN(features) \
    ENGINE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define ENGINE_TARGET_END ENGINE_PRAGMA(clang attribute pop)
#else
#define ENGINE_TARGET_BEGIN(features) ENGINE_PRAGMA(GCC target(features))
#define ENGINE_TARGET_END
#endif

// GCC 12's own headers pass undefined vectors where a mask covers them, and it warns where they are inlined.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
