// The counters of a runtime. Any thread adds; every load and store is relaxed, because each count stands alone and a
// reader wants only some recent state.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/assert.hpp"
#include "base/histogram.hpp"
#include "scheduler/request.hpp"

namespace engine::scheduler {

struct Counters {
    // By priority, source and reason: every answer is in it once.
    std::array<std::array<std::array<std::atomic<uint64_t>, REASONS>, SOURCES>, PRIORITIES> answers{};
    // The few late answers are counted, and not the many in time: an increment costs 5 ns, a hundredth of a request.
    std::atomic<uint64_t> late_ready{0};     // answers that were not ready before their deadline
    std::atomic<uint64_t> late_returned{0};  // … or not back with the caller before it
    std::atomic<uint64_t> late_dropped{0};   // primary results that came after another answer
    std::atomic<uint64_t> batches{0};
    std::atomic<uint64_t> batch_rows{0};
    std::atomic<uint64_t> failed_batches{0};
    std::atomic<uint64_t> queue_depth_max{0};
    std::atomic<uint64_t> cancelled{0};         // requests whose caller stopped waiting; they are in no other count
    std::atomic<uint64_t> inline_overruns{0};   // inline calls of the primary that took longer than the usual deadline
    std::array<Histogram, SOURCES> latency_ns;  // started to ready
    Histogram returned_ns;                      // started to returned
    Histogram queued_ns;                        // submitted to claimed by an executor

    const Histogram& latency(int source) const noexcept {
        ENGINE_ASSERT(source >= 0 && source < SOURCES, "a source is one of the enumeration");
        return latency_ns[source];
    }
};

}  // namespace engine::scheduler
