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

#if defined(__x86_64__)
#define ENGINE_GATHER(table, k) \
    _mm256_i64gather_epi64(reinterpret_cast<const long long*>(table), reinterpret_cast<__m256i>(k), 8)
#endif
#include "model/function_loops.inc"
}  // namespace avx2
}  // namespace

const AllFunctionLoops function_loops_avx2 = avx2::LOOPS;

}  // namespace engine::model

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
