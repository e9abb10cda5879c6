// Who of the engine's threads waits for Python's GIL, seen by all of its extension modules. No Python.h: the threads
// that take the GIL say so here, and those that hold it ask.
//
// CPython gives the GIL to a waiting thread only after a switch interval of 5 ms, or when its holder gives it up; a
// holder that takes it back at once usually gets it again before the waiting thread has woken up. So a holder looks at
// waiting(), gives it up, sleeps until the other thread says that it has got it, and asks for it again.
//
// Order. wants_since_ns_ and waited_ns_ are relaxed words: a reader between their stores is off by the wait that has
// just ended. A thread raises waiting_ before it asks for the GIL. Once it has it, it lowers waiting_, changes got_ and
// then reads sleepers_; a holder raises sleepers_ and then sleeps while got_ has the value that it read before it gave
// the GIL up. All of these are sequentially consistent, so either the holder sees the change or the other thread sees
// the sleeper.
#pragma once

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.hpp"
#include "base/futex.hpp"

namespace engine {

// One thread of an executor.
class GilCall {
public:
    void wants(int64_t now) noexcept { wants_since_ns_.store(now, std::memory_order_relaxed); }
    int64_t has(int64_t now) noexcept {
        const int64_t took = now - wants_since_ns_.exchange(0, std::memory_order_relaxed);
        waited_ns_.fetch_add(took, std::memory_order_relaxed);
        return took;
    }
    // How long it has waited for the GIL, all its calls together and the wait under way included.
    int64_t waited_ns(int64_t now) const noexcept {
        const int64_t since = wants_since_ns_.load(std::memory_order_relaxed);
        return waited_ns_.load(std::memory_order_relaxed) + (since != 0 && now > since ? now - since : 0);
    }

private:
    friend class GilCalls;
    std::atomic<bool> taken_{false};
    std::atomic<bool> calling_{false};  // it is in a Python call, with or without the GIL
    std::atomic<pthread_t> thread_{};
    std::atomic<clockid_t> cpu_clock_{};  // of its own time on a processor
    std::atomic<int64_t> wants_since_ns_{0}, waited_ns_{0};
    std::atomic<int64_t> seen_cpu_ns_{0}, seen_at_ns_{0};  // its processor time, and when that was last seen to grow
};

class GilCalls {
public:
    static constexpr size_t MOST = 256;

    // The one of the process.
    static GilCalls& all() noexcept;

    // An executor's thread enters when it begins, and leaves when it ends. Null where there are too many.
    GilCall* enter() noexcept;
    void leave(GilCall* call) noexcept;
    // This thread's, or null for a thread that has not entered.
    GilCall* mine() noexcept;

    // Around asking for the GIL.
    void asks(GilCall* call) noexcept {
        waiting_.fetch_add(1, std::memory_order_seq_cst);
        if (call == nullptr) return;
        call->wants(now_ns());
        call->calling_.store(true, std::memory_order_relaxed);
        calling_.fetch_add(1, std::memory_order_relaxed);
    }
    void got(GilCall* call) noexcept {
        waiting_.fetch_sub(1, std::memory_order_seq_cst);
        if (call != nullptr) learn(call->has(now_ns()));
        announce();
    }
    // The call is over and the GIL given back.
    void ended(GilCall* call) noexcept {
        if (call == nullptr) return;
        call->calling_.store(false, std::memory_order_relaxed);
        calling_.fetch_sub(1, std::memory_order_relaxed);
        announce();
    }

    // Threads that wait for the GIL this moment; a holder that sees one gives it up. Relaxed: the next look sees it
    // too.
    bool waiting() const noexcept { return waiting_.load(std::memory_order_relaxed) != 0; }
    bool may_give(int64_t now) const noexcept { return now >= gives_again_ns_.load(std::memory_order_relaxed); }
    // Whether an executor is in a Python call. It may wait for the GIL there as well, inside a library that gave it up.
    bool calling() const noexcept { return calling_.load(std::memory_order_relaxed) != 0; }
    // Whether an executor in a Python call had no processor between the last two looks, which are LOOK_NS apart at
    // least.
    bool someone_is_blocked() noexcept;
    // Without the GIL: waits for a blocked executor to run, until until_ns at most. Whether it did decides when to look
    // next; the time that it was blocked counts as a wait for the GIL.
    void wait_for_blocked(uint32_t seen) noexcept;
    // Without the GIL: waits for a thread that asked for it to get it.
    void wait_for_caller(uint32_t seen) noexcept;
    // The holder has the GIL again. Where that took it a switch interval, a third thread keeps the GIL for as long as
    // it may, and each time that it is given up costs the holder as much. After a few such times in a row nobody gives
    // it up for a while, and for longer after each time more; once may be the machine's doing.
    void has_again(int64_t took_ns) noexcept;

    // What an executor usually waits for the GIL, and about the longest that one has waited of late.
    int64_t usual_wait_ns() const noexcept { return usual_wait_ns_.load(std::memory_order_relaxed); }
    int64_t long_wait_ns() const noexcept { return long_wait_ns_.load(std::memory_order_relaxed); }

    // For a holder, before it gives the GIL up.
    uint32_t changes() const noexcept { return got_.load(std::memory_order_seq_cst); }

private:
    static constexpr int64_t LOOK_NS = 50'000;
    static constexpr int64_t LOOK_NS_MAX = 4'000'000;

    // Polls until the word changes, and gives way to any thread that wants this core. False where it did not.
    static bool watch(const std::atomic<uint32_t>& word, uint32_t seen, int64_t until_ns) noexcept;
    void sleep(uint32_t seen, int64_t until_ns) noexcept {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        futex_wait_until(got_, seen, until_ns);
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }

    // Several threads may learn at once; one of them is then forgotten.
    void learn(int64_t waited_ns) noexcept {
        const int64_t usual = usual_wait_ns(), longest = long_wait_ns();
        usual_wait_ns_.store(usual + (waited_ns - usual) / 4, std::memory_order_relaxed);
        long_wait_ns_.store(std::max(waited_ns, longest - longest / 64), std::memory_order_relaxed);
    }
    bool blocked_runs(int64_t now) noexcept;
    void announce() noexcept {
        got_.fetch_add(1, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst) != 0) futex_wake(got_, INT_MAX);
    }

    std::atomic<uint32_t> waiting_{0}, calling_{0}, sleepers_{0};
    std::atomic<uint32_t> got_{0};  // futex
    std::atomic<int64_t> gives_again_ns_{0};
    std::atomic<uint32_t> taken_away_{0};  // times in a row that a holder lost it for long
    std::atomic<int64_t> next_look_ns_{0}, gap_ns_{LOOK_NS};
    std::atomic<bool> blocked_{false};  // at the last look
    std::atomic<int64_t> usual_wait_ns_{0}, long_wait_ns_{0};
    std::array<GilCall, MOST> calls_;
};

}  // namespace engine
