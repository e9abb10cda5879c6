// A dense net packed for the kernels, and the kernels of each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/dense/dense.hpp"

namespace engine::dense {

template <class T>
inline constexpr std::size_t panel_width = 64 / sizeof(T);  // outputs a panel: one AVX-512 register

// One AVX-512 register of weights. Aligned to a line of the cache, because a load across two lines takes twice the
// time.
template <class T>
struct alignas(64) Panel {
    T values[panel_width<T>];
};

template <class T>
struct Layer {
    std::size_t n_in;
    std::size_t n_out;
    std::size_t group;   // panels whose weights for one input lie side by side
    std::size_t panels;  // 0 for a layer of one or two outputs, which is kept as dot products
    // Panels: [group][n_in][panels of the group][panel_width]; the last group may have fewer; zeros beyond n_out.
    // Dots: [output][n_in rounded up to a panel]; zeros beyond n_in.
    std::vector<Panel<T>> weights;
    std::vector<T> bias;  // [panels * panel_width], or [n_out] for dots
    Activation activation;

    // Where a panel's weights for input 0 begin, and how far the weights for the next input are, both in panels.
    // Always inlined: as a function of its own, the linker might keep the copy that was compiled for the newest CPU.
    [[gnu::always_inline]] std::size_t begin(std::size_t panel) const noexcept {
        return panel / group * group * n_in + panel % group;
    }
    [[gnu::always_inline]] std::size_t step(std::size_t panel) const noexcept {
        const std::size_t left = panels - panel / group * group;
        return left < group ? left : group;
    }
    // One weight, wherever it lies. Not for kernels.
    T weight(std::size_t input, std::size_t output) const noexcept {
        constexpr std::size_t width = panel_width<T>;
        if (panels == 0) return weights[output * ((n_in + width - 1) / width) + input / width].values[input % width];
        return weights[begin(output / width) + input * step(output / width)].values[output % width];
    }
    // The numbers from panel `at` of `weights` on. They run from panel to panel, which an index into one Panel's own
    // array could not.
    [[gnu::always_inline]] const T* numbers(std::size_t at) const noexcept {
        return reinterpret_cast<const T*>(weights.data() + at);
    }
};

inline constexpr std::size_t narrow_max = 256;  // inputs and outputs of a layer of a narrow net

template <class T>
struct Net {
    std::vector<Layer<T>> layers;
    bool narrow;
};

// A value of a row that reads as 0 where it is NaN.
struct OrZero {
    float value;
    operator float() const noexcept { return value == value ? value : 0.0f; }
    explicit operator double() const noexcept { return static_cast<double>(static_cast<float>(*this)); }
};
static_assert(sizeof(OrZero) == sizeof(float));

struct Kernels {
    void (*f32)(const Net<float>& net, const float* rows, std::size_t n_rows, std::size_t stride, double* out) noexcept;
    void (*f64_f32)(const Net<double>& net, const float* rows, std::size_t n_rows, std::size_t stride,
                    double* out) noexcept;
    void (*f64)(const Net<double>& net, const double* rows, std::size_t n_rows, std::size_t stride,
                double* out) noexcept;
    void (*f64_present)(const Net<double>& net, const OrZero* rows, std::size_t n_rows, std::size_t stride,
                        double* out) noexcept;
};

extern const Kernels kernels_scalar;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;

// The activations but ReLU, in place, by the active instruction set. All give the same bits (model/functions.hpp).
void activate(Activation activation, float* values, std::size_t count) noexcept;
void activate(Activation activation, double* values, std::size_t count) noexcept;

}  // namespace engine::dense
