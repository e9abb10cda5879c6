// The batch lane of one engine, as its executors see it: submissions, queue, policy, cost, and the batches that run.
//
// Callers push slots; an executor that holds the executors' lock moves them into the policy's queue and forms a batch;
// without the lock it scores the batch and delivers the answers; with the lock again it ends the batch. The lane knows
// neither threads nor executors. It hands requests that the primary will not answer to its FallbackHandler.
//
// Marked "lock": under the executors' lock. All else says who may call it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "scheduler/batch.hpp"
#include "scheduler/cost.hpp"
#include "scheduler/counters.hpp"
#include "scheduler/fallback_handler.hpp"
#include "scheduler/limits.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/slot_stack.hpp"

namespace engine::scheduler {

class Lane {
public:
    // A queued request that the policy dropped while it formed a batch.
    struct Dropped {
        Lane* lane;
        Entry entry;
    };
    // How the scoring of a batch ended.
    struct Scored {
        int64_t ended_ns;
        bool all_ok;   // every row got an answer of the primary
        bool last_ok;  // … every row of the last call
    };

    // The references outlive the lane. `lock` is the executors'.
    Lane(const RuntimeLimits& limits, SlotTable& slots, Counters& counters, SharedExecutors& shared, Mutex& lock,
         FallbackHandler& fallback);
    // The lane of a canary beside the one that it may not disturb, which outlives it.
    Lane(const RuntimeLimits& limits, SlotTable& slots, Counters& counters, Lane& host, Mutex& lock,
         FallbackHandler& fallback);
    // Makes room for one batch on each executor, before the first submission.
    void make_batches();

    // Callers, any thread.
    void submit(uint32_t slot) noexcept { submitted_.push(slots_, slot, &Slot::next); }
    bool has_submissions() const noexcept { return !submitted_.empty(); }
    // Moves a live slot to State::falling_back: from here on its answer is this thread's to give. False where the
    // request is answered already or the slot has been reused.
    bool take_from_executors(uint32_t slot, uint32_t generation, bool* was_running = nullptr) noexcept;
    // Whether several batches may run at once: set with every change of primary.
    void set_overlaps(bool overlaps) noexcept { overlaps_.store(overlaps, std::memory_order_relaxed); }
    CostModel& cost() noexcept { return cost_; }
    const CostModel& cost() const noexcept { return cost_; }
    Policy& policy() noexcept { return policy_; }

    // Lock: links and marks of the executors' lists.
    Lane* next_announced = nullptr;
    bool active = false;
    bool tried = false;
    // Lock: a deployment that every executor's thread is to call once now, and how its thread is told from others.
    Deployment* to_warm = nullptr;
    // Set by the submission that announces the lane, cleared by the executor that takes the announcement.
    std::atomic<bool> announced{false};

    // Lock. Moves submissions into the queue.
    void take_submissions(int64_t now) noexcept;
    // Lock. False while a batch runs whose primary allows no second call.
    bool may_begin_batch() const noexcept;
    // Lock. Forms the next batch of this executor, and counts the executor as in flight where there is one. Requests
    // that can no longer finish in time go to `dropped`, each with an executor in flight for it.
    BatchPlan form_batch(uint32_t executor, int64_t now, std::vector<Dropped>& dropped) noexcept;
    // Lock. The batch that form_batch() has just formed for this executor.
    Batch& batch_of(uint32_t executor) noexcept { return *batches_[executor]; }
    // Lock. The batch came back: its time is a measure of the primary.
    void finish_batch(uint32_t executor, const Batch& batch, const Scored& scored) noexcept;
    // Lock. The executor's batch will not come back, or too late. Its thread keeps the batch; the executor gets a new
    // one. Returns the entries to fail, each with a reference to its slot. Throws only std::bad_alloc, and then nothing
    // has happened.
    std::vector<Entry> lose_batch(uint32_t executor, int64_t now);
    // Lock. A lost batch came back: its buffers, for its thread to free.
    std::unique_ptr<Batch> take_lost(const Batch& batch) noexcept;
    // Lock. When a batch that runs counts as stuck.
    int64_t hung_at_ns(const Batch& batch, int64_t now) const noexcept;
    // Lock. The deployment that this executor's thread must call once before it may run the lane's next batch, or null.
    Deployment* cold(uint32_t executor, uint32_t thread, int64_t now) noexcept;
    // Lock. The executor begins and ends that call. It holds a reference to the deployment, and counts as in flight.
    void begin_warm_up(uint32_t executor, Deployment& deployment, int64_t now) noexcept;
    void end_warm_up(uint32_t executor) noexcept { policy_.lost(executor); }
    // Lock. It will not come back from it, or too late.
    void lose_warm_up(uint32_t executor, Deployment& deployment, int64_t now) noexcept;
    // Lock. Empties the queue; the entries are for the caller to drop.
    std::vector<Entry> take_queue(int64_t now) noexcept;

    // The executor that formed the batch, without the lock. Scores it and delivers the answers.
    Scored score(Batch& batch);
    // The same executor, after the batch was ended. `lost`: another executor has its place, so it teaches nothing.
    void learn(Batch& batch, const Scored& scored, bool lost) noexcept;
    int64_t first_queued_ns(const Batch& batch) noexcept { return slots_[batch.entries[0].slot].queued_ns; }
    // Answers a request that the primary will not answer, and gives up the executor's reference to its slot.
    void drop(const Entry& entry, Reason reason);

    // Executors at work for this lane, or about to answer requests that they dropped. The lane must outlive them.
    uint32_t in_flight() const noexcept { return in_flight_.load(std::memory_order_acquire); }
    void executor_enters() noexcept { in_flight_.fetch_add(1, std::memory_order_relaxed); }
    void executor_leaves() noexcept {
        // Release: all that the executor did comes before the closing thread finds the lane empty and frees it.
        [[maybe_unused]] const uint32_t before = in_flight_.fetch_sub(1, std::memory_order_acq_rel);
        ENGINE_ASSERT(before > 0, "an executor leaves a lane once");
    }

    // The earliest finish_by of the batch that this thread is scoring, 0 outside of batches.
    static int64_t working_until_ns() noexcept;

private:
    bool score_run(Batch& batch, uint32_t from, uint32_t to, Scored& scored);
    bool score_rows(Batch& batch, Deployment& deployment, uint32_t from, uint32_t to, bool search, Scored& scored);
    bool begin_next_call(Batch& batch, Deployment& deployment, uint32_t rows, Scored& scored) noexcept;
    uint32_t put_suspects_last(Batch& batch, uint32_t from, uint32_t to, int64_t now) noexcept;
    bool is_running(const Entry& entry) noexcept;
    void signal(Batch& batch) noexcept;
    void deliver(Batch& batch, const Entry& entry, const double* values, int64_t now);
    void fail(const Entry& entry, Reason reason);
    Claim claim(const Entry& entry) noexcept;
    void lose_call(Deployment& deployment, int64_t began, int64_t now) noexcept;

    const RuntimeLimits limits_;
    SlotTable& slots_;
    Counters& counters_;
    Mutex& lock_;
    FallbackHandler& fallback_;
    CostModel cost_;
    Policy policy_;
    std::atomic<bool> overlaps_{true};
    std::atomic<bool> waits_for_gil_{false};  // the primary of the latest batch does

    SlotStack submitted_;  // pushed by any thread, drained under the lock
    uint32_t executors_;
    std::vector<std::unique_ptr<Batch>> batches_;  // lock: by executor
    std::vector<std::unique_ptr<Batch>> lost_;     // lock: of threads that have not come back
    uint32_t running_ = 0;                         // lock: batches, the lost ones not counted
    std::atomic<uint32_t> in_flight_{0};
};

}  // namespace engine::scheduler
