// The scheduling policy: what to admit, what to run next, what to let go. Pure: state and `now` in, decision out; no
// threads, no clock, no allocation after construction. The runtime drives it with the real clock, the simulator drives
// this same code with a virtual one.
//
// Every request carries `finish_by_ns`: the instant at which its rescue takes over, so the primary's answer is worth
// nothing later. Order is earliest finish_by first (EDF: Liu and Layland, JACM 20(1), 1973). Admission by predicted
// finish follows Clockwork (Gujarati et al., OSDI 2020, section 4); letting a late head go so that the batch behind it
// stays efficient is the early drop of Nexus (Shen et al., SOSP 2019, section 4.3).
//
// admit(), enter() and leave() may be called by any thread. The rest belongs to whoever holds the executors' lock.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/clock.hpp"
#include "engine/cost.hpp"
#include "engine/histogram.hpp"

namespace engine {

struct PolicyLimits {
    uint32_t batch_rows_max;
    uint32_t queue_rows_max;
    uint32_t executors;
};

enum class Verdict : uint8_t {
    admit,
    late,     // its predicted finish lies behind finish_by
    stalled,  // every executor is overdue by more than the request can wait
    full,     // the queue is at its bound
};

struct Entry {
    int64_t finish_by_ns;
    uint32_t slot;
    uint32_t generation;
};

enum class Claim : uint8_t {
    taken,  // the request is the executor's now
    gone,   // somebody else has answered it already
};

struct Forming {
    uint32_t rows = 0;             // claimed and to be run now; 0 for nothing
    int64_t wait_until_ns = NEVER_NS;  // with rows 0: look again then (or when something arrives)
    bool holding = false;          // waiting on purpose for a better batch
};

// How many live requests have a finish_by before some instant, kept in a ring of quarter-millisecond buckets so that
// admission can ask without the lock. Requests past the ring's horizon of 134 ms count as last.
class FinishCounts {
public:
    static constexpr int SHIFT = 18;  // 2^18 ns = 262 us a bucket
    static constexpr uint32_t BUCKETS = 512;
    static constexpr uint16_t FAR = BUCKETS;

    uint16_t add(int64_t now_ns, int64_t finish_by_ns) noexcept;
    void remove(uint16_t bucket) noexcept;
    uint32_t before(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    uint32_t total() const noexcept { return total_.load(std::memory_order_relaxed); }

private:
    std::array<std::atomic<uint32_t>, BUCKETS> near_{};
    std::atomic<uint32_t> total_{0};
};

class Policy {
public:
    static constexpr uint32_t EXECUTORS_MAX = 64;

    Policy(const PolicyLimits& limits, CostModel& cost);

    Verdict admit(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    // The finish that admit() expects of a request that came now; NEVER_NS while stalled.
    int64_t predicted_finish_ns(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    // Counts a live request in, when it is queued, and out, when an executor claims it or its rescue takes it.
    uint16_t enter(int64_t now_ns, int64_t finish_by_ns) noexcept { return counts_.add(now_ns, finish_by_ns); }
    void leave(uint16_t bucket) noexcept { counts_.remove(bucket); }
    // A refusal, so that forming knows that capacity it frees will be used.
    void refused(int64_t now_ns) noexcept { refused_ns_.store(now_ns, std::memory_order_relaxed); }

    void push(const Entry& entry, int64_t now_ns) noexcept;
    bool can_push() const noexcept { return heap_.size() < heap_.capacity(); }
    size_t depth() const noexcept { return heap_.size(); }

    // Chooses the next batch. claim(entry) -> Claim makes a request the executor's; release(entry) tells that it can
    // no longer finish in time and its fallback should run now. Claimed entries are written to `batch`, which holds
    // batch_rows_max. Never claims what cannot finish by its finish_by, but for a probe: one row that has not expired,
    // when nothing has run for so long that the cost model's pessimism may be out of date.
    template <class ClaimFn, class ReleaseFn>
    Forming form(int64_t now_ns, Entry* batch, ClaimFn&& claim, ReleaseFn&& release) noexcept;

    void started(uint32_t executor, uint32_t rows, int64_t now_ns) noexcept;
    void finished(uint32_t executor, uint32_t rows, int64_t now_ns, bool cost_counts) noexcept;
    // How far a finish lay behind its prediction (0 when ahead): admission's own learned margin. Counts for one full
    // batch at most: beyond that it was a stall, or more urgent requests came in between, and against those the rescue
    // helps where a wider margin would only turn work away.
    void missed_prediction_by(int64_t ns, int64_t now_ns) noexcept;

    uint32_t live() const noexcept { return counts_.total(); }
    int64_t prediction_error_ns() const noexcept { return error_.value(); }
    const PolicyLimits& limits() const noexcept { return limits_; }

private:
    struct Executor {
        std::atomic<int64_t> started_ns{0};
        std::atomic<uint32_t> rows{0};  // 0 while idle
    };

    bool probe_due(int64_t now_ns) const noexcept;
    void pop() noexcept;
    uint32_t batch_for(int64_t now_ns) noexcept;
    bool worth_dropping_head(int64_t now_ns) const noexcept;
    bool should_hold(int64_t now_ns, uint32_t rows, int64_t* until_ns) const noexcept;

    PolicyLimits limits_;
    CostModel& cost_;
    FinishCounts counts_;
    std::array<Executor, EXECUTORS_MAX> executors_;
    DecayingQuantile error_{0.98, 2048};
    std::atomic<int64_t> refused_ns_{0};
    std::atomic<int64_t> started_ns_{0};  // of the latest batch
    int64_t stall_ended_ns_ = 0;
    std::vector<Entry> heap_;
    int64_t pushed_ns_ = 0;
    double gap_ns_ = 1e9;  // mean time between two arrivals, exponentially weighted
};

struct FinishesLater {
    bool operator()(const Entry& a, const Entry& b) const noexcept { return a.finish_by_ns > b.finish_by_ns; }
};

template <class ClaimFn, class ReleaseFn>
Forming Policy::form(int64_t now_ns, Entry* batch, ClaimFn&& claim, ReleaseFn&& release) noexcept {
    Forming forming;
    while (!heap_.empty()) {
        const Entry head = heap_.front();
        const bool hopeless = head.finish_by_ns < now_ns + cost_.high_ns(1);
        if (hopeless && head.finish_by_ns > now_ns && probe_due(now_ns)) {
            pop();
            if (claim(head) == Claim::gone) continue;
            batch[forming.rows++] = head;
            return forming;
        }
        if (hopeless || worth_dropping_head(now_ns)) {
            pop();
            release(head);
            continue;
        }
        const uint32_t rows = batch_for(now_ns);
        if (should_hold(now_ns, rows, &forming.wait_until_ns)) {
            forming.holding = true;
            return forming;
        }
        while (forming.rows < rows && !heap_.empty()) {
            const Entry entry = heap_.front();
            pop();
            if (claim(entry) == Claim::taken) batch[forming.rows++] = entry;
        }
        if (forming.rows > 0) return forming;  // else all were answered already: look at what is behind them
    }
    return forming;
}

}  // namespace engine
