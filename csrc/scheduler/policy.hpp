// The scheduling policy of one model: which requests to admit, run next and drop. Pure: state and `now` in, decision
// out; no threads, no clock, no allocation after construction. The runtime drives it with the real clock, the simulator
// drives this same code with a virtual one. The state that models on the same executors share is in
// fair_share.hpp.
//
// Every request carries `finish_by_ns`: the instant at which its fallback takes over, so a later answer of the primary
// is worth nothing. Order is earliest finish_by first (EDF: Liu and Layland, JACM 20(1), 1973). Admission by predicted
// finish follows Clockwork (Gujarati et al., OSDI 2020, section 4). Dropping a late head so that the batch behind it
// stays efficient is the early drop of Nexus (Shen et al., SOSP 2019, section 4.3). We wait for a better batch only
// where the batches at hand would not keep up; Symphony's deferred scheduling (Chen et al., arXiv 2308.07470) answers
// the same question. The batch size follows a learned L(b), without an AIMD search (Clipper, NSDI 2017, section 4.3).
//
// Priority classes make no difference while every request can be served in time. A request that can be admitted only in
// the place of less important ones is admitted, and for the next 20 ms class goes before deadline.
//
// A model on a device has seats: its batches run there and not on executors' threads, and it neither shares executors
// nor waits for them, except that one must be free to begin a batch. set_device() says how many seats there are.
//
// Any thread may call admit(), enter(), leave(), rejected() and missed_prediction_by(). The rest needs the executors'
// lock.
//
// Order. The counts that admission reads are relaxed (finish_counts.hpp says why). A request is counted in before its
// slot becomes `queued`, and counted out by the thread that moved it out of `queued`, so each count goes up before it
// goes down, and is exact whenever no thread is between the two.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.hpp"
#include "base/histogram.hpp"
#include "scheduler/cost.hpp"
#include "scheduler/fair_share.hpp"
#include "scheduler/priority.hpp"

namespace engine::scheduler {

struct PolicyLimits {
    uint32_t batch_rows_max;
    uint32_t queue_rows_max;
    uint32_t executors;     // of its own; without meaning where executors are shared
    int64_t budget_ns = 0;  // of a host: the usual deadline, which a guest leaves it time for
};

enum class Verdict : uint8_t {
    admit,
    late,     // its predicted finish lies behind finish_by
    stalled,  // every executor is overdue by more than the request can wait
    full,     // the queue is at its bound
    shed,     // there would be time, but more important requests take it
};

struct Entry {
    int64_t finish_by_ns;
    uint32_t slot;
    uint32_t generation;
    Priority priority = Priority::normal;
    bool shed = false;  // dropped in favour of more important requests
};

enum class Claim : uint8_t {
    taken,  // the request is the executor's now
    gone,   // another thread has answered it already
};

// The decision of form(): run `rows` now, or look again later.
struct BatchPlan {
    uint32_t rows = 0;                 // claimed and to be run now; 0 for nothing
    int64_t wait_until_ns = NEVER_NS;  // with rows 0: look again then, or at the next arrival
    bool holding = false;              // waits on purpose for a better batch
};

// How a queued request was counted in, so that it can be counted out.
struct Ticket {
    uint16_t bucket = 0;
    Priority priority = Priority::normal;
    int64_t work_ns = 0;
};

class Policy {
public:
    // A model alone on limits.executors executors.
    Policy(const PolicyLimits& limits, CostModel& cost);
    // One of several; `shared` outlives it.
    Policy(const PolicyLimits& limits, CostModel& cost, SharedExecutors& shared, double weight = 1.0);
    // A guest, such as a canary, beside the model whose executors it uses. It begins a batch only where the host can
    // wait for its end, or within its share while there is not enough for both. `host` outlives it.
    Policy(const PolicyLimits& limits, CostModel& cost, Policy& host);
    ~Policy();
    Policy(const Policy&) = delete;
    Policy& operator=(const Policy&) = delete;

    // Not const, because it may put classes before deadlines. *predicted_ns, where given, is the expected finish of an
    // admitted request.
    Verdict admit(int64_t now_ns, int64_t finish_by_ns, Priority priority = Priority::normal,
                  int64_t* predicted_ns = nullptr) noexcept;
    // That finish, for a request that comes now.
    int64_t predicted_finish_ns(int64_t now_ns, int64_t finish_by_ns,
                                Priority priority = Priority::normal) const noexcept;
    // Counts a request in when it is queued, and out when an executor or its fallback takes it.
    Ticket enter(int64_t now_ns, int64_t finish_by_ns, Priority priority = Priority::normal) noexcept;
    void leave(const Ticket& ticket) noexcept;
    // A request was rejected: forming then knows that freed capacity will be used.
    void rejected(int64_t now_ns) noexcept {
        if (host_ == nullptr) places().rejected(now_ns);  // a slow guest is no overload of the host
    }
    // The executors' lock. From now on batches run on this many seats of a device and have up to rows_max rows; 0 seats
    // for batches on executors' threads. Throws only std::bad_alloc, and then nothing has changed.
    void set_device(uint32_t seats, uint32_t rows_max);
    // The executors' lock. The first seat without a batch; SharedExecutors::NONE where all have one.
    uint32_t free_seat() const noexcept { return device_ == nullptr ? SharedExecutors::NONE : device_->first_idle(); }
    // The executors' lock. A guest's part of the executors, above 0 and below 1, while there is not enough for all.
    void set_guest_share(double share) noexcept;
    // How long a batch of this guest may take if it begins now; NEVER_NS for as long as it likes.
    int64_t guest_limit_ns(int64_t now_ns) const noexcept;

    void push(const Entry& entry, int64_t now_ns) noexcept;
    // The request that goes first. Needs depth() > 0.
    const Entry& first(int64_t now_ns) const noexcept { return first_heap(now_ns)->front(); }
    size_t depth() const noexcept;

    // This model's place in the order of the models that share the executors; the smallest goes first. Needs depth() >
    // 0.
    struct Rank {
        bool overdrawn;     // it has had more than its share while there is not enough for all
        Priority priority;  // Priority::critical unless class goes before deadline
        int64_t finish_by_ns;
        auto operator<=>(const Rank&) const = default;
    };
    Rank rank(int64_t now_ns) const noexcept;

    // Chooses the next batch. claim(entry) -> Claim makes a request the executor's. drop(entry) takes a request that
    // can no longer finish in time; its fallback should run now. Claimed entries are written to `batch`, which holds
    // batch_rows_max. Never claims a request that cannot finish by its finish_by, but for a probe: one row that has not
    // expired, after an idle time long enough that the cost model's pessimism may be out of date.
    template <class ClaimFn, class DropFn>
    BatchPlan form(int64_t now_ns, Entry* batch, ClaimFn&& claim, DropFn&& release) noexcept;

    // The executors' lock. How long after its batch is formed an executor usually begins with it.
    void begins_after(int64_t ns) noexcept { begins_after_ns_.store(ns, std::memory_order_relaxed); }
    void started(Place place, uint32_t rows, int64_t now_ns) noexcept;
    void finished(Place place, uint32_t rows, int64_t now_ns, bool cost_counts) noexcept;
    // When the batch there began, without its executor's waits for Python's GIL.
    int64_t started_ns(Place place, int64_t now_ns) const noexcept {
        return of(place).started_ns(place.number, now_ns);
    }
    // The batch that began there will not come back, or comes back too late to be a measure.
    void lost(Place place) noexcept {
        if (host_ != nullptr) --host_->guests_running_;
        of(place).finished(place.number);
    }
    // How far a finish lay behind its prediction (0 when ahead): admission's own learned margin. One full batch counts
    // at most. A larger miss was a stall, or more urgent requests came in between; the fallback covers those, and a
    // wider margin would only reject work.
    void missed_prediction_by(int64_t ns, int64_t now_ns) noexcept;

    uint32_t live() const noexcept {
        return static_cast<uint32_t>(std::max<int64_t>(live_.load(std::memory_order_relaxed), 0));
    }
    uint32_t live(Priority priority) const noexcept {
        return static_cast<uint32_t>(std::max<int64_t>(counts_[static_cast<size_t>(priority)].total(), 0));
    }
    int64_t prediction_error_ns() const noexcept { return error_.value(); }

private:
    using Heap = std::vector<Entry>;

    // Where new batches run, and with whom they are shared.
    SharedExecutors& places() const noexcept { return *places_.load(std::memory_order_acquire); }
    bool on_device() const noexcept { return &places() != executors_; }
    SharedExecutors& of(Place place) const noexcept { return place.on_device ? *device_ : *executors_; }
    uint32_t batch_rows_max() const noexcept { return batch_rows_max_.load(std::memory_order_relaxed); }
    int64_t first_free_ns(int64_t now_ns, uint32_t* working) const noexcept;
    bool all_stalled(int64_t now_ns) const noexcept;
    bool probe_due(int64_t now_ns) const noexcept;
    struct Ahead {
        int64_t rows = 0;
        int64_t lower = 0;  // of these
    };
    Ahead ahead_of(int64_t now_ns, int64_t finish_by_ns, Priority priority) const noexcept;
    int64_t finish_behind(int64_t now_ns, int64_t finish_by_ns, int64_t rows_ahead) const noexcept;
    int64_t margin_ns(int64_t now_ns, int64_t slack_ns) const noexcept;
    // Small batches leave room for the next urgent request; under a lasting overload the last few per cent count more.
    uint32_t efficient_batch(int64_t now_ns) const noexcept {
        const uint32_t rows = places().overloaded_lastingly(now_ns) ? cost_.peak_rows() : cost_.efficient_rows();
        return std::max(1u, std::min(rows, batch_rows_max()));
    }
    const Heap* first_heap(int64_t now_ns) const noexcept;
    Heap& heap_of(const Entry& entry) noexcept { return heaps_[static_cast<size_t>(entry.priority)]; }
    void pop(const Entry& head) noexcept;
    uint32_t batch_for(const Entry& head, int64_t now_ns, int64_t limit_ns) noexcept;
    int64_t queued_ns(int64_t now_ns, int64_t finish_by_ns) const noexcept;
    int64_t guest_due_ns() const noexcept;
    bool worth_dropping(const Entry& head, int64_t now_ns) const noexcept;
    bool should_hold(const Entry& head, int64_t now_ns, uint32_t rows, int64_t* until_ns) const noexcept;

    PolicyLimits limits_;
    CostModel& cost_;
    Policy* host_ = nullptr;                // of a guest
    uint32_t guests_running_ = 0;           // of a host, lock: batches of its guests
    int64_t guest_ended_ns_ = 0;            // of a guest, lock: its latest batch
    std::unique_ptr<SharedExecutors> own_;  // null where executors are shared
    SharedExecutors* executors_;
    std::unique_ptr<SharedExecutors> device_;  // lock: this model's seats; null until it has had some
    std::atomic<SharedExecutors*> places_;     // one of the two; written under the lock
    std::atomic<uint32_t> batch_rows_max_;     // the model's own, within the limit; written under the lock
    Share share_;
    std::array<FinishCounts, PRIORITIES> counts_;  // rows queued, by class
    std::atomic<int64_t> live_{0};
    FinishCounts work_;  // our part of executors_->work
    DecayingQuantile error_{0.98, 2048};
    int64_t stall_ended_ns_ = 0;
    std::atomic<int64_t> begins_after_ns_{0};
    std::array<Heap, PRIORITIES> heaps_;
    int64_t pushed_ns_ = 0;
    double gap_ns_ = 1e9;  // mean time between two arrivals, exponentially weighted
};

struct FinishesLater {
    bool operator()(const Entry& a, const Entry& b) const noexcept { return a.finish_by_ns > b.finish_by_ns; }
};

template <class ClaimFn, class DropFn>
BatchPlan Policy::form(int64_t now_ns, Entry* batch, ClaimFn&& claim, DropFn&& release) noexcept {
    BatchPlan plan;
    const bool classes_first = places().classes_first(now_ns);
    const int64_t begins_ns = now_ns + begins_after_ns_.load(std::memory_order_relaxed);
    while (const Heap* first = first_heap(now_ns)) {
        Entry head = first->front();
        const bool hopeless = head.finish_by_ns < begins_ns + cost_.high_ns(1);
        if (hopeless && head.finish_by_ns > now_ns && probe_due(now_ns)) {
            pop(head);
            if (claim(head) == Claim::gone) continue;
            batch[plan.rows++] = head;
            break;
        }
        if (hopeless || worth_dropping(head, now_ns)) {
            pop(head);
            head.shed = classes_first && head.priority != Priority::critical;
            release(head);
            continue;
        }
        const int64_t limit_ns = host_ == nullptr ? NEVER_NS : guest_limit_ns(now_ns);
        if (cost_.high_ns(1) > limit_ns) {
            // The host's next batch ends this wait, or the time of the head or of a probe.
            plan.wait_until_ns = std::min(head.finish_by_ns - cost_.high_ns(1), std::max(now_ns, guest_due_ns())) + 1;
            break;
        }
        const uint32_t rows = batch_for(head, begins_ns, limit_ns);
        ENGINE_ASSERT(rows > 0 && rows <= limits_.batch_rows_max, "a batch has rows, and fits its buffer");
        if (should_hold(head, now_ns, rows, &plan.wait_until_ns)) {
            plan.holding = true;
            break;
        }
        // Within a class nothing behind the head is more urgent. A row of a lower class that fills the batch up may be,
        // and is then shed.
        const int64_t ends_ns = classes_first ? begins_ns + cost_.high_ns(rows) : 0;
        while (plan.rows < rows && (first = first_heap(now_ns)) != nullptr) {
            Entry entry = first->front();
            pop(entry);
            if (entry.finish_by_ns < ends_ns) {
                entry.shed = true;
                release(entry);
            } else if (claim(entry) == Claim::taken) {
                batch[plan.rows++] = entry;
            }
        }
        if (plan.rows > 0) break;  // else all were answered already: look at the requests behind them
    }
    ENGINE_ASSERT(plan.rows <= limits_.batch_rows_max, "a batch fits its buffer");
    ENGINE_ASSERT(!plan.holding || (plan.rows == 0 && plan.wait_until_ns < NEVER_NS),
                  "an executor holds back for a time");
    if (depth() == 0) places().deactivate(share_);
    return plan;
}

}  // namespace engine::scheduler
