// A model that is asked along with the live one and whose answers nobody gets: they are compared and shown to the monitor.
//
// It never delays a live request: rows are offered to a bounded ring by one try, and dropped and counted where that
// fails; nobody is woken for them; the one thread that scores them runs only when nothing else wants its core
// (SCHED_IDLE).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "engine/observer.h"
#include "scheduler/deployment.hpp"

namespace engine::scheduler {

struct ShadowCounts {
    uint64_t rows;     // scored
    uint64_t dropped;  // not taken: the ring was full, or another thread was at it
    uint64_t failed;   // of those scored
    uint64_t compared; // scored well, where the live answer came from a primary
    double difference_mean, difference_max;  // |shadow - live| over all outputs of those
};

class Shadow {
public:
    // Takes a reference to the deployment and, where given, to the observer.
    Shadow(Deployment* deployment, const engine_observer* observer, uint32_t rows_max);
    ~Shadow();
    Shadow(const Shadow&) = delete;
    Shadow& operator=(const Shadow&) = delete;

    // Any thread; never waits. `row` and `values` are copied. `compare`: the live answer is a primary's.
    void offer(const engine_answer& live, bool compare) noexcept;
    ShadowCounts counts() const noexcept;
    // Ends the thread, unless it does not come back within patience_ns. False then: the shadow must not be destroyed.
    bool close(int64_t patience_ns) noexcept;

private:
    struct Item {
        engine_answer answer;
        bool compare;
    };
    void loop() noexcept;
    bool take(Item& item) noexcept;
    void score(const Item& item) noexcept;

    Deployment* deployment_;
    engine_observer observer_{};
    bool observed_;
    size_t row_bytes_, n_outputs_;
    std::vector<Item> ring_;
    std::vector<std::byte> rows_;
    std::vector<double> live_;
    std::atomic_flag busy_;
    size_t first_ = 0, queued_ = 0;  // under busy_
    // The thread's own.
    std::vector<std::byte> row_;
    std::vector<double> live_values_, values_;
    std::vector<float> scratch_;

    std::atomic<uint64_t> scored_{0}, dropped_{0}, failed_{0}, compared_{0};
    std::atomic<double> difference_sum_{0.0}, difference_max_{0.0};
    std::atomic<bool> stopping_{false}, ended_{false};
    std::thread thread_;
};

}  // namespace engine::scheduler
