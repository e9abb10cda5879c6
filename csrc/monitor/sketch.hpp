// Counts the answers that a monitor is shown: by bin, source, reason and version, in blocks that add up.
//
// Answers go through a ring to one native thread, which counts them. Neither the threads that serve nor the GIL takes
// part. A block is closed after every `block_rows`-th row, output row and answer, and queued for the thread that runs
// the tests. The same rows are therefore cut at the same places, however they came. Where the queue is full, records
// wait in the ring. Once a quarter of the ring waits the open block grows instead, because blocks are sums: nothing is
// lost, and no memory is taken.
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

#include "base/assert.hpp"
#include "base/histogram.hpp"
#include "engine/observer.h"
#include "monitor/answers.hpp"
#include "monitor/ring.hpp"

namespace engine::monitor {

inline constexpr size_t VERSIONS = 16;  // in one block; the last place counts all further ones
inline constexpr size_t SOURCES = 3;
inline constexpr size_t REASONS = 32;          // more than there are, so that a new reason changes no layout
inline constexpr size_t SHARE_BINS = 40;       // of latency / budget, 0.05 wide; the last holds everything above
inline constexpr size_t DIFFERENCE_BINS = 32;  // of |shadow - live|; bin i > 0 starts at 2^(i - 25), bin 0 at 0
inline constexpr size_t SHADOWS = 4;           // shadow versions that are compared at a time
inline constexpr uint16_t UNSEEN = UINT16_MAX;
// Products of scores in one block, at most 400 each, are exact in float32 up to this many rows.
inline constexpr uint32_t PAIR_ROWS_MAX = 32768;
inline constexpr float PAIR_SCORE_MAX = 20.0f;

// How a column's values become bins. Continuous: bin i holds (cuts[i-1], cuts[i]], and the last bin all above.
// Discrete: a value equal to cuts[i] is in bin bin_of[i], and any other value is unseen.
struct Column {
    std::vector<float> cuts;       // ascending
    std::vector<uint16_t> bin_of;  // discrete columns only, one for each cut
    // A whole number up to PAIR_SCORE_MAX for each bin; empty where no products with other columns are summed.
    std::vector<float> pair_scores;
    uint32_t n_bins = 1;
    bool discrete = false;

    uint16_t bin(float value) const noexcept;
    bool consistent() const noexcept;  // what assertions check
};

// Sums over some rows. The columns are the features, then the outputs.
struct Block {
    uint64_t rows = 0;         // rows of features
    uint64_t output_rows = 0;  // rows of outputs
    uint64_t answers = 0;
    int64_t first_ns = 0;  // CLOCK_MONOTONIC, of the first and the last answer; 0 where there is none
    int64_t last_ns = 0;
    std::vector<uint32_t> counts;    // [columns, bins_max]
    std::vector<uint32_t> missing;   // [columns] NaN
    std::vector<uint32_t> infinite;  // [columns]; counted in a bin or as unseen too
    std::vector<uint32_t> unseen;    // [columns] codes without a bin
    std::vector<uint32_t> runs;      // [columns], the longest run of one value that ends in the block
    std::vector<double> sums;        // [columns, 2]: sum and sum of squares of the finite values
    uint32_t pair_rows = 0;          // rows in pair_sums
    // The p features with scores have p sums of them, then the sums of products of (0, 0), (0, 1), …, (p - 1, p - 1).
    // Whole numbers, so they add up to the same in any order.
    std::vector<float> pair_sums;
    std::array<uint64_t, VERSIONS> deployments{};  // in order of first appearance
    uint32_t n_deployments = 0;
    std::array<uint32_t, VERSIONS * SOURCES * REASONS> tally{};
    std::array<uint32_t, SOURCES> late{};
    std::array<double, VERSIONS * 3> output_moments{};  // per version: count, sum, sum of squares of the first output

    void clear() noexcept;
    void reset(size_t columns, size_t bins_max, size_t pair_columns = 0);
    // The place of a version in this block.
    size_t version(uint64_t deployment) noexcept;
    // Adds another block's answers by version, source and reason, and nothing of its columns.
    void add_answers(const Block& other) noexcept;
    // Whether the sums agree with each other; what assertions check.
    bool consistent(size_t n_features, size_t bins_max) const noexcept;
};

// A shadow's answers against the live ones of the same id.
struct Comparison {
    uint64_t deployment = 0;
    uint64_t count = 0;
    uint64_t within = 0;         // |difference| <= the tolerance
    uint64_t same_decision = 0;  // both on the same side of the threshold
    double sum = 0.0;            // of shadow - live, finite ones
    double sum_squares = 0.0;
    double largest = 0.0;  // |difference|; infinite where one was no number
    std::array<uint64_t, DIFFERENCE_BINS> histogram{};
};

// Counts since the start that blocks do not carry.
struct Totals {
    uint64_t pushed = 0;
    uint64_t dropped = 0;      // the ring was full
    uint64_t wrong_width = 0;  // counted as answers; their rows or outputs are left out
    uint64_t folded = 0;       // counted, of those that were pushed
    uint64_t remembered = 0;
    uint64_t unpaired_shadows = 0;  // forgotten or replaced before the live answer came
    std::array<std::array<uint64_t, LogBuckets::COUNT>, SOURCES> latency{};
    std::array<uint64_t, SHARE_BINS> share{};
    std::array<Comparison, SHADOWS> shadows{};
};

struct Limits {
    uint32_t ring_rows = 16384;
    uint32_t features_max = 256;
    uint32_t outputs_max = 1;
    uint32_t block_rows = 50;
    uint32_t blocks_max = 64;       // closed and not yet taken
    uint32_t answers_max = 131072;  // remembered for labels
    uint32_t sample_rows = 0;       // raw rows kept while there is no layout
    double shadow_tolerance = 0.01;
    double decision_threshold = 0.5;
};

// Thread-safe. In a child of fork() every call does nothing, because the counting thread stayed in the parent.
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

    // n_features may be 0 where it is not known; the first row decides then. Records in the ring are counted by the new
    // layout. Columns that are counted and not taken: with `drop` they are dropped, and their answers stay counted;
    // without it nothing changes, and it returns false.
    bool set_layout(std::vector<Column> columns, uint32_t n_features, bool drop = true);
    // Counts rows that came past the ring: n rows of n_features floats, or of n_outputs doubles.
    void fold_features(const float* rows, size_t n, size_t stride);
    void fold_outputs(const double* rows, size_t n, size_t stride);

    // Counts what the ring holds, and with `flush` closes the open block: now, or where blocks_max are closed already,
    // as soon as one of them is taken. False where it stopped because blocks_max are closed: take them and call again.
    bool drain(bool flush);
    // Whether blocks should be taken soon, because later ones would have to wait in the ring. Any thread, without lock.
    bool pressed() const noexcept;
    // Moves the oldest closed block into `into`, whose memory is reused; false where there is none.
    bool take(Block& into);
    // Waits until a block is closed, the sketch is closed, or the time is over.
    void wait(int64_t timeout_ns);
    // Waits until the sketch is closed (true) or the time is over (false).
    bool wait_closed(int64_t timeout_ns);

    Totals totals();
    // Copies a remembered answer, and its outputs to `outputs`; false where it is not remembered.
    bool find(uint64_t id, Remembered& found, double* outputs);
    // Marks an answer as labelled; false where it was already, or is not remembered.
    bool label(uint64_t id);
    // The same for the worth of an answer.
    bool value(uint64_t id);
    // Copies the latest remembered answers, at most `most`, the oldest first, and their outputs [n, outputs_max].
    void answers(std::vector<Remembered>& entries, std::vector<double>& outputs, size_t most = SIZE_MAX);
    // Remembers n answers of another sketch, with outputs [n, outputs_max]. An answer of an id that is known stays.
    void remember(const Remembered* entries, const double* outputs, size_t n);
    // Raw rows [n, n_features + n_outputs] gathered while there was no layout, at most sample_rows.
    std::vector<float> sample(uint32_t& width);

    // Counts what is left and ends the thread. Always returns; a second call does nothing.
    void close() noexcept;
    bool alive() const noexcept;  // false in a child of fork()
    uint32_t n_features() const noexcept { return n_features_.load(std::memory_order_relaxed); }
    const Limits& limits() const noexcept { return limits_; }
    size_t ring_bytes() const noexcept { return ring_.bytes(); }

    void retain() noexcept;
    void release() noexcept;
    engine_observer observer() noexcept;

private:
    void run() noexcept;
    // Those below need the lock.
    // Stops where blocks_max blocks are closed, unless the open one may `grow`.
    size_t fold_some(size_t records_max, bool grow) noexcept;
    bool cut(uint32_t& counted) noexcept;
    void fold(const Record& record) noexcept;
    void fold_live(const Record& record) noexcept;
    void fold_shadow(const Record& record) noexcept;
    bool fold_row(const float* row) noexcept;  // whether the block is to be closed here
    bool fold_output(const double* values) noexcept;
    void add_pairs() noexcept;
    void keep_sample(const Record& record) noexcept;
    uint16_t count_value(size_t column, float value) noexcept;  // its bin; UNSEEN where it is in none
    void compare(double live_value, uint64_t shadow, double shadow_value) noexcept;
    void close_block(bool flush) noexcept;
    bool full() const noexcept { return n_closed_.load(std::memory_order_relaxed) == closed_blocks_.size(); }
    // Takes the lock.
    template <class T>
    void fold_many(const T* rows, size_t n, size_t stride, bool (Sketch::*fold)(const T*));

    const Limits limits_;
    Ring ring_;
    const uint64_t wake_mask_;  // a producer wakes the counting thread where position & wake_mask_ is 0
    const uint32_t forked_at_;
    std::atomic<uint32_t> references_{1};
    std::atomic<uint32_t> n_features_{0};
    std::atomic<bool> closed_{false};
    std::atomic<uint64_t> dropped_{0};
    std::atomic<uint64_t> wrong_width_{0};
    std::atomic<uint32_t> wake_signal_{0};  // futex word: counts up once a quarter of the ring, and at close()

    std::mutex mutex_;  // everything below; producers never take it
    std::condition_variable changed_;
    std::vector<Column> columns_;
    uint32_t features_in_layout_ = 0;
    uint32_t bins_max_ = 0;
    std::vector<float> last_;             // [columns], the latest value that is not missing
    std::vector<uint32_t> run_;           // [columns], how often it came in a row
    std::vector<uint32_t> pair_columns_;  // the features with scores
    std::vector<float> pair_scores_;      // of one row, [pair_columns_]
    std::vector<uint16_t> row_bins_;      // of one row, [features]
    uint32_t pair_stride_ = 1;            // one row in so many has its products summed
    uint32_t rows_to_pair_ = 0;           // until the next one
    Block open_;
    std::vector<Block> closed_blocks_;  // a circle of blocks_max
    size_t first_closed_ = 0;
    std::atomic<size_t> n_closed_{0};  // written under the lock; pressed() reads it without
    std::atomic<uint64_t> folded_{0};  // as totals_.folded, for pressed()
    // Since the last cut of each kind, below block_rows.
    uint32_t answers_since_cut_ = 0;
    uint32_t rows_since_cut_ = 0;
    uint32_t output_rows_since_cut_ = 0;
    bool flush_pending_ = false;  // a flush found no room
    Totals totals_;
    AnswerMemory answers_;
    AnswerMemory shadows_;  // shadow's answers that came before the live one
    bool any_shadow_ = false;
    std::deque<std::pair<uint64_t, std::string>> versions_;
    std::vector<float> sample_;
    uint32_t sample_width_ = 0;
    std::thread* folder_ = nullptr;  // leaked in a child of fork(), which cannot join it
};

}  // namespace engine::monitor
