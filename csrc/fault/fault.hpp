// Faults put into a scorer on purpose: stalls by the clock, failures and corrupt answers by share, extra cost, hangs.
//
// Each wraps another scorer and is itself a scorer of the same shape and flags, so that every user of a scorer meets
// the fault as it would meet a real one. Chance is drawn from the seed and the call's number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/scorer.h"

namespace engine::fault {

inline constexpr int64_t NOT_ARMED = INT64_MIN;

// Time as the faults see it; a test hands in its own. Instants are in nanoseconds on CLOCK_MONOTONIC.
struct Clock {
    int64_t (*now)(void* self);
    void (*sleep_until)(void* self, int64_t ns);
    void (*burn)(void* self, int64_t ns);  // keeps the calling thread's CPU busy for `ns`
    void* self;
};

// CLOCK_MONOTONIC, and clock_nanosleep to a point in time. Burning counts CLOCK_THREAD_CPUTIME_ID, so two threads that
// share a core burn one after the other, as real work would.
Clock real_clock();

// Stalls for the first stall_ns of every every_ns, counted from start_ns: a call that starts in a stall sleeps until it
// ends and then runs.
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

// Blocks every call while armed, for ever if nobody disarms it. Once disarmed the call runs the model.
struct Hanging {};

// The end of the stall at `now`, or `now` itself outside of stalls. Pure.
int64_t stall_end(const Stall& stall, int64_t start_ns, int64_t now);

// Whether call number `call` (from 0) is among the share. The same arguments give the same answer on every machine.
bool chosen(uint64_t seed, uint64_t call, double share);

// The calls that a fault has seen and struck so far.
struct Counts {
    uint64_t calls;   // score() calls
    uint64_t faults;  // calls that met the fault
};

// The switch of a wrapped scorer, and its counts. Any thread may use it while calls are running. The scorer and this
// handle each hold a reference; close() gives the handle's back.
class Handle;

// Wraps `inner` and takes a reference to it. `start_ns` NOT_ARMED leaves the fault switched off. Any other value
// switches it on, and is where Stall counts from. The caller gives back the reference in `scorer`.
Handle* wrap(const engine_scorer& inner, const Stall& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Failing& fault, int64_t start_ns, engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Corrupting& fault, int64_t start_ns, engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Slow& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer);
Handle* wrap(const engine_scorer& inner, const Hanging& fault, int64_t start_ns, engine_scorer& scorer);

void arm(Handle* handle, int64_t start_ns);
// Hanging calls go on at once. A call that sleeps through a stall sleeps to its end.
void disarm(Handle* handle);
int64_t armed_since(const Handle* handle);  // NOT_ARMED while switched off
Counts counts(const Handle* handle);
void close(Handle* handle);

}  // namespace engine::fault
