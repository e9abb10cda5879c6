// What one warp does to the values of one row: softmax, the place of the largest, the k largest.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"
#include "model/functions.hpp"

namespace engine::gpu {

constexpr std::uint32_t WARP = 32;
constexpr std::uint32_t NOWHERE = 0xffffffffu;
constexpr std::uint64_t NOT_A_NUMBER = 0x7ff8000000000000u;

template <class T>
DEVICE T shuffled(T value, std::uint32_t lane) {
    return __shfl_sync(~0u, value, static_cast<int>(lane));
}

// A value and its place. The better of two is the larger, or the first among equals.
template <class T>
struct Placed {
    T value;
    std::uint32_t at;
};
template <class T>
DEVICE bool better(const Placed<T>& a, const Placed<T>& b) {
    if (b.at == NOWHERE) return a.at != NOWHERE;
    return a.at != NOWHERE && (a.value > b.value || (a.value == b.value && a.at < b.at));
}
// The best of the warp, in every lane.
template <class T>
DEVICE Placed<T> best_of_warp(Placed<T> mine) {
    for (int half = WARP / 2; half != 0; half /= 2) {
        const Placed<T> other{__shfl_xor_sync(~0u, mine.value, half), __shfl_xor_sync(~0u, mine.at, half)};
        if (better(other, mine)) mine = other;
    }
    return mine;
}
// The largest value and its first place; NaN counts only where it comes first, as in std::max_element.
template <class T>
DEVICE Placed<T> largest_in_row(const T* values, std::uint32_t count, std::uint32_t lane) {
    Placed<T> mine{values[0], 0};
    for (std::uint32_t i = lane; i < count; i += WARP) {
        const Placed<T> here{values[i], i};
        if (better(here, mine)) mine = here;
    }
    return best_of_warp(mine);
}

// Softmax of `count` values, in place, by one whole warp. The sum is made in the order of the values, as on the CPU:
// every lane adds the exponentials that the others hold.
template <class T>
DEVICE void softmax_of_row(T* values, std::uint32_t count, std::uint32_t lane) {
    const T largest = largest_in_row(values, count, lane).value;
    T total = 0;
    for (std::uint32_t first = 0; first < count; first += WARP) {
        const std::uint32_t i = first + lane, here = count - first < WARP ? count - first : WARP;
        T mine = 0;
        if (i < count) values[i] = mine = model::exponential(model::subtract(values[i], largest));
        for (std::uint32_t j = 0; j < here; ++j) total = model::add(total, shuffled(mine, j));
    }
    for (std::uint32_t i = lane; i < count; i += WARP) values[i] = model::divide(values[i], total);
}

}  // namespace engine::gpu

// The k largest values of each row and their places, the largest first and the first among equals.
//   One warp a row; grid x = ceil(rows * 32 / threads). No shared memory.
//   Out       double [rows][2 * k]: k values, then k places. NaN is in no place; where a row has fewer than k other
//             values, the rest are NaN at place -1.
//   CPU       a stable sort by value; to the bit.
KERNEL top_k(const double* values, std::uint32_t count, std::uint32_t k, const engine::gpu::Control* control,
             double* out) {
    using namespace engine::gpu;
    const std::uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= control->n_rows) return;  // a whole warp
    const double* mine = values + row * count;
    Placed<double> last{0.0, NOWHERE};
    for (std::uint32_t rank = 0; rank < k; ++rank) {
        Placed<double> best{0.0, NOWHERE};
        for (std::uint32_t i = lane; i < count; i += WARP) {
            const Placed<double> here{mine[i], i};
            if (here.value != here.value || (rank > 0 && !better(last, here))) continue;
            if (better(here, best)) best = here;
        }
        best = best_of_warp(best);
        if (lane == 0) {
            out[row * 2 * k + rank] = best.at == NOWHERE ? engine::model::of_bits(NOT_A_NUMBER) : best.value;
            out[row * 2 * k + k + rank] = best.at == NOWHERE ? -1.0 : static_cast<double>(best.at);
        }
        last = best;  // where it is nowhere, so is all that follows
    }
}
