// What a monitor keeps of the answers it is shown: counts by bin, by source, reason and version, in blocks that add up.
//
// Answers go through a ring to one native thread that counts them, so neither the threads that serve nor the GIL has a
// part in it. A block of some rows is closed and queued for whoever runs the tests; where that one is slow the open
// block simply grows, for blocks are sums: nothing is lost and no memory is taken.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/histogram.hpp"
#include "engine/observer.h"
#include "monitor/answers.hpp"
#include "monitor/ring.hpp"

namespace engine::monitor {

inline constexpr size_t VERSIONS = 16;  // told apart within one block; further ones are counted under the last
inline constexpr size_t SOURCES = 3;
inline constexpr size_t REASONS = 32;
inline constexpr size_t SHARE_BINS = 40;       // of latency / budget, 0.05 wide; the last holds everything above
inline constexpr size_t DIFFERENCE_BINS = 32;  // of |shadow - live|, powers of two up from 2^-24
inline constexpr uint16_t UNSEEN = UINT16_MAX;

// How a column's values become bins. Continuous: bin i holds (cuts[i-1], cuts[i]], and the last what is above them all.
// Discrete: a value equal to cuts[i] is in bin bin_of[i]; any other value is unseen.
struct Column {
    std::vector<float> cuts;        // ascending
    std::vector<uint16_t> bin_of;   // discrete columns only, one a cut
    uint32_t n_bins = 1;
    bool discrete = false;

    uint16_t bin(float value) const noexcept;
};

// Sums over some rows. Columns are the features, then the outputs.
struct Block {
    uint64_t rows = 0;          // rows of features
    uint64_t output_rows = 0;   // rows of outputs
    uint64_t answers = 0;
    int64_t first_ns = 0;
    int64_t last_ns = 0;
    std::vector<uint32_t> counts;    // [columns, bins_max]
    std::vector<uint32_t> missing;   // [columns] NaN
    std::vector<uint32_t> infinite;  // [columns]
    std::vector<uint32_t> unseen;    // [columns]
    std::vector<double> sums;        // [columns, 2]: sum and sum of squares of the finite values
    std::array<uint64_t, VERSIONS> deployments{};
    uint32_t n_deployments = 0;
    std::array<uint32_t, VERSIONS * SOURCES * REASONS> tally{};
    std::array<uint32_t, SOURCES> late{};
    std::array<double, VERSIONS * 3> output_moments{};  // per version: values, their sum, sum of squares; first output

    void clear() noexcept;
    void reset(size_t columns, size_t bins_max);
    size_t version(uint64_t deployment) noexcept;
    // Adds another's answers by version, source and reason; nothing of its columns.
    void add_answers(const Block& other) noexcept;
};

// Shadow's answers against the live ones of the same id.
struct Comparison {
    uint64_t deployment = 0;
    uint64_t count = 0;
    uint64_t within = 0;         // |difference| <= the tolerance
    uint64_t same_decision = 0;  // on the same side of the threshold
    double sum = 0.0;
    double sum_squares = 0.0;
    double largest = 0.0;
    std::array<uint64_t, DIFFERENCE_BINS> histogram{};
};

// Since the start; what the blocks do not carry.
struct Totals {
    uint64_t pushed = 0;
    uint64_t dropped = 0;       // the ring was full
    uint64_t wrong_width = 0;   // counted as answers, their rows or outputs left out
    uint64_t folded = 0;
    uint64_t remembered = 0;
    uint64_t unpaired_shadows = 0;
    std::array<std::array<uint64_t, LogBuckets::COUNT>, SOURCES> latency{};
    std::array<uint64_t, SHARE_BINS> share{};
    std::array<Comparison, 4> shadows{};
};

struct Limits {
    uint32_t ring_rows = 16384;
    uint32_t features_max = 256;
    uint32_t outputs_max = 1;
    uint32_t block_rows = 50;
    uint32_t blocks_max = 64;      // closed and not yet taken
    uint32_t answers_max = 131072; // remembered for labels
    uint32_t sample_rows = 0;      // raw rows kept while there is no layout
    double shadow_tolerance = 0.01;
    double decision_threshold = 0.5;
};

// Thread-safe. In a child of fork() everything does nothing: the folding thread is the parent's.
class Sketch {
public:
    explicit Sketch(const Limits& limits);  // throws std::bad_alloc, std::system_error
    ~Sketch();
    Sketch(const Sketch&) = delete;
    Sketch& operator=(const Sketch&) = delete;

    // Hot: the observer's observe(). False where the ring was full, or after close().
    bool observe(const engine_answer& answer) noexcept;
    void deployed(uint64_t deployment, const char* version);
    std::vector<std::pair<uint64_t, std::string>> versions();

    // n_features may be 0 where it is not known; the first row decides then. Of what was folded and not taken the columns
    // are dropped; answers stay counted.
    void set_layout(std::vector<Column> columns, uint32_t n_features);
    // Counts rows that came past the ring: n rows of n_features floats, or of n_outputs doubles.
    void fold_features(const float* rows, size_t n, size_t stride);
    void fold_outputs(const double* rows, size_t n, size_t stride);

    // Folds what the ring holds, and with `flush` closes the open block.
    void drain(bool flush);
    // The oldest closed block, moved into `into` (whose memory is reused); false where there is none.
    bool take(Block& into);
    // Until a block is closed, the sketch is closed, or the time is over. Without the GIL.
    void wait(int64_t timeout_ns);
    // Until the sketch is closed (true) or the time is over.
    bool wait_closed(int64_t timeout_ns);

    Totals totals();
    // Outputs of a remembered answer into `outputs`; false where it is not remembered.
    bool find(uint64_t id, Remembered& found, double* outputs);
    // Marks the answer as labelled; false where it was already, or is not remembered.
    bool label(uint64_t id);
    // Raw rows [n, n_features + n_outputs] gathered while there was no layout, at most sample_rows.
    std::vector<float> sample(uint32_t& width);

    void close() noexcept;  // always returns; again is nothing
    bool alive() const noexcept;
    uint32_t n_features() const noexcept { return n_features_.load(std::memory_order_relaxed); }
    const Limits& limits() const noexcept { return limits_; }
    size_t ring_bytes() const noexcept { return ring_.bytes(); }

    void retain() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept;
    engine_observer observer() noexcept;

private:
    void run() noexcept;
    size_t fold_some(size_t records_max) noexcept;  // holding the lock
    void fold(const Record& record) noexcept;
    void fold_live(const Record& record) noexcept;
    void fold_shadow(const Record& record) noexcept;
    void fold_row(const float* row) noexcept;
    void fold_output(const double* values) noexcept;
    template <class T>
    void fold_many(const T* rows, size_t n, size_t stride, void (Sketch::*fold)(const T*), uint64_t Block::*folded);
    void keep_sample(const Record& record) noexcept;
    void count_value(size_t column, float value) noexcept;
    void compare(const Remembered& live, double live_value, uint64_t shadow, double shadow_value) noexcept;
    void close_block(bool forced) noexcept;

    const Limits limits_;
    Ring ring_;
    const uint32_t forked_at_;
    std::atomic<uint32_t> references_{1};
    std::atomic<uint32_t> n_features_{0};
    std::atomic<bool> closed_{false};
    std::atomic<uint64_t> dropped_{0};
    std::atomic<uint64_t> wrong_width_{0};
    std::atomic<uint32_t> bell_{0};  // rung by producers that have filled a quarter of the ring

    std::mutex mutex_;  // everything below; producers never take it
    std::condition_variable changed_;
    std::vector<Column> columns_;
    uint32_t features_in_layout_ = 0;
    uint32_t bins_max_ = 0;
    Block open_;
    std::vector<Block> closed_blocks_;  // a circle of blocks_max
    size_t first_closed_ = 0;
    size_t n_closed_ = 0;
    Totals totals_;
    AnswerMemory answers_;
    AnswerMemory shadows_;  // shadow's answers that came before the live one
    bool any_shadow_ = false;
    std::deque<std::pair<uint64_t, std::string>> versions_;
    std::vector<float> sample_;
    uint32_t sample_width_ = 0;
    std::thread* folder_ = nullptr;  // leaked in a child of fork(), where it cannot be joined
};

}  // namespace engine::monitor
