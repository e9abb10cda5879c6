// Reasons, from the verdicts of admission and from the status of a scoring call.
#pragma once

#include "engine/scorer.h"
#include "scheduler/deployment.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"

namespace engine::scheduler {

// Why admission rejects a request; Reason::ok where it does not.
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

// Why a row has no usable answer, from the status of its scoring call: a call that succeeded returned NaN or infinity.
inline Reason reason_of(int status) noexcept {
    switch (status) {
        case ENGINE_SCORE_OK: return Reason::primary_not_finite;
        case ENGINE_SCORE_BAD_SHAPE: return Reason::primary_bad_shape;
        case ENGINE_SCORE_OUT_OF_TIME: return Reason::out_of_time;
        case NOT_CALLED: return Reason::stalled;
        default: return Reason::primary_error;
    }
}

// The primary itself failed, and was not merely late.
inline bool is_failure(Reason reason) noexcept {
    return reason == Reason::primary_error || reason == Reason::primary_bad_shape ||
           reason == Reason::primary_not_finite || reason == Reason::breaker_open;
}

}  // namespace engine::scheduler
