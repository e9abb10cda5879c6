// The runtime of one engine, as its callers see it: the policy driven by the real clock. It owns the slots and answers
// every request exactly once. Executors, its own or shared with other engines, run its batch lane.
//
//   inline    predict_inline / predict_many_inline: the primary on the caller's own thread
//   batch     submit -> queue, earliest deadline first -> executor -> futex or completions
//   fallback  a synchronous caller answers for itself when its wait times out; a deadline timer for event loops
//
// No function here takes the GIL. A scorer that needs it takes it inside score(), on an executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "scheduler/completions.hpp"
#include "scheduler/cost.hpp"
#include "scheduler/counters.hpp"
#include "scheduler/deployment.hpp"
#include "scheduler/executors.hpp"
#include "scheduler/fallback_handler.hpp"
#include "scheduler/lane.hpp"
#include "scheduler/limits.hpp"
#include "scheduler/margin.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"
#include "scheduler/scoring.hpp"
#include "scheduler/slot_table.hpp"

namespace engine::scheduler {

// Who waits for a request. Event loops get their answers through their completions; a group is answered as one.
struct Caller {
    Completions* completions = nullptr;  // null for a synchronous caller
    Group* group = nullptr;
    void* user = nullptr;
    bool wake = true;  // false: the caller must kick() after its last row, and pays for one wake-up
};

// How long a primary took for batches of 1, 2, 4, … rows.
struct Calibration {
    struct Point {
        uint32_t rows;
        int64_t ns;
    };
    std::vector<Point> points;
    bool failed = false;  // the primary failed on these rows
};

class Runtime final : private FallbackHandler {
public:
    Runtime(const RuntimeLimits& limits, std::shared_ptr<Executors> executors, bool owns_executors);
    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    // Measures a deployment's primary on `rows` (dense, n_rows of them) at batches of 1, 2, 4, … on this thread.
    Calibration calibrate(Deployment& deployment, const void* rows, uint32_t n_rows);
    // Takes a calibration as the cost of the primary. It must be of the deployment that requests will come under.
    // Returns the expected time of one row.
    int64_t adopt(const Calibration& calibration);
    // Has every executor's thread call the primary once, so that what it sets up per thread takes no request's time.
    // Waits for that, but not for threads that are stuck. Nothing to do for native primaries and in the inline lane.
    void warm_threads(Deployment& deployment);
    // Requests under this deployment get a lane beside the others': a queue, a cost model and, while there is not
    // enough for all, this share of the executors. `calibration` is its own; null takes the cost that the live version
    // has. Before the deployment takes requests; it stays a canary for as long as it lives. Throws only std::bad_alloc.
    void make_canary(Deployment& deployment, double share, const Calibration* calibration);
    // Measures the fallback, for the safety margins.
    void time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows);
    // Starts the batch lane once. A thread of its own calibrates on `rows` first, so a model that hangs there hangs no
    // caller; until it is done every request is answered as if the primary were stalled. Throws std::system_error where
    // the system refuses a thread; it may then be called again.
    void start_threads(Deployment* deployment, const void* rows, uint32_t n_rows);
    // True once that calibration is over.
    bool warmed_up() const noexcept { return warm_.load(std::memory_order_acquire); }
    // With every change of primary, before requests come under it. Throws only std::bad_alloc.
    void set_primary(const Deployment& primary) { executors_->set_primary(lane_, primary); }

    // A default leaves NaN in `out`, because the binding fills the value in.
    Outcome predict_inline(const Request& request, double* out);
    // n dense rows; deadlines has n entries, and request.row and request.deadline_ns are not read. Answers earliest
    // deadline first, keeping back the time that the fallback needs for the rows still waiting. The primary must be
    // done at least reserve_ns before each deadline.
    void predict_many_inline(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                             int64_t reserve_ns, Outcome* outcomes, double* out);

    // Queues one row (copied). Returns its slot, or NO_SLOT with *rejected answered at once into `out`.
    uint32_t submit(const Request& request, const Caller& caller, Outcome* rejected, double* out);
    // Wakes an executor for rows that were submitted without `wake`.
    void kick() noexcept;
    // Queues n dense rows as one group. slots[i] is row i's slot, or NO_SLOT where outcomes[i] and its values in `out`
    // were settled at once. True when the whole group is settled: then nobody announces it.
    bool submit_many(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                     const Caller& caller, uint32_t* slots, Outcome* outcomes, double* out);
    // Blocks until slot `index` is answered, and answers it by the fallback when its time comes. False where a signal
    // interrupted the wait: call again. The slot is then read with outcome() and given back with give_back().
    bool wait(uint32_t index);
    // The same for a group; slots are those that submit() returned.
    bool wait_group(Group& group, const std::vector<uint32_t>& slots);
    Outcome outcome(uint32_t index) noexcept;
    const double* values(uint32_t index) noexcept { return slots_.answer(index); }
    const void* row(uint32_t index) noexcept { return slots_.row(index); }
    void give_back(uint32_t index) noexcept;
    // The caller no longer wants the answer (a cancelled wait). True when nobody had answered: then nobody will, the
    // slot is on its way back, and the caller must not read it again.
    bool abandon(uint32_t index) noexcept;
    // The same for a row of a group: it counts as answered, so that the group can still be announced.
    void abandon_row(uint32_t index) noexcept;

    // Counts an answer and learns from it. `synchronous` chooses the safety margin.
    void account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept;
    // A loop's own thread, at the end of its turn: where turns are far apart, because others hold the GIL or the loop
    // is busy, answers its requests that would be late at the next turn by their fallback now. True where there are
    // any.
    bool answer_before_next_dispatch(const Completions& loop) noexcept;
    // Whether an answer is likely to come within the time that threads poll for it.
    bool answers_soon() const noexcept {
        return executors_->watch_ns() > 0 && lane_.cost().expected_ns(1) < ANSWERS_SOON_NS;
    }

    uint64_t next_id() noexcept { return next_id_.fetch_add(1, std::memory_order_relaxed); }

    // Answers everything queued by its fallback, and gives executors `patience_ns` to come back. Returns how many
    // threads did not: they are left behind, and the runtime must then never be destroyed.
    uint32_t close(int64_t patience_ns) noexcept;

    SlotTable& slots() noexcept { return slots_; }
    Counters& counters() noexcept { return counters_; }
    uint64_t answered(int priority, int source, int reason) const noexcept {
        return counters_.answers[priority][source][reason].load(std::memory_order_relaxed);
    }
    CostModel& cost() noexcept { return lane_.cost(); }
    CostModel& inline_cost() noexcept { return inline_cost_; }
    // The lane of the canaries; null before the first.
    Lane* canary_lane() noexcept { return canary_lane_.load(std::memory_order_acquire); }
    const SafetyMargin& margin(bool synchronous) const noexcept { return synchronous ? sync_margin_ : async_margin_; }
    Policy& policy() noexcept { return lane_.policy(); }
    Executors& executors() noexcept { return *executors_; }

    // The earliest finish_by of the batch that this thread is scoring, 0 outside of batches: the deadline shown to a
    // model that asks for it.
    static int64_t working_until_ns() noexcept { return Lane::working_until_ns(); }

private:
    static constexpr int64_t ANSWERS_SOON_NS = 20'000;
    struct ManyInline;

    // calibration.cpp
    void seed_margins() noexcept;

    // runtime.cpp
    Side fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason, double* out);
    Outcome answer_without_primary(const Request& request, Reason reason, double* out);
    Reason rejection(const Request& request, int64_t finish_by_ns, int64_t* predicted_ns) noexcept;
    void fill(uint32_t index, const Request& request, const Caller& caller, int64_t finish_by_ns,
              int64_t predicted_ns) noexcept;
    bool usable(const double* values) const noexcept { return scheduler::usable(values, limits_); }
    Lane& lane_of(const Deployment& deployment) noexcept {
        return deployment.is_canary() ? *canary_lane_.load(std::memory_order_acquire) : lane_;
    }
    void drop_queue(Lane& lane) noexcept;
    bool join_warming(int64_t until_ns) noexcept;

    // FallbackHandler
    void fall_back(uint32_t index, uint32_t generation, Reason reason) override;
    void answer_by_fallback(uint32_t index, uint32_t generation, Reason reason) override;
    bool is_live(uint32_t index, uint32_t generation) noexcept override;
    void timer_overshot(int64_t ns, int64_t now) noexcept override { async_margin_.timer_overshot(ns, now); }

    // waiting.cpp
    bool answer_comes(const Slot& slot) const noexcept;
    int64_t fall_back_due(std::vector<uint32_t>& open);

    // inline.cpp
    CostModel& inline_cost_of(const Deployment& deployment) noexcept {
        return deployment.is_canary() ? canary_inline_cost_ : inline_cost_;
    }
    void observe_inline(const Deployment& deployment, uint32_t rows, int64_t ns) noexcept;

    RuntimeLimits limits_;
    std::shared_ptr<Executors> executors_;
    bool owns_executors_;
    SlotTable slots_;
    Counters counters_;
    CostModel inline_cost_, canary_inline_cost_;
    Lane lane_;
    std::atomic<Lane*> canary_lane_{nullptr};  // owned; made for the first canary
    SafetyMargin sync_margin_, async_margin_;
    DecayingQuantile dispatch_{0.98, 512};  // from an answer being ready to a loop's turn
    std::atomic<uint64_t> next_id_;
    std::atomic<bool> closing_{false};
    std::atomic<bool> started_{false};  // the batch lane
    std::atomic<bool> warm_{false};
    std::atomic_flag inline_observing_;
    std::atomic<uint32_t> fallbacks_{0};
    std::atomic<uint32_t> sync_waiting_{0}, async_waiting_{0};

    std::mutex start_lock_;  // start_threads() and warm_threads() against close()
    std::mutex warm_lock_;   // one warm_threads() at a time
    std::thread warming_;
    std::atomic<bool> warming_ended_{false};
};

}  // namespace engine::scheduler
