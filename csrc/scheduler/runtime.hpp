// The runtime of one engine: the policy driven by the real clock. It owns the slots and answers every request exactly
// once; the threads that run its primary in the batch lane are its executors, its own or shared with other engines.
//
//   inline  predict_inline / predict_many_inline: the primary on the caller's own thread
//   batch   submit -> EDF queue -> executor -> (futex | completions)
//   rescue  a synchronous asker rescues itself when its wait times out; the rescue thread does it for event loops
//
// No function here takes the GIL; a scorer that needs it takes it inside score(), on an executor.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/histogram.hpp"
#include "scheduler/completions.hpp"
#include "scheduler/cost.hpp"
#include "scheduler/deployment.hpp"
#include "scheduler/executors.hpp"
#include "scheduler/margin.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"
#include "scheduler/slot.hpp"

namespace engine {

struct RuntimeLimits {
    uint32_t slots = 4096;           // requests in flight in the batch lane; memory is sized from it at the start
    uint32_t batch_rows_max = 64;
    uint32_t row_bytes = 0;          // of one row, 4 or 8 bytes a feature
    uint32_t n_features = 0;
    uint32_t n_outputs = 1;
    int64_t budget_ns = 10'000'000;  // the usual deadline, from the call
    double weight = 1.0;             // of this engine among those that share its executors
    double miss_rate = 1e-4;         // share of rescues that may come late
    bool errors_to_default = false;  // a primary that fails is followed by the default instead of the fallback
    bool only_finite = true;         // NaN and infinity in a primary's answer are failures
    uint64_t first_id = 1;           // ids count up from here
};

// Who waits for a request. Event loops are told through their completions; a group is answered as one.
struct Asker {
    Completions* completions = nullptr;  // null for a synchronous asker
    Group* group = nullptr;
    void* user = nullptr;
    bool wake = true;                    // else kick() is owed: whoever submits several rows pays for one wake-up
};

// What a primary took for batches of 1, 2, 4, … rows.
struct Calibration {
    struct Point {
        uint32_t rows;
        int64_t ns;
    };
    std::vector<Point> points;
    bool failed = false;  // the primary failed on these rows
};

struct Counters {
    // By class, source and reason: every answer is in it once.
    std::array<std::array<std::array<std::atomic<uint64_t>, REASONS>, SOURCES>, PRIORITIES> answers{};
    // Counted are the few that were late: an increment costs 5 ns, a hundredth of a request.
    std::atomic<uint64_t> late_ready{0};        // answers that were not ready before their deadline
    std::atomic<uint64_t> late_returned{0};     // … or not back with the caller before it
    std::atomic<uint64_t> late_dropped{0};      // primary results that lost to their rescue
    std::atomic<uint64_t> batches{0};
    std::atomic<uint64_t> batch_rows{0};
    std::atomic<uint64_t> failed_batches{0};
    std::atomic<uint64_t> queue_depth_max{0};
    std::atomic<uint64_t> cancelled{0};         // requests whose asker stopped waiting; they are in no other count
    std::atomic<uint64_t> inline_overruns{0};   // inline calls of the primary that took longer than the usual deadline
    std::array<Histogram, SOURCES> latency_ns;  // started to ready
    Histogram returned_ns;                      // started to returned
    Histogram queued_ns;                        // submitted to claimed by an executor

    const Histogram& latency(int source) const noexcept { return latency_ns[source]; }
};

class Runtime {
public:
    Runtime(const RuntimeLimits& limits, std::shared_ptr<Executors> executors, bool owns_executors);
    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    // Measures a deployment's primary on `rows` (dense, n_rows of them) at batches of 1, 2, 4, … on this thread.
    Calibration calibrate(Deployment& deployment, const void* rows, uint32_t n_rows);
    // Believes a calibration from now on: it is of the deployment that requests will come under. Returns the expected
    // time of one row.
    int64_t adopt(const Calibration& calibration);
    // How long the fallback takes, for the guards.
    void time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows);
    // Starts the batch lane once. A thread of its own calibrates on `rows` first, so a model that hangs there hangs no
    // caller; until that is over every request is answered as if the primary were stalled.
    void start_threads(Deployment* deployment, const void* rows, uint32_t n_rows);
    // True once that calibration is over.
    bool warmed_up() const noexcept { return warm_.load(std::memory_order_acquire); }
    // Whether several batches may run at once: set with every change of primary.
    void set_overlaps(bool overlaps) noexcept { overlaps_.store(overlaps, std::memory_order_relaxed); }

    // A default leaves NaN in `out`: the value itself is the binding's to fill in.
    Outcome predict_inline(const Request& request, double* out);
    // n dense rows; deadlines has n entries, and request.row and request.deadline_ns are not read. Answers earliest
    // deadline first, keeping back what the fallback needs for the rows still waiting. reserve_ns: how long before each
    // deadline the primary must be done at the latest.
    void predict_many_inline(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                             int64_t reserve_ns, Outcome* outcomes, double* out);

    // Queues one row (copied). Returns its slot, or NO_SLOT with *refused answered at once into `out`.
    uint32_t submit(const Request& request, const Asker& asker, Outcome* refused, double* out);
    // Wakes an executor for what was submitted without `wake`.
    void kick() noexcept;
    // Queues n dense rows as one group. slots[i] is row i's slot, or NO_SLOT where outcomes[i] and its values in `out`
    // were settled at once. True when the whole group is: then nobody announces it.
    bool submit_many(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                     const Asker& asker, uint32_t* slots, Outcome* outcomes, double* out);
    // Blocks until slot `index` is answered, rescuing it when its time comes. False where a signal interrupted the
    // wait: call again. The slot is then read with outcome() and given back with give_back().
    bool wait(uint32_t index);
    // The same for a group; slots are those that submit() returned.
    bool wait_group(Group& group, const std::vector<uint32_t>& slots);
    Outcome outcome(uint32_t index) noexcept;
    const double* values(uint32_t index) noexcept { return slots_.answer(index); }
    const void* row(uint32_t index) noexcept { return slots_.row(index); }
    void give_back(uint32_t index) noexcept;
    // The asker no longer wants the answer (a cancelled wait). True when nobody had answered: then nobody will, the
    // slot is on its way back, and the asker must not read it again.
    bool abandon(uint32_t index) noexcept;
    // The same for a row of a group: it counts as answered, so that the group can still be announced.
    void abandon_row(uint32_t index) noexcept;

    // Counts an answer and learns from it. `synchronous` tells which of the two guards.
    void account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept;
    // Whether an answer is likely to come within the time that threads watch for it.
    bool answers_soon() const noexcept { return executors_->watch_ns() > 0 && cost_.expected_ns(1) < ANSWERS_SOON_NS; }

    uint64_t next_id() noexcept { return next_id_.fetch_add(1, std::memory_order_relaxed); }

    // Everything queued is answered by its fallback; executors get `patience_ns` to come back. Returns how many threads
    // did not: those are left behind and the runtime must then never be destroyed.
    uint32_t close(int64_t patience_ns) noexcept;

    SlotTable& slots() noexcept { return slots_; }
    const RuntimeLimits& limits() const noexcept { return limits_; }
    Counters& counters() noexcept { return counters_; }
    uint64_t answered(int priority, int source, int reason) const noexcept {
        return counters_.answers[priority][source][reason].load(std::memory_order_relaxed);
    }
    CostModel& cost() noexcept { return cost_; }
    CostModel& inline_cost() noexcept { return inline_cost_; }
    const Guard& guard(bool synchronous) const noexcept { return synchronous ? sync_guard_ : async_guard_; }
    Policy& policy() noexcept { return policy_; }
    Executors& executors() noexcept { return *executors_; }

    // The earliest finish_by of the batch that this thread is scoring, 0 outside of batches: what a model that asks how
    // much time is left is told.
    static int64_t working_until_ns() noexcept;

    static constexpr int64_t ANSWERS_SOON_NS = 20'000;

    // What follows is for the executors and the rescue thread.

    // Under the executors' lock: links of their lists.
    Runtime* next_announced = nullptr;
    bool active = false;
    bool tried = false;
    std::atomic<bool> announced{false};

    void take_submissions(int64_t now) noexcept;
    bool has_submissions() const noexcept { return !submitted_.empty(); }
    bool may_begin_batch() const noexcept { return batches_running_ == 0 || overlaps_.load(std::memory_order_relaxed); }
    Forming form_batch(Executors::Thread& executor, int64_t now) noexcept;
    std::vector<Entry> lose_batch(uint32_t executor, uint32_t rows, int64_t now);
    int64_t hung_after_ns(uint32_t rows) const noexcept;

    // On an executor, without the lock.
    void run_batch(Executors::Thread& executor, uint32_t rows);
    int64_t first_queued_ns(const Executors::Thread& executor) noexcept {
        return slots_[static_cast<const Buffers*>(executor.buffers)->batch[0].slot].queued_ns;
    }
    void let_go(const Entry& entry, Reason reason);
    // Executors that are at work for this runtime, or about to answer what they released.
    uint32_t visitors() const noexcept { return visitors_.load(std::memory_order_acquire); }
    void visited() noexcept { visitors_.fetch_sub(1, std::memory_order_acq_rel); }

    bool is_live(uint32_t index, uint32_t generation) noexcept;
    void rescue(uint32_t index, uint32_t generation, Reason reason);
    void timer_overshot(int64_t ns, int64_t now) noexcept { async_guard_.timer_overshot(ns, now); }

private:
    // One executor's buffers for this runtime, sized once.
    struct Buffers {
        explicit Buffers(const RuntimeLimits& limits);
        std::vector<Entry> batch;
        std::vector<std::byte> rows;
        std::vector<double> out;
        std::vector<float> scratch;
        std::vector<int64_t> waited_ns;    // of each row of the batch: how long it was queued …
        std::vector<int64_t> predicted_ns; // … and the finish that admission expected
        std::vector<Completions*> owed;    // loops with answers of this batch, to be signalled at its end
        Deployment* called = nullptr;      // the first row's; kept from forming the batch until learning from it
    };
    struct ManyInline;

    // runtime.cpp
    void seed_guards() noexcept;
    Side fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason, double* out);
    bool take_from_executors(uint32_t index, uint32_t generation, bool* was_running = nullptr) noexcept;
    void finish_rescue(uint32_t index, uint32_t generation, Reason reason);
    Completions* settle(uint32_t index) noexcept;
    void settle_and_signal(uint32_t index) noexcept;
    bool answer_comes(const Slot& slot) const noexcept;
    Reason refusal(const Request& request, int64_t finish_by_ns, int64_t* predicted_ns) noexcept;
    void fill(uint32_t index, const Request& request, const Asker& asker, int64_t finish_by_ns,
              int64_t predicted_ns) noexcept;
    bool usable(const double* values) const noexcept;

    // runtime_inline.cpp
    Outcome answer_without_primary(const Request& request, Reason reason, double* out);
    void observe_inline(uint32_t rows, int64_t ns) noexcept;

    // runtime_executor.cpp
    uint32_t score_run(Buffers& buffers, uint32_t from, uint32_t to, int64_t* ended_ns);
    void learn(Executors::Thread& executor, Buffers& buffers, uint32_t rows, int64_t now, bool all_ok) noexcept;
    void deliver(Buffers& buffers, const Entry& entry, const double* values, int status, int64_t now);
    void fail(const Entry& entry, Reason reason);
    void signal_loops(Buffers& buffers) noexcept;
    void let_go_of_queue() noexcept;

    RuntimeLimits limits_;
    std::shared_ptr<Executors> executors_;
    bool owns_executors_;
    SlotTable slots_;
    CostModel cost_, inline_cost_;
    Policy policy_;
    Guard sync_guard_, async_guard_;
    Counters counters_;
    std::atomic<uint64_t> next_id_;
    std::atomic<bool> closing_{false};
    std::atomic<bool> started_{false};  // the batch lane
    std::atomic<bool> warm_{false};
    std::atomic<bool> overlaps_{true};
    std::atomic_flag inline_observing_;
    std::atomic<uint32_t> fallbacks_{0};
    std::atomic<uint32_t> sync_waiting_{0}, async_waiting_{0};

    // Submission: pushed by any thread, drained by the executor that holds the lock.
    SlotStack submitted_;
    std::vector<std::unique_ptr<Buffers>> buffers_;  // by executor; replaced under the lock
    std::vector<std::unique_ptr<Buffers>> lost_buffers_;
    uint32_t batches_running_ = 0;                   // under the lock
    std::atomic<uint32_t> visitors_{0};

    std::mutex start_lock_;  // start_threads() against close()
    std::thread warming_;
    std::atomic<bool> warming_ended_{false};
};

}  // namespace engine
