// The threads that run primaries in the batch lane, one model's own or shared by many.
//
// A runtime that has work announces itself; idle ones are in no list and cost nothing. Whoever is free takes, under one
// lock, the batch that stands first among the models with work (sharing.hpp says who does). An executor that is stuck in
// a model is replaced by a new thread; what it may still bring is dropped.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/histogram.hpp"
#include "scheduler/deadline_timer.hpp"
#include "scheduler/fair_share.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/request.hpp"

namespace engine {

class Runtime;

struct ExecutorOptions {
    uint32_t threads = 1;
    bool may_watch = true;      // threads may look out for work or answers for a while before they sleep
    int realtime_priority = 0;  // SCHED_FIFO at this priority, 1 to 99; 0 for the ordinary scheduler
    std::vector<int> cpus;      // processors to stay on; empty for any
};

class Executors : public std::enable_shared_from_this<Executors> {
public:
    // Throws std::system_error where real-time scheduling or the processors are refused, before there is any thread.
    static std::shared_ptr<Executors> make(const ExecutorOptions& options);
    ~Executors();
    Executors(const Executors&) = delete;
    Executors& operator=(const Executors&) = delete;

    // Once is enough; the threads live until stop().
    void start();
    // Ends the threads. Those that do not come back within `patience_ns` are left behind. Every runtime is detached.
    void stop(int64_t patience_ns) noexcept;

    // Any thread: the runtime has submissions. Executors that look find them; one that sleeps must be woken.
    void announce(Runtime& runtime) noexcept;
    // Any thread: wakes an executor if one sleeps.
    void wake() noexcept;
    // Takes the runtime off all lists and waits for executors that are in it. One that does not come back within
    // `patience_ns` is given up: its askers get their fallback, and the return value counts it.
    uint32_t detach(Runtime& runtime, int64_t patience_ns) noexcept;
    // A batch of the runtime is overdue: look after its executor when it has been so for long.
    void suspect(Runtime& runtime) noexcept;

    // How long a thread should look out for an answer or for work before it sleeps, 0 where sleeping is cheap. On a
    // virtual machine whose idle processors are taken away, waking one costs 50 us, ten times what it costs elsewhere;
    // watching for as long as a wake-up would take never costs more than twice the best choice (ski rental; Karlin et
    // al., Algorithmica 11, 1994). What a wake-up takes is learned from the executors' own.
    int64_t watch_ns() const noexcept;
    int64_t handoff_ns() const noexcept { return handoff_.value(); }
    uint64_t replaced() const noexcept { return replaced_.load(std::memory_order_relaxed); }

    std::mutex& lock() noexcept { return lock_; }
    SharedExecutors& shared() noexcept { return shared_; }
    Rescuer& rescuer() noexcept { return rescuer_; }
    uint32_t count() const noexcept { return shared_.count(); }
    const ExecutorOptions& options() const noexcept { return options_; }

    // One executor, as the runtime that it works for sees it.
    struct Released {
        Runtime* runtime;
        Entry entry;
    };
    struct Thread {
        uint32_t number = 0;
        std::thread handle;
        std::atomic<Runtime*> running{nullptr};  // written under the lock …
        std::atomic<int64_t> began_ns{0};
        std::atomic<uint32_t> rows{0};
        void* buffers = nullptr;                 // of that runtime, for the batch under way; this thread's alone
        std::atomic<bool> lost{false};           // … as is this: replaced by another, its results are dropped
        std::atomic<bool> ended{false};
        std::vector<Released> released;          // let go while forming; answered after the lock is dropped
        std::shared_ptr<Executors> keep;         // a lost thread keeps what it will come back to
    };

private:
    explicit Executors(const ExecutorOptions& options);
    struct Turn {
        Runtime* runtime = nullptr;  // null for nothing to run
        uint32_t rows = 0;
        int64_t wait_until_ns = NEVER_NS;
        bool holding = false;
    };

    void spawn(uint32_t number);
    void prepare(const std::shared_ptr<Thread>& thread) const noexcept;
    void loop(Thread& me);
    Turn next(Thread& me, int64_t now) noexcept;
    void take_announced() noexcept;
    Runtime* first_untried(int64_t now) noexcept;
    bool park(const Turn& turn, uint32_t seen) noexcept;
    bool work_comes(uint32_t seen) noexcept;
    int64_t look_after(int64_t now) noexcept;
    void replace(const std::shared_ptr<Thread>& thread, Reason reason, bool respawn) noexcept;
    uint32_t give_up_on(Runtime& runtime) noexcept;

    ExecutorOptions options_;
    SharedExecutors shared_;
    std::mutex lock_;
    std::vector<std::shared_ptr<Thread>> threads_;  // lock
    std::vector<Runtime*> active_;                  // lock: runtimes that had work at the last look
    std::atomic<Runtime*> announced_{nullptr};      // a stack, linked by Runtime::next_announced
    std::atomic<uint32_t> work_{0};                 // futex; changes whenever a parked executor should look
    std::atomic<uint32_t> parked_{0};
    std::atomic_flag watching_;                     // one executor at a time watches for work before it sleeps
    std::atomic<bool> stopping_{false};
    std::atomic<bool> started_{false};
    std::atomic<uint32_t> lost_{0};                 // threads that were replaced and have not come back
    std::atomic<uint64_t> replaced_{0};
    DecayingQuantile handoff_{0.5, 256};            // from a submission to the executor that it woke
    Rescuer rescuer_;
};

}  // namespace engine
