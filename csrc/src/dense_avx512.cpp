// Dense kernels for AVX-512.
#include <cstddef>
#include <vector>

#include "detail/dense_net.hpp"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq")
#endif

namespace engine::dense_detail {
namespace {
constexpr int vector_bytes = 64, panels_alone = 8, rows_together = 4, panels_together = 4;
#include "detail/dense_kernel.inc"
}  // namespace

const Kernels kernels_avx512{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense_detail
