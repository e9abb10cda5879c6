// The loops over functions for the baseline: SSE2 on x86-64, NEON on ARM.
#include <cstddef>
#include <cstdint>

#include "model/function_loops.hpp"

namespace engine::model {
namespace {
namespace scalar {
constexpr int VECTOR_BYTES = 16;

#include "model/function_loops.inc"
}  // namespace scalar
}  // namespace

const AllFunctionLoops function_loops_scalar = scalar::LOOPS;

}  // namespace engine::model
