// The sizes and rules of one engine's runtime, fixed when it is made.
#pragma once

#include <cstdint>

namespace engine::scheduler {

struct RuntimeLimits {
    uint32_t slots = 4096;  // requests in flight in the batch lane; memory is sized from it at the start
    uint32_t batch_rows_max = 64;
    uint32_t n_features = 0;
    uint32_t n_outputs = 1;
    int64_t budget_ns = 10'000'000;  // the usual deadline, from the call
    double weight = 1.0;             // of this engine among those that share its executors
    double miss_rate = 1e-4;         // share of timed fallbacks that may come late
    bool errors_to_default = false;  // a primary that fails is followed by the default instead of the fallback
    bool only_finite = true;         // NaN and infinity in a primary's answer are failures
    uint64_t first_id = 1;           // ids count up from here

    // Room for a row of any deployment: float64 rows are the wider.
    uint32_t row_bytes_max() const noexcept { return n_features * 8; }
};

}  // namespace engine::scheduler
