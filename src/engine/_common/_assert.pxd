# ENGINE_ASSERT in bindings: free in a release build; in a debug build (ENGINE_DEBUG_BUILD=1) a broken invariant is
# named on stderr and ends the process. Give it C expressions only, because the condition is not evaluated in a release
# build.
cdef extern from "base/assert.hpp" nogil:
    void ENGINE_ASSERT(bint condition, const char* invariant) noexcept
