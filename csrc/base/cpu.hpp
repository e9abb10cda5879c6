// The instruction sets that this process may use: the CPU's, capped by the environment variable ENGINE_CPU.
#pragma once

#include <string_view>

namespace engine {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

// The best instruction set of this CPU. avx512 stands for F, BW, DQ, VL and VBMI together (Ice Lake, Zen 4 and later):
// kernels here need byte permutes, and a second level of AVX-512 would double the tests.
Isa detected_isa() noexcept;

// detected_isa(), capped by ENGINE_CPU=scalar|avx2|avx512. The variable is read once. An unknown name is ignored, and a
// cap above the CPU's best changes nothing.
Isa active_isa() noexcept;

const char* isa_name(Isa isa) noexcept;

}  // namespace engine
