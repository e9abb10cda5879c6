// One executor's batch of one lane, with the buffers to score it in. Sized once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.hpp"
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
        called.reserve(limits.batch_rows_max);
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
    std::vector<Completions*> pending_signals;  // loops to be signalled at the end of a call, with a reference each
    std::vector<Deployment*> called;            // lock: whose calls have begun; one reference each, until learning
    Deployment* lost_in = nullptr;              // the one whose call was lost, with a reference until it is back

    // Lock. A call of this deployment begins.
    void call(Deployment& deployment) noexcept {
        if (!called.empty() && called.back() == &deployment) return;
        ENGINE_ASSERT(called.size() < called.capacity(), "a batch falls into no more runs than it has rows");
        deployment.retain();
        called.push_back(&deployment);
    }
    // Lock. The deployment whose call is under way.
    Deployment& calling() const noexcept {
        ENGINE_ASSERT(!called.empty(), "a batch that runs has begun a call");
        return *called.back();
    }
};

}  // namespace engine::scheduler
