// Dense kernels for AVX-512: registers of 64 bytes, one a panel. Thirty-two registers hold the sums of four panels for
// four rows, or of one panel for sixteen.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "model/dense/net.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512vl,avx512bw,avx512dq,popcnt,bmi")
#endif

namespace engine::dense {
namespace {
#if defined(__x86_64__)
#include "model/mask_bits.inc"

inline unsigned nonzero16(const float* values) noexcept {
    return bits_of(_mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_setzero_ps(), _CMP_NEQ_UQ));
}
inline unsigned nonzero16(const double* values) noexcept {
    const unsigned high = bits_of(_mm512_cmp_pd_mask(_mm512_loadu_pd(values + 8), _mm512_setzero_pd(), _CMP_NEQ_UQ));
    return high << 8 | bits_of(_mm512_cmp_pd_mask(_mm512_loadu_pd(values), _mm512_setzero_pd(), _CMP_NEQ_UQ));
}
// `sixteen` holds the numbers of the values under comparison; compress packs those of the values that are not 0, and
// the store writes all sixteen lanes at `count`. count is at most `from` there, so no more than n rounded up to 16 are
// written; the lanes behind the packed ones are overwritten by the next store, or never read.
template <class T>
inline std::size_t list_active(const T* values, std::size_t n, std::uint32_t* numbers) noexcept {
    __m512i sixteen = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::size_t count = 0;
    for (std::size_t from = 0; from < n; from += 16, sixteen = _mm512_add_epi32(sixteen, _mm512_set1_epi32(16))) {
        unsigned found = nonzero16(values + from);
        if (n - from < 16) found &= (1u << (n - from)) - 1;
        _mm512_storeu_si512(numbers + count, _mm512_maskz_compress_epi32(static_cast<__mmask16>(found), sixteen));
        count += static_cast<std::size_t>(__builtin_popcount(found));
    }
    return count;
}
#else
#include "model/dense/active.inc"
#endif
constexpr int vector_bytes = 64, panels_alone = 4, rows_some = 4, panels_some = 4, rows_many = 16;
constexpr bool sparse_together = true;
#include "model/dense/kernel.inc"
}  // namespace

const Kernels kernels_avx512{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                               score_rows<double, OrZero>};

}  // namespace engine::dense

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
