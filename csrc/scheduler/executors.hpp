// The threads that run primaries in the batch lane, one engine's own or shared by many.
//
// A lane that has work announces itself; idle lanes are in no list and cost nothing. A free executor takes, under one
// lock, the batch that ranks first among the lanes with work (fair_share.hpp has the order). An executor that is stuck
// in a model is replaced by a new thread; the answers it may still bring are dropped.
//
// A batch for a device has a seat instead of a thread. An executor begins it, keeps it as a flight, and takes other
// work meanwhile; whenever it is between two batches it looks at its flights. It looks without pause around the time
// when an answer is due, and sleeps before and after. A flight that is overdue like a stuck executor is abandoned: its
// requests are answered without it, and its seat is free once the device is through with it. Flights are their
// executor's; one that goes into a model hands them to an executor that sleeps, and those of a replaced one are taken
// by the next.
//
// Order. All executors must not sleep while a request is queued. Three pairs of accesses see to that; in each, at least
// one side sees the other's store. 1. A submitter pushes its slot, then reads the lane's `announced`. An executor
// clears `announced`, then swaps the stack of submissions out. Both exchange the head of the stack with acquire and
// release: if the swap comes second it takes the slot; if the push comes second it also sees `announced` cleared, and
// announces the lane again. 2. A submitter puts its lane on announced_, then reads parked_. An executor raises parked_,
// then reads announced_. All four are sequentially consistent, so not both can miss the other. 3. A waker changes
// work_, then wakes the futex. An executor reads work_ before it looks for work, and sleeps only while work_ still has
// the value that it read.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/histogram.hpp"
#include "base/mutex.hpp"
#include "scheduler/deadline_timer.hpp"
#include "scheduler/fair_share.hpp"
#include "scheduler/lane.hpp"

namespace engine::scheduler {

struct ExecutorOptions {
    uint32_t threads = 1;
    bool may_watch = true;      // threads may poll for work or answers for a while before they sleep
    int realtime_priority = 0;  // SCHED_FIFO at this priority, 1 to 99; 0 for the ordinary scheduler
    std::vector<int> cpus;      // processors to stay on; empty for any
};

class Executors : public std::enable_shared_from_this<Executors> {
public:
    // Throws std::system_error where the system refuses real-time scheduling or the processors, before any thread
    // exists.
    static std::shared_ptr<Executors> make(const ExecutorOptions& options);
    ~Executors();
    Executors(const Executors&) = delete;
    Executors& operator=(const Executors&) = delete;

    // Once is enough; the threads live until stop(). Throws std::system_error where the system refuses a thread; then
    // none is left.
    void start();
    // Ends the threads. Threads that do not come back within `patience_ns` are left behind. Every lane is detached.
    void stop(int64_t patience_ns) noexcept;

    // Any thread: the lane has submissions. Executors that look find them; a sleeping one must be woken.
    void announce(Lane& lane) noexcept;
    // Any thread: wakes an executor if one sleeps.
    void wake() noexcept;
    // Every executor's thread that is cold calls the deployment once, as soon as it is free. The caller holds a
    // reference to it until end_warming(), and begins one warm-up of a lane at a time.
    void begin_warming(Lane& lane, Deployment& deployment) noexcept;
    bool is_warm(const Deployment& deployment) noexcept;
    void end_warming(Lane& lane) noexcept;
    // The lane's requests come under this primary from now on. Throws only std::bad_alloc.
    void set_primary(Lane& lane, const Deployment& primary);
    // Takes the lane off all lists and waits for executors in it. One that does not come back within `patience_ns` is
    // given up: its callers get their fallback, and the return value counts it.
    uint32_t detach(Lane& lane, int64_t patience_ns) noexcept;
    // A batch of the lane is overdue: check its executor when it has been so for long.
    void suspect(const Lane& lane) noexcept;

    // How long a thread should poll for an answer or for work before it sleeps; 0 where sleeping is cheap. On a virtual
    // machine whose idle processors are taken away, waking one costs 50 us, ten times the usual. Polling for as long as
    // a wake-up would take never costs more than twice the best choice (ski rental; Karlin et al., Algorithmica 11,
    // 1994). The time of a wake-up is learned from the executors' own.
    int64_t watch_ns() const noexcept;
    int64_t handoff_ns() const noexcept { return handoff_.value(); }
    uint64_t replaced() const noexcept { return replaced_.load(std::memory_order_relaxed); }
    // Batches on devices that were given up because no answer came.
    uint64_t abandoned() const noexcept { return abandoned_.load(std::memory_order_relaxed); }
    // Executors without a thread at present, because the system refused to replace a stuck one; and how often it did.
    uint32_t missing() const noexcept { return missing_count_.load(std::memory_order_relaxed); }
    uint64_t refused() const noexcept { return refused_.load(std::memory_order_relaxed); }

    Mutex& lock() noexcept { return lock_; }
    SharedExecutors& shared() noexcept { return shared_; }
    DeadlineTimer& deadline_timer() noexcept { return deadline_timer_; }
    uint32_t count() const noexcept { return shared_.count(); }

private:
    // Flights of one executor.
    static constexpr size_t FLIGHTS_MAX = SharedExecutors::EXECUTORS_MAX;
    // An executor that has looked at its flights for this long is stuck in a device's driver.
    static constexpr int64_t STUCK_LOOK_NS = 1'000'000'000, STUCK_CLOSING_NS = 20'000'000;

    // A batch on a device, and what is left of one that was abandoned.
    struct Flight {
        Lane* lane;     // lock: null once abandoned and its lane has other seats or none
        Batch* batch;   // null once abandoned
        uint32_t seat;  // of the lane
        int64_t began_ns, due_ns, hung_ns;
        Deployment* deployment = nullptr;  // of an abandoned batch: one reference
        uint32_t ticket = 0;               // of an abandoned batch
        int64_t look_ns = 0;               // when to look again
        bool leaving = false;              // lock: its executor is giving it up
        bool lost = false;                 // lock: with its executor
    };
    struct Executor {
        uint32_t number = 0;
        std::thread handle;
        uint32_t thread = 0;            // tells this thread from those before it under the same number
        Lane* lane = nullptr;           // lock: whose batch it runs, or whose deployment it warms up; null for none
        bool lost = false;              // lock: replaced by another thread, its results are dropped
        Batch* batch = nullptr;         // this thread's alone: the batch under way
        Deployment* warming = nullptr;  // lock: what it calls for the first time, one reference; null for a batch
        int64_t warming_since_ns = 0;   // lock
        std::vector<Lane::Dropped> dropped;  // this thread's alone: dropped under the lock, answered without it
        std::vector<Flight> flights;  // written by this thread under the lock; by others only while it is in a lane
        std::atomic<int64_t> looks_ns{0};  // when it began to look at its flights; 0 outside of that
        std::atomic<bool> ended{false};
        std::shared_ptr<Executors> owner;  // a lost thread keeps the executors that it comes back to
    };
    // An executor's next step: a batch to run, or how long to wait.
    struct Dispatch {
        Lane* lane = nullptr;  // null for nothing to run
        int64_t wait_until_ns = NEVER_NS;
        bool holding = false;  // waits on purpose for a better batch
        bool warm_up = false;  // calls the lane's cold deployment first
        bool lost = false;     // the thread was replaced while it looked at its flights
    };

    // A batch that was taken from its executor: the entries to fail.
    struct LostBatch {
        Lane* lane;
        std::vector<Entry> entries;
    };

    explicit Executors(const ExecutorOptions& options);
    std::shared_ptr<Executor> spawn(uint32_t number);
    bool try_spawn(uint32_t number) noexcept;
    void miss(uint32_t number, int64_t now) noexcept;
    void loop(Executor& me);
    bool work(Executor& me, const Dispatch& dispatch);
    void comes_back_lost() noexcept;
    Dispatch next(Executor& me, int64_t now) noexcept;
    bool run(Executor& me, Lane& lane);
    bool make_calls(Executor& me, Lane& lane);
    bool end_calls(Executor& me, Lane& lane, bool in_flight);
    bool take_warm_up(Executor& me, Lane& lane, int64_t now, Dispatch& dispatch) noexcept;
    bool warm_up(Executor& me, Lane& lane);
    int64_t hung_at_ns(const Executor& executor, int64_t now) const noexcept;
    void take_announced() noexcept;
    Lane* first_untried(int64_t now) noexcept;
    bool retire_idle_lanes(const Dispatch& dispatch, uint32_t executor, int64_t now) noexcept;
    bool park(const Dispatch& dispatch, uint32_t seen) noexcept;
    bool sleep(uint32_t seen, int64_t until_ns) noexcept;
    bool work_comes(uint32_t seen) noexcept;
    int64_t check_executors(int64_t now) noexcept;
    void replace(const std::shared_ptr<Executor>& executor, Reason reason, bool respawn) noexcept;
    bool has_left(Lane& lane, int64_t until_ns) noexcept;
    uint32_t abandon_lane(Lane& lane) noexcept;

    // flights.cpp
    enum class Looked : uint8_t { nothing, landed, lost };
    Flight flight_of(Lane& lane, Batch& batch) noexcept;
    bool has_flights(const Lane& lane) noexcept;
    Looked look(Executor& me);
    Looked look_at(Executor& me, size_t flight);
    Looked landed(Executor& me, size_t flight);
    Looked abandon(Executor& me, size_t flight, Reason reason);
    Looked seat_is_free(Executor& me, size_t flight);
    void leave_seat(Lane& lane, Batch& batch) noexcept;
    void leave_ticket(Batch& batch) noexcept;
    void free_seat(Flight& flight) noexcept;
    void remove(Executor& me, size_t flight) noexcept;
    void release_orphans() noexcept;
    void drop_flights(Executor& me);
    void orphan_flights(Executor& executor) noexcept;
    void adopt_flights(Executor& me) noexcept;
    int64_t next_look_ns(const Flight& flight, int64_t now) const noexcept;
    Looked await(Executor& me, const Dispatch& dispatch, uint32_t seen, bool* woken);
    void forget_seats(const Lane& lane) noexcept;
    bool is_stuck_looking(const Executor& executor, int64_t since_ns) const noexcept;
    void lose_flights(Executor& executor, std::vector<LostBatch>& lost);

    ExecutorOptions options_;
    SharedExecutors shared_;
    Mutex lock_;
    std::vector<std::shared_ptr<Executor>> executors_;            // lock
    std::array<bool, SharedExecutors::EXECUTORS_MAX> missing_{};  // lock: executors that have no thread
    std::vector<Lane*> active_;                                   // lock: lanes that had work at the last look
    std::vector<Flight> orphans_;                                 // lock: flights without an executor
    std::atomic<Lane*> announced_{nullptr};                       // a stack, linked by Lane::next_announced
    std::atomic<uint32_t> work_{0};  // futex; changes whenever a parked executor should look
    std::atomic<uint32_t> parked_{0};
    std::atomic_flag watching_;  // one executor at a time polls for work before it sleeps
    std::atomic<bool> stopping_{false};
    std::mutex start_lock_;  // one start at a time: the second caller finds the threads, or the system's refusal
    std::atomic<bool> started_{false};
    uint32_t threads_made_ = 0;      // lock
    std::atomic<uint32_t> lost_{0};  // threads that were replaced and have not come back
    std::atomic<uint64_t> replaced_{0}, abandoned_{0};
    std::atomic<uint32_t> missing_count_{0};
    std::atomic<uint64_t> refused_{0};
    DecayingQuantile handoff_{0.5, 256};  // from a submission to the executor that it woke
    DeadlineTimer deadline_timer_;
};

}  // namespace engine::scheduler
