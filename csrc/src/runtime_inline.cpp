// The inline lane: the primary on the caller's own thread. No queue, no wake-up; two clock reads a request.
#include <algorithm>
#include <numeric>

#include "detail/runtime.hpp"
#include "engine/runtime.hpp"

namespace engine {

namespace {

constexpr uint32_t OBSERVE_EVERY = 16;       // learning costs 40 ns, a sixth of a trivial request
constexpr int64_t CHUNK_TARGET_NS = 500'000;  // how long predict_many goes without looking at the clock
constexpr uint32_t FALLBACK_CHUNK = 16;

}  // namespace

// Hot: once per request. The caller must keep the current deployment from being swapped meanwhile (the GIL does).
Outcome Runtime::predict_inline(const void* row, int64_t started_ns, int64_t deadline_ns, double* out) {
    Deployment& deployment = *current();
    if (started_ns + inline_cost_.high_ns(1) > deadline_ns || deadline_ns <= started_ns)
        return answer_without_primary(deployment, row, started_ns, deadline_ns, Reason::late, out);
    float* scratch = deployment.float64_rows() ? detail::thread_scratch(limits_.n_features) : nullptr;
    const int status = deployment.score_primary(row, 1, scratch, out);
    const int64_t now = now_ns();
    const int64_t took = now - started_ns;
    if (inline_calls_.fetch_add(1, std::memory_order_relaxed) % OBSERVE_EVERY == 0) observe_inline(1, took);
    if (now > deadline_ns) counters_.inline_overruns.fetch_add(1, std::memory_order_relaxed);
    if (status == ENGINE_SCORE_OK && detail::all_finite(out, limits_.n_outputs))
        return {next_id(), deployment.number(), started_ns, deadline_ns, now, Source::primary, Reason::ok};
    const Reason reason = status == ENGINE_SCORE_OK ? Reason::primary_not_finite : detail::reason_of(status);
    const Side side = fallback_or_default(deployment, row, deadline_ns, reason, out);
    return {next_id(), deployment.number(), started_ns, deadline_ns, side.ready_ns, side.source, side.reason};
}

// One observer at a time; whoever comes second has nothing to add.
void Runtime::observe_inline(uint32_t rows, int64_t ns) noexcept {
    if (inline_observing_.test_and_set(std::memory_order_acquire)) return;
    inline_cost_.observe(rows, ns);
    inline_observing_.clear(std::memory_order_release);
}

void Runtime::predict_many_inline(const void* rows, uint32_t n, int64_t started_ns, const int64_t* deadlines_ns,
                                  double share, Outcome* outcomes, double* out) {
    Deployment* deployment = retain_current();
    const auto* bytes = static_cast<const std::byte*>(rows);
    const uint32_t width = limits_.n_outputs, row_bytes = limits_.row_bytes;
    const int64_t fallback_ns = std::max<int64_t>(sync_guard_.terms().fallback_ns, 1);
    float* scratch = detail::thread_scratch(size_t{n} * limits_.n_features);

    // Earliest deadline first; in order already where there is one deadline for all, the usual case.
    std::vector<uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0u);
    const bool sorted = std::is_sorted(deadlines_ns, deadlines_ns + n);
    if (!sorted)
        std::stable_sort(order.begin(), order.end(),
                         [&](uint32_t a, uint32_t b) { return deadlines_ns[a] < deadlines_ns[b]; });

    // latest[i]: when the fallback must begin on rows i, i + 1, … so that each of them is still in time.
    std::vector<int64_t> latest(n + 1, NEVER_NS);
    for (uint32_t i = n; i-- > 0;) {
        const int64_t deadline = deadlines_ns[order[i]];
        const int64_t spendable = started_ns + static_cast<int64_t>(share * static_cast<double>(deadline - started_ns));
        latest[i] = std::min(spendable, latest[i + 1]) - fallback_ns;
    }

    std::vector<std::byte> gathered;
    std::vector<double> values;
    if (!sorted) {
        gathered.resize(size_t{limits_.batch_rows_max} * row_bytes);
        values.resize(size_t{limits_.batch_rows_max} * width);
    }
    int64_t now = started_ns;
    for (uint32_t i = 0; i < n;) {
        // The largest chunk of the primary after which everything behind it can still be rescued in time.
        const int64_t first_deadline = deadlines_ns[order[i]];
        uint32_t chunk = sorted ? n - i : std::min(n - i, limits_.batch_rows_max);
        while (chunk > 0 && (inline_cost_.high_ns(chunk) > CHUNK_TARGET_NS && chunk > 1)) chunk /= 2;
        while (chunk > 0) {
            const int64_t done = now + inline_cost_.high_ns(chunk);
            if (done <= latest[i + chunk] && done <= std::min(first_deadline, latest[i] + fallback_ns)) break;
            chunk /= 2;
        }
        if (chunk == 0) {
            for (const uint32_t end = std::min(n, i + FALLBACK_CHUNK); i < end; ++i) {
                const uint32_t at = order[i];
                const Reason reason = deadlines_ns[at] <= now ? Reason::expired : Reason::late;
                Outcome& outcome = outcomes[at];
                const Side side = fallback_or_default(*deployment, bytes + size_t{at} * row_bytes, deadlines_ns[at],
                                                      reason, out + size_t{at} * width);
                outcome = {next_id(),     deployment->number(), started_ns, deadlines_ns[at],
                           side.ready_ns, side.source,          side.reason};
            }
            now = now_ns();
            continue;
        }
        const void* chunk_rows = bytes + size_t{i} * row_bytes;
        double* chunk_out = out + size_t{i} * width;
        if (!sorted) {
            for (uint32_t k = 0; k < chunk; ++k)
                std::copy_n(bytes + size_t{order[i + k]} * row_bytes, row_bytes, gathered.data() + size_t{k} * row_bytes);
            chunk_rows = gathered.data();
            chunk_out = values.data();
        }
        const int status = deployment->score_primary(chunk_rows, chunk, scratch, chunk_out);
        const int64_t ended = now_ns();
        observe_inline(chunk, ended - now);
        now = ended;
        for (uint32_t k = 0; k < chunk; ++k) {
            const uint32_t at = order[i + k];
            double* value = out + size_t{at} * width;
            if (!sorted) std::copy_n(chunk_out + size_t{k} * width, width, value);
            Side side{ended, Source::primary, Reason::ok};
            if (status != ENGINE_SCORE_OK || !detail::all_finite(value, width)) {
                const Reason reason = status ? detail::reason_of(status) : Reason::primary_not_finite;
                side = fallback_or_default(*deployment, bytes + size_t{at} * row_bytes, deadlines_ns[at], reason, value);
            }
            outcomes[at] = {next_id(),     deployment->number(), started_ns, deadlines_ns[at],
                            side.ready_ns, side.source,          side.reason};
        }
        i += chunk;
    }
    deployment->release();
}

}  // namespace engine
