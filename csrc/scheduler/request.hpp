// What is asked and what is answered.
#pragma once

#include <cstdint>

#include "scheduler/priority.hpp"

namespace engine {

class Deployment;

struct Request {
    Deployment* deployment;  // kept by the asker until the call that takes the request returns
    const void* row;
    int64_t started_ns;      // the call: latencies count from here
    int64_t asked_ns;        // the row was there: later than started_ns where features were looked up in between
    int64_t deadline_ns;
    Priority priority = Priority::normal;
    bool hedge = false;      // the fallback runs at once, so that its answer lies ready when time is up
};

enum class Source : uint8_t { primary, fallback, default_value };
inline constexpr int SOURCES = 3;

// Why the answer came from where it came from. Names are in slot.cpp and in Answer's docstring.
enum class Reason : uint8_t {
    ok,                  // the primary answered in time
    late,                // predicted at the door not to finish in time
    stalled,             // the primary is overdue with earlier work
    full,                // the queue is at its bound
    timeout,             // queued or running when its time was up
    released,            // dropped from the queue: it could no longer finish in time
    expired,             // the deadline had passed at the call
    no_time,             // too little time even for the fallback
    primary_error,       // the primary failed
    primary_bad_shape,   // the primary returned another shape
    primary_not_finite,  // the primary returned NaN or infinity
    fallback_error,      // the fallback was needed and failed too
    closing,             // the engine was being closed
    shed,                // gave way to more important requests
    breaker_open,        // the primary has failed so often that it is given a rest
    out_of_time,         // the primary stopped itself when its time was up
};
inline constexpr int REASONS = 16;
const char* reason_name(Reason reason) noexcept;
const char* source_name(Source source) noexcept;

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

}  // namespace engine
