#include "base/cpu.hpp"

#include <cstdlib>
#include <string_view>

namespace engine {

Isa detected_isa() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2")) return Isa::avx2;
#endif
    return Isa::scalar;
}

namespace {

Isa cap_from_environment() noexcept {
    const char* text = std::getenv("ENGINE_CPU");
    const std::string_view name = text != nullptr ? text : "";
    if (name == "scalar") return Isa::scalar;
    if (name == "avx2") return Isa::avx2;
    return Isa::avx512;
}

}  // namespace

Isa active_isa() noexcept {
    static const Isa active = [] {
        const Isa cap = cap_from_environment();
        const Isa best = detected_isa();
        return cap < best ? cap : best;
    }();
    return active;
}

const char* isa_name(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512: return "avx512";
        case Isa::avx2: return "avx2";
        case Isa::scalar: break;
    }
    return "scalar";
}

}  // namespace engine
