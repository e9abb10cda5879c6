// Threads take spans of rows from one counter, so that a slow thread takes fewer.
#include "model/score_threads.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "base/assert.hpp"
#include "base/call_lock.hpp"

namespace engine::model {
namespace {

int call(const engine_scorer& scorer, const float* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return scorer.score(scorer.ctx, rows, n, stride, out);
}
int call(const engine_scorer& scorer, const double* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return scorer.score_f64(scorer.ctx, rows, n, stride, out);
}

int call_until(const engine_scorer& scorer, const float* rows, std::size_t n, std::size_t stride, double* out,
               std::int64_t deadline_ns) noexcept {
    return engine_score_by(&scorer, rows, n, stride, out, deadline_ns);
}
int call_until(const engine_scorer& scorer, const double* rows, std::size_t n, std::size_t stride, double* out,
               std::int64_t deadline_ns) noexcept {
    return engine_score_by_f64(&scorer, rows, n, stride, out, deadline_ns);
}

template <class T>
int score_by(const engine_scorer& scorer, const T* rows, std::size_t n_rows, std::size_t stride, double* out,
             std::int64_t deadline_ns) noexcept {
    if (scorer.flags & ENGINE_SCORER_REENTRANT) return call_until(scorer, rows, n_rows, stride, out, deadline_ns);
    const std::shared_ptr<CallLock> one_at_a_time = CallLock::of(scorer.ctx);
    if (!one_at_a_time->lock_until(deadline_ns)) return NOT_CALLED;
    const int status = call_until(scorer, rows, n_rows, stride, out, deadline_ns);
    one_at_a_time->unlock();
    return status;
}

template <class T>
int score(const engine_scorer& scorer, const T* rows, std::size_t n_rows, std::size_t stride, double* out,
          std::size_t threads) noexcept {
    ENGINE_ASSERT(n_rows == 0 || (rows != nullptr && out != nullptr), "rows and answers have memory");
    ENGINE_ASSERT(scorer.n_outputs >= 1 && scorer.n_features >= 1, "a scorer has features and outputs");
    const bool alone = !(scorer.flags & ENGINE_SCORER_REENTRANT) || (scorer.flags & ENGINE_SCORER_TAKES_GIL);
    const std::size_t spans = n_rows / rows_a_span + (n_rows % rows_a_span != 0);
    threads = std::min(threads, spans);
    if (!(scorer.flags & ENGINE_SCORER_REENTRANT)) {
        const std::shared_ptr<CallLock> one_at_a_time = CallLock::of(scorer.ctx);
        if (!one_at_a_time->lock_until(NEVER_NS)) return NOT_CALLED;
        const int status = call(scorer, rows, n_rows, stride, out);
        one_at_a_time->unlock();
        return status;
    }
    if (alone || threads <= 1) return call(scorer, rows, n_rows, stride, out);
    // Relaxed, because the counter orders nothing: each span is taken once, and join() publishes what was written.
    std::atomic<std::size_t> next{0};
    std::atomic<int> failed{ENGINE_SCORE_OK};
    const auto work = [&]() noexcept {
        while (failed.load(std::memory_order_relaxed) == ENGINE_SCORE_OK) {
            const std::size_t span = next.fetch_add(1, std::memory_order_relaxed);
            if (span >= spans) return;
            const std::size_t first = span * rows_a_span;
            ENGINE_ASSERT(first < n_rows, "a span begins inside the rows");
            const int status = call(scorer, rows + first * stride, std::min(rows_a_span, n_rows - first), stride,
                                    out + first * scorer.n_outputs);
            if (status != ENGINE_SCORE_OK) failed.store(status, std::memory_order_relaxed);
        }
    };
    std::vector<std::thread> others;
    try {
        others.reserve(threads - 1);
        for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads to be had: those that started do the work, and the caller
    } catch (const std::bad_alloc&) {
    }
    work();
    for (std::thread& other : others) other.join();
    return failed.load();
}

}  // namespace

int score_threads(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept {
    return score(scorer, rows, n_rows, row_stride, out, threads);
}
int score_threads(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept {
    return score(scorer, rows, n_rows, row_stride, out, threads);
}
int score_until(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                std::int64_t deadline_ns) noexcept {
    return score_by(scorer, rows, n_rows, row_stride, out, deadline_ns);
}
int score_until(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                double* out, std::int64_t deadline_ns) noexcept {
    return score_by(scorer, rows, n_rows, row_stride, out, deadline_ns);
}

}  // namespace engine::model
