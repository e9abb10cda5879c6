// The book of who waits for the GIL, with a mutex in the GIL's place.
#include "base/gil_calls.hpp"

#include <sched.h>

#include <mutex>
#include <thread>

#include "tests/check.hpp"

using namespace engine;

namespace {

constexpr int64_t MS = 1'000'000;

void pass(int64_t ns) {
    for (const int64_t until = now_ns() + ns; now_ns() < until;) sched_yield();
}

}  // namespace

TEST(a_thread_that_entered_finds_itself_until_it_leaves) {
    GilCalls calls;
    CHECK(calls.mine() == nullptr);
    GilCall* const mine = calls.enter();
    CHECK(mine != nullptr && calls.mine() == mine);
    std::thread([&] { CHECK(calls.mine() == nullptr); }).join();
    calls.leave(mine);
    CHECK(calls.mine() == nullptr);
}

TEST(no_more_threads_enter_than_there_are_places) {
    GilCalls calls;
    std::array<GilCall*, GilCalls::MOST> all{};
    for (GilCall*& call : all) call = calls.enter();
    for (const GilCall* call : all) CHECK(call != nullptr);
    CHECK(calls.enter() == nullptr);
    calls.leave(nullptr);
    calls.leave(all[3]);
    CHECK(calls.enter() == all[3]);
}

TEST(a_wait_counts_from_asking_to_having) {
    GilCalls calls;
    GilCall* const mine = calls.enter();
    CHECK(!calls.waiting() && !calls.calling() && mine->waited_ns(now_ns()) == 0);
    const int64_t began = now_ns();
    calls.asks(mine);
    CHECK(calls.waiting() && calls.calling());
    pass(2 * MS);
    CHECK(mine->waited_ns(now_ns()) >= 2 * MS);  // under way
    calls.got(mine);
    const int64_t waited = mine->waited_ns(now_ns());
    CHECK(waited >= 2 * MS && waited <= now_ns() - began);
    CHECK(!calls.waiting() && calls.calling());
    pass(MS);
    CHECK(mine->waited_ns(now_ns()) == waited);
    calls.ended(mine);
    CHECK(!calls.calling());
    CHECK(calls.long_wait_ns() >= 2 * MS && calls.usual_wait_ns() > 0);
    // Short waits are learned as well.
    while (calls.usual_wait_ns() > MS / 2 || calls.long_wait_ns() > MS)
        calls.asks(mine), calls.got(mine), calls.ended(mine);
}

TEST(a_holder_waits_until_the_thread_that_asks_has_it) {
    GilCalls calls;
    std::mutex gil;
    std::atomic<bool> stop{false};
    std::thread executor([&] {
        GilCall* const mine = calls.enter();
        while (!stop.load()) {
            calls.asks(mine);
            gil.lock();
            calls.got(mine);
            gil.unlock();
            calls.ended(mine);
            pass(MS / 10);
        }
        calls.leave(mine);
    });
    int taken = 0;
    gil.lock();
    while (taken < 20) {
        if (!calls.waiting()) continue;
        const uint32_t seen = calls.changes();
        if (!calls.waiting()) continue;
        gil.unlock();
        calls.wait_for_caller(seen);
        taken += calls.changes() != seen;
        gil.lock();
    }
    stop = true;
    gil.unlock();
    executor.join();
    CHECK(taken == 20);
}

TEST(a_holder_finds_a_call_that_is_blocked_inside_and_waits_for_its_end) {
    GilCalls calls;
    std::mutex gil;
    std::atomic<int> step{0};
    gil.lock();
    std::thread executor([&] {
        GilCall* const mine = calls.enter();
        calls.asks(mine);
        calls.got(mine);  // it has given the GIL up inside the call, and asks for it again
        step = 1;
        gil.lock();
        step = 2;
        gil.unlock();
        calls.ended(mine);
        calls.leave(mine);
    });
    while (step.load() != 1) sched_yield();
    while (!calls.someone_is_blocked()) pass(MS / 10);
    const uint32_t seen = calls.changes();
    gil.unlock();
    // At least once: the look above counts until a wait has ended.
    do calls.wait_for_blocked(seen);
    while (step.load() != 2);
    executor.join();
    CHECK(!calls.someone_is_blocked());
}

TEST(a_gil_that_a_third_thread_keeps_is_not_given_up_for_a_while) {
    GilCalls calls;
    CHECK(calls.may_give(now_ns()));
    for (const int64_t took : {5 * MS, 5 * MS, MS, 5 * MS, 5 * MS}) calls.has_again(took);
    CHECK(calls.may_give(now_ns()));
    calls.has_again(5 * MS);
    CHECK(!calls.may_give(now_ns()));
    CHECK(calls.may_give(now_ns() + 2'000 * MS));
}

CHECK_MAIN()
