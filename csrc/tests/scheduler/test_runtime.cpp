// The runtime under real threads: every request answered exactly once, whichever thread wins. Run under ASan and TSan.
#include <poll.h>

#include <array>
#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/threads.hpp"
#include "scheduler/reasons.hpp"
#include "scheduler/runtime.hpp"
#include "scheduler/shadow.hpp"
#include "tests/check.hpp"
#include "tests/scheduler/loop.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

// A scorer that adds up its row and, by switches, misbehaves.
struct Sum {
    std::atomic<uint32_t> references{1};
    std::atomic<bool> hang{false}, fail{false}, nan{false};
    std::atomic<int64_t> busy_ns{0};
    std::atomic<uint64_t> rows{0}, calls{0};
    std::atomic<bool> poisonable{false};  // a call fails that has a row whose first value is negative
    std::atomic<bool> hang_once{false};   // the first call that sees it hangs until `free_stuck`
    std::atomic<bool> free_stuck{false};
    std::atomic<int64_t> sets_up_ns{0};  // what the first call on each thread takes
    std::mutex lock;
    std::set<std::thread::id> threads;  // that have called it
    uint32_t flags = ENGINE_SCORER_REENTRANT | ENGINE_SCORER_NATIVE;
    double offset = 0.0;

    static int score(void* ctx, const float* rows, size_t n, size_t stride, double* out) {
        auto* self = static_cast<Sum*>(ctx);
        self->rows.fetch_add(n, std::memory_order_relaxed);
        self->calls.fetch_add(1, std::memory_order_relaxed);
        bool first;
        {
            const std::lock_guard<std::mutex> one(self->lock);
            first = self->threads.insert(std::this_thread::get_id()).second;
        }
        if (first) std::this_thread::sleep_for(std::chrono::nanoseconds(self->sets_up_ns.load()));
        const bool stuck = self->hang_once.exchange(false);
        while (self->hang.load(std::memory_order_acquire) || (stuck && !self->free_stuck.load()))
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        const int64_t until = now_ns() + self->busy_ns.load(std::memory_order_relaxed) * static_cast<int64_t>(n);
        while (now_ns() < until) {
        }
        if (self->fail.load(std::memory_order_relaxed)) return ENGINE_SCORE_FAILED;
        for (size_t r = 0; r < n && self->poisonable.load(std::memory_order_relaxed); ++r)
            if (rows[r * stride] < 0.0f) return ENGINE_SCORE_FAILED;
        for (size_t r = 0; r < n; ++r) {
            out[r] = self->offset;
            for (size_t c = 0; c < 2; ++c) out[r] += static_cast<double>(rows[r * stride + c]);
            if (self->nan.load(std::memory_order_relaxed)) out[r] = std::nan("");
        }
        return ENGINE_SCORE_OK;
    }
    static void retain(void* ctx) { static_cast<Sum*>(ctx)->references.fetch_add(1); }
    static void release(void* ctx) { static_cast<Sum*>(ctx)->references.fetch_sub(1); }

    engine_scorer scorer() { return {ENGINE_SCORER_ABI, flags, 2, 1, this, score, nullptr, retain, release}; }
};

constexpr int64_t MS = 1'000'000;

// A primary that adds nothing and a fallback that adds 1000, so a value tells who made it.
struct Fixture {
    Sum primary, fallback;
    Deployment* deployment;
    std::unique_ptr<Runtime> runtime;

    explicit Fixture(uint32_t slots = 256, uint32_t executors = 1, bool with_fallback = true)
        : Fixture(limits_of(slots), Executors::make(options_of(executors)), true, with_fallback) {}
    Fixture(const RuntimeLimits& limits, std::shared_ptr<Executors> executors, bool owns, bool with_fallback = true,
            uint32_t primary_flags = ENGINE_SCORER_REENTRANT | ENGINE_SCORER_NATIVE) {
        fallback.offset = 1000.0;
        primary.flags = primary_flags;
        const engine_scorer first = primary.scorer(), second = fallback.scorer();
        deployment = new Deployment(first, with_fallback ? &second : nullptr, false, 1);
        runtime = std::make_unique<Runtime>(limits, std::move(executors), owns);
    }
    static ExecutorOptions options_of(uint32_t threads) {
        ExecutorOptions options;
        options.threads = threads;
        return options;
    }
    static RuntimeLimits limits_of(uint32_t slots) {
        RuntimeLimits limits;
        limits.slots = slots;
        limits.batch_rows_max = 16;
        limits.n_features = 2;
        return limits;
    }
    Request request(const void* row, int64_t now, int64_t deadline_ns) const {
        return {deployment, row, now, now, deadline_ns};
    }
    ~Fixture() {
        runtime.reset();
        deployment->release();
        CHECK(primary.references.load() == 1);
        CHECK(fallback.references.load() == 1);
    }
    void start() {
        const std::array<float, 32> rows{};
        runtime->start_threads(deployment, rows.data(), 16);
        while (!runtime->warmed_up()) std::this_thread::yield();
    }
    // predict as a binding does it
    std::pair<Outcome, double> predict(float a, float b, int64_t budget_ns) {
        const float row[2] = {a, b};
        const int64_t started = now_ns();
        return predict(request(row, started, started + budget_ns));
    }
    std::pair<Outcome, double> predict(const Request& request) {
        double out = -1.0;
        Outcome outcome;
        const uint32_t slot = runtime->submit(request, {}, &outcome, &out);
        if (slot != NO_SLOT) {
            while (!runtime->wait(slot)) {
            }
            outcome = runtime->outcome(slot);
            out = *runtime->values(slot);
            runtime->account(outcome, now_ns(), true, true);
            runtime->give_back(slot);
        } else {
            runtime->account(outcome, now_ns(), false, true);
        }
        return {outcome, out};
    }
};

double expected_value(const Outcome& outcome, double sum) {
    return outcome.source == Source::primary ? sum : sum + 1000.0;
}

}  // namespace

TEST(inline_answers_by_the_primary) {
    Fixture fixture;
    const float row[2] = {1.0f, 2.5f};
    double out = 0.0;
    const int64_t now = now_ns();
    const Outcome outcome = fixture.runtime->predict_inline(fixture.request(row, now, now + 1000 * MS), &out);
    CHECK(outcome.source == Source::primary);
    CHECK(outcome.reason == Reason::ok);
    CHECK(out == 3.5);
}

TEST(inline_expired_gives_the_default) {
    Fixture fixture;
    const float row[2] = {1.0f, 2.5f};
    double out = 0.0;
    const int64_t now = now_ns();
    const Outcome outcome = fixture.runtime->predict_inline(fixture.request(row, now, now), &out);
    CHECK(outcome.source == Source::default_value);
    CHECK(outcome.reason == Reason::expired);
    CHECK(std::isnan(out));
    CHECK(fixture.primary.rows.load() == 0);
}

TEST(inline_failure_and_nan_fall_back) {
    Fixture fixture;
    const float row[2] = {1.0f, 2.0f};
    double out = 0.0;
    fixture.primary.fail = true;
    int64_t now = now_ns();
    Outcome outcome = fixture.runtime->predict_inline(fixture.request(row, now, now + 1000 * MS), &out);
    CHECK(outcome.source == Source::fallback && outcome.reason == Reason::primary_error && out == 1003.0);
    fixture.primary.fail = false;
    fixture.primary.nan = true;
    now = now_ns();
    outcome = fixture.runtime->predict_inline(fixture.request(row, now, now + 1000 * MS), &out);
    CHECK(outcome.source == Source::fallback && outcome.reason == Reason::primary_not_finite && out == 1003.0);
    fixture.fallback.fail = true;
    now = now_ns();
    outcome = fixture.runtime->predict_inline(fixture.request(row, now, now + 1000 * MS), &out);
    CHECK(outcome.source == Source::default_value && outcome.reason == Reason::fallback_error);
}

TEST(many_inline_in_any_deadline_order) {
    Fixture fixture;
    constexpr uint32_t N = 100;
    std::vector<float> rows(2 * N);
    std::vector<int64_t> deadlines(N);
    std::vector<Outcome> outcomes(N);
    std::vector<double> out(N);
    const int64_t now = now_ns();
    for (uint32_t i = 0; i < N; ++i) {
        rows[2 * i] = static_cast<float>(i);
        rows[2 * i + 1] = 0.5f;
        deadlines[i] = i % 10 == 0 ? now - 1 : now + 5000 * MS - (i * 37 % 100) * MS;
    }
    fixture.runtime->predict_many_inline(fixture.request(nullptr, now, 0), rows.data(), N, deadlines.data(), 0,
                                         outcomes.data(), out.data());
    for (uint32_t i = 0; i < N; ++i) {
        if (i % 10 == 0) {
            CHECK(outcomes[i].source == Source::default_value && outcomes[i].reason == Reason::expired);
        } else {
            CHECK(out[i] == expected_value(outcomes[i], i + 0.5));
            CHECK(outcomes[i].deadline_ns == deadlines[i]);
        }
    }
}

TEST(threads_each_get_their_own_answer) {
    Fixture fixture(64, 2);
    fixture.start();
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 300; ++i) {
                const auto [outcome, value] = fixture.predict(static_cast<float>(t), static_cast<float>(i), 1000 * MS);
                if (value != expected_value(outcome, t + i)) wrong.fetch_add(1);
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong.load() == 0);
    uint64_t answered = 0;
    for (int s = 0; s < SOURCES; ++s)
        for (int r = 0; r < REASONS; ++r)
            for (int p = 0; p < PRIORITIES; ++p) answered += fixture.runtime->answered(p, s, r);
    CHECK(answered == 8 * 300);
    fixture.runtime->close(NEVER_NS);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(a_hung_primary_gets_the_fallback_and_its_late_result_is_dropped) {
    Fixture fixture;
    fixture.start();
    fixture.primary.hang = true;
    // On a machine so busy that the timer itself wakes late, the default stands in for the fallback.
    const auto fell_back = [](const Outcome& outcome, double value, double sum) {
        return outcome.source == Source::fallback ? value == sum + 1000.0
                                                  : outcome.source == Source::default_value && std::isnan(value);
    };
    const auto [first, value] = fixture.predict(1.0f, 1.0f, 100 * MS);
    CHECK(fell_back(first, value, 2.0));
    CHECK(first.reason == Reason::timeout);
    const auto [second, again] = fixture.predict(2.0f, 1.0f, 100 * MS);
    CHECK(fell_back(second, again, 3.0));
    fixture.primary.hang = false;
    fixture.runtime->close(NEVER_NS);
    CHECK(fixture.runtime->counters().late_dropped.load() == 1);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(no_deadline_waits_for_a_slow_primary) {
    Fixture fixture;
    fixture.start();
    fixture.primary.busy_ns = 30 * MS;
    const auto [outcome, value] = fixture.predict(1.0f, 2.0f, NEVER_NS / 2);
    CHECK(outcome.source == Source::primary && value == 3.0);
}

TEST(close_answers_what_is_under_way) {
    Fixture fixture;
    fixture.start();
    fixture.primary.hang = true;
    std::vector<std::thread> threads;
    std::atomic<int> answered{0};
    const uint64_t warmed = fixture.primary.rows.load();
    for (int t = 0; t < 6; ++t) {
        threads.emplace_back([&] {
            const auto [outcome, value] = fixture.predict(1.0f, 2.0f, 3'600'000 * MS);
            if (value == 1003.0 && outcome.source == Source::fallback) answered.fetch_add(1);
        });
        while (fixture.primary.rows.load() == warmed) std::this_thread::yield();  // the first one runs, alone
    }
    while (fixture.runtime->slots().in_use() < 6) std::this_thread::yield();
    std::thread closer([&] { fixture.runtime->close(NEVER_NS); });
    while (answered.load() < 5) std::this_thread::yield();  // the queued ones, while the sixth still runs
    fixture.primary.hang = false;
    closer.join();
    for (std::thread& thread : threads) thread.join();
    const auto [late, value] = fixture.predict(1.0f, 2.0f, 1000 * MS);
    CHECK(late.reason == Reason::closing && value == 1003.0);
}

TEST(loops_get_every_completion_once) {
    Fixture fixture(128, 2);
    fixture.start();
    const OwnCompletions own = make_completions();
    Completions& loop = *own;
    constexpr int N = 2000;
    std::vector<int> seen(N, 0);
    int submitted = 0, done = 0, wrong = 0;
    while (done < N) {
        while (submitted < N && submitted - done < 100) {
            const float row[2] = {static_cast<float>(submitted), 0.0f};
            double out = 0.0;
            Outcome outcome;
            const int64_t started = now_ns();
            if (submitted == 700) fixture.primary.hang = true;
            if (submitted == 900) fixture.primary.hang = false;
            const Caller caller{&loop, nullptr, reinterpret_cast<void*>(static_cast<intptr_t>(submitted)), false};
            const uint32_t slot =
                fixture.runtime->submit(fixture.request(row, started, started + 20 * MS), caller, &outcome, &out);
            if (slot == NO_SLOT) {
                wrong += out != expected_value(outcome, submitted) && outcome.source != Source::default_value;
                ++seen[submitted];
                ++done;
            }
            ++submitted;
        }
        fixture.runtime->kick();
        pollfd ready{loop.fd(), POLLIN, 0};
        poll(&ready, 1, 100);
        for (uint32_t slot = loop.take_all(fixture.runtime->slots()); slot != NO_SLOT;) {
            Slot& answered = fixture.runtime->slots()[slot];
            const uint32_t next = answered.next_done.load();
            const auto number = static_cast<int>(reinterpret_cast<intptr_t>(answered.user));
            const Outcome outcome = fixture.runtime->outcome(slot);
            wrong += outcome.source != Source::default_value &&
                     *fixture.runtime->values(slot) != expected_value(outcome, number);
            ++seen[number];
            ++done;
            fixture.runtime->account(outcome, now_ns(), true, false);
            fixture.runtime->give_back(slot);
            slot = next;
        }
    }
    CHECK(wrong == 0);
    for (int i = 0; i < N; ++i) CHECK(seen[i] == 1);
    fixture.runtime->close(NEVER_NS);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(groups_complete_whatever_happens_to_their_rows) {
    Fixture fixture(64, 1);
    fixture.start();
    constexpr uint32_t N = 200;  // more than there are slots: some rows are rejected and settled at once
    for (int round = 0; round < 20; ++round) {
        fixture.primary.fail = round % 3 == 1;
        Group group;
        std::vector<float> rows(2 * N, 1.0f);
        std::vector<uint32_t> slots(N);
        std::vector<Outcome> outcomes(N);
        std::vector<double> out(N);
        const int64_t now = now_ns();
        const std::vector<int64_t> deadlines(N, now + 200 * MS);
        const Caller caller{nullptr, &group};
        bool done = fixture.runtime->submit_many(fixture.request(nullptr, now, 0), rows.data(), N, deadlines.data(),
                                                 caller, slots.data(), outcomes.data(), out.data());
        std::vector<uint32_t> queued;
        for (uint32_t slot : slots)
            if (slot != NO_SLOT) queued.push_back(slot);
        while (!done) done = fixture.runtime->wait_group(group, queued);
        for (uint32_t i = 0; i < N; ++i) {
            if (slots[i] != NO_SLOT) {
                outcomes[i] = fixture.runtime->outcome(slots[i]);
                out[i] = *fixture.runtime->values(slots[i]);
                fixture.runtime->give_back(slots[i]);
            }
            CHECK(outcomes[i].source == Source::default_value || out[i] == expected_value(outcomes[i], 2.0));
        }
    }
    fixture.runtime->close(NEVER_NS);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(swaps_under_load_mix_nothing_and_free_the_old) {
    Fixture fixture(64, 2);
    fixture.start();
    Sum other;
    other.offset = 5000.0;
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    // The binding's part of a swap: a caller keeps a reference to the deployment that it asks.
    std::mutex swapping;
    Deployment* current = fixture.deployment;
    current->retain();
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&] {
            while (!stop.load()) {
                const float row[2] = {1.0f, 1.0f};
                const int64_t started = now_ns();
                Request request = fixture.request(row, started, started + 1000 * MS);
                {
                    const std::lock_guard<std::mutex> lock(swapping);
                    request.deployment = current;
                    current->retain();
                }
                const auto [outcome, value] = fixture.predict(request);
                request.deployment->release();
                if (outcome.source != Source::primary) continue;
                const double due = outcome.deployment % 2 == 1 ? 2.0 : 5002.0;
                if (value != due) wrong.fetch_add(1);
            }
        });
    for (uint64_t number = 2; number < 200; ++number) {
        const engine_scorer scorer = number % 2 == 1 ? fixture.primary.scorer() : other.scorer();
        const engine_scorer spare = fixture.fallback.scorer();
        auto* next = new Deployment(scorer, &spare, false, number);
        {
            const std::lock_guard<std::mutex> lock(swapping);
            std::swap(current, next);
        }
        next->release();
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong.load() == 0);
    current->release();
    fixture.runtime.reset();
    CHECK(other.references.load() == 1);
}

// Submits rows as one group and waits for their answers.
std::vector<std::pair<Outcome, double>> many(Fixture& fixture, const std::vector<float>& firsts, int64_t budget_ns) {
    const auto n = static_cast<uint32_t>(firsts.size());
    std::vector<float> rows;
    for (const float first : firsts) rows.insert(rows.end(), {first, 0.5f});
    const int64_t now = now_ns();
    const std::vector<int64_t> deadlines(n, now + budget_ns);
    std::vector<uint32_t> slots(n);
    std::vector<Outcome> outcomes(n);
    std::vector<double> out(n);
    Group group;
    Caller caller;
    caller.group = &group;
    if (!fixture.runtime->submit_many(fixture.request(nullptr, now, 0), rows.data(), n, deadlines.data(), caller,
                                      slots.data(), outcomes.data(), out.data()))
        while (!fixture.runtime->wait_group(group, slots)) {
        }
    std::vector<std::pair<Outcome, double>> answers;
    for (uint32_t i = 0; i < n; ++i) {
        if (slots[i] != NO_SLOT) {
            outcomes[i] = fixture.runtime->outcome(slots[i]);
            out[i] = *fixture.runtime->values(slots[i]);
            fixture.runtime->give_back(slots[i]);
        }
        answers.emplace_back(outcomes[i], out[i]);
    }
    return answers;
}

// Good rows beside the negative ones are answered by the primary, and only those are blamed.
void check_poisoned(const std::vector<float>& firsts, const std::vector<std::pair<Outcome, double>>& answers) {
    for (size_t i = 0; i < firsts.size(); ++i) {
        const auto& [outcome, value] = answers[i];
        CHECK(outcome.reason == (firsts[i] < 0.0f ? Reason::primary_error : Reason::ok));
        CHECK(value == expected_value(outcome, static_cast<double>(firsts[i]) + 0.5));
    }
}

TEST(a_poisoned_row_takes_no_neighbour_along) {
    Fixture fixture;
    fixture.start();
    fixture.primary.poisonable = true;
    const std::vector<float> firsts{0, 1, 2, -3, 4, 5, 6, 7, 8, -9, 10, 11, 12, 13, 14, 15, 16, 17};
    check_poisoned(firsts, many(fixture, firsts, 10'000 * MS));
    CHECK(!fixture.deployment->breaker().open());
    const uint64_t before = fixture.primary.calls.load();
    check_poisoned(firsts, many(fixture, firsts, 10'000 * MS));
    // The rows are known by now: they go together, after the others.
    CHECK(fixture.primary.calls.load() - before <= 12);
}

TEST(the_breaker_counts_rows_that_fail_by_themselves) {
    Fixture fixture;
    fixture.start();
    fixture.primary.poisonable = true;
    std::vector<float> firsts(16, 1.0f);
    for (int i = 0; i < 40; ++i) {  // one bad row in sixteen, each with a value of its own
        firsts[static_cast<size_t>(i % 16)] = -1.0f - static_cast<float>(i);
        check_poisoned(firsts, many(fixture, firsts, 10'000 * MS));
        firsts[static_cast<size_t>(i % 16)] = 1.0f;
    }
    CHECK(fixture.deployment->breaker().openings() == 0);
}

TEST(a_primary_that_always_fails_opens_the_breaker_in_few_calls) {
    Fixture fixture;
    fixture.start();
    fixture.primary.fail = true;
    const uint64_t before = fixture.primary.calls.load();
    for (int i = 0; i < 10 && !fixture.deployment->breaker().open(); ++i) {
        for (const auto& [outcome, value] : many(fixture, std::vector<float>(64, 1.0f), 10'000 * MS)) {
            CHECK(outcome.source == Source::fallback && value == 1001.5);
            CHECK(outcome.reason == Reason::primary_error || outcome.reason == Reason::breaker_open);
        }
    }
    CHECK(fixture.deployment->breaker().openings() == 1);
    CHECK(fixture.primary.calls.load() - before <= 60);
}

TEST(many_inline_takes_no_neighbour_along) {
    Fixture fixture;
    fixture.primary.poisonable = true;
    constexpr uint32_t N = 40;
    std::vector<float> rows, firsts;
    for (uint32_t i = 0; i < N; ++i) {
        firsts.push_back(i % 13 == 5 ? -1.0f - static_cast<float>(i) : static_cast<float>(i));
        rows.insert(rows.end(), {firsts[i], 0.5f});
    }
    for (const bool scattered : {false, true}) {
        std::vector<int64_t> deadlines(N);
        std::vector<Outcome> outcomes(N);
        std::vector<double> out(N);
        const int64_t now = now_ns();
        for (uint32_t i = 0; i < N; ++i) deadlines[i] = now + 20'000 * MS + (scattered ? (i * 17 % 40) * MS : 0);
        fixture.runtime->predict_many_inline(fixture.request(nullptr, now, 0), rows.data(), N, deadlines.data(), 0,
                                             outcomes.data(), out.data());
        std::vector<std::pair<Outcome, double>> answers;
        for (uint32_t i = 0; i < N; ++i) answers.emplace_back(outcomes[i], out[i]);
        check_poisoned(firsts, answers);
    }
    CHECK(!fixture.deployment->breaker().open());
}

TEST(a_primary_that_is_still_out_is_not_called_and_has_not_failed) {
    Fixture fixture(Fixture::limits_of(256), Executors::make(Fixture::options_of(2)), true, true, ENGINE_SCORER_NATIVE);
    fixture.start();
    fixture.primary.hang = true;
    CHECK(fixture.predict(1.0f, 1.0f, 50 * MS).first.reason == Reason::timeout);
    while (fixture.runtime->executors().replaced() == 0) std::this_thread::yield();  // its call is lost
    const float row[2] = {1.0f, 1.0f};
    double out = 0.0;
    CHECK(fixture.deployment->score_primary(row, 1, nullptr, &out, NEVER_NS) == NOT_CALLED);
    CHECK(reason_of(NOT_CALLED) == Reason::stalled);
    CHECK(!is_failure(reason_of(NOT_CALLED)));
    for (int i = 0; i < 20; ++i) {
        const Reason reason = fixture.predict(2.0f, 1.0f, 50 * MS).first.reason;
        CHECK(reason == Reason::stalled || reason == Reason::breaker_open || reason == Reason::timeout ||
              reason == Reason::late || reason == Reason::no_time);
    }
    fixture.primary.hang = false;
    fixture.runtime->close(NEVER_NS);
}

TEST(one_call_at_a_time_holds_for_every_deployment_of_a_model) {
    Sum model;
    model.flags = ENGINE_SCORER_NATIVE;
    model.hang = true;
    const engine_scorer scorer = model.scorer();
    auto* first = new Deployment(scorer, nullptr, false, 1);
    auto* second = new Deployment(scorer, nullptr, false, 2);
    const float row[2] = {1.0f, 2.0f};
    double one = 0.0, two = 0.0;
    std::thread busy([&] { first->score_primary(row, 1, nullptr, &one); });
    while (model.calls.load() == 0) std::this_thread::yield();
    CHECK(second->score_primary(row, 1, nullptr, &two, now_ns() + 5 * MS) == NOT_CALLED);
    first->call_lost();
    CHECK(second->score_primary(row, 1, nullptr, &two, NEVER_NS) == NOT_CALLED);  // at once: nobody waits for it
    CHECK(model.calls.load() == 1);
    model.hang = false;
    busy.join();
    first->lost_call_returned();
    CHECK(second->score_primary(row, 1, nullptr, &two, NEVER_NS) == ENGINE_SCORE_OK && two == 3.0 && one == 3.0);
    first->release();
    second->release();
}

constexpr uint32_t PYTHON = ENGINE_SCORER_TAKES_GIL;  // the flags of a scorer that sets something up on each thread

TEST(every_executor_calls_a_primary_once_before_it_takes_requests) {
    Fixture fixture(Fixture::limits_of(256), Executors::make(Fixture::options_of(3)), true, true, PYTHON);
    fixture.primary.sets_up_ns = 40 * MS;
    fixture.start();
    CHECK(fixture.primary.threads.size() == 4);  // three executors and the thread that calibrates
    const uint64_t calls = fixture.primary.calls.load();
    for (int i = 0; i < 50; ++i) fixture.predict(1.0f, 2.0f, 20 * MS);
    CHECK(fixture.primary.threads.size() == 4 && fixture.primary.calls.load() >= calls);
    CHECK(fixture.runtime->executors().replaced() == 0);
}

TEST(the_thread_that_replaces_a_stuck_one_is_warm_before_it_takes_requests) {
    Fixture fixture(Fixture::limits_of(256), Executors::make(Fixture::options_of(1)), true, true, PYTHON);
    fixture.primary.sets_up_ns = 200 * MS;
    fixture.start();
    fixture.primary.hang_once = true;
    CHECK(fixture.predict(1.0f, 1.0f, 20 * MS).first.source == Source::fallback);
    while (fixture.runtime->executors().replaced() == 0) std::this_thread::yield();
    fixture.primary.free_stuck = true;
    // Its first call takes ten deadlines, which are no stall.
    bool served = false;
    for (int i = 0; i < 2000 && !served; ++i) {
        served = fixture.predict(1.0f, 1.0f, 20 * MS).first.source == Source::primary;
        if (!served) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    CHECK(served);
    CHECK(fixture.runtime->executors().replaced() == 1);
}

TEST(a_new_version_is_called_by_every_executor_before_it_takes_requests) {
    Fixture fixture(Fixture::limits_of(256), Executors::make(Fixture::options_of(2)), true, true, PYTHON);
    fixture.start();
    Sum next;
    next.flags = PYTHON;
    const engine_scorer scorer = next.scorer();
    auto* deployment = new Deployment(scorer, nullptr, false, 2);
    const std::array<float, 32> rows{};
    CHECK(!fixture.runtime->calibrate(*deployment, rows.data(), 16).failed);
    CHECK(next.threads.size() == 1);
    fixture.runtime->warm_threads(*deployment);
    CHECK(next.threads.size() == 3);
    const uint64_t calls = next.calls.load();
    fixture.runtime->warm_threads(*deployment);  // they are warm
    CHECK(next.calls.load() == calls);
    deployment->release();
    fixture.runtime.reset();
    CHECK(next.references.load() == 1);
}

TEST(one_stuck_executor_does_not_rest_a_primary_that_answers) {
    Fixture fixture(256, 2);
    fixture.start();
    fixture.primary.hang_once = true;
    std::thread stuck([&] { fixture.predict(1.0f, 1.0f, 50 * MS); });
    while (fixture.primary.hang_once.load()) std::this_thread::yield();
    Executors& executors = fixture.runtime->executors();
    // The other executor answers while the lost call is out, from its beginning to the end of it.
    while (executors.replaced() == 0) fixture.predict(1.0f, 1.0f, 5'000 * MS);
    CHECK(fixture.deployment->breaker().openings() == 0);
    CHECK(fixture.predict(1.0f, 2.0f, 5'000 * MS).first.source == Source::primary);
    fixture.primary.free_stuck = true;
    stuck.join();
}

TEST(a_loop_with_slow_turns_answers_what_the_next_turn_would_answer_late) {
    Fixture fixture(256, 1);
    fixture.start();
    const OwnCompletions own = make_completions(), others = make_completions();
    Completions &loop = *own, &other = *others;
    CHECK(!fixture.runtime->answer_before_next_dispatch(loop));
    const int64_t asked = now_ns();
    for (uint64_t id = 0; id < 2048; ++id)
        fixture.runtime->account({id, 1, asked, asked + 100 * MS, asked + MS, Source::primary, Reason::ok},
                                 asked + 6 * MS, true, false);
    fixture.primary.hang = true;
    const float row[2] = {1.0f, 2.0f};
    std::vector<uint32_t> slots;
    for (const auto& [completions, budget_ns] :
         {std::pair{&loop, 60'000 * MS}, {&loop, 60'000 * MS}, {&other, 60'000 * MS}}) {
        double out = 0.0;
        Outcome outcome;
        const int64_t now = now_ns();
        slots.push_back(
            fixture.runtime->submit(fixture.request(row, now, now + budget_ns), {completions}, &outcome, &out));
        CHECK(slots.back() != NO_SLOT);
    }
    CHECK(!fixture.runtime->answer_before_next_dispatch(loop));  // a minute is left
    fixture.runtime->slots()[slots[0]].deadline_ns = now_ns() + 4 * MS;
    CHECK(fixture.runtime->answer_before_next_dispatch(loop));
    CHECK(loop.take_all(fixture.runtime->slots()) == slots[0]);
    CHECK(fixture.runtime->outcome(slots[0]).source == Source::fallback);
    CHECK(fixture.runtime->outcome(slots[0]).reason == Reason::timeout);
    CHECK(!fixture.runtime->answer_before_next_dispatch(loop));
    fixture.primary.hang = false;
    fixture.runtime->close(NEVER_NS);
    for (const uint32_t slot : slots) fixture.runtime->give_back(slot);
}

TEST(a_canary_has_a_queue_and_a_cost_of_its_own) {
    Fixture fixture;
    fixture.start();
    Sum slow;
    slow.offset = 500.0;
    slow.busy_ns = 3 * MS;
    const engine_scorer scorer = slow.scorer();
    auto* canary = new Deployment(scorer, nullptr, false, 2);
    const std::array<float, 4> rows{};
    const Calibration calibration = fixture.runtime->calibrate(*canary, rows.data(), 2);
    const int64_t live_ns = fixture.runtime->cost().expected_ns(1);
    fixture.runtime->make_canary(*canary, 0.1, &calibration);
    CHECK(fixture.runtime->cost().expected_ns(1) == live_ns);
    CHECK(fixture.runtime->canary_lane()->cost().expected_ns(1) >= 3 * MS);
    const float row[2] = {1.0f, 2.0f};
    for (int i = 0; i < 20; ++i) {
        const int64_t now = now_ns();
        Request request = fixture.request(row, now, now + 5'000 * MS);
        request.deployment = i % 2 ? canary : fixture.deployment;
        const auto [outcome, value] = fixture.predict(request);
        CHECK(outcome.source == Source::primary && value == (i % 2 ? 503.0 : 3.0));
    }
    CHECK(fixture.runtime->canary_lane()->cost().expected_ns(1) >= 3 * MS);
    canary->release();
    fixture.runtime.reset();
    CHECK(slow.references.load() == 1);
}

std::atomic<int> threads_left{0};  // that the system still gives

bool refuses() noexcept { return threads_left.fetch_sub(1) <= 0; }

TEST(a_system_that_refuses_threads_leaves_none_and_may_be_asked_again) {
    const std::array<float, 32> rows{};
    Fixture fixture(256, 2);
    for (int given = 0; given < 4; ++given) {  // the timer, two executors, the thread that calibrates
        threads_left = given;
        refuse_threads = refuses;
        bool refused = false;
        try {
            fixture.runtime->start_threads(fixture.deployment, rows.data(), 16);
        } catch (const std::system_error& error) {
            refused = error.code().value() == EAGAIN;
        }
        refuse_threads = nullptr;
        CHECK(refused);
        CHECK(fixture.deployment->references() == 1);
    }
    fixture.start();
    CHECK(fixture.predict(1.0f, 2.0f, 1000 * MS).second == 3.0);
    threads_left = 0;
    refuse_threads = refuses;
    bool refused = false;
    try {
        Shadow shadow(fixture.deployment, nullptr, 16);
    } catch (const std::system_error&) {
        refused = true;
    }
    refuse_threads = nullptr;
    CHECK(refused);
}

TEST(a_stuck_executor_that_cannot_be_replaced_degrades_and_is_replaced_later) {
    Fixture fixture;
    fixture.start();
    threads_left = 0;
    refuse_threads = refuses;
    fixture.primary.hang = true;
    CHECK(fixture.predict(1.0f, 1.0f, 100 * MS).first.reason == Reason::timeout);
    Executors& executors = fixture.runtime->executors();
    while (executors.missing() == 0) std::this_thread::yield();
    CHECK(executors.replaced() == 1 && executors.refused() >= 1);
    CHECK(fixture.deployment->breaker().openings() == 1);
    for (int i = 0; i < 5; ++i) {
        const auto [outcome, value] = fixture.predict(1.0f, 1.0f, 100 * MS);
        CHECK(outcome.source != Source::primary);
        CHECK(outcome.reason == Reason::stalled || outcome.reason == Reason::breaker_open);
    }
    fixture.primary.hang = false;
    refuse_threads = nullptr;
    while (executors.missing() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    bool served = false;
    for (int i = 0; i < 500 && !served; ++i) {
        served = fixture.predict(1.0f, 1.0f, 100 * MS).first.source == Source::primary;
        if (!served) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(served);
}

CHECK_MAIN()
