// Faults put into a scorer on purpose: stalls by the clock, failures and corrupt answers by share, extra cost, hangs.
//
// Each wraps another scorer and is itself a scorer of the same shape and flags, so that everything above the socket
// meets the fault as it would meet a real one. What is drawn by chance is drawn from the seed and the call's number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/scorer.h"

namespace engine::fault {

inline constexpr int64_t not_armed = INT64_MIN;

// Time as the faults see it; a test hands in its own. All in nanoseconds on CLOCK_MONOTONIC's axis.
struct Clock {
    int64_t (*now)(void* self);
    void (*sleep_until)(void* self, int64_t ns);
    void (*burn)(void* self, int64_t ns);  // keeps the calling thread's CPU busy for so long
    void* self;
};

// CLOCK_MONOTONIC, clock_nanosleep to a point in time, and CLOCK_THREAD_CPUTIME_ID for burning: two threads that share
// a core burn one after the other, as real work would.
Clock real_clock();

// Answers nothing in the first stall_ns of every every_ns, counted from start_ns: a call that starts in there sleeps
// until the window ends and then runs.
struct Stall {
    int64_t stall_ns;
    int64_t every_ns;
};

// Answers ENGINE_SCORE_FAILED, without running the model, to `share` of the calls.
struct Failing {
    double share;
    uint64_t seed;
};

// Runs the model and replaces every value by NaN in `share` of the calls.
struct Corrupting {
    double share;
    uint64_t seed;
};

// Burns CPU before the model runs: per_call_ns, and per_row_ns for each row of the call.
struct Slow {
    int64_t per_call_ns;
    int64_t per_row_ns;
};

// Blocks every call while armed, for ever if nobody disarms it; then the call runs the model.
struct Hanging {};

// The end of the window of `stall` that holds `now`, or `now` itself where it lies in none. Pure.
int64_t stall_end(const Stall& stall, int64_t start_ns, int64_t now);

// Whether call number `call` (from 0) is among the share; the same answer for the same three, on every machine.
bool chosen(uint64_t seed, uint64_t call, double share);

// What a fault has done, and its switch. Both sides may be used from any thread, while calls are running.
struct Counts {
    uint64_t calls;   // score() calls that came in
    uint64_t faults;  // those that met the fault
};

// A wrapped scorer under construction or in use. The scorer and this handle each hold a reference of their own; the
// handle's is given back by close().
class Handle;

// Wraps `inner`, of which a reference is taken. `start_ns` not_armed leaves the fault switched off; for other faults
// than Stall any other value just switches it on. The reference in `scorer` is for the caller to give back.
Handle* wrap(const engine_scorer& inner, const Stall& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Failing& fault, int64_t start_ns, engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Corrupting& fault, int64_t start_ns, engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Slow& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Hanging& fault, int64_t start_ns, engine_scorer& scorer);

void arm(Handle* handle, int64_t start_ns);
// Calls that hang are let go; a call that sleeps through a stall sleeps to the end of its window.
void disarm(Handle* handle);
int64_t armed_since(const Handle* handle);  // not_armed where it is switched off
Counts counts(const Handle* handle);
void close(Handle* handle);

}  // namespace engine::fault
