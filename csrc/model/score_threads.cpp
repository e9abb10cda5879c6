// Threads take turns of rows from one counter, so that a slow one takes fewer.
#include "model/score_threads.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace engine::model {
namespace {

int call(const engine_scorer& scorer, const float* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return scorer.score(scorer.ctx, rows, n, stride, out);
}
int call(const engine_scorer& scorer, const double* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return scorer.score_f64(scorer.ctx, rows, n, stride, out);
}

template <class T>
int score(const engine_scorer& scorer, const T* rows, std::size_t n_rows, std::size_t stride, double* out,
          std::size_t threads) noexcept {
    const bool alone = !(scorer.flags & ENGINE_SCORER_REENTRANT) || (scorer.flags & ENGINE_SCORER_TAKES_GIL);
    const std::size_t turns = n_rows / rows_a_turn + (n_rows % rows_a_turn != 0);
    threads = std::min(threads, turns);
    if (alone || threads <= 1) return call(scorer, rows, n_rows, stride, out);
    std::atomic<std::size_t> next{0};
    std::atomic<int> failed{ENGINE_SCORE_OK};
    const auto work = [&]() noexcept {
        while (failed.load(std::memory_order_relaxed) == ENGINE_SCORE_OK) {
            const std::size_t turn = next.fetch_add(1, std::memory_order_relaxed);
            if (turn >= turns) return;
            const std::size_t first = turn * rows_a_turn;
            const int status = call(scorer, rows + first * stride, std::min(rows_a_turn, n_rows - first), stride,
                                    out + first * scorer.n_outputs);
            if (status != ENGINE_SCORE_OK) failed.store(status, std::memory_order_relaxed);
        }
    };
    std::vector<std::thread> others;
    try {
        others.reserve(threads - 1);
        for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads to be had: those that started and the caller do it
    } catch (const std::bad_alloc&) {
    }
    work();
    for (std::thread& other : others) other.join();
    return failed.load();
}

}  // namespace

int score_threads(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                  std::size_t threads) noexcept {
    return score(scorer, rows, n_rows, row_stride, out, threads);
}
int score_threads(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept {
    return score(scorer, rows, n_rows, row_stride, out, threads);
}

}  // namespace engine::model
