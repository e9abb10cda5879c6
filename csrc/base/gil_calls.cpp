#include "base/gil_calls.hpp"

#include <sched.h>

#include <algorithm>

namespace engine {

namespace {

// How long a holder sleeps between two looks at the executor that it has given the GIL up for.
constexpr int64_t STEP_NS = 20'000;
// A longer time without a processor was no wait for the GIL alone.
constexpr int64_t BLOCKED_NS_MAX = 50'000'000;
// How long it waits for it to run, and then to end its call.
constexpr int64_t BLOCKED_NS = 500'000, FINISH_NS = 100'000;
// How long it waits for a thread that has asked for the GIL: awake, and in all.
constexpr int64_t CALLER_WATCH_NS = 50'000, CALLER_NS = 1'000'000;
// A holder that gets the GIL back so late, so often in a row, has lost it to a thread that keeps it, and gives it up no
// sooner than after this.
constexpr int64_t TAKEN_AWAY_NS = 3'000'000, GIVE_AGAIN_NS = 1'000'000'000, GIVE_AGAIN_NS_MAX = 30'000'000'000;
constexpr uint32_t TAKEN_AWAY_TIMES = 3;

int64_t cpu_ns(clockid_t clock) noexcept {
    timespec time{};
    if (clock_gettime(clock, &time) != 0) return -1;
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

// One object for the whole process: see call_lock.cpp.
[[gnu::visibility("default")]] inline GilCalls& the_gil_calls() noexcept {
    static auto* const only = new GilCalls;
    return *only;
}

GilCalls& GilCalls::all() noexcept {
    static GilCalls& only = the_gil_calls();
    return only;
}

GilCall* GilCalls::enter() noexcept {
    for (GilCall& call : calls_) {
        if (call.taken_.exchange(true, std::memory_order_acq_rel)) continue;
        clockid_t clock{};
        pthread_getcpuclockid(pthread_self(), &clock);
        call.cpu_clock_.store(clock, std::memory_order_relaxed);
        call.waited_ns_.store(0, std::memory_order_relaxed);
        call.thread_.store(pthread_self(), std::memory_order_relaxed);
        return &call;
    }
    return nullptr;
}

void GilCalls::leave(GilCall* call) noexcept {
    if (call == nullptr) return;
    call->thread_.store(pthread_t{}, std::memory_order_relaxed);
    call->taken_.store(false, std::memory_order_release);
}

GilCall* GilCalls::mine() noexcept {
    const pthread_t self = pthread_self();
    for (GilCall& call : calls_)
        if (call.thread_.load(std::memory_order_relaxed) == self) return &call;
    return nullptr;
}

// The look of one thread is enough. A thread that computes uses its processor; one that neither does nor asks for the
// GIL by itself has given it up inside the call and waits: for the GIL, for a device, for its own sleep.
bool GilCalls::someone_is_blocked() noexcept {
    const int64_t now = now_ns();
    int64_t next = next_look_ns_.load(std::memory_order_relaxed);
    const int64_t gap = gap_ns_.load(std::memory_order_relaxed);
    if (now < next || !next_look_ns_.compare_exchange_strong(next, now + gap, std::memory_order_relaxed))
        return blocked_.load(std::memory_order_relaxed);
    bool blocked = false;
    for (GilCall& call : calls_) {
        if (!call.calling_.load(std::memory_order_relaxed)) continue;
        const int64_t used = cpu_ns(call.cpu_clock_.load(std::memory_order_relaxed));
        if (call.seen_cpu_ns_.exchange(used, std::memory_order_relaxed) == used) blocked = true;
        else call.seen_at_ns_.store(now, std::memory_order_relaxed);
    }
    blocked_.store(blocked, std::memory_order_relaxed);
    return blocked;
}

// Whether any executor has run since the last look.
bool GilCalls::blocked_runs(int64_t now) noexcept {
    bool runs = false;
    for (GilCall& call : calls_) {
        if (!call.taken_.load(std::memory_order_relaxed)) continue;
        const int64_t used = cpu_ns(call.cpu_clock_.load(std::memory_order_relaxed));
        if (call.seen_cpu_ns_.exchange(used, std::memory_order_relaxed) == used) continue;
        const int64_t since = call.seen_at_ns_.exchange(now, std::memory_order_relaxed);
        if (call.calling_.load(std::memory_order_relaxed))
            call.waited_ns_.fetch_add(std::clamp<int64_t>(now - since, 0, BLOCKED_NS_MAX), std::memory_order_relaxed);
        runs = true;
    }
    return runs;
}

bool GilCalls::watch(const std::atomic<uint32_t>& word, uint32_t seen, int64_t until_ns) noexcept {
    while (word.load(std::memory_order_acquire) == seen) {
        if (now_ns() >= until_ns) return false;
        sched_yield();
    }
    return true;
}

void GilCalls::wait_for_caller(uint32_t seen) noexcept {
    const int64_t now = now_ns();
    if (!watch(got_, seen, now + CALLER_WATCH_NS)) sleep(seen, now + CALLER_NS);
}

// First until it runs; then until it is done with its part under the GIL, which it gives back by ended().
void GilCalls::wait_for_blocked(uint32_t seen) noexcept {
    bool helped = false;
    const int64_t began = now_ns();
    for (int64_t now = began; !helped && now < began + BLOCKED_NS; now = now_ns())
        helped = watch(got_, seen, std::min(now + STEP_NS, began + BLOCKED_NS)) || blocked_runs(now_ns());
    if (helped) watch(got_, seen, now_ns() + FINISH_NS);
    const int64_t gap = helped ? LOOK_NS : std::min(2 * gap_ns_.load(std::memory_order_relaxed), LOOK_NS_MAX);
    blocked_.store(false, std::memory_order_relaxed);
    gap_ns_.store(gap, std::memory_order_relaxed);
    next_look_ns_.store(now_ns() + gap, std::memory_order_relaxed);
}

void GilCalls::has_again(int64_t took_ns) noexcept {
    if (took_ns < TAKEN_AWAY_NS) return taken_away_.store(0, std::memory_order_relaxed);
    const uint32_t times = taken_away_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (times < TAKEN_AWAY_TIMES) return;
    const int64_t pause = GIVE_AGAIN_NS << std::min(times - TAKEN_AWAY_TIMES, 5u);
    gives_again_ns_.store(now_ns() + std::min(pause, GIVE_AGAIN_NS_MAX), std::memory_order_relaxed);
}

}  // namespace engine
