// One simulated runtime. simulator.cpp has the clock, admission and the swaps; executors.cpp forms and runs batches;
// fallback.cpp answers the requests that the primary does not.
#pragma once

#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "scheduler/cost.hpp"
#include "scheduler/fair_share.hpp"
#include "scheduler/margin.hpp"
#include "scheduler/policy.hpp"
#include "scheduler/row_search.hpp"
#include "simulator/environment.hpp"
#include "simulator/invariants.hpp"
#include "simulator/metrics.hpp"
#include "simulator/version.hpp"

namespace engine::simulator {

class Simulator {
public:
    explicit Simulator(const SimulationPlan& plan);
    ~Simulator();
    Simulator(const Simulator&) = delete;
    Simulator& operator=(const Simulator&) = delete;
    SimulationResult run();

private:
    enum class Kind : uint8_t {
        arrival,
        timeout,  // a request's timed wait is over
        cancel,   // its caller gives up
        fallback_done,
        fallback_dropped,  // its core came too late to run the fallback
        score_done,        // of a batch: a scoring call has returned
        flight_overdue,    // of a batch: it may have to be given up
        check_executors,   // executors that may be stuck
        woken,             // an executor, by a submission
        look_again,        // an executor held a batch back until now
        swap,
        die,  // of a fault
        revive,
    };

    struct Event {
        int64_t at_ns;
        uint64_t order;   // of scheduling: breaks ties, so that equal instants have one order
        uint32_t index;   // of the request, the batch or the fault
        uint32_t serial;  // of the request or the batch: an event with an older serial is stale
        Kind kind;
    };

    struct Later {
        bool operator()(const Event& a, const Event& b) const noexcept {
            return a.at_ns != b.at_ns ? a.at_ns > b.at_ns : a.order > b.order;
        }
    };

    // The caller's side of a request, from arrival to its answer.
    struct Request : Judged {
        int64_t finish_by_ns, wakes_ns;
        int64_t timer_term_ns, fallback_term_ns, crowd_term_ns;  // what the safety margin allowed for
        Deployment* deployment;  // its own reference where it has no slot, else the slot's
        uint32_t serial = 0;
        uint32_t slot;        // NO_SLOT when it was rejected at admission
        uint32_t generation;  // of the slot
        Reason reason;
        bool open = false;
        bool falling_back, on_core;  // its fallback runs, or waits for a core
        bool excused;                // an event larger than the safety margin has befallen it
        bool hopeless;               // it came with less time than the fallback takes
    };

    // One model, as its Runtime has it.
    struct Model {
        Model(const SimulationPlan& plan, const SimulatedModel& model, SharedExecutors& shared)
            : simulated(model),
              cost(plan.batch_rows_max),
              policy(limits_of(plan), cost, shared, model.weight),
              slots(plan.queue_rows_max, sizeof(double), SimulatedVersion::OUTPUTS) {}
        // A canary.
        Model(const SimulationPlan& plan, const SimulatedModel& model, Model& live)
            : simulated(model),
              cost(plan.batch_rows_max),
              policy(limits_of(plan), cost, live.policy),
              slots(plan.queue_rows_max, sizeof(double), SimulatedVersion::OUTPUTS) {}
        static PolicyLimits limits_of(const SimulationPlan& plan) {
            return {plan.batch_rows_max, plan.queue_rows_max, plan.executors, plan.budget_ns};
        }

        const SimulatedModel& simulated;
        CostModel cost;
        Policy policy;
        SlotTable slots;
        SlotStack submitted;
        Deployment* current = nullptr;
        uint64_t queued = 0;  // our own count, to check the policy's
        bool active = false;  // in active_
        bool tried = false;
        std::vector<uint32_t> seats;  // by seat: its batch, NO_SLOT for none
        int64_t device_free_ns = 0;   // a serial device's
        int64_t started_ns = 0;       // when its latest batch was
    };

    struct Batch {
        Place place{0};
        uint32_t serial = 0, model = 0;
        int64_t began_ns = 0, ends_ns = 0;
        uint32_t rows = 0;
        uint32_t from = 0, to = 0;  // the rows under way: those of one deployment
        RowSearch search{0};        // … and how far they are
        uint32_t call_rows = 0;     // of the scoring call under way
        Deployment* calling = nullptr;
        bool last_ok = true;  // every row of the last call got an answer of the primary
        bool blamed = true;   // a row was counted for the last failed call
        bool giving_up = false;
        bool hurried = false;         // a group that failed may be given up
        Reason failure = Reason::ok;  // of the last failed call
        bool orphan = false;          // its executor has been replaced or has died, or it was abandoned on its device
        bool seated = false;          // on a device, with a seat of the model
        bool held = false;            // an orphan that holds a reference to its deployment
        std::vector<Entry> entries;
        std::vector<int64_t> predicted_ns;
    };

    struct Executor {
        uint32_t batch = NO_SLOT;
        bool replaced = false;
        uint32_t deaths = 0;  // faults that keep it dead at present
    };

    // simulator.cpp
    void calibrate(Model& model, double factor);
    void schedule_faults();
    void schedule(int64_t at_ns, Kind kind, uint32_t index, uint32_t serial);
    bool jumped(int64_t next_ns);
    void handle(const Event& event);
    void check_counts();
    Deployment* deploy(double factor);
    void swap(uint32_t fault);
    SimulationResult finish();
    void arrive();
    void enqueue(uint32_t index);
    Reason rejection(const Request& request, int64_t* predicted_ns);
    Model& model_of(const Request& request) noexcept { return models_[request.model]; }
    uint32_t take_request();
    bool sabotaged(Invariant which) noexcept;

    // executors.cpp
    void wake_executor();
    void form_batches();
    bool form_batch(uint32_t executor);
    void take_submissions(Model& model);
    uint32_t first_untried();
    BatchPlan form_batch_of(uint32_t model, Place place);
    std::optional<Place> next_place(const Model& model, uint32_t executor) const;
    uint32_t& batch_at(Model& model, Place place);
    uint32_t idle_executor() const;
    void attend_flights();
    void attend(uint32_t batch);
    void abandon(uint32_t batch);
    void seat_is_free(uint32_t batch);
    void forget_seats(uint32_t model);
    int64_t patience_ns(const Batch& batch) const;
    uint32_t place_rows_max(const Model& model) const;
    void check_in_flight(uint32_t batch);
    Claim claim(const Entry& entry, Batch& batch);
    // left_queued: unanswered requests that still wait, without those dropped just now.
    void start_batch(uint32_t batch, const BatchPlan& plan, uint64_t left_queued);
    bool live_can_wait(const Batch& batch);
    void start_run(uint32_t batch);
    uint32_t next_rows(Batch& batch, const RowFailures& failures);
    void start_call(uint32_t batch, uint32_t rows);
    void next_call(uint32_t batch);
    void give_up_row(uint32_t batch);
    void score_done(uint32_t batch);
    void deliver(Model& model, const Entry& entry, const double* values);
    void batch_done(uint32_t batch);
    int64_t hung_at_ns(uint32_t executor) noexcept;
    void suspect(uint32_t model);
    void check_executors();
    void replace(uint32_t executor);
    void set_alive(uint32_t fault, bool alive);
    void drop_batch_of(uint32_t executor);
    uint32_t take_batch();
    bool probing(const Batch& batch) const noexcept;

    // fallback.cpp
    bool take_from_executors(Model& model, const Entry& entry);
    void fail(Model& model, const Entry& entry, Reason reason);
    void time_out(uint32_t index);
    void cancel(uint32_t index);
    void fall_back(uint32_t index, Reason reason);
    void answer(uint32_t index, Source source, Reason reason, double* values);
    void close(uint32_t index);
    static uint32_t request_of(Model& model, uint32_t slot) noexcept {
        return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(model.slots[slot].user));
    }

    const SimulationPlan& plan_;
    SimulatedEnvironment environment_;
    SimulationMetrics metrics_;
    SimulationResult& result_;
    InvariantChecker checker_;
    SafetyMargin margin_;
    SharedExecutors shared_;
    std::deque<Model> models_;
    std::vector<std::pair<uint32_t, uint32_t>> flights_;  // batches on devices to look at, with their serials
    std::vector<uint32_t> active_;                        // models that had work at the last look
    uint32_t touched_ = 0;                                // the model of the latest event

    int64_t now_ns_ = SimulatedEnvironment::START_NS;
    int64_t not_before_ns_ = 0;  // where the last jump of the clock landed
    int64_t jumps_ns_ = NEVER_NS, jump_by_ns_ = 0;
    uint64_t scheduled_ = 0, arrived_ = 0;
    std::vector<Event> events_;
    std::deque<Request> requests_;  // a deque: references stay good while one is added
    std::vector<uint32_t> free_requests_;
    std::vector<Batch> batches_;
    std::vector<uint32_t> free_batches_;
    std::vector<Executor> executors_;
    std::vector<int64_t> core_free_ns_;
    std::vector<double> out_, rows_;
    std::vector<double> version_factors_;  // of version 1, 2, …
    uint64_t versions_alive_ = 0;
    uint64_t queued_ = 0;        // our own counts, to check the checker's own
    uint64_t running_ = 0;       // unanswered requests that an executor is at work on
    uint64_t falling_back_ = 0;  // requests on their way to a fallback
    uint32_t on_cores_ = 0;      // fallbacks that run or wait for a core
    int64_t look_again_ns_ = NEVER_NS, check_executors_ns_ = NEVER_NS;
    uint32_t lost_ = 0;       // executors that were replaced and have not come back
    bool waking_ = false;     // an executor is on its way out of its sleep
    int64_t started_ns_ = 0;  // when the latest batch was
    size_t sabotage_ = INVARIANTS;
    int64_t sabotage_from_ns_ = NEVER_NS;
};

}  // namespace engine::simulator
