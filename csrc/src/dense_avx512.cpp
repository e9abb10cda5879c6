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
inline void list_some(__m512 values, __mmask16 of, __m512i numbers, std::uint32_t* to, std::size_t& count) noexcept {
    const __mmask16 found = _mm512_mask_cmp_ps_mask(of, values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    _mm512_storeu_si512(to + count, _mm512_maskz_compress_epi32(found, numbers));
    count += static_cast<std::size_t>(__builtin_popcount(found));
}
inline std::size_t list_active(const float* values, std::size_t n, std::uint32_t* to) noexcept {
    __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    std::size_t count = 0, from = 0;
    for (; from + 16 <= n; from += 16, numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(16)))
        list_some(_mm512_loadu_ps(values + from), 0xffff, numbers, to, count);
    if (from < n)
        list_some(_mm512_loadu_ps(values + from), static_cast<__mmask16>((1u << (n - from)) - 1), numbers, to, count);
    return count;
}
inline void list_some(__m512d values, __mmask8 of, __m256i numbers, std::uint32_t* to, std::size_t& count) noexcept {
    const __mmask8 found = _mm512_mask_cmp_pd_mask(of, values, _mm512_setzero_pd(), _CMP_NEQ_UQ);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + count), _mm256_maskz_compress_epi32(found, numbers));
    count += static_cast<std::size_t>(__builtin_popcount(found));
}
inline std::size_t list_active(const double* values, std::size_t n, std::uint32_t* to) noexcept {
    __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    std::size_t count = 0, from = 0;
    for (; from + 8 <= n; from += 8, numbers = _mm256_add_epi32(numbers, _mm256_set1_epi32(8)))
        list_some(_mm512_loadu_pd(values + from), 0xff, numbers, to, count);
    if (from < n)
        list_some(_mm512_loadu_pd(values + from), static_cast<__mmask8>((1u << (n - from)) - 1), numbers, to, count);
    return count;
}
#else
template <class T>
inline std::uint64_t nonzero64(const T* values) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < 64; ++i) word |= std::uint64_t{values[i] != T(0)} << i;
    return word;
}
#include "detail/dense_active.inc"
#endif
constexpr int vector_bytes = 64, panels_alone = 4, rows_some = 4, panels_some = 4, rows_many = 16;
constexpr bool sparse_together = true;
#include "detail/dense_kernel.inc"
}  // namespace

const Kernels kernels_avx512{score_rows<float, float>, score_rows<double, float>, score_rows<double, double>,
                             score_rows<double, OrZero>};

}  // namespace engine::dense_detail
