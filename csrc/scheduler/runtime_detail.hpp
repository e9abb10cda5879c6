// Small helpers that the runtime's files share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scheduler/slot.hpp"

namespace engine::detail {

// This thread's buffer for rows narrowed to float32; grows once.
float* thread_scratch(size_t floats);

bool all_finite(const double* values, uint32_t n) noexcept;

// Why a request is turned away at the door; Reason::ok where it is not.
inline Reason reason_of(Verdict verdict) noexcept {
    switch (verdict) {
        case Verdict::admit: return Reason::ok;
        case Verdict::full: return Reason::full;
        case Verdict::stalled: return Reason::stalled;
        case Verdict::shed: return Reason::shed;
        case Verdict::late: break;
    }
    return Reason::late;
}

// What a primary's status other than ENGINE_SCORE_OK means.
Reason reason_of(int status) noexcept;

}  // namespace engine::detail
