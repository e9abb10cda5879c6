// Scores one large matrix with several threads. For batch jobs: requests have the runtime's own threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/scorer.h"

namespace engine::model {

// Rows that a thread takes at a time: enough to hide the cost of taking them, few enough that all threads end together.
inline constexpr std::size_t rows_a_span = 256;

// Scores as engine_scorer::score does, with up to `threads` threads. The caller is one of them; the others are
// started and joined here. A scorer that is not reentrant, or takes the GIL, gets one thread. A scorer that is not
// reentrant is waited for; NOT_CALLED (base/call_lock.hpp) where a call is stuck in it. Returns ENGINE_SCORE_OK, or
// the status of a span that failed; other spans may then be unwritten.
int score_threads(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept;
int score_threads(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept;

// Scores on the calling thread until deadline_ns, as engine_score_by does. A scorer that is not reentrant is waited for
// as long; NOT_CALLED where its earlier call did not end in time, or is stuck.
int score_until(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                std::int64_t deadline_ns) noexcept;
int score_until(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                double* out, std::int64_t deadline_ns) noexcept;

}  // namespace engine::model
