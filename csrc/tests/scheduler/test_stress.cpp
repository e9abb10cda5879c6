// Everything at once, for as long as ENGINE_STRESS_S says (two seconds unless it does): several runtimes on shared
// executors, priorities, hedges, swaps, cancelled requests, models that fail, answer NaN, stall and come back late,
// some of them on devices with batches in flight, event loops and groups, runtimes that open and close while others are
// busy. Every answer is checked; ASan and TSan watch the threads. ENGINE_SEED replays the draws, though not the
// interleaving.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "scheduler/runtime.hpp"
#include "tests/check.hpp"
#include "tests/scheduler/loop.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr int64_t US = 1'000, MS = 1'000'000;
constexpr int64_t BUDGET_NS = 2 * MS;
constexpr double PER_VERSION = 1e6, BY_FALLBACK = 0.5;

uint64_t seed_of_run() {
    const char* given = std::getenv("ENGINE_SEED");
    static const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    return seed;
}

double seconds_of_run() {
    const char* given = std::getenv("ENGINE_STRESS_S");
    return given ? std::atof(given) : 2.0;
}

// Small and good enough: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), one a thread.
struct Random {
    uint64_t state;
    explicit Random(uint64_t stream) : state(seed_of_run() * 0x9E3779B97F4A7C15 + stream) {}
    uint64_t next() {
        uint64_t z = state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
    uint64_t below(uint64_t n) { return next() % n; }
    bool one_in(uint64_t n) { return below(n) == 0; }
};

struct Findings {
    std::atomic<uint64_t> answers{0}, wrong_values{0}, wrong_versions{0}, wrong_reasons{0}, twice{0}, missing{0},
        miscounted{0}, leaked{0}, stuck{0}, swaps{0}, cancels{0}, runtimes{0}, replaced{0}, abandoned{0};
};

void busy(int64_t ns) {
    for (const int64_t until = now_ns() + ns; now_ns() < until;) {
    }
}

// A model whose answers tell its version and its row, and whose calls go wrong by chance. Counts those alive.
struct Model {
    struct Ticket {
        std::vector<double> answers;
        int64_t ready_ns = 0;
        int status = ENGINE_SCORE_OK;
        bool out = false, abandoned = false;
    };

    static inline std::atomic<int> alive{0};
    static inline std::atomic<uint64_t> breaches{0};  // of the rules of begin(), poll() and abandon()
    static constexpr uint32_t ROWS_MAX = 5;
    std::atomic<uint32_t> references{1};
    std::atomic<uint64_t> draws;
    double added;
    bool faulty;
    std::mutex lock;
    std::vector<Ticket> tickets;  // as many as batches may be out; none for a model that is called

    Model(uint64_t version, double more, bool may_fail, uint32_t lanes = 0)
        : draws(seed_of_run() ^ (version << 32)),
          added(PER_VERSION * static_cast<double>(version) + more),
          faulty(may_fail),
          tickets(lanes) {
        alive.fetch_add(1);
    }
    ~Model() { alive.fetch_sub(1); }

    void answer(const float* rows, size_t n, size_t stride, double* out) const {
        for (size_t r = 0; r < n; ++r)
            out[r] = added + static_cast<double>(rows[r * stride]) + 1000.0 * static_cast<double>(rows[r * stride + 1]);
    }

    static int begin(void* ctx, const float* rows, size_t n, size_t stride, uint32_t* ticket) {
        auto* self = static_cast<Model*>(ctx);
        Random random(self->draws.fetch_add(1, std::memory_order_relaxed));
        if (n == 0 || n > ROWS_MAX) breaches.fetch_add(1);
        const uint64_t draw = random.below(400);
        if (draw < 2) return ENGINE_SCORE_FAILED;
        if (draw < 5) return ENGINE_SCORE_BUSY;
        const std::lock_guard<std::mutex> holding(self->lock);
        for (uint32_t i = 0; i < self->tickets.size(); ++i) {
            Ticket& free = self->tickets[i];
            if (free.out) continue;
            free = Ticket{};
            free.out = true;
            free.answers.resize(n);
            self->answer(rows, n, stride, free.answers.data());
            if (draw == 5) free.answers[0] = std::nan("");
            if (draw == 6 || draw == 7) free.status = ENGINE_SCORE_BAD_SHAPE;
            const int64_t hangs = draw < 14 ? BUDGET_NS + static_cast<int64_t>(random.below(3 * BUDGET_NS)) : 0;
            free.ready_ns = now_ns() + 50 * US + static_cast<int64_t>(random.below(300 * US)) + hangs;
            *ticket = i;
            return ENGINE_SCORE_OK;
        }
        return ENGINE_SCORE_BUSY;
    }
    static int poll(void* ctx, uint32_t index, double* out) {
        auto* self = static_cast<Model*>(ctx);
        const std::lock_guard<std::mutex> holding(self->lock);
        Ticket& ticket = self->tickets[index % self->tickets.size()];
        if (!ticket.out || ticket.abandoned != (out == nullptr)) breaches.fetch_add(1);
        if (now_ns() < ticket.ready_ns) return ENGINE_SCORE_PENDING;
        if (out != nullptr) std::copy(ticket.answers.begin(), ticket.answers.end(), out);
        ticket.out = false;
        return ticket.status;
    }
    static void abandon(void* ctx, uint32_t index) {
        auto* self = static_cast<Model*>(ctx);
        const std::lock_guard<std::mutex> holding(self->lock);
        Ticket& ticket = self->tickets[index % self->tickets.size()];
        if (!ticket.out || ticket.abandoned) breaches.fetch_add(1);
        ticket.abandoned = true;
    }

    static int score(void* ctx, const float* rows, size_t n, size_t stride, double* out) {
        auto* self = static_cast<Model*>(ctx);
        Random random(self->draws.fetch_add(1, std::memory_order_relaxed));
        bool nan = false;
        if (self->faulty) {
            const uint64_t draw = random.below(400);
            if (draw < 2) return ENGINE_SCORE_FAILED;
            if (draw < 4) return ENGINE_SCORE_BAD_SHAPE;
            nan = draw < 6;
            // About as long as an executor may be stuck before it is replaced, so that it often comes back just then.
            if (draw == 6)
                std::this_thread::sleep_for(
                    std::chrono::nanoseconds(BUDGET_NS + static_cast<int64_t>(random.below(2 * BUDGET_NS))));
            busy(10 * US + static_cast<int64_t>(n) * 5 * US);
        } else if (random.one_in(300)) {
            busy(MS);  // a fallback that was preempted
        }
        self->answer(rows, n, stride, out);
        if (nan) std::fill_n(out, n, std::nan(""));
        return ENGINE_SCORE_OK;
    }
    static void retain(void* ctx) { static_cast<Model*>(ctx)->references.fetch_add(1, std::memory_order_relaxed); }
    static void release(void* ctx) {
        auto* self = static_cast<Model*>(ctx);
        if (self->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete self;
    }
    engine_scorer scorer(bool reentrant) {
        const uint32_t flags = ENGINE_SCORER_NATIVE | (reentrant ? uint32_t{ENGINE_SCORER_REENTRANT} : 0u);
        engine_scorer scorer{ENGINE_SCORER_ABI, flags, 2, 1, this, score, nullptr, retain, release};
        if (tickets.empty()) return scorer;
        scorer.begin = begin;
        scorer.poll = poll;
        scorer.abandon = abandon;
        scorer.in_flight_max = static_cast<uint32_t>(tickets.size());
        scorer.rows_max = ROWS_MAX;
        return scorer;
    }
};

Deployment* deploy(uint64_t version, bool reentrant, uint32_t lanes) {
    auto* primary = new Model(version, 0.0, true, lanes);
    auto* fallback = new Model(version, BY_FALLBACK, false);
    const engine_scorer first = primary->scorer(reentrant), second = fallback->scorer(true);
    BreakerLimits breaker;
    breaker.rest_ns = MS;
    breaker.rest_ns_max = 5 * MS;
    auto* deployment = new Deployment(first, &second, false, version, breaker);
    Model::release(primary);
    Model::release(fallback);
    return deployment;
}

struct Row {
    float values[2];
    explicit Row(Random& random)
        : values{static_cast<float>(random.below(1000)), static_cast<float>(random.below(100))} {}
    double sum() const { return static_cast<double>(values[0]) + 1000.0 * static_cast<double>(values[1]); }
};

// One runtime and the deployment that its new requests come under.
struct Service {
    Findings& findings;
    bool reentrant, device;
    std::unique_ptr<Runtime> runtime;
    std::mutex swapping;
    Deployment* current;
    std::atomic<uint64_t> accounted{0};

    Service(Findings& found, const std::shared_ptr<Executors>& executors, double weight, bool overlapping,
            bool on_device = false)
        : findings(found), reentrant(overlapping), device(on_device), current(deploy(1, overlapping, lanes_of(1))) {
        RuntimeLimits limits;
        limits.slots = 96;
        limits.batch_rows_max = 8;
        limits.n_features = 2;
        limits.budget_ns = BUDGET_NS;
        limits.weight = weight;
        runtime = std::make_unique<Runtime>(limits, executors, false);
        runtime->set_primary(*current);
        runtime->start_threads(current, nullptr, 0);
        findings.runtimes.fetch_add(1);
    }
    ~Service() {
        if (runtime->close(NEVER_NS) != 0) findings.stuck.fetch_add(1);
        if (runtime->slots().in_use() != 0) findings.leaked.fetch_add(1);
        uint64_t counted = 0;
        for (int s = 0; s < SOURCES; ++s)
            for (int r = 0; r < REASONS; ++r)
                for (int p = 0; p < PRIORITIES; ++p) counted += runtime->answered(p, s, r);
        if (counted != accounted.load()) findings.miscounted.fetch_add(1);
        runtime.reset();
        current->release();
    }

    // A device's versions have lanes of several numbers, and some are called.
    uint32_t lanes_of(uint64_t version) const { return device ? static_cast<uint32_t>(version * 3 % 4) : 0; }

    void swap() {
        Deployment* next;
        {
            const std::lock_guard<std::mutex> lock(swapping);
            const uint64_t version = current->number() + 1;
            next = deploy(version, reentrant, lanes_of(version));
            runtime->set_primary(*next);
            std::swap(current, next);
        }
        next->release();
        findings.swaps.fetch_add(1, std::memory_order_relaxed);
    }
    Deployment* held() {
        const std::lock_guard<std::mutex> lock(swapping);
        current->retain();
        return current;
    }
    static Request request(Random& random, Deployment* deployment, const void* row) {
        constexpr int64_t BUDGETS[] = {0, 100 * US, 500 * US, BUDGET_NS, BUDGET_NS, BUDGET_NS, 5 * BUDGET_NS, 500 * MS};
        const int64_t now = now_ns();
        return {deployment,
                row,
                now,
                now,
                now + BUDGETS[random.below(std::size(BUDGETS))],
                static_cast<Priority>(random.below(PRIORITIES)),
                random.one_in(8)};
    }
    // Every answer passes here.
    void check(const Outcome& outcome, uint64_t version, double sum, double value, bool queued, bool synchronous) {
        findings.answers.fetch_add(1, std::memory_order_relaxed);
        accounted.fetch_add(1, std::memory_order_relaxed);
        runtime->account(outcome, now_ns(), queued, synchronous);
        const double due = PER_VERSION * static_cast<double>(version) + sum;
        const bool primary = outcome.source == Source::primary, fallback = outcome.source == Source::fallback;
        const bool right = primary ? value == due : fallback ? value == due + BY_FALLBACK : std::isnan(value);
        if (!right) findings.wrong_values.fetch_add(1);
        if (outcome.deployment != version) findings.wrong_versions.fetch_add(1);
        if (primary != (outcome.reason == Reason::ok)) findings.wrong_reasons.fetch_add(1);
    }

    void ask_inline(Random& random) {
        const Row row(random);
        Deployment* deployment = held();
        double out = 0.0;
        const Outcome outcome = runtime->predict_inline(request(random, deployment, row.values), &out);
        check(outcome, deployment->number(), row.sum(), out, false, true);
        deployment->release();
    }

    void ask_and_wait(Random& random) {
        const Row row(random);
        Deployment* deployment = held();
        const uint64_t version = deployment->number();
        double out = 0.0;
        Outcome outcome;
        const uint32_t slot = runtime->submit(request(random, deployment, row.values), {}, &outcome, &out);
        deployment->release();
        if (slot == NO_SLOT) return check(outcome, version, row.sum(), out, false, true);
        if (random.one_in(20)) {  // a caller that was interrupted and will not come back
            runtime->abandon(slot);
            findings.cancels.fetch_add(1, std::memory_order_relaxed);
            return;
        }
        while (!runtime->wait(slot)) {
        }
        check(runtime->outcome(slot), version, row.sum(), *runtime->values(slot), true, true);
        runtime->give_back(slot);
    }

    void ask_many_and_wait(Random& random) {
        const auto n = static_cast<uint32_t>(1 + random.below(24));
        std::vector<Row> rows;
        std::vector<int64_t> deadlines;
        Deployment* deployment = held();
        const Request all = request(random, deployment, nullptr);
        for (uint32_t i = 0; i < n; ++i) {
            rows.emplace_back(random);
            deadlines.push_back(all.deadline_ns + static_cast<int64_t>(random.below(static_cast<uint64_t>(MS))));
        }
        std::vector<uint32_t> slots(n), queued;
        std::vector<Outcome> outcomes(n);
        std::vector<double> out(n);
        Group group;
        Caller caller;
        caller.group = &group;
        bool done = runtime->submit_many(all, rows.data(), n, deadlines.data(), caller, slots.data(), outcomes.data(),
                                         out.data());
        for (const uint32_t slot : slots)
            if (slot != NO_SLOT) queued.push_back(slot);
        while (!done) done = runtime->wait_group(group, queued);
        for (uint32_t i = 0; i < n; ++i) {
            const bool was_queued = slots[i] != NO_SLOT;
            if (was_queued) {
                outcomes[i] = runtime->outcome(slots[i]);
                out[i] = *runtime->values(slots[i]);
                runtime->give_back(slots[i]);
            }
            check(outcomes[i], deployment->number(), rows[i].sum(), out[i], was_queued, true);
        }
        deployment->release();
    }
};

// One event loop that asks one service: many requests under way, answers through an eventfd, some cancelled.
class Loop {
public:
    Loop(Service& its, uint64_t stream) : service_(its), random_(stream) {}

    void run_once() {
        for (uint64_t burst = 1 + random_.below(12); burst > 0 && asked_.size() < 40; --burst) {
            if (random_.one_in(12)) ask_many();
            else ask();
        }
        service_.runtime->kick();
        if (random_.one_in(3)) cancel_one();
        pollfd ready{completions_.fd(), POLLIN, 0};
        poll(&ready, 1, 1);
        drain();
    }

    // Every request is answered, whatever became of the runtime.
    void finish() {
        for (const int64_t until = now_ns() + 20'000 * MS; completions_.pending > 0 && now_ns() < until;) {
            pollfd ready{completions_.fd(), POLLIN, 0};
            poll(&ready, 1, 10);
            drain();
        }
        service_.findings.missing.fetch_add(completions_.pending);
        service_.findings.missing.fetch_add(asked_.size());
    }

private:
    struct Asked {
        uint64_t version = 0;
        std::vector<Row> rows;
        std::vector<uint32_t> slots;
        std::vector<Outcome> outcomes;
        std::vector<double> out;
        std::unique_ptr<Group> group;
        bool cancelled = false;
    };

    Caller caller(uint64_t ticket, Group* group) {
        return {&completions_, group, reinterpret_cast<void*>(static_cast<uintptr_t>(ticket)), random_.one_in(4)};
    }

    void ask() {
        const uint64_t ticket = ++tickets_;
        Asked asked;
        asked.rows.emplace_back(random_);
        Deployment* deployment = service_.held();
        asked.version = deployment->number();
        Outcome outcome;
        double out = 0.0;
        const uint32_t slot = service_.runtime->submit(Service::request(random_, deployment, asked.rows[0].values),
                                                       caller(ticket, nullptr), &outcome, &out);
        deployment->release();
        if (slot == NO_SLOT) return service_.check(outcome, asked.version, asked.rows[0].sum(), out, false, false);
        asked.slots = {slot};
        completions_.pending += 1;
        asked_.emplace(ticket, std::move(asked));
    }

    void ask_many() {
        const uint64_t ticket = ++tickets_;
        const auto n = static_cast<uint32_t>(1 + random_.below(16));
        Asked asked;
        for (uint32_t i = 0; i < n; ++i) asked.rows.emplace_back(random_);
        asked.slots.resize(n);
        asked.outcomes.resize(n);
        asked.out.resize(n);
        asked.group = std::make_unique<Group>();
        Deployment* deployment = service_.held();
        asked.version = deployment->number();
        const Request all = Service::request(random_, deployment, nullptr);
        const std::vector<int64_t> deadlines(n, all.deadline_ns);
        const bool done = service_.runtime->submit_many(all, asked.rows.data(), n, deadlines.data(),
                                                        caller(ticket, asked.group.get()), asked.slots.data(),
                                                        asked.outcomes.data(), asked.out.data());
        deployment->release();
        if (done) return read_many(asked);
        completions_.pending += 1;
        asked_.emplace(ticket, std::move(asked));
    }

    void cancel_one() {
        if (asked_.empty()) return;
        auto it = asked_.begin();
        std::advance(it, static_cast<ptrdiff_t>(random_.below(asked_.size())));
        Asked& asked = it->second;
        if (asked.cancelled) return;
        asked.cancelled = true;
        service_.findings.cancels.fetch_add(1, std::memory_order_relaxed);
        if (asked.group != nullptr) {
            for (const uint32_t slot : asked.slots)
                if (slot != NO_SLOT) service_.runtime->abandon_row(slot);
        } else if (service_.runtime->abandon(asked.slots[0])) {
            completions_.pending -= 1;
            asked_.erase(it);
        }
    }

    void drain() {
        SlotTable& slots = service_.runtime->slots();
        for (uint32_t slot = completions_.take_all(slots); slot != NO_SLOT;) {
            const uint32_t following = slots[slot].next_done.load(std::memory_order_relaxed);
            finish_one(slot, reinterpret_cast<uintptr_t>(slots[slot].user));
            slot = following;
        }
    }

    void finish_one(uint32_t slot, uint64_t ticket) {
        const auto it = asked_.find(ticket);
        if (it == asked_.end()) {
            service_.findings.twice.fetch_add(1);
            return;
        }
        completions_.pending -= 1;
        Asked& asked = it->second;
        if (asked.group != nullptr) {
            read_many(asked);
        } else {
            if (!asked.cancelled)
                service_.check(service_.runtime->outcome(slot), asked.version, asked.rows[0].sum(),
                               *service_.runtime->values(slot), true, false);
            service_.runtime->give_back(slot);
        }
        asked_.erase(it);
    }

    void read_many(Asked& asked) {
        for (size_t i = 0; i < asked.rows.size(); ++i) {
            const bool queued = asked.slots[i] != NO_SLOT;
            if (queued && !asked.cancelled) {
                asked.outcomes[i] = service_.runtime->outcome(asked.slots[i]);
                asked.out[i] = *service_.runtime->values(asked.slots[i]);
            }
            if (queued) service_.runtime->give_back(asked.slots[i]);
            if (!asked.cancelled)
                service_.check(asked.outcomes[i], asked.version, asked.rows[i].sum(), asked.out[i], queued, false);
        }
    }

    Service& service_;
    Random random_;
    OwnCompletions own_ = make_completions();
    Completions& completions_ = *own_;
    std::unordered_map<uint64_t, Asked> asked_;
    uint64_t tickets_ = 0;
};

void ask_at_random(const std::vector<std::unique_ptr<Service>>& services, uint64_t stream,
                   const std::atomic<bool>& stop) {
    Random random(stream);
    while (!stop.load(std::memory_order_relaxed)) {
        Service& service = *services[random.below(services.size())];
        const uint64_t draw = random.below(10);
        if (draw < 2) service.ask_inline(random);
        else if (draw < 8) service.ask_and_wait(random);
        else service.ask_many_and_wait(random);
    }
}

// A runtime of its own on the shared executors, closed while it is being asked and asked a little longer.
void open_and_close(Findings& findings, const std::shared_ptr<Executors>& executors, uint64_t stream) {
    Random random(stream);
    std::vector<std::unique_ptr<Service>> services;
    const bool device = random.one_in(2);
    services.push_back(std::make_unique<Service>(findings, executors, 1.0, device || random.one_in(2), device));
    Service& service = *services[0];
    std::atomic<bool> stop{false};
    std::vector<std::thread> callers;
    callers.emplace_back([&] { ask_at_random(services, stream + 1, stop); });
    callers.emplace_back([&] {
        Loop loop(service, stream + 2);
        while (!stop.load(std::memory_order_relaxed)) loop.run_once();
        loop.finish();
    });
    std::this_thread::sleep_for(std::chrono::microseconds(5'000 + random.below(20'000)));
    if (service.runtime->close(NEVER_NS) != 0) findings.stuck.fetch_add(1);
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(2'000)));
    stop.store(true);
    for (std::thread& caller : callers) caller.join();
}

void stress(Findings& findings, double seconds) {
    ExecutorOptions options;
    options.threads = 2;
    const auto executors = Executors::make(options);
    {
        std::vector<std::unique_ptr<Service>> services;
        services.push_back(std::make_unique<Service>(findings, executors, 1.0, true));
        services.push_back(std::make_unique<Service>(findings, executors, 4.0, true));
        services.push_back(std::make_unique<Service>(findings, executors, 2.0, false));
        services.push_back(std::make_unique<Service>(findings, executors, 1.0, true, true));
        std::atomic<bool> stop{false};
        std::vector<std::thread> threads;
        for (uint64_t t = 0; t < 3; ++t) threads.emplace_back([&, t] { ask_at_random(services, 1'000 + t, stop); });
        for (uint64_t t = 0; t < 2; ++t)
            threads.emplace_back([&, t] {
                std::vector<std::unique_ptr<Loop>> loops;
                for (size_t i = 0; i < services.size(); ++i)
                    loops.push_back(std::make_unique<Loop>(*services[i], 2'000 + 10 * t + i));
                while (!stop.load(std::memory_order_relaxed))
                    for (const auto& loop : loops) loop->run_once();
                for (const auto& loop : loops) loop->finish();
            });
        threads.emplace_back([&] {
            Random random(3'000);
            while (!stop.load(std::memory_order_relaxed)) {
                services[random.below(services.size())]->swap();
                std::this_thread::sleep_for(std::chrono::microseconds(random.below(2'000)));
            }
        });
        threads.emplace_back([&] {
            for (uint64_t round = 0; !stop.load(std::memory_order_relaxed); ++round)
                open_and_close(findings, executors, 10'000 + 10 * round);
        });
        std::this_thread::sleep_for(std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)));
        stop.store(true);
        for (std::thread& thread : threads) thread.join();
    }
    findings.replaced = executors->replaced();
    findings.abandoned = executors->abandoned();
    executors->stop(NEVER_NS);
}

}  // namespace

TEST(every_request_gets_its_one_answer_whatever_happens) {
    Findings found;
    std::printf("seed %" PRIu64 ": replay with ENGINE_SEED=%" PRIu64 "\n", seed_of_run(), seed_of_run());
    std::fflush(stdout);
    stress(found, seconds_of_run());
    std::printf("%" PRIu64 " answers, %" PRIu64 " swaps, %" PRIu64 " cancels, %" PRIu64 " runtimes, %" PRIu64
                " executors replaced, %" PRIu64 " batches abandoned\n",
                found.answers.load(), found.swaps.load(), found.cancels.load(), found.runtimes.load(),
                found.replaced.load(), found.abandoned.load());
    CHECK(found.answers.load() > 0);
    CHECK(found.wrong_values.load() == 0);
    CHECK(found.wrong_versions.load() == 0);
    CHECK(found.wrong_reasons.load() == 0);
    CHECK(found.twice.load() == 0);
    CHECK(found.missing.load() == 0);
    CHECK(found.miscounted.load() == 0);
    CHECK(found.leaked.load() == 0);
    CHECK(found.stuck.load() == 0);
    CHECK(Model::alive.load() == 0);
    CHECK(Model::breaches.load() == 0);
}

CHECK_MAIN()
