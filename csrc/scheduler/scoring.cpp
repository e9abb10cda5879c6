#include "scheduler/scoring.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace engine::scheduler {

float* thread_scratch(size_t floats) {
    thread_local std::vector<float> scratch;
    if (scratch.size() < floats) scratch.resize(floats);
    return scratch.data();
}

bool usable(const double* values, const RuntimeLimits& limits) noexcept {
    return !limits.only_finite ||
           std::all_of(values, values + limits.n_outputs, [](double value) { return std::isfinite(value); });
}

}  // namespace engine::scheduler
