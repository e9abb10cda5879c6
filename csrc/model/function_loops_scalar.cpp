// The loops over functions for the baseline: SSE2 on x86-64, NEON on ARM.
#include <cstddef>
#include <cstdint>

#include "model/function_loops.hpp"

namespace engine::model {
namespace {
namespace scalar {
constexpr int VECTOR_BYTES = 16;
typedef double Real __attribute__((vector_size(VECTOR_BYTES)));
typedef std::uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));

ENGINE_BOTH Bits gather(const std::uint64_t* table, Bits k) noexcept {
    Bits found;
    for (std::size_t i = 0; i < VECTOR_BYTES / sizeof(double); ++i) found[i] = table[k[i] & 127u];
    return found;
}

#include "model/function_loops.inc"
}  // namespace scalar
}  // namespace

const AllFunctionLoops function_loops_scalar = scalar::LOOPS;

}  // namespace engine::model
