// A dense net packed for the kernels, and the kernels of each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/dense/dense.hpp"

namespace engine::dense {

template <class T>
inline constexpr std::size_t panel_width = 64 / sizeof(T);  // outputs a panel: one AVX-512 register

// One register of weights. On the lines of the cache: a load across two of them takes twice the time.
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
    // Panels: [group][n_in][panels of the group][panel_width], the last group maybe smaller, zeros beyond n_out.
    // Dots: [output][n_in rounded up to a panel], zeros beyond.
    std::vector<Panel<T>> weights;
    std::vector<T> bias;  // [panels * panel_width], or [n_out] for dots
    Activation activation;

    // Where a panel's weights for the first input lie, and how far it is from there to those for the next. Never a
    // function of its own, which the linker might take from the file that was compiled for the newest CPU.
    [[gnu::always_inline]] std::size_t begin(std::size_t panel) const noexcept {
        return panel / group * group * n_in + panel % group;
    }
    [[gnu::always_inline]] std::size_t step(std::size_t panel) const noexcept {
        const std::size_t left = panels - panel / group * group;
        return left < group ? left : group;
    }
};

inline constexpr std::size_t narrow_max = 256;  // inputs and outputs of a layer of a narrow net

template <class T>
struct Net {
    std::vector<Layer<T>> layers;
    bool narrow;
};

// A value of a row, read as 0 where it is missing.
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

// The activations that call libm: one definition, so that every instruction set gives the same bits.
void activate(Activation activation, float* values, std::size_t count) noexcept;
void activate(Activation activation, double* values, std::size_t count) noexcept;

}  // namespace engine::dense
