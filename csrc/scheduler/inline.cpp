// The inline lane: the primary on the caller's own thread. No queue, no wake-up; two clock reads a request.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "scheduler/reasons.hpp"
#include "scheduler/row_search.hpp"
#include "scheduler/runtime.hpp"

namespace engine::scheduler {

namespace {

constexpr uint32_t OBSERVE_EVERY = 16;        // learning costs 40 ns, a sixth of a trivial request
constexpr uint32_t FALLBACK_ROWS = 16;        // a forest scores sixteen rows in the time of a few
constexpr int64_t CHUNK_TARGET_NS = 500'000;  // predict_many looks at the clock at least this often

}  // namespace

// Hot: once per request.
Outcome Runtime::predict_inline(const Request& request, double* out) {
    Deployment& deployment = *request.deployment;
    const int64_t asked = request.asked_ns;
    if (asked + inline_cost_of(deployment).high_ns(1) > request.deadline_ns || request.deadline_ns <= asked)
        return answer_without_primary(request, Reason::late, out);
    Breaker& breaker = deployment.breaker();
    if (!breaker.allows(asked)) return answer_without_primary(request, Reason::breaker_open, out);
    float* scratch = deployment.float64_rows() ? thread_scratch(limits_.n_features) : nullptr;
    // A primary that can stop does so while there is still time for the fallback.
    const int64_t until = request.deadline_ns - sync_margin_.typical_fallback_ns();
    const int status = deployment.score_primary(request.row, 1, scratch, out, until);
    const int64_t now = now_ns();
    const uint64_t id = next_id();
    const bool sampled = id % OBSERVE_EVERY == 0;
    if (sampled) observe_inline(deployment, 1, now - asked);
    if (now - asked > limits_.budget_ns) counters_.inline_overruns.fetch_add(1, std::memory_order_relaxed);
    if (status == ENGINE_SCORE_OK && usable(out)) {
        if (sampled || !breaker.untroubled()) breaker.record(sampled ? OBSERVE_EVERY : 1, 0, now);
        return {id,  deployment.number(), request.started_ns, request.deadline_ns,
                now, Source::primary,     Reason::ok,         request.priority};
    }
    if (status != NOT_CALLED) breaker.record(1, 1, now);
    const Reason reason = reason_of(status);
    const Side side = fallback_or_default(deployment, request.row, request.deadline_ns, reason, out);
    return {id,          deployment.number(), request.started_ns, request.deadline_ns, side.ready_ns,
            side.source, side.reason,         request.priority};
}

// One observer at a time, because CostModel::observe() is not for several. A second thread skips its record instead of
// waiting. Acquire and release hand the model's plain fields from one observer to the next.
void Runtime::observe_inline(const Deployment& deployment, uint32_t rows, int64_t ns) noexcept {
    if (inline_observing_.test_and_set(std::memory_order_acquire)) return;
    inline_cost_of(deployment).observe(rows, ns);
    inline_observing_.clear(std::memory_order_release);
}

// One predict_many call. Rows go in deadline order. The primary takes chunks for as long as the fallback can still
// answer every row behind the chunk in time; the fallback takes the rest.
struct Runtime::ManyInline {
    Runtime& runtime;
    Deployment& deployment;
    const std::byte* rows;
    const int64_t* deadlines_ns;
    int64_t started_ns;
    int64_t asked_ns;
    Priority priority;
    bool open;  // the primary's circuit breaker was open when the call came
    Outcome* outcomes;
    double* out;
    std::vector<uint32_t> order;      // row numbers, earliest deadline first; empty where the rows come in that order
    std::vector<int64_t> latest_ns;   // [i]: when the fallback must begin on the i-th row and all rows behind it
    std::vector<std::byte> gathered;  // a chunk's rows side by side, where `order` scatters them
    std::vector<double> values;       // … and its answers
    float* scratch;

    uint32_t row(uint32_t i) const noexcept { return order.empty() ? i : order[i]; }

    void plan(uint32_t n, int64_t reserve_ns) {
        if (!std::is_sorted(deadlines_ns, deadlines_ns + n)) {
            order.resize(n);
            std::iota(order.begin(), order.end(), 0u);
            std::stable_sort(order.begin(), order.end(),
                             [&](uint32_t a, uint32_t b) { return deadlines_ns[a] < deadlines_ns[b]; });
            gathered.resize(size_t{runtime.limits_.batch_rows_max} * deployment.row_bytes());
            values.resize(size_t{runtime.limits_.batch_rows_max} * runtime.limits_.n_outputs);
        }
        const int64_t fallback_ns = runtime.sync_margin_.terms().typical_ns;
        latest_ns.resize(n + 1, NEVER_NS);
        for (uint32_t i = n; i-- > 0;) {
            const int64_t deadline = deadlines_ns[row(i)];
            const int64_t finish_by =
                std::min(runtime.sync_margin_.fallback_at(asked_ns, deadline, 0, false), deadline - reserve_ns);
            latest_ns[i] = std::min(finish_by, latest_ns[i + 1] - fallback_ns);
        }
    }

    // The number of rows from the i-th on that the primary may take now; 0 when the fallback must take the i-th.
    uint32_t chunk_at(uint32_t i, uint32_t n, int64_t now) const noexcept {
        if (open) return 0;
        const CostModel& cost = runtime.inline_cost_of(deployment);
        uint32_t chunk = order.empty() ? n - i : std::min(n - i, runtime.limits_.batch_rows_max);
        while (chunk > 1 && cost.high_ns(chunk) > CHUNK_TARGET_NS) chunk /= 2;
        while (chunk > 0 && !allows(i, chunk, now)) chunk /= 2;
        return chunk;
    }

    bool allows(uint32_t i, uint32_t chunk, int64_t now) const noexcept {
        const int64_t done = now + runtime.inline_cost_of(deployment).high_ns(chunk);
        return done <= latest_ns[i + chunk] && done <= latest_ns[i];
    }

    void settle(uint32_t at, const Side& side) noexcept {
        outcomes[at] = {runtime.next_id(), deployment.number(), started_ns,  deadlines_ns[at],
                        side.ready_ns,     side.source,         side.reason, priority};
    }

    void fall_back(uint32_t at, Reason reason) {
        const RuntimeLimits& limits = runtime.limits_;
        settle(at, runtime.fallback_or_default(deployment, rows + size_t{at} * deployment.row_bytes(), deadlines_ns[at],
                                               reason, out + size_t{at} * limits.n_outputs));
    }

    // Answers rows from the i-th on that the primary may not take, as many as share one call of the fallback. Returns
    // their number. At overload most rows end here.
    uint32_t fall_back_run(uint32_t i, uint32_t n, int64_t now) {
        const RuntimeLimits& limits = runtime.limits_;
        const auto waits = [&](uint32_t k) { return deadlines_ns[row(k)] > now && (open || !allows(k, 1, now)); };
        const Reason reason = open ? Reason::breaker_open : Reason::late;
        uint32_t run = 0;
        if (order.empty() && deployment.has_fallback() && !(open && runtime.limits_.errors_to_default))
            while (run < FALLBACK_ROWS && i + run < n && waits(i + run)) ++run;
        if (run < 2 || !runtime.sync_margin_.time_for_fallback(now, deadlines_ns[i], run)) {
            fall_back(row(i), deadlines_ns[row(i)] <= now ? Reason::expired : reason);
            return 1;
        }
        double* values_out = out + size_t{i} * limits.n_outputs;
        const int status =
            deployment.score_fallback(rows + size_t{i} * deployment.row_bytes(), run, scratch, values_out);
        const int64_t ended = now_ns();
        for (uint32_t k = 0; k < run; ++k) {
            if (status == ENGINE_SCORE_OK && runtime.usable(values_out + size_t{k} * limits.n_outputs))
                settle(i + k, {ended, Source::fallback, reason});
            else fall_back(i + k, reason);  // alone, to find out which row fails
        }
        return run;
    }

    // Answers rows i … i + chunk: in one call of the primary, or where that fails in the calls that find the rows that
    // make it fail. Returns when it was done.
    int64_t score(uint32_t i, uint32_t chunk, int64_t now) {
        ENGINE_ASSERT(chunk > 0 && i + chunk < latest_ns.size(), "a chunk has rows, all of this call");
        ENGINE_ASSERT(order.empty() || chunk <= runtime.limits_.batch_rows_max, "scattered rows fit their buffer");
        RowFailures& failures = deployment.row_failures();
        RowSearch search(chunk);
        Reason failure = Reason::ok;
        bool blamed = true;  // a row was counted for the last failed call
        bool giving_up = false;
        for (bool first_call = true; !search.done(); first_call = false) {
            const uint32_t from = i + search.at();
            uint32_t n = search.next(failures.group_rows());
            if (!first_call) {
                if (failures.hopeless()) n = 1;
                while (n > 0 && !allows(from, n, now)) n /= 2;
                if (giving_up || n == 0) {
                    if (search.tried() && !blamed) deployment.breaker().record(1, 1, now);
                    blamed = true;
                    fall_back(row(from), search.tried() ? failure : Reason::late);
                    search.skip();
                    continue;
                }
            }
            const Call call = call_primary(from, n, now);
            now = call.ended_ns;
            if (call.unusable == n && !call.late()) {
                failure = reason_of(call.status);
                failures.call_failed();
                blamed = n == 1;
                if (n == 1) {
                    if (call.status != ENGINE_SCORE_OK || search.tried())
                        failures.row_failed(call.rows, deployment.row_bytes(), now);
                    deployment.breaker().record(1, 1, now);
                    giving_up = failures.hopeless() || deployment.breaker().open();
                    fall_back(row(from), failure);
                }
                search.failed(n);
                continue;
            }
            if (call.status != NOT_CALLED) deployment.breaker().record(n, call.unusable, now);
            if (!call.late()) failures.call_passed(n);
            take(from, n, call);
            search.passed(n);
        }
        return now;
    }

    struct Call {
        int status;
        uint32_t unusable;  // rows without a usable answer
        int64_t ended_ns;
        const std::byte* rows;  // side by side, as the primary saw them
        const double* values;
        bool late() const noexcept { return status == ENGINE_SCORE_OUT_OF_TIME || status == NOT_CALLED; }
    };

    // One call of the primary, for rows i … i + n.
    Call call_primary(uint32_t i, uint32_t n, int64_t now) {
        const RuntimeLimits& limits = runtime.limits_;
        const size_t width = limits.n_outputs, bytes = deployment.row_bytes();
        const std::byte* its_rows = rows + size_t{i} * bytes;
        double* values_out = out + i * width;
        if (!order.empty()) {
            for (uint32_t k = 0; k < n; ++k)
                std::memcpy(gathered.data() + size_t{k} * bytes, rows + size_t{row(i + k)} * bytes, bytes);
            its_rows = gathered.data();
            values_out = values.data();
        }
        const int status = deployment.score_primary(its_rows, n, scratch, values_out, latest_ns[i]);
        const int64_t ended = now_ns();
        if (ended - now > limits.budget_ns) runtime.counters_.inline_overruns.fetch_add(1, std::memory_order_relaxed);
        runtime.observe_inline(deployment, n, ended - now);
        uint32_t unusable = n;
        if (status == ENGINE_SCORE_OK)
            for (uint32_t k = 0; k < n; ++k) unusable -= runtime.usable(values_out + k * width);
        return {status, unusable, ended, its_rows, values_out};
    }

    // Settles rows i … i + n by the answers of a call.
    void take(uint32_t i, uint32_t n, const Call& call) {
        const size_t width = runtime.limits_.n_outputs;
        for (uint32_t k = 0; k < n; ++k) {
            const uint32_t at = row(i + k);
            const double* value = call.values + k * width;
            if (call.late() || (call.unusable > 0 && !runtime.usable(value))) {
                fall_back(at, reason_of(call.status));
                continue;
            }
            if (!order.empty()) std::copy_n(value, width, out + at * width);
            settle(at, {call.ended_ns, Source::primary, Reason::ok});
        }
    }
};

void Runtime::predict_many_inline(const Request& request, const void* rows, uint32_t n, const int64_t* deadlines_ns,
                                  int64_t reserve_ns, Outcome* outcomes, double* out) {
    Deployment& deployment = *request.deployment;
    const bool open = n > 0 && !deployment.breaker().allows(request.asked_ns);
    float* scratch = thread_scratch(size_t{n} * limits_.n_features);
    ManyInline call{*this,
                    deployment,
                    static_cast<const std::byte*>(rows),
                    deadlines_ns,
                    request.started_ns,
                    request.asked_ns,
                    request.priority,
                    open,
                    outcomes,
                    out,
                    {},
                    {},
                    {},
                    {},
                    scratch};
    call.plan(n, reserve_ns);
    int64_t now = request.asked_ns;
    for (uint32_t i = 0; i < n;) {
        if (const uint32_t chunk = call.chunk_at(i, n, now); chunk > 0) {
            now = call.score(i, chunk, now);
            i += chunk;
            continue;
        }
        const uint32_t run = call.fall_back_run(i, n, now);
        ENGINE_ASSERT(run > 0 && run <= n - i, "every round of the loop answers a row");
        i += run;
        now = now_ns();
    }
}

}  // namespace engine::scheduler
