// Dense kernels for AVX2.
#include <cstddef>
#include <vector>

#include "detail/dense_net.hpp"

#if defined(__x86_64__)
#pragma GCC target("avx2")
#endif

namespace engine::dense_detail {
namespace {
constexpr int vector_bytes = 32, panels_alone = 4, rows_together = 4, panels_together = 1;
#include "detail/dense_kernel.inc"
}  // namespace

const Kernels kernels_avx2{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense_detail
