// Small helpers that the runtime's files share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/slot.hpp"

namespace engine::detail {

// This thread's buffer for rows narrowed to float32; grows once.
float* thread_scratch(size_t floats);

bool all_finite(const double* values, uint32_t n) noexcept;

// What a primary's status other than ENGINE_SCORE_OK means.
Reason reason_of(int status) noexcept;

}  // namespace engine::detail
