#include "fault/fault.hpp"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <variant>

#include "base/assert.hpp"
#include "base/key_hash.hpp"

namespace engine::fault {
namespace {

constexpr int64_t NS_PER_S = 1'000'000'000;

int64_t read_clock(clockid_t id) {
    timespec now{};
    clock_gettime(id, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t monotonic_now(void*) { return read_clock(CLOCK_MONOTONIC); }

void monotonic_sleep_until(void*, int64_t ns) {
    const timespec until{ns / NS_PER_S, ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
    }
}

void burn_cpu(void*, int64_t ns) {
    const int64_t end = read_clock(CLOCK_THREAD_CPUTIME_ID) + ns;
    while (read_clock(CLOCK_THREAD_CPUTIME_ID) < end) {
    }
}

}  // namespace

Clock real_clock() { return {monotonic_now, monotonic_sleep_until, burn_cpu, nullptr}; }

int64_t stall_end(const Stall& stall, int64_t start_ns, int64_t now) {
    if (start_ns == NOT_ARMED || now < start_ns) return now;
    ENGINE_ASSERT(stall.every_ns > 0, "stalls come back after some time");
    const int64_t into = (now - start_ns) % stall.every_ns;
    return into < stall.stall_ns ? now - into + stall.stall_ns : now;
}

bool chosen(uint64_t seed, uint64_t call, double share) {
    // splitmix64's output function over a counter: every call number gives an independent, well mixed word.
    const uint64_t word = spread(seed + (call + 1) * 0x9e3779b97f4a7c15u);
    return static_cast<double>(word >> 11) * 0x1.0p-53 < share;
}

// start_ns is the switch, one word that arm() and disarm() store with release and calls load with acquire; a hanging
// call sleeps on it. The counts are relaxed, because each stands alone.
class Handle {
public:
    using Kind = std::variant<Stall, Failing, Corrupting, Slow, Hanging>;

    Handle(const engine_scorer& inner, const Kind& kind, int64_t start_ns, const Clock& clock)
        : start_ns(start_ns), inner(inner), kind_(kind), clock_(clock) {
        ENGINE_ASSERT(inner.retain != nullptr && inner.release != nullptr, "every scorer counts its references");
        inner.retain(inner.ctx);
    }
    ~Handle() { inner.release(inner.ctx); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    template <class Row>
    int score(int (*inner_score)(void*, const Row*, size_t, size_t, double*), const Row* rows, size_t n_rows,
              size_t row_stride, double* out) noexcept {
        const uint64_t call = calls.fetch_add(1, std::memory_order_relaxed);
        const Outcome outcome = before(call, n_rows);
        if (outcome == Outcome::fail) return ENGINE_SCORE_FAILED;
        const int status = inner_score(inner.ctx, rows, n_rows, row_stride, out);
        if (outcome == Outcome::corrupt) {
            std::fill_n(out, n_rows * inner.n_outputs, std::numeric_limits<double>::quiet_NaN());
        }
        return status;
    }

    std::atomic<int64_t> start_ns;
    std::atomic<uint64_t> calls{0};
    std::atomic<uint64_t> faults{0};
    std::atomic<uint32_t> references{2};  // the scorer's and the handle's
    const engine_scorer inner;

private:
    enum class Outcome { run, fail, corrupt };

    Outcome before(uint64_t call, size_t n_rows) noexcept {
        const int64_t start = start_ns.load(std::memory_order_acquire);
        if (start == NOT_ARMED) return Outcome::run;
        // get_if instead of visit, because visit may throw and this function is noexcept.
        if (const auto* stall = std::get_if<Stall>(&kind_)) return sleep_through(*stall, start);
        if (const auto* failing = std::get_if<Failing>(&kind_)) {
            return struck(chosen(failing->seed, call, failing->share), Outcome::fail);
        }
        if (const auto* corrupting = std::get_if<Corrupting>(&kind_)) {
            return struck(chosen(corrupting->seed, call, corrupting->share), Outcome::corrupt);
        }
        if (const auto* slow = std::get_if<Slow>(&kind_)) {
            clock_.burn(clock_.self, slow->per_call_ns + slow->per_row_ns * static_cast<int64_t>(n_rows));
            return struck(true, Outcome::run);
        }
        struck(true, Outcome::run);
        for (int64_t seen = start; seen != NOT_ARMED; seen = start_ns.load(std::memory_order_acquire)) {
            start_ns.wait(seen, std::memory_order_acquire);
        }
        return Outcome::run;
    }

    Outcome sleep_through(const Stall& stall, int64_t start) noexcept {
        const int64_t now = clock_.now(clock_.self);
        const int64_t end = stall_end(stall, start, now);
        if (end > now) {
            struck(true, Outcome::run);
            clock_.sleep_until(clock_.self, end);
        }
        return Outcome::run;
    }

    Outcome struck(bool by_fault, Outcome outcome) noexcept {
        if (!by_fault) return Outcome::run;
        faults.fetch_add(1, std::memory_order_relaxed);
        return outcome;
    }

    const Kind kind_;
    const Clock clock_;
};

namespace {

Handle* of(void* ctx) { return static_cast<Handle*>(ctx); }

int score_f32(void* ctx, const float* rows, size_t n_rows, size_t row_stride, double* out) {
    return of(ctx)->score(of(ctx)->inner.score, rows, n_rows, row_stride, out);
}

int score_f64(void* ctx, const double* rows, size_t n_rows, size_t row_stride, double* out) {
    return of(ctx)->score(of(ctx)->inner.score_f64, rows, n_rows, row_stride, out);
}

void retain(void* ctx) {
    [[maybe_unused]] const uint32_t before = of(ctx)->references.fetch_add(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "nobody retains a fault that was freed");
}

void release(void* ctx) {
    const uint32_t before = of(ctx)->references.fetch_sub(1, std::memory_order_acq_rel);
    ENGINE_ASSERT(before > 0, "a reference is released by its owner, once");
    if (before == 1) delete of(ctx);
}

Handle* wrap_kind(const engine_scorer& inner, const Handle::Kind& kind, int64_t start_ns, const Clock& clock,
                  engine_scorer& scorer) {
    Handle* handle = new Handle(inner, kind, start_ns, clock);
    scorer = engine_scorer_read(&inner);
    scorer.ctx = handle;
    scorer.score_until = nullptr;  // a faulty model does not stop in time either
    scorer.score_until_f64 = nullptr;
    scorer.begin = nullptr;  // … and is called, because the fault is in the call
    scorer.begin_f64 = nullptr;
    scorer.poll = nullptr;
    scorer.abandon = nullptr;
    scorer.in_flight_max = scorer.rows_max = 0;
    scorer.abi = ENGINE_SCORER_ABI;
    scorer.score = score_f32;
    scorer.score_f64 = inner.score_f64 == nullptr ? nullptr : score_f64;
    scorer.retain = retain;
    scorer.release = release;
    return handle;
}

}  // namespace

Handle* wrap(const engine_scorer& inner, const Stall& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer) {
    return wrap_kind(inner, fault, start_ns, clock, scorer);
}

Handle* wrap(const engine_scorer& inner, const Failing& fault, int64_t start_ns, engine_scorer& scorer) {
    return wrap_kind(inner, fault, start_ns, real_clock(), scorer);
}

Handle* wrap(const engine_scorer& inner, const Corrupting& fault, int64_t start_ns, engine_scorer& scorer) {
    return wrap_kind(inner, fault, start_ns, real_clock(), scorer);
}

Handle* wrap(const engine_scorer& inner, const Slow& fault, int64_t start_ns, const Clock& clock,
             engine_scorer& scorer) {
    return wrap_kind(inner, fault, start_ns, clock, scorer);
}

Handle* wrap(const engine_scorer& inner, const Hanging& fault, int64_t start_ns, engine_scorer& scorer) {
    return wrap_kind(inner, fault, start_ns, real_clock(), scorer);
}

void arm(Handle* handle, int64_t start_ns) {
    handle->start_ns.store(start_ns, std::memory_order_release);
    handle->start_ns.notify_all();
}

void disarm(Handle* handle) { arm(handle, NOT_ARMED); }

int64_t armed_since(const Handle* handle) { return handle->start_ns.load(std::memory_order_acquire); }

Counts counts(const Handle* handle) {
    return {handle->calls.load(std::memory_order_relaxed), handle->faults.load(std::memory_order_relaxed)};
}

void close(Handle* handle) { release(handle); }

}  // namespace engine::fault
