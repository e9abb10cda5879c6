// One large matrix scored by several threads. For batch jobs: a request has the runtime's own threads.
#pragma once

#include <cstddef>

#include "engine/scorer.h"

namespace engine::model {

// Rows that a thread takes at a time: enough to hide taking them, few enough that the last ones end together.
inline constexpr std::size_t rows_a_turn = 256;

// Scores as engine_scorer::score does, with up to `threads` threads of which the caller is one; the others are started
// and joined here. One thread where the scorer is not reentrant or takes the GIL, or where the system gives no more.
// Returns OK, or the status of a part that failed (the rest may then be unwritten).
int score_threads(const engine_scorer& scorer, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                  std::size_t threads) noexcept;
int score_threads(const engine_scorer& scorer, const double* rows, std::size_t n_rows, std::size_t row_stride,
                  double* out, std::size_t threads) noexcept;

}  // namespace engine::model
