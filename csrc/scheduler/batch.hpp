// One executor's batch of one lane, with the buffers to score it in. Sized once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/completions.hpp"
#include "scheduler/deployment.hpp"
#include "scheduler/limits.hpp"
#include "scheduler/policy.hpp"

namespace engine::scheduler {

struct Batch {
    explicit Batch(const RuntimeLimits& limits)
        : entries(limits.batch_rows_max),
          in_order(limits.batch_rows_max),
          rows(size_t{limits.batch_rows_max} * limits.row_bytes_max()),
          out(size_t{limits.batch_rows_max} * limits.n_outputs),
          scratch(size_t{limits.batch_rows_max} * limits.n_features),
          waited_ns(limits.batch_rows_max),
          predicted_ns(limits.batch_rows_max) {
        pending_signals.reserve(limits.batch_rows_max);
    }

    uint32_t size = 0;          // rows in it; the vectors hold batch_rows_max
    uint32_t executor = 0;      // the one that formed it
    int64_t call_began_ns = 0;  // lock: the scoring call under way, which has …
    uint32_t call_rows = 0;     // … this many rows
    std::vector<Entry> entries;
    std::vector<Entry> in_order;  // the entries in the order in which they are scored
    std::vector<std::byte> rows;  // of a call, copied side by side
    std::vector<double> out;
    std::vector<float> scratch;                 // for rows narrowed to float32
    std::vector<int64_t> waited_ns;             // of each row: how long it was queued …
    std::vector<int64_t> predicted_ns;          // … and the finish that admission expected
    std::vector<Completions*> pending_signals;  // loops with answers of this batch, to be signalled at its end
    Deployment* deployment = nullptr;           // the first row's; one reference from forming to learning
    Deployment* calling = nullptr;              // lock: whose call is under way; its rows' slots hold it …
    Deployment* lost_in = nullptr;              // … and where that call is lost, this reference does until it is back
};

}  // namespace engine::scheduler
