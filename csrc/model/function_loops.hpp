// The functions of functions.hpp over arrays, in place, compiled for each instruction set. All give the same bits.
#pragma once

#include <cstddef>

#include "base/cpu.hpp"
#include "model/functions.hpp"

namespace engine::model {

template <class T>
struct FunctionLoops {
    void (*exponential)(T* values, std::size_t count) noexcept;
    void (*logistic)(T* values, std::size_t count) noexcept;
    void (*hyperbolic_tangent)(T* values, std::size_t count) noexcept;
    void (*softplus)(T* values, std::size_t count) noexcept;  // null in float32
    // e^(x - largest) of each, divided by their sum; they are added in order. At least one value.
    void (*softmax)(T* values, std::size_t count) noexcept;
};

struct AllFunctionLoops {
    FunctionLoops<float> f32;
    FunctionLoops<double> f64;
};
extern const AllFunctionLoops function_loops_scalar;
extern const AllFunctionLoops function_loops_avx2;
extern const AllFunctionLoops function_loops_avx512;

// Of one instruction set, which the CPU must have.
inline const AllFunctionLoops& function_loops(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512: return function_loops_avx512;
        case Isa::avx2: return function_loops_avx2;
        case Isa::scalar: break;
    }
    return function_loops_scalar;
}
template <class T>
const FunctionLoops<T>& active_loops() noexcept {
    const AllFunctionLoops& loops = function_loops(active_isa());
    if constexpr (sizeof(T) == sizeof(float)) return loops.f32;
    else return loops.f64;
}

}  // namespace engine::model
