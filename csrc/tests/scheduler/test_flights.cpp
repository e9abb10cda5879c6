// Batches in flight on a device: several by one thread, in any order of landing, hung, refused, failed and given up.
#include <array>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "scheduler/runtime.hpp"
#include "tests/check.hpp"
#include "tests/scheduler/device.hpp"

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr int64_t MS = 1'000'000;
constexpr double BY_FALLBACK = 1000.0;

// A fallback on the CPU: the sum of a row, and 1000 more.
int fall_back(void*, const float* rows, size_t n, size_t stride, double* out) {
    for (size_t r = 0; r < n; ++r)
        out[r] = BY_FALLBACK + static_cast<double>(rows[r * stride]) + static_cast<double>(rows[r * stride + 1]);
    return ENGINE_SCORE_OK;
}
void keep(void*) {}

// A runtime whose primary is a device.
struct Fixture {
    TestDevice device;
    std::shared_ptr<Executors> executors;
    Deployment* deployment;
    std::unique_ptr<Runtime> runtime;

    explicit Fixture(uint32_t lanes, uint32_t threads = 1, int64_t budget_ns = 40 * MS, uint32_t rows_max = 16)
        : device(lanes, rows_max) {
        ExecutorOptions options;
        options.threads = threads;
        executors = Executors::make(options);
        RuntimeLimits limits;
        limits.slots = 256;
        limits.batch_rows_max = 16;
        limits.n_features = 2;
        limits.budget_ns = budget_ns;
        deployment = deploy(device, 1);
        runtime = std::make_unique<Runtime>(limits, executors, true);
        runtime->set_primary(*deployment);
    }
    static Deployment* deploy(TestDevice& on, uint64_t number) {
        const engine_scorer fallback{ENGINE_SCORER_ABI,
                                     ENGINE_SCORER_NATIVE | ENGINE_SCORER_REENTRANT,
                                     2,
                                     1,
                                     nullptr,
                                     fall_back,
                                     nullptr,
                                     keep,
                                     keep};
        BreakerLimits breaker;
        breaker.rest_ns = 5 * MS;
        breaker.rest_ns_max = 20 * MS;
        return new Deployment(on.scorer(), &fallback, false, number, breaker);
    }
    ~Fixture() {
        runtime.reset();
        executors.reset();
        deployment->release();
        CHECK(device.references.load() == 1);
        CHECK(device.breaches.load() == 0);
    }
    void start() {
        const std::array<float, 32> rows{};
        runtime->start_threads(deployment, rows.data(), 16);
        while (!runtime->warmed_up()) std::this_thread::yield();
    }
    std::pair<Outcome, double> predict(float a, int64_t budget_ns, Deployment* by = nullptr) {
        const float row[2] = {a, 1.0f};
        const int64_t now = now_ns();
        double out = NAN;
        Outcome outcome;
        const uint32_t slot =
            runtime->submit({by ? by : deployment, row, now, now, now + budget_ns}, {}, &outcome, &out);
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
        const double due = a + 1.0 + (outcome.source == Source::fallback ? BY_FALLBACK : 0.0);
        if (outcome.source != Source::default_value) CHECK(out == due);
        return {outcome, out};
    }
    // Asks until the primary answers; false where it does not within a time that is ample on any machine.
    bool recovers() {
        for (const int64_t until = now_ns() + 20'000 * MS; now_ns() < until;) {
            if (predict(1.0f, 1000 * MS).first.source == Source::primary) return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }
};

// `callers` threads ask `each` times; returns how many answers were the primary's.
int ask(Fixture& fixture, int callers, int each, int64_t budget_ns) {
    std::atomic<int> primary{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < callers; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < each; ++i)
                primary += fixture.predict(static_cast<float>(100 * t + i), budget_ns).first.source == Source::primary;
        });
    for (std::thread& thread : threads) thread.join();
    return primary.load();
}

bool is_replaced(Fixture& fixture) {
    for (const int64_t until = now_ns() + 20'000 * MS; fixture.executors->replaced() == 0 && now_ns() < until;)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return fixture.executors->replaced() == 1;
}

}  // namespace

TEST(one_thread_carries_several_batches) {
    Fixture fixture(4);
    fixture.start();
    fixture.device.takes_ns = 2 * MS;
    const int primary = ask(fixture, 8, 40, 5000 * MS);
    CHECK(primary == 8 * 40);
    CHECK(fixture.device.together.load() > 1 && fixture.device.together.load() <= 4);
    CHECK(fixture.runtime->close(NEVER_NS) == 0);
    CHECK(fixture.executors->replaced() == 0 && fixture.executors->abandoned() == 0);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(a_batch_has_no_more_rows_than_the_device_takes) {
    Fixture fixture(2, 1, 40 * MS, 3);
    fixture.start();
    CHECK(ask(fixture, 12, 20, 5000 * MS) == 12 * 20);  // a breach would count
}

TEST(a_later_batch_may_land_first) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.takes_ns = 30 * MS;
    std::thread slow([&] { CHECK(fixture.predict(1.0f, 10'000 * MS).first.source == Source::primary); });
    while (fixture.device.out() == 0) std::this_thread::yield();
    fixture.device.takes_ns = 0;
    const auto [quick, value] = fixture.predict(2.0f, 10'000 * MS);
    CHECK(quick.source == Source::primary && value == 3.0);
    slow.join();
    CHECK(fixture.device.together.load() == 2);
}

TEST(a_hung_batch_costs_its_seat_and_no_thread) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.hang = true;
    const auto [first, value] = fixture.predict(1.0f, 40 * MS);
    CHECK(first.reason == Reason::timeout);
    for (const int64_t until = now_ns() + 20'000 * MS; fixture.executors->abandoned() == 0 && now_ns() < until;)
        std::this_thread::yield();
    CHECK(fixture.executors->abandoned() == 1);
    CHECK(fixture.deployment->breaker().open());
    const auto [second, again] = fixture.predict(1.0f, 40 * MS);
    CHECK(second.source != Source::primary);
    CHECK(fixture.device.out() >= 1);
    fixture.device.hang = false;
    CHECK(fixture.recovers());
    for (const int64_t until = now_ns() + 20'000 * MS; fixture.device.out() > 0 && now_ns() < until;)
        std::this_thread::yield();
    CHECK(fixture.device.out() == 0);
    CHECK(ask(fixture, 8, 10, 5000 * MS) == 80);  // all seats are back
    CHECK(fixture.executors->replaced() == 0);
    CHECK(fixture.runtime->close(NEVER_NS) == 0);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(requests_without_a_deadline_fall_back_from_a_hung_batch) {
    Fixture fixture(1);
    fixture.start();
    fixture.device.hang = true;
    const auto [outcome, value] = fixture.predict(1.0f, 3'600'000 * MS);
    CHECK(outcome.source == Source::fallback && outcome.reason == Reason::stalled && value == 1002.0);
    CHECK(fixture.executors->replaced() == 0);
    fixture.device.hang = false;
}

TEST(a_batch_that_cannot_begin_or_fails_is_a_failure_of_the_model) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.begin_fails = true;
    CHECK(fixture.predict(1.0f, 1000 * MS).first.reason == Reason::primary_error);
    fixture.device.begin_fails = false;
    CHECK(fixture.recovers());
    fixture.device.fail = true;
    CHECK(fixture.predict(1.0f, 1000 * MS).first.reason == Reason::primary_error);
    fixture.device.fail = false;
    CHECK(fixture.recovers());
}

TEST(a_device_without_room_is_asked_again_and_blames_nobody) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.full = true;
    const auto [outcome, value] = fixture.predict(1.0f, 20 * MS);
    CHECK(outcome.source != Source::primary &&
          (outcome.reason == Reason::timeout || outcome.reason == Reason::stalled));
    std::thread waits([&] { CHECK(fixture.predict(2.0f, 5000 * MS).first.source != Source::default_value); });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    fixture.device.full = false;
    waits.join();
    CHECK(fixture.recovers());
    CHECK(fixture.device.breaches.load() == 0);
}

TEST(a_bad_row_is_found_among_its_neighbours) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.poisonable = true;
    fixture.device.takes_ns = 1 * MS;
    std::atomic<int> good{0}, bad{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 10; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 5; ++i) {
                const bool poison = t == 3;
                const auto [outcome, value] = fixture.predict(poison ? -5.0f : static_cast<float>(t), 10'000 * MS);
                (poison ? bad : good) += outcome.source == Source::primary;
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(bad.load() == 0);
    CHECK(good.load() == 45);
}

TEST(close_gives_up_what_is_in_flight) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.hang = true;
    std::vector<std::thread> threads;
    std::atomic<int> answered{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] { answered += fixture.predict(1.0f, 3'600'000 * MS).second == 1002.0; });
    while (fixture.device.out() == 0) std::this_thread::yield();
    CHECK(fixture.runtime->close(0) == 0);
    for (std::thread& thread : threads) thread.join();
    CHECK(answered.load() == 4);
    CHECK(fixture.runtime->slots().in_use() == 0);
    CHECK(fixture.device.abandoned.load() >= 1);
    CHECK(fixture.executors->replaced() == 0);
}

TEST(a_thread_stuck_in_begin_is_replaced) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.begin_hangs = true;
    const auto [outcome, value] = fixture.predict(1.0f, 100 * MS);
    CHECK(outcome.source != Source::primary && outcome.reason == Reason::timeout);
    CHECK(is_replaced(fixture));
    fixture.device.begin_hangs = false;
    CHECK(fixture.recovers());
    CHECK(fixture.runtime->close(NEVER_NS) == 0);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(a_thread_stuck_in_poll_is_replaced) {
    Fixture fixture(2);
    fixture.start();
    fixture.device.poll_hangs = true;
    const auto [outcome, value] = fixture.predict(1.0f, 100 * MS);
    CHECK(outcome.source != Source::primary && outcome.reason == Reason::timeout);
    CHECK(is_replaced(fixture));
    fixture.device.poll_hangs = false;
    CHECK(fixture.recovers());
    CHECK(fixture.runtime->close(NEVER_NS) == 0);
    CHECK(fixture.runtime->slots().in_use() == 0);
}

TEST(a_swap_between_a_device_and_a_call_mixes_nothing) {
    Fixture fixture(2);
    fixture.start();
    TestDevice other(3);
    other.offset = 5000.0;
    Deployment* const second = Fixture::deploy(other, 2);
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0}, served{0};
    std::atomic<Deployment*> current{fixture.deployment};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            while (!stop.load()) {
                const float row[2] = {1.0f, 1.0f};
                const int64_t now = now_ns();
                double out = NAN;
                Outcome outcome;
                Deployment* const by = current.load();
                const uint32_t slot = fixture.runtime->submit({by, row, now, now, now + 1000 * MS}, {}, &outcome, &out);
                if (slot == NO_SLOT) continue;
                while (!fixture.runtime->wait(slot)) {
                }
                outcome = fixture.runtime->outcome(slot);
                out = *fixture.runtime->values(slot);
                fixture.runtime->give_back(slot);
                if (outcome.source != Source::primary) continue;
                wrong += out != (outcome.deployment == 1 ? 2.0 : 5002.0);
                ++served;
            }
        });
    for (int i = 0; i < 60; ++i) {
        Deployment* const next = i % 2 == 0 ? second : fixture.deployment;
        fixture.runtime->set_primary(*next);
        current.store(next);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong.load() == 0 && served.load() > 0);
    fixture.runtime->close(NEVER_NS);
    second->release();
    fixture.runtime.reset();
    CHECK(other.references.load() == 1 && other.breaches.load() == 0);
}

TEST(a_device_and_a_blocking_model_share_one_thread) {
    Fixture fixture(2);
    fixture.start();
    RuntimeLimits limits;
    limits.slots = 64;
    limits.batch_rows_max = 4;
    limits.n_features = 2;
    limits.budget_ns = 40 * MS;
    TestDevice blocking(1);
    engine_scorer scorer = blocking.scorer();
    scorer.begin = nullptr;
    scorer.poll = nullptr;
    scorer.abandon = nullptr;
    scorer.in_flight_max = scorer.rows_max = 0;
    blocking.takes_ns = 2 * MS;
    auto* deployment = new Deployment(scorer, nullptr, false, 9);
    Runtime calls(limits, fixture.executors, false);
    calls.set_primary(*deployment);
    calls.start_threads(deployment, nullptr, 0);
    std::atomic<bool> stop{false};
    std::atomic<int> by_call{0};
    std::thread asks([&] {
        while (!stop.load()) {
            const float row[2] = {3.0f, 4.0f};
            const int64_t now = now_ns();
            double out = NAN;
            Outcome outcome;
            const uint32_t slot = calls.submit({deployment, row, now, now, now + 5000 * MS}, {}, &outcome, &out);
            if (slot == NO_SLOT) continue;
            while (!calls.wait(slot)) {
            }
            if (calls.outcome(slot).source == Source::primary) by_call += *calls.values(slot) == 7.0;
            calls.give_back(slot);
        }
    });
    CHECK(ask(fixture, 4, 50, 5000 * MS) > 0);
    for (const int64_t until = now_ns() + 20'000 * MS; by_call.load() == 0 && now_ns() < until;)
        std::this_thread::yield();
    stop = true;
    asks.join();
    CHECK(by_call.load() > 0);
    CHECK(blocking.begun.load() == 0 && blocking.called.load() > 0);
    CHECK(calls.close(NEVER_NS) == 0);
    deployment->release();
}

CHECK_MAIN()
