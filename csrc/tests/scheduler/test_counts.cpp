// The allocations, sleeps and system calls of a request: counted, never timed. A counting allocator replaces malloc.
// Under a sanitizer, which needs malloc for itself, those tests say so and pass.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "scheduler/runtime.hpp"
#include "tests/check.hpp"
#include "tests/scheduler/loop.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

namespace {

// Of each thread alone, so that other threads' allocations do not count. Plain data, because malloc touches it.
thread_local bool counting = false;
thread_local uint64_t allocations = 0;

}  // namespace

#if COUNTS_ALLOCATIONS
// glibc's own allocator, under the names that it keeps for a replacement of malloc. operator new calls malloc.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* malloc(size_t bytes) {
    allocations += counting;
    return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
    allocations += counting;
    return __libc_calloc(count, bytes);
}
void* realloc(void* block, size_t bytes) {
    allocations += counting;
    return __libc_realloc(block, bytes);
}
}
#endif

using namespace engine;
using namespace engine::scheduler;

namespace {

constexpr int64_t HOUR_NS = 3'600'000'000'000;
constexpr uint32_t FEATURES = 4, CALLS = 10'000;

// Adds up its row. While the gate is closed it waits there.
struct Sum {
    double added = 0.0;
    std::atomic<bool> closed{false}, waiting{false}, fails{false};

    static int score(void* ctx, const float* rows, size_t n, size_t stride, double* out) {
        auto* self = static_cast<Sum*>(ctx);
        while (self->closed.load(std::memory_order_acquire)) {
            self->waiting.store(true, std::memory_order_release);
            std::this_thread::yield();
        }
        if (self->fails.load(std::memory_order_relaxed)) return ENGINE_SCORE_FAILED;
        for (size_t r = 0; r < n; ++r) {
            out[r] = self->added;
            for (size_t c = 0; c < FEATURES; ++c) out[r] += static_cast<double>(rows[r * stride + c]);
        }
        return ENGINE_SCORE_OK;
    }
    static void keep(void*) {}
    engine_scorer scorer() {
        return {ENGINE_SCORER_ABI,
                ENGINE_SCORER_REENTRANT | ENGINE_SCORER_NATIVE,
                FEATURES,
                1,
                this,
                score,
                nullptr,
                keep,
                keep};
    }
};

struct Fixture {
    Sum primary, fallback;
    Deployment* deployment;
    std::unique_ptr<Runtime> runtime;
    std::array<float, FEATURES> row{1.0f, 2.0f, 3.0f, 4.0f};

    Fixture() {
        fallback.added = 1000.0;
        const engine_scorer first = primary.scorer(), second = fallback.scorer();
        BreakerLimits breaker;
        breaker.enabled = false;
        deployment = new Deployment(first, &second, false, 1, breaker);
        RuntimeLimits limits;
        limits.slots = 256;
        limits.batch_rows_max = 16;
        limits.n_features = FEATURES;
        limits.budget_ns = HOUR_NS;
        ExecutorOptions options;
        options.may_watch = false;
        runtime = std::make_unique<Runtime>(limits, Executors::make(options), true);
    }
    ~Fixture() {
        runtime.reset();
        deployment->release();
    }
    Request request() const {
        const int64_t now = now_ns();
        return {deployment, row.data(), now, now, now + HOUR_NS};
    }
    // One request of the inline lane as a binding makes it. True when the answer is right.
    bool ask(double due) {
        double out = 0.0;
        const Outcome outcome = runtime->predict_inline(request(), &out);
        runtime->account(outcome, outcome.ready_ns, false, true);
        return out == due;
    }
};

template <typename Work>
uint64_t allocations_of(Work work) {
    allocations = 0;
    counting = true;
    work();
    counting = false;
    return allocations;
}

uint64_t sleeps_of_this_thread() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return static_cast<uint64_t>(usage.ru_nvcsw);
}

bool can_count() {
#if COUNTS_ALLOCATIONS
    return true;
#else
    std::printf("allocations and system calls are not counted under a sanitizer\n");
    return false;
#endif
}

}  // namespace

TEST(the_counter_counts) {
    if (!can_count()) return;
    CHECK(allocations_of([] {
              void* volatile block = std::malloc(100);  // volatile, or the compiler may leave the allocation out
              std::free(block);
          }) == 1);
}

TEST(an_inline_answer_allocates_nothing) {
    if (!can_count()) return;
    Fixture fixture;
    uint32_t right = 0;
    CHECK(fixture.ask(10.0));  // what a thread needs once
    CHECK(allocations_of([&] {
              for (uint32_t i = 0; i < CALLS; ++i) right += fixture.ask(10.0);
          }) == 0);
    CHECK(right == CALLS);
}

TEST(an_inline_fallback_allocates_nothing) {
    if (!can_count()) return;
    Fixture fixture;
    fixture.primary.fails = true;
    uint32_t right = 0;
    CHECK(fixture.ask(1010.0));
    CHECK(allocations_of([&] {
              for (uint32_t i = 0; i < CALLS; ++i) right += fixture.ask(1010.0);
          }) == 0);
    CHECK(right == CALLS);
}

TEST(an_inline_answer_never_sleeps) {
    Fixture fixture;
    CHECK(fixture.ask(10.0));
    uint64_t fewest = UINT64_MAX;
    for (int attempt = 0; attempt < 3; ++attempt) {  // the kernel may have to fetch a page of the program
        const uint64_t before = sleeps_of_this_thread();
        for (uint32_t i = 0; i < CALLS; ++i) fixture.ask(10.0);
        fewest = std::min(fewest, sleeps_of_this_thread() - before);
    }
    CHECK(fewest == 0);
}

// From here on any system call but the end of this thread kills the process. False where the kernel refuses. (Strict
// mode would do the same in a line, but forbids reading the processor's clock as well.)
bool forbid_system_calls() {
    sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const sock_fprog program{static_cast<unsigned short>(std::size(rules)), rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

enum class Ended { well, badly, killed, rejected };

// Runs `work` (true for well) in a child that may make no system call, and returns how the child ended. A child,
// because the ban cannot be lifted.
template <typename Work>
Ended without_system_calls(Work work) {
    constexpr int WELL = 0, BADLY = 1, REFUSED = 2;
    const pid_t child = fork();
    if (child == 0) {
        if (!forbid_system_calls()) syscall(SYS_exit, REFUSED);
        syscall(SYS_exit, work() ? WELL : BADLY);
    }
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status)) return Ended::killed;
    if (WEXITSTATUS(status) == REFUSED) std::printf("system calls are not counted: seccomp is refused here\n");
    return WEXITSTATUS(status) == WELL ? Ended::well : WEXITSTATUS(status) == BADLY ? Ended::badly : Ended::rejected;
}

TEST(an_inline_answer_makes_no_system_call) {
    if (!can_count()) return;
    Fixture fixture;
    CHECK(fixture.ask(10.0));
    const Ended calling = without_system_calls([] { return getppid() > 0; });
    if (calling == Ended::rejected) return;
    CHECK(calling == Ended::killed);
    CHECK(without_system_calls([&] {
              uint32_t right = 0;
              for (uint32_t i = 0; i < CALLS; ++i) right += fixture.ask(10.0);
              return right == CALLS;
          }) == Ended::well);
}

TEST(a_queued_answer_allocates_nothing_on_its_callers_thread) {
    if (!can_count()) return;
    Fixture fixture;
    fixture.runtime->start_threads(fixture.deployment, nullptr, 0);
    const auto ask = [&] {
        double out = 0.0;
        Outcome outcome;
        const uint32_t slot = fixture.runtime->submit(fixture.request(), {}, &outcome, &out);
        if (slot == NO_SLOT) return out == 10.0;
        while (!fixture.runtime->wait(slot)) {
        }
        outcome = fixture.runtime->outcome(slot);
        const bool right = *fixture.runtime->values(slot) == 10.0;
        fixture.runtime->account(outcome, now_ns(), true, true);
        fixture.runtime->give_back(slot);
        return right;
    };
    uint32_t right = 0;
    for (int i = 0; i < 300; ++i) right += ask();  // every slot has been used
    CHECK(allocations_of([&] {
              for (int i = 0; i < 1'000; ++i) right += ask();
          }) == 0);
    CHECK(right == 1'300);
}

// The eventfd's counter is the number of writes to it.
TEST(a_burst_signals_its_loop_once) {
    Fixture fixture;
    fixture.runtime->start_threads(fixture.deployment, nullptr, 0);
    const OwnCompletions own = make_completions();
    Completions& loop = *own;
    constexpr uint32_t BURST = 100;
    for (int round = 0; round < 5; ++round) {
        fixture.primary.waiting = false;
        fixture.primary.closed = true;
        for (uint32_t i = 0; i < BURST; ++i) {
            double out = 0.0;
            Outcome outcome;
            const Caller caller{&loop, nullptr, nullptr, i == 0};
            CHECK(fixture.runtime->submit(fixture.request(), caller, &outcome, &out) != NO_SLOT);
        }
        fixture.runtime->kick();
        while (!fixture.primary.waiting.load()) std::this_thread::yield();
        fixture.primary.closed = false;
        // Seven batches, and a loop that does not look before all are done.
        SlotTable& slots = fixture.runtime->slots();
        while (fixture.runtime->counters().batch_rows.load() < BURST * static_cast<uint64_t>(round + 1))
            std::this_thread::yield();
        uint64_t signals = 0;
        CHECK(read(loop.fd(), &signals, sizeof signals) == sizeof signals);
        CHECK(signals == 1);
        uint32_t answered = 0;
        for (uint32_t slot = loop.take_all(slots); slot != NO_SLOT; ++answered) {
            const uint32_t following = slots[slot].next_done.load();
            CHECK(*fixture.runtime->values(slot) == 10.0);
            fixture.runtime->give_back(slot);
            slot = following;
        }
        CHECK(answered == BURST);
    }
}

CHECK_MAIN()
