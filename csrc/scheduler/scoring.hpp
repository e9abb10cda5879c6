// The scratch buffer and the check of values that every call of a scorer needs.
#pragma once

#include <cstddef>

#include "scheduler/limits.hpp"

namespace engine::scheduler {

// This thread's buffer for rows narrowed to float32. It grows to the largest size asked for and stays.
float* thread_scratch(size_t floats);

// Whether a scorer's values may be an answer under these limits.
bool usable(const double* values, const RuntimeLimits& limits) noexcept;

}  // namespace engine::scheduler
