// The loops over functions for AVX2.
#include <cstddef>
#include <cstdint>

#include "model/function_loops.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx2")
#endif

namespace engine::model {
namespace {
namespace avx2 {
constexpr int VECTOR_BYTES = 32;
typedef double Real __attribute__((vector_size(VECTOR_BYTES)));
typedef std::uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));

#if defined(__x86_64__)
ENGINE_BOTH Bits gather(const std::uint64_t* table, Bits k) noexcept {
    const auto* const from = reinterpret_cast<const long long*>(table);
    return reinterpret_cast<Bits>(_mm256_i64gather_epi64(from, reinterpret_cast<__m256i>(k & 127u), 8));
}
#else
ENGINE_BOTH Bits gather(const std::uint64_t* table, Bits k) noexcept {
    Bits found;
    for (std::size_t i = 0; i < VECTOR_BYTES / sizeof(double); ++i) found[i] = table[k[i] & 127u];
    return found;
}
#endif

#include "model/function_loops.inc"
}  // namespace avx2
}  // namespace

const AllFunctionLoops function_loops_avx2 = avx2::LOOPS;

}  // namespace engine::model

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
