// ENGINE_ASSERT: a condition that must hold here for any caller. On in debug, sanitizer, fuzzing and test builds, and
// in the archive that the simulator links; in a release build of the engine it costs nothing and is not evaluated.
//
// It is for our own broken invariants: a lock that must be held, a count that cannot go below zero, a position inside a
// ring. Input is checked with errors, never with this.
#pragma once

#if !defined(NDEBUG) && !defined(ENGINE_ASSERTIONS)
#define ENGINE_ASSERTIONS 1
#endif

#ifdef ENGINE_ASSERTIONS

#include <cstdio>
#include <cstdlib>

namespace engine {

// Names the invariant on stderr and ends the process: going on would answer from a state that cannot be.
[[noreturn, gnu::cold, gnu::noinline]] inline void assertion_failed(const char* invariant, const char* condition,
                                                                    const char* file, int line) noexcept {
    std::fprintf(stderr, "%s:%d: broken invariant: %s (%s)\n", file, line, invariant, condition);
    std::fflush(stderr);
    std::abort();
}

}  // namespace engine

#define ENGINE_ASSERT(condition, invariant)              \
    (static_cast<bool>(condition) ? static_cast<void>(0) \
                                  : ::engine::assertion_failed(invariant, #condition, __FILE__, __LINE__))

#else

// Unevaluated, so that a variable read only by an assertion is not unused.
#define ENGINE_ASSERT(condition, invariant) static_cast<void>(sizeof(static_cast<bool>(condition)))

#endif
