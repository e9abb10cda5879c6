// Dense kernels for AVX-512.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "detail/dense_net.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,popcnt,bmi")
#endif

namespace engine::dense_detail {
namespace {
#if defined(__x86_64__)
inline std::uint64_t nonzero64(const float* values) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < 64; i += 16)
        word |= std::uint64_t{_mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), _mm512_setzero_ps(), _CMP_NEQ_UQ)} << i;
    return word;
}
inline std::uint64_t nonzero64(const double* values) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < 64; i += 8)
        word |= std::uint64_t{_mm512_cmp_pd_mask(_mm512_loadu_pd(values + i), _mm512_setzero_pd(), _CMP_NEQ_UQ)} << i;
    return word;
}
#else
#include "detail/dense_nonzero.inc"
#endif
constexpr int vector_bytes = 64, panels_alone = 8, rows_together = 4, panels_together = 4;
#include "detail/dense_kernel.inc"
}  // namespace

const Kernels kernels_avx512{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense_detail
