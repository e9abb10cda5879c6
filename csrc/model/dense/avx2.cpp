// Dense kernels for AVX2: registers of 32 bytes, two a panel. Sixteen registers hold the sums of four panels for one
// row, or of one panel for four rows, beside a weight and an input. Weights that rows skip by themselves are loaded
// anew for each row, and a load here is half a panel: skipping pays for single rows alone.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "model/dense/net.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx2,popcnt,bmi")
#endif

namespace engine::dense {
namespace {
#if defined(__x86_64__)
// Unordered comparison: NaN is not equal to 0.
inline std::uint64_t nonzero64(const float* values) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < 64; i += 8) {
        const __m256 other = _mm256_cmp_ps(_mm256_loadu_ps(values + i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
        word |= std::uint64_t{static_cast<unsigned>(_mm256_movemask_ps(other))} << i;
    }
    return word;
}
inline std::uint64_t nonzero64(const double* values) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < 64; i += 4) {
        const __m256d other = _mm256_cmp_pd(_mm256_loadu_pd(values + i), _mm256_setzero_pd(), _CMP_NEQ_UQ);
        word |= std::uint64_t{static_cast<unsigned>(_mm256_movemask_pd(other))} << i;
    }
    return word;
}
#endif
#include "model/dense/active.inc"
constexpr int vector_bytes = 32, panels_alone = 4, rows_some = 4, panels_some = 1, rows_many = 4;
constexpr bool sparse_together = false;
#include "model/dense/kernel.inc"
}  // namespace

const Kernels kernels_avx2{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                           score_rows<double, OrZero>};

}  // namespace engine::dense

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
