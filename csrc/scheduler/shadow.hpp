// A shadow deployment: it scores the rows of live requests, and its answers are compared and shown to the monitor. No
// caller gets them.
//
// It never delays a live request. A row is offered to a bounded ring by one try; if that fails the row is dropped and
// counted. Nobody is woken for a row. The one thread that scores runs only when nothing else wants its core
// (SCHED_IDLE).
//
// Order. busy_ guards the ring and its positions. offer() takes it by one test_and_set and gives up where another
// thread has it; the shadow's thread spins and yields, because only it may wait. Taking is an acquire and giving back a
// release, so a row copied in under busy_ is whole when it is taken out. The counts are relaxed: each stands alone, and
// only the shadow's thread writes the two doubles, so load and store need no exchange. ended_ is a release: close()
// that has seen it may join without waiting.
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
    uint64_t rows;                           // scored
    uint64_t dropped;                        // not taken, because the ring was full or another thread was at it
    uint64_t failed;                         // scored without a usable answer
    uint64_t compared;                       // scored well, and the live answer came from a primary
    double difference_mean, difference_max;  // |shadow - live| over all outputs of the compared rows
};

class Shadow {
public:
    // Takes a reference to the deployment and, where given, to the observer. Throws std::system_error where the system
    // refuses a thread.
    Shadow(Deployment* deployment, const engine_observer* observer, uint32_t rows_max);
    ~Shadow();
    Shadow(const Shadow&) = delete;
    Shadow& operator=(const Shadow&) = delete;

    // Any thread; never waits. `row` is copied, converted where the shadow reads rows of another type; `values` too.
    // `compare`: the live answer is a primary's.
    void offer(const engine_answer& live, bool compare) noexcept;
    ShadowCounts counts() const noexcept;
    // Ends the thread. False where it does not come back within patience_ns: the shadow must then not be destroyed.
    bool close(int64_t patience_ns) noexcept;

private:
    struct Item {
        engine_answer answer;
        bool compare;
    };
    void loop() noexcept;
    bool take(Item& item) noexcept;
    void copy_row(const engine_answer& live, std::byte* to) const noexcept;
    void score(const Item& item) noexcept;

    Deployment* deployment_;
    engine_observer observer_{};
    bool observed_;
    size_t row_bytes_, n_outputs_;
    std::vector<Item> ring_;
    std::vector<std::byte> rows_;
    std::vector<double> live_;
    std::atomic_flag busy_;  // guards the three above and the two below
    size_t first_ = 0, queued_ = 0;
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
