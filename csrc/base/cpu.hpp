// Which instruction sets this process may use: what the CPU runs, capped by the environment variable ENGINE_CPU.
#pragma once

#include <string_view>

namespace engine {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

// What this CPU runs. avx512 stands for F, BW, DQ, VL and VBMI together (Ice Lake, Zen 4 and later): kernels here
// need byte permutes, and two half-steps of AVX-512 would double what has to be tested.
Isa detected_isa() noexcept;

// The best instruction set allowed: detected_isa() capped by ENGINE_CPU=scalar|avx2|avx512 (read once). An unknown
// name is ignored; asking for more than the CPU runs gives what it runs.
Isa active_isa() noexcept;

const char* isa_name(Isa isa) noexcept;

}  // namespace engine
