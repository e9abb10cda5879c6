// A request, and the outcome that answers it.
#pragma once

#include <cstdint>

#include "scheduler/priority.hpp"

namespace engine::scheduler {

class Deployment;

struct Request {
    Deployment* deployment;  // the caller keeps its reference until the call that takes the request returns
    const void* row;
    int64_t started_ns;  // the call: latencies count from here
    int64_t asked_ns;    // the row was ready: later than started_ns where features were looked up in between
    int64_t deadline_ns;
    Priority priority = Priority::normal;
    bool hedge = false;  // run the fallback at submission, so that its answer lies ready when time is up
};

enum class Source : uint8_t { primary, fallback, default_value };
inline constexpr int SOURCES = 3;
const char* source_name(Source source) noexcept;

// Why an answer has its source. The order is that of engine._common.vocabulary; the binding compares the two.
enum class Reason : uint8_t {
    ok,                  // the primary answered in time
    late,                // admission predicted a finish after finish_by
    stalled,             // the primary is overdue with earlier work
    full,                // the queue is at its bound
    timeout,             // queued or running when its time was up
    released,            // dropped from the queue, because it could no longer finish in time
    expired,             // the deadline had passed at the call
    no_time,             // too little time even for the fallback
    primary_error,       // the primary failed
    primary_bad_shape,   // the primary returned another shape
    primary_not_finite,  // the primary returned NaN or infinity
    fallback_error,      // the fallback was needed and failed too
    closing,             // the engine was being closed
    shed,                // gave way to more important requests
    breaker_open,        // the circuit breaker is open after many failures of the primary
    out_of_time,         // the primary stopped itself when its time was up
    default_error,       // the default was a function that raised; only the binding gives it
};
inline constexpr int REASONS = 17;
const char* reason_name(Reason reason) noexcept;

// One answer, without its values.
struct Outcome {
    uint64_t id = 0;
    uint64_t deployment = 0;
    int64_t started_ns = 0;
    int64_t deadline_ns = 0;
    int64_t ready_ns = 0;
    Source source = Source::default_value;
    Reason reason = Reason::ok;
    Priority priority = Priority::normal;
};

}  // namespace engine::scheduler
