// The batch lane of one engine, as its executors see it: submissions, queue, policy, cost, and the batches that run.
//
// Callers push slots; an executor that holds the executors' lock moves them into the policy's queue and forms a batch;
// without the lock it makes the batch's calls and delivers the answers; with the lock again it ends the batch. A call
// of a model on a device is begun, and polled until it has ended. The lane knows neither threads nor executors. It
// hands requests that the primary will not answer to its FallbackHandler.
//
// Marked "lock": under the executors' lock. All else says who may call it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
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
    // Lock. With every change of primary: whether several of its batches may run at once, its seats and its largest
    // batch. Throws only std::bad_alloc, and then nothing has changed.
    void set_primary(const Deployment& primary);
    // Lock. Whether the next batch is one for a device. Needs policy().depth() > 0.
    bool wants_seat(int64_t now) const noexcept;
    // Lock. Where this executor may begin the lane's next batch. Nowhere while a batch runs whose primary allows no
    // second call, and while the primary's device has all the batches that it takes.
    std::optional<Place> next_place(uint32_t executor, int64_t now) const noexcept;
    // Lock. Forms the next batch there, and counts an executor as in flight where there is one. Requests that can no
    // longer finish in time go to `dropped`, each with an executor in flight for it.
    BatchPlan form_batch(Place place, int64_t now, std::vector<Dropped>& dropped) noexcept;
    // Lock. The batch that form_batch() has just formed there.
    Batch& batch_of(Place place) noexcept { return *slot_of(place); }
    // Lock. The batch came back: its time is a measure of the primary.
    void finish_batch(const Batch& batch) noexcept;
    // Lock. The batch will not come back, or too late. Its thread keeps it; the place gets a new one. Returns the
    // entries to fail, each with a reference to its slot. Throws only std::bad_alloc, and then nothing has happened.
    std::vector<Entry> lose_batch(Place place, int64_t now);
    // Lock. The batch in flight is given up; its seat is not free before free_seat().
    void abandon_batch(const Batch& batch, int64_t now) noexcept;
    // Lock. The device is through with a batch that was abandoned.
    void free_seat(uint32_t seat) noexcept { policy_.lost({seat, true}); }
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

    // The executor that formed the batch, without the lock, in this order: begin(); then, for as long as next_call()
    // prepares one, make_call(), and landed() until that is true where the call is in flight. After the batch was ended
    // learn(). A batch whose call is never to end is dropped by give_up() before that.
    void begin(Batch& batch) noexcept;
    // The batch's next call. False where it has none: all its rows are settled.
    bool next_call(Batch& batch);
    // Makes the call. True where it is in flight; else it has ended, and its rows are answered.
    bool make_call(Batch& batch);
    // Whether the call in flight has ended; its rows are then answered.
    bool landed(Batch& batch);
    // Drops the rows that are not settled.
    void give_up(Batch& batch, Reason reason);
    // `lost`: the batch was lost or given up, so it teaches nothing.
    void learn(Batch& batch, bool lost) noexcept;
    // Any thread: batches in flight are to be given up, because the lane closes. The executors that poll them look.
    void close_flights() noexcept { closing_.store(true, std::memory_order_release); }
    bool closing() const noexcept { return closing_.load(std::memory_order_acquire); }
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
    std::unique_ptr<Batch>& slot_of(Place place) noexcept {
        return (place.on_device ? seats_ : batches_)[place.number];
    }
    bool next_group(Batch& batch) noexcept;
    uint32_t rows_of_call(Batch& batch, uint32_t fits) noexcept;
    void copy_rows(Batch& batch) noexcept;
    int score_here(Batch& batch);
    bool begin_on_device(Batch& batch);
    void call_ended(Batch& batch, int status);
    void rows_failed(Batch& batch, int status);
    void rows_answered(Batch& batch, int status, uint32_t unusable);
    void give_up_row(Batch& batch);
    bool begin_next_call(Batch& batch) noexcept;
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
    bool overlaps_ = true;                    // lock
    std::atomic<bool> waits_for_gil_{false};  // the primary of the latest batch does

    SlotStack submitted_;  // pushed by any thread, drained under the lock
    uint32_t executors_;
    std::vector<std::unique_ptr<Batch>> batches_;  // lock: by executor
    std::vector<std::unique_ptr<Batch>> seats_;    // lock: by seat
    std::vector<std::unique_ptr<Batch>> lost_;     // lock: of threads that have not come back
    uint32_t running_ = 0;                         // lock: batches on executors' threads, the lost ones not counted
    std::atomic<uint32_t> in_flight_{0};
    std::atomic<bool> closing_{false};
};

}  // namespace engine::scheduler
