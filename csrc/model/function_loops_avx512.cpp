// The loops over functions for AVX-512.
#include <cstddef>
#include <cstdint>

#include "model/function_loops.hpp"
#include "model/target.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

ENGINE_TARGET_BEGIN("avx512f,avx512vl,avx512bw,avx512dq")
#endif

namespace engine::model {
namespace {
namespace avx512 {
constexpr int VECTOR_BYTES = 64;
typedef double Real __attribute__((vector_size(VECTOR_BYTES)));
typedef std::uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));

#if defined(__x86_64__)
ENGINE_BOTH Bits gather(const std::uint64_t* table, Bits k) noexcept {
    return reinterpret_cast<Bits>(_mm512_i64gather_epi64(reinterpret_cast<__m512i>(k & 127u), table, 8));
}
#else
ENGINE_BOTH Bits gather(const std::uint64_t* table, Bits k) noexcept {
    Bits found;
    for (std::size_t i = 0; i < VECTOR_BYTES / sizeof(double); ++i) found[i] = table[k[i] & 127u];
    return found;
}
#endif

#include "model/function_loops.inc"
}  // namespace avx512
}  // namespace

const AllFunctionLoops function_loops_avx512 = avx512::LOOPS;

}  // namespace engine::model

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
