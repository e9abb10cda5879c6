// The scheduling policy under any sequence of operations, against a slow model of what it may do.
//
// The input is read as operations: requests arrive and are admitted or rejected, leave (their fallback took them), are
// pushed, batches form, run and finish on one of the executors, and time goes on. Two models may share the executors.
// The reference keeps every request in a plain list and checks each decision against the promises of policy.hpp.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "scheduler/policy.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr uint32_t BATCH_ROWS_MAX = 8, QUEUE_ROWS_MAX = 24, EXECUTORS = 3;
constexpr int64_t START_NS = 1'000'000'000, PROBE_IDLE_NS = 50'000'000;

#define PROMISE(condition, words)                                                 \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::fprintf(stderr, "broken promise: %s (%s)\n", words, #condition); \
            std::abort();                                                         \
        }                                                                         \
    } while (0)

// Reads the input byte by byte; zeros follow its end.
struct Input {
    const uint8_t* at;
    const uint8_t* end;
    bool empty() const { return at == end; }
    uint32_t byte() { return empty() ? 0 : *at++; }
    // Lengths of time from 0 to about 500 ms, most of them short.
    int64_t length_ns() {
        const uint32_t shift = byte() % 22;
        return int64_t{byte()} << shift;
    }
};

enum class Fate { queued, running, gone };

struct Reference {
    int64_t finish_by_ns = 0;
    Priority priority = Priority::normal;
    Ticket ticket;
    Fate fate = Fate::queued;
    bool in_queue = true;  // the policy still has an entry of it
};

struct Model {
    CostModel cost{BATCH_ROWS_MAX};
    Policy policy;
    std::vector<Reference> requests;

    Model(SharedExecutors& shared, double weight)
        : policy({BATCH_ROWS_MAX, QUEUE_ROWS_MAX, EXECUTORS}, cost, shared, weight) {}

    uint32_t live() const {
        return static_cast<uint32_t>(
            std::count_if(requests.begin(), requests.end(), [](const auto& r) { return r.fate == Fate::queued; }));
    }
    uint32_t live(Priority priority) const {
        return static_cast<uint32_t>(std::count_if(requests.begin(), requests.end(), [&](const auto& r) {
            return r.fate == Fate::queued && r.priority == priority;
        }));
    }
    size_t in_queue() const {
        return static_cast<size_t>(
            std::count_if(requests.begin(), requests.end(), [](const auto& r) { return r.in_queue; }));
    }
    void check() const {
        PROMISE(policy.live() == live(), "the policy counts the live requests");
        for (int p = 0; p < PRIORITIES; ++p)
            PROMISE(policy.live(static_cast<Priority>(p)) == live(static_cast<Priority>(p)),
                    "… and each class of them");
        PROMISE(policy.depth() == in_queue(), "the queue holds what was pushed and not yet formed");
        PROMISE(policy.prediction_error_ns() >= 0, "a margin is no less than zero");
    }
};

struct Running {
    Model* model = nullptr;
    std::vector<uint32_t> rows;
    int64_t began_ns = 0;
};

class Environment {
public:
    explicit Environment(Input& input) : input_(input), shared_(EXECUTORS) {
        models_.push_back(std::make_unique<Model>(shared_, 1.0));
        if (input_.byte() % 2) models_.push_back(std::make_unique<Model>(shared_, 3.0));
        for (auto& model : models_)
            if (input_.byte() % 4)
                for (uint32_t rows = 1; rows <= BATCH_ROWS_MAX; rows *= 2)
                    model->cost.prime(rows, 1'000 + input_.length_ns() + 10'000 * rows);
    }

    void step() {
        const uint32_t operation = input_.byte() % 8;
        Model& model = *models_[input_.byte() % models_.size()];
        switch (operation) {
            case 0:
            case 1: return arrive(model);
            case 2: return leave(model);
            case 3:
            case 4: return form(model);
            case 5: return finish();
            case 6: now_ns_ += input_.length_ns(); return;
            default: return model.policy.missed_prediction_by(input_.length_ns(), now_ns_);
        }
    }
    void check() const {
        for (const auto& model : models_) model->check();
        const int64_t total = shared_.work.total();
        PROMISE(total >= 0, "queued work is no less than zero");
        PROMISE(shared_.work.before(now_ns_, now_ns_ + NEVER_NS) == total, "past the horizon all work is ahead");
        uint32_t working = 0;
        PROMISE(shared_.first_free_ns(now_ns_, &working) >= now_ns_, "no executor is free before now");
        PROMISE(working <= EXECUTORS, "no more executors work than there are");
    }
    // As an engine closes: everything leaves, and nothing is left.
    void close() {
        while (busy() > 0) finish();
        for (auto& model : models_) {
            for (Reference& request : model->requests)
                if (request.fate == Fate::queued) take(*model, request);
            Entry none[BATCH_ROWS_MAX];
            const BatchPlan plan = model->policy.form(
                2 * NEVER_NS, none, [](const Entry&) { return Claim::gone; },
                [&](const Entry& entry) { model->requests[entry.slot].in_queue = false; });
            PROMISE(plan.rows == 0 && model->policy.depth() == 0, "as of the end of time everything is dropped");
        }
        check();
        PROMISE(shared_.work.total() == 0, "no work is left of an empty queue");
    }

private:
    static void take(Model& model, Reference& request) {
        model.policy.leave(request.ticket);
        request.fate = Fate::gone;
    }

    void arrive(Model& model) {
        const auto priority = static_cast<Priority>(input_.byte() % PRIORITIES);
        const int64_t finish_by_ns = now_ns_ + input_.length_ns() - static_cast<int64_t>(input_.byte());
        int64_t predicted_ns = -1;
        const uint32_t live = model.live();
        const Verdict verdict = model.policy.admit(now_ns_, finish_by_ns, priority, &predicted_ns);
        PROMISE((verdict == Verdict::full) == (live >= QUEUE_ROWS_MAX), "full means that the queue is at its bound");
        PROMISE(verdict != Verdict::shed || priority != Priority::critical, "a critical request is never shed");
        if (verdict != Verdict::admit) return model.policy.rejected(now_ns_);
        PROMISE(predicted_ns >= now_ns_, "no request is expected to finish before it came");
        if (model.in_queue() >= QUEUE_ROWS_MAX) return;  // no slot is free
        Reference request{finish_by_ns, priority, {}, Fate::queued, true};
        request.ticket = model.policy.enter(now_ns_, finish_by_ns, priority);
        model.requests.push_back(request);
        model.policy.push({finish_by_ns, static_cast<uint32_t>(model.requests.size() - 1), 1, priority}, now_ns_);
    }

    void leave(Model& model) {
        if (model.requests.empty()) return;
        Reference& request = model.requests[input_.byte() % model.requests.size()];
        if (request.fate == Fate::queued) take(model, request);
    }

    void form(Model& model) {
        const uint32_t executor = free_executor();
        if (executor == EXECUTORS) return;
        if (model.policy.depth() > 0) {
            const Policy::Rank rank = model.policy.rank(now_ns_);
            PROMISE(!(rank < rank), "a model does not go before itself");
        }
        const bool idle = busy() == 0 && now_ns_ - started_ns_ > PROBE_IDLE_NS;
        const bool classes_first = shared_.classes_first(now_ns_);
        Entry batch[BATCH_ROWS_MAX];
        std::vector<Entry> taken, dropped;
        const BatchPlan plan = model.policy.form(
            now_ns_, batch,
            [&](const Entry& entry) {
                Reference& request = model.requests[entry.slot];
                PROMISE(request.in_queue, "an entry leaves the queue once");
                request.in_queue = false;
                if (request.fate != Fate::queued) return Claim::gone;
                model.policy.leave(request.ticket);
                request.fate = Fate::running;
                taken.push_back(entry);
                return Claim::taken;
            },
            [&](const Entry& entry) {
                PROMISE(model.requests[entry.slot].in_queue, "an entry leaves the queue once");
                model.requests[entry.slot].in_queue = false;
                dropped.push_back(entry);
            });
        check_batch(model, plan, batch, taken, idle, classes_first);
        for (const Entry& entry : dropped) {
            PROMISE(!entry.shed || entry.priority != Priority::critical, "a critical request is never shed");
            if (model.requests[entry.slot].fate == Fate::queued) take(model, model.requests[entry.slot]);
        }
        if (plan.rows > 0) start(executor, model, plan, batch);
    }

    void check_batch(const Model& model, const BatchPlan& plan, const Entry* batch, const std::vector<Entry>& taken,
                     bool idle, bool classes_first) const {
        PROMISE(plan.rows == taken.size() && plan.rows <= BATCH_ROWS_MAX, "a batch is what was claimed, and bounded");
        PROMISE(!plan.holding || (plan.rows == 0 && plan.wait_until_ns > now_ns_ && plan.wait_until_ns < NEVER_NS),
                "an executor holds a batch back for a time");
        if (plan.rows == 0) return;
        int64_t first_ns = NEVER_NS;
        for (uint32_t i = 0; i < plan.rows; ++i) first_ns = std::min(first_ns, batch[i].finish_by_ns);
        const bool able = now_ns_ + model.cost.high_ns(plan.rows) <= first_ns;
        PROMISE(able || (plan.rows == 1 && idle && first_ns > now_ns_), "a batch is able to finish, or a probe");
        for (uint32_t i = 1; i < plan.rows; ++i) {
            if (classes_first) PROMISE(batch[i - 1].priority <= batch[i].priority, "class goes before deadline");
            else PROMISE(batch[i - 1].finish_by_ns <= batch[i].finish_by_ns, "the earliest goes first");
        }
        if (classes_first) return;
        for (const Reference& request : model.requests)
            PROMISE(!request.in_queue || request.fate != Fate::queued || request.finish_by_ns >= batch[0].finish_by_ns,
                    "no request that waits on is earlier than the head of the batch");
    }

    void start(uint32_t executor, Model& model, const BatchPlan& plan, const Entry* batch) {
        Running& running = running_[executor];
        running.model = &model;
        running.began_ns = started_ns_ = now_ns_;
        for (uint32_t i = 0; i < plan.rows; ++i) running.rows.push_back(batch[i].slot);
        model.policy.started(executor, plan.rows, now_ns_);
    }

    void finish() {
        for (uint32_t e = 0; e < EXECUTORS; ++e) {
            Running& running = running_[e];
            if (running.model == nullptr) continue;
            if (input_.byte() % 8 == 0) running.model->policy.lost(e);
            else
                running.model->policy.finished(e, static_cast<uint32_t>(running.rows.size()), now_ns_,
                                               input_.byte() % 8);
            for (const uint32_t row : running.rows) running.model->requests[row].fate = Fate::gone;
            running.rows.clear();
            running.model = nullptr;
            return;
        }
    }

    uint32_t free_executor() const {
        uint32_t e = 0;
        while (e < EXECUTORS && running_[e].model != nullptr) ++e;
        return e;
    }
    uint32_t busy() const {
        return static_cast<uint32_t>(
            std::count_if(running_, running_ + EXECUTORS, [](const Running& r) { return r.model != nullptr; }));
    }

    Input& input_;
    SharedExecutors shared_;
    std::vector<std::unique_ptr<Model>> models_;
    Running running_[EXECUTORS];
    int64_t now_ns_ = START_NS;
    int64_t started_ns_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input{data, data + std::min<size_t>(size, 2'000)};
    Environment environment(input);
    while (!input.empty()) {
        environment.step();
        environment.check();
    }
    environment.close();
    return 0;
}
