// The runtime: the policy driven by the real clock. It owns the slots, the executor threads and the rescue thread, and
// answers every request exactly once.
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

#include "engine/completions.hpp"
#include "engine/cost.hpp"
#include "engine/deployment.hpp"
#include "engine/guard.hpp"
#include "engine/histogram.hpp"
#include "engine/policy.hpp"
#include "engine/slot.hpp"

namespace engine {

struct RuntimeLimits {
    uint32_t slots = 4096;           // requests in flight in the batch lane; memory is sized from it at the start
    uint32_t batch_rows_max = 64;
    uint32_t executors = 1;
    uint32_t row_bytes = 0;          // of one row, 4 or 8 bytes a feature
    uint32_t n_features = 0;
    uint32_t n_outputs = 1;
    int64_t budget_ns = 10'000'000;  // the usual deadline, from the call
    bool may_watch = true;           // threads may look out for work or answers for a while before they sleep
    double miss_rate = 1e-4;         // share of rescues that may come late
    uint64_t first_id = 1;           // ids count up from here
};

// One answer, without its values.
struct Outcome {
    uint64_t id = 0;
    uint64_t deployment = 0;
    int64_t started_ns = 0;
    int64_t deadline_ns = 0;
    int64_t ready_ns = 0;
    Source source = Source::default_value;
    Reason reason = Reason::ok;
};

struct Counters {
    std::array<std::array<std::atomic<uint64_t>, REASONS>, SOURCES> answers{};
    std::atomic<uint64_t> on_time_ready{0};     // answers ready before their deadline
    std::atomic<uint64_t> on_time_returned{0};  // … and back with the caller before it
    std::atomic<uint64_t> late_dropped{0};      // primary results that lost to their rescue
    std::atomic<uint64_t> batches{0};
    std::atomic<uint64_t> batch_rows{0};
    std::atomic<uint64_t> failed_batches{0};
    std::atomic<uint64_t> queue_depth_max{0};
    std::atomic<uint64_t> inline_overruns{0};   // inline calls of the primary that took longer than the usual deadline
    std::array<Histogram, SOURCES> latency_ns;  // started to ready
    Histogram returned_ns;                      // started to returned
    Histogram queued_ns;                        // submitted to claimed by an executor

    const Histogram& latency(int source) const noexcept { return latency_ns[source]; }
};

class Runtime {
public:
    // Takes a reference to the deployment.
    Runtime(const RuntimeLimits& limits, Deployment* deployment);
    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    // Measures the current primary on `rows` (dense, n_rows of them) at batches of 1, 2, 4, … on this thread. Returns
    // the expected time of one row.
    int64_t calibrate(const void* rows, uint32_t n_rows);
    // Starts the executors and the rescue thread once. The first executor calibrates on `rows` before it serves, so a
    // model that hangs there hangs no caller; until then admission sees it as busy.
    void start_threads(const void* rows, uint32_t n_rows);
    // True once calibration on the executor is over.
    bool warmed_up() const noexcept { return warm_.load(std::memory_order_acquire); }

    // From now on requests go to `deployment` (takes a reference). What is queued keeps what it came under.
    void swap(Deployment* deployment) noexcept;
    Deployment* current() const noexcept { return current_.load(std::memory_order_acquire); }

    // A default leaves NaN in `out`: the value itself is the binding's to fill in.
    Outcome predict_inline(const void* row, int64_t started_ns, int64_t deadline_ns, double* out);
    // Rows are dense; deadlines has n entries. Answers earliest deadline first, keeping back what the fallback needs
    // for the rows still waiting. reserve_ns: how long before each deadline the primary must be done at the latest.
    void predict_many_inline(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                             int64_t reserve_ns, Outcome* outcomes, double* out);

    // Queues one row (copied). Returns its slot, or NO_SLOT with *refused answered at once into `out`. completions,
    // group and user may be null. Unless `wake`, kick() is owed: whoever submits several rows pays for one wake-up.
    uint32_t submit(const void* row, int64_t started_ns, int64_t deadline_ns, Completions* completions, Group* group,
                    void* user, bool wake, Outcome* refused, double* out);
    // Wakes an executor if one sleeps beside work.
    void kick() noexcept;
    // Queues n dense rows as one group. slots[i] is row i's slot, or NO_SLOT where outcomes[i] and its values in `out`
    // were settled at once. True when the whole group is: then nobody announces it.
    bool submit_many(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                     Completions* completions, Group* group, void* user, uint32_t* slots, Outcome* outcomes,
                     double* out);
    // Blocks until slot `index` is answered, rescuing it when its time comes. False where a signal interrupted the
    // wait: call again. The slot is then read with outcome() and given back with give_back().
    bool wait(uint32_t index);
    // The same for a group; slots are those that submit() returned.
    bool wait_group(Group& group, const std::vector<uint32_t>& slots);
    Outcome outcome(uint32_t index) noexcept;
    const double* values(uint32_t index) noexcept { return slots_.answer(index); }
    void give_back(uint32_t index) noexcept;
    // The asker no longer wants the answer (a cancelled wait): nobody will read it.
    void abandon(uint32_t index) noexcept;

    // Counts an answer and learns from it. `synchronous` tells which of the two guards.
    void account(const Outcome& outcome, int64_t returned_ns, bool queued, bool synchronous) noexcept;
    // How long a thread should look out for an answer or for work before it sleeps, 0 where sleeping is cheap. On a
    // virtual machine whose idle processors are taken away, waking one costs 50 us, ten times what it costs elsewhere;
    // watching for as long as a wake-up would take never costs more than twice the best choice (ski rental; Karlin et
    // al., Algorithmica 11, 1994). What a wake-up takes is learned from the executors' own.
    int64_t watch_ns() const noexcept;
    // Whether an answer is likely to come within watch_ns() of its submission.
    bool answers_soon() const noexcept { return watch_ns() > 0 && cost_.expected_ns(1) < ANSWERS_SOON_NS; }
    int64_t handoff_ns() const noexcept { return handoff_.value(); }

    uint64_t next_id() noexcept { return next_id_.fetch_add(1, std::memory_order_relaxed); }

    // Everything queued is answered by its fallback; executors get `patience_ns` to come back. Returns how many did
    // not: those threads are left behind and the runtime must then never be destroyed.
    uint32_t close(int64_t patience_ns) noexcept;

    SlotTable& slots() noexcept { return slots_; }
    const RuntimeLimits& limits() const noexcept { return limits_; }
    Counters& counters() noexcept { return counters_; }
    uint64_t answered(int source, int reason) const noexcept {
        return counters_.answers[source][reason].load(std::memory_order_relaxed);
    }
    CostModel& cost() noexcept { return cost_; }
    CostModel& inline_cost() noexcept { return inline_cost_; }
    const Guard& guard(bool synchronous) const noexcept { return synchronous ? sync_guard_ : async_guard_; }
    const Policy& policy() const noexcept { return policy_; }

    static constexpr int64_t ANSWERS_SOON_NS = 20'000;

private:
    // One executor's buffers, sized once.
    struct Executor {
        explicit Executor(const RuntimeLimits& limits);
        std::vector<Entry> batch;
        std::vector<std::byte> rows;
        std::vector<double> out;
        std::vector<float> scratch;
        std::vector<int64_t> waited_ns;    // of each row of the batch: how long it was queued …
        std::vector<int64_t> predicted_ns; // … and the finish that admission expected
        std::vector<Completions*> owed;    // loops with answers of this batch, to be signalled at its end
        std::vector<Entry> released;       // let go while forming; answered after the lock is dropped
        std::atomic<uint32_t> running{0};  // how many of `batch` are being scored
        std::atomic<bool> ended{false};
    };
    struct ManyInline;
    struct Timer {
        int64_t at_ns;
        uint32_t slot;
        uint32_t generation;
    };

    // runtime.cpp
    void seed_guards() noexcept;
    void time_fallback(Deployment& deployment, const void* rows, uint32_t n_rows, float* scratch, double* out);
    Deployment* retain_current() noexcept;
    Side fallback_or_default(Deployment& deployment, const void* row, int64_t deadline_ns, Reason reason, double* out);
    bool take_from_executors(uint32_t index, uint32_t generation) noexcept;
    void rescue(uint32_t index, uint32_t generation, Reason reason);
    void finish_rescue(uint32_t index, uint32_t generation, Reason reason);
    Completions* settle(uint32_t index) noexcept;
    void settle_and_signal(uint32_t index) noexcept;
    void wake_executor() noexcept;
    bool answer_comes(const Slot& slot) const noexcept;

    // runtime_inline.cpp
    Outcome answer_without_primary(Deployment& deployment, const void* row, int64_t started_ns, int64_t deadline_ns,
                                   Reason reason, double* out);
    void observe_inline(uint32_t rows, int64_t ns) noexcept;

    // runtime_executor.cpp
    void executor_loop(uint32_t number);
    Forming next_batch(Executor& executor, uint32_t number, int64_t now, bool closing) noexcept;
    void run_batch(Executor& executor, uint32_t number, uint32_t rows);
    void learn(const Executor& executor, uint32_t number, uint32_t rows, int64_t now, bool all_ok) noexcept;
    void deliver(Executor& executor, const Entry& entry, const double* values, int status, int64_t now);
    void signal_loops(Executor& executor) noexcept;
    void let_go(const Entry& entry, Reason reason);
    void fail(const Entry& entry, Reason reason);
    bool park(const Forming& forming, uint32_t seen) noexcept;
    bool work_comes(uint32_t seen) noexcept;
    void free_askers_of(Executor& executor) noexcept;
    void let_go_of_queue() noexcept;

    // runtime_rescue.cpp
    void rescue_loop();
    void watch(const Timer& timer) noexcept;
    bool is_watched_live(const Timer& timer) noexcept;

    RuntimeLimits limits_;
    SlotTable slots_;
    CostModel cost_, inline_cost_;
    Policy policy_;
    Guard sync_guard_, async_guard_;
    Counters counters_;
    std::atomic<Deployment*> current_;
    std::mutex swap_lock_;
    std::atomic<uint64_t> next_id_;
    std::atomic<bool> closing_{false};
    std::atomic<bool> warm_{false};
    std::atomic_flag inline_observing_;
    std::atomic<uint32_t> inline_calls_{0};

    // Submission: pushed by any thread, drained by the executor that holds the lock.
    SlotStack submitted_;
    std::mutex executors_lock_;
    std::atomic<uint32_t> work_{0};       // futex; changes whenever a parked executor should look
    std::atomic<uint32_t> parked_{0};
    std::atomic_flag watching_;           // one executor at a time watches for work before it sleeps
    DecayingQuantile handoff_{0.5, 256};  // from a submission to the executor that it woke
    std::vector<std::unique_ptr<Executor>> executors_;
    std::vector<std::byte> warm_rows_;
    uint32_t warm_row_count_ = 0;
    std::atomic<uint32_t> fallbacks_{0};

    // Rescue for event loops.
    std::mutex timers_lock_;
    std::vector<Timer> timers_inbox_;
    std::atomic<uint32_t> timers_word_{0};
    std::atomic<int64_t> rescue_wakes_ns_{0};
    std::atomic<uint32_t> sync_waiting_{0}, async_waiting_{0};
    std::thread rescue_thread_;
    std::atomic<bool> last_call_{false};  // the executors are gone: whoever still waits is rescued now
    std::mutex start_lock_;
    std::vector<std::thread> threads_;
    bool started_ = false;
};

}  // namespace engine
