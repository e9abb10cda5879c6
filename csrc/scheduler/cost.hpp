// L(b): how long the primary takes on a batch of b rows, learned online.
//
// Means are kept at knots 1, 2, 3, 4, 6, 8, 12, 16, … and interpolated between them. An observation moves the knots
// beside it. All other knots return to the calibrated shape times a common scale plus a common shift. Sizes that never
// run thus neither drift with the noise nor miss a change of speed, and a cost that every batch has come to carry makes
// larger batches worth a try. An observation far above expectation is a stall: it widens the spread and leaves the mean
// alone, until several in a row show that the model has become slow.
//
// Order. One thread at a time observes or primes (the executors' lock, or the inline lane's flag); any thread reads.
// Each published mean, the spread and the two batch sizes are relaxed words of their own: a reader between two stores
// interpolates between an old knot and a new one, which differ by one observation's step.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace engine::scheduler {

class CostModel {
public:
    static constexpr uint32_t ROWS_LIMIT = 1u << 20;
    static constexpr size_t KNOTS = 41;

    explicit CostModel(uint32_t rows_max) noexcept;

    // One point of a calibration. Knots never primed follow from their neighbours.
    void prime(uint32_t rows, int64_t ns) noexcept;
    void observe(uint32_t rows, int64_t ns) noexcept;

    int64_t expected_ns(uint32_t rows) const noexcept;
    // expected_ns() times the learned spread, about the 98th percentile of observed / expected.
    int64_t high_ns(uint32_t rows) const noexcept;
    // The smallest batch whose rows per second are within 5 % of the best up to rows_max.
    uint32_t efficient_rows() const noexcept { return efficient_rows_.load(std::memory_order_relaxed); }
    // The same for 1 %: the best batch for a backlog that outlasts every deadline.
    uint32_t peak_rows() const noexcept { return peak_rows_.load(std::memory_order_relaxed); }
    // The largest batch, up to rows_max, with high_ns(batch) <= budget_ns; 0 when not even one row fits.
    uint32_t rows_within(int64_t budget_ns) const noexcept;
    uint32_t rows_max() const noexcept { return rows_max_; }
    // Whether observe() would take this for a stall.
    bool is_stall(uint32_t rows, int64_t ns) const noexcept;
    double spread() const noexcept { return spread_.load(std::memory_order_relaxed); }
    uint64_t stalls() const noexcept { return stalls_.load(std::memory_order_relaxed); }

    static uint32_t knot_rows(size_t knot) noexcept;

private:
    void know(size_t knot, double ns) noexcept;
    double shape(uint32_t rows) const noexcept;
    void fit(uint32_t rows, double ns, double rate) noexcept;
    double fitted(size_t knot) const noexcept { return scale_ * shape_[knot] + shift_; }
    void publish() noexcept;
    void refresh_efficient() noexcept;
    uint32_t smallest_within(double rows_per_ns) const noexcept;
    double mean(size_t knot) const noexcept { return mean_[knot].load(std::memory_order_relaxed); }

    uint32_t rows_max_;
    size_t knots_;                                   // how many are in use: the last is >= rows_max
    std::array<std::atomic<double>, KNOTS> mean_{};  // ns for knot_rows(knot) rows; 0 before anything is known
    std::array<double, KNOTS> raw_{};                // the same before larger batches are made to cost no less
    std::array<double, KNOTS> shape_{};              // calibrated ns, or the first ones observed, for scale_ 1
    std::array<bool, KNOTS> known_{};                // primed or observed itself, not filled in from a neighbour
    double scale_ = 1.0, shift_ = 0.0;               // observations are about scale_ * shape_ + shift_
    std::atomic<double> spread_{1.25};
    std::atomic<uint32_t> efficient_rows_{1}, peak_rows_{1};
    std::atomic<uint64_t> stalls_{0};
    uint32_t stalls_in_a_row_ = 0;
    uint32_t observed_ = 0;
};

}  // namespace engine::scheduler
