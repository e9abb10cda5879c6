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

#if defined(__x86_64__)
#define ENGINE_GATHER(table, k) _mm512_i64gather_epi64(reinterpret_cast<__m512i>(k), table, 8)
#endif
#include "model/function_loops.inc"
}  // namespace avx512
}  // namespace

const AllFunctionLoops function_loops_avx512 = avx512::LOOPS;

}  // namespace engine::model

#if defined(__x86_64__)
ENGINE_TARGET_END
#endif
