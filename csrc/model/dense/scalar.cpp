// Dense kernels for the baseline: SSE2 on x86-64, NEON on ARM.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "model/dense/net.hpp"

namespace engine::dense {
namespace {
#include "model/dense/active.inc"
constexpr int vector_bytes = 16, panels_alone = 2, rows_some = 2, panels_some = 1, rows_many = 0;
constexpr bool sparse_together = true;
#include "model/dense/kernel.inc"
}  // namespace

const Kernels kernels_scalar{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense
