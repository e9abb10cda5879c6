// The side that answers without the primary, as the lane and the deadline timer see it. The runtime implements it; its
// calls are virtual because none is on the way of an answer by the primary.
#pragma once

#include <cstdint>

#include "scheduler/request.hpp"

namespace engine::scheduler {

class FallbackHandler {
public:
    // Answers the request by its fallback or default, unless it is answered already or its slot has been reused.
    virtual void fall_back(uint32_t slot, uint32_t generation, Reason reason) = 0;
    // The same for a slot in State::falling_back that belongs to this thread.
    virtual void answer_by_fallback(uint32_t slot, uint32_t generation, Reason reason) = 0;
    // Whether the request still waits for an answer.
    virtual bool is_live(uint32_t slot, uint32_t generation) noexcept = 0;
    // The deadline timer woke this much after one of the handler's timers was due.
    virtual void timer_overshot(int64_t ns, int64_t now_ns) noexcept = 0;

protected:
    ~FallbackHandler() = default;
};

}  // namespace engine::scheduler
