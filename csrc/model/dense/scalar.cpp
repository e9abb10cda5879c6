// Dense kernels for the baseline: SSE2 on x86-64, NEON on ARM.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "model/dense/net.hpp"

namespace engine::dense {
namespace {
#include "model/dense/active.inc"
constexpr int VECTOR_BYTES = 16, PANELS_ALONE = 2, ROWS_SOME = 2, PANELS_SOME = 1, ROWS_MANY = 0;
constexpr bool SPARSE_TOGETHER = true;
#include "model/dense/kernel.inc"
}  // namespace

const Kernels kernels_scalar{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense
