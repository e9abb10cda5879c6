#include "scheduler/cost.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/assert.hpp"

namespace engine::scheduler {

namespace {

constexpr double STALL_RATIO = 4.0;      // an observation this far above expectation is a stall
constexpr uint32_t STALLS_BELIEVED = 4;  // this many in a row are the new truth
constexpr double SURPRISE_RATIO = 0.25;  // one this far below is believed at once: no accident makes a batch fast
constexpr double BELIEVED_RATE = 0.5;    // a believed change moves all knots, and at once
constexpr double LEARNING_RATE = 0.1;
constexpr double SCALE_RATE = 0.02;
// Costs stay above zero and below the bound of an integer, for any observations.
constexpr double SCALE_MIN = 1e-3, SCALE_MAX = 1e9;
constexpr double COST_NS_MAX = 0x1p44;   // 4.9 hours
constexpr double SHAPE_SHARE_MIN = 0.1;  // at least this share of a new knot's cost is shape, however large the shift
constexpr double RETURN_RATE = 0.01;     // of knots far from the observed size, to the fitted cost
constexpr double SPREAD_QUANTILE = 0.98;
constexpr double SPREAD_STEP = 0.05;
constexpr double SPREAD_MIN = 1.02, SPREAD_MAX = 3.0;
constexpr double EFFICIENT_SHARE = 0.95;
constexpr double PEAK_SHARE = 0.99;
constexpr uint32_t REFRESH_EVERY = 16;

// The knot at or below `rows`: 1, 2, 3, 4, 6, 8, 12, 16, … are knots 0, 1, 2, 3, 4, 5, 6, 7, …
size_t knot_below(uint32_t rows) noexcept {
    if (rows < 2) return 0;
    const int octave = std::bit_width(rows) - 1;
    const bool upper_half = (rows >> (octave - 1)) & 1;
    return 2 * static_cast<size_t>(octave) - 1 + upper_half;
}

}  // namespace

uint32_t CostModel::knot_rows(size_t knot) noexcept {
    if (knot == 0) return 1;
    const size_t octave = (knot + 1) / 2;
    return knot % 2 ? 1u << octave : 3u << (octave - 1);
}

CostModel::CostModel(uint32_t rows_max) noexcept : rows_max_(std::clamp(rows_max, 1u, ROWS_LIMIT)) {
    knots_ = knot_below(rows_max_) + 1;
    if (knot_rows(knots_ - 1) < rows_max_) ++knots_;
}

void CostModel::prime(uint32_t rows, int64_t ns) noexcept {
    rows = std::clamp(rows, 1u, rows_max_);
    const size_t at = knot_below(rows);
    // A calibration is a new shape, so the learned scale and shift go into it. Otherwise the difference between each
    // calibration and the observations after it would add up in scale_, until it reaches its bound and learns no more.
    for (size_t k = 0; k < knots_; ++k) shape_[k] = fitted(k);
    scale_ = 1.0;
    shift_ = 0.0;
    know(at, std::clamp(static_cast<double>(ns), 1.0, COST_NS_MAX) * knot_rows(at) / rows);
    publish();
    refresh_efficient();
}

// Takes a knot's cost into the shape, and fills the knots nobody measured: flat below the first known one, in
// proportion to the rows above the last, and linear in between.
void CostModel::know(size_t knot, double ns) noexcept {
    ENGINE_ASSERT(knot < knots_, "a knot lies in the table");
    ENGINE_ASSERT(ns > 0.0 && std::isfinite(ns), "a batch costs some time");
    raw_[knot] = ns;
    shape_[knot] = std::max(ns - shift_, SHAPE_SHARE_MIN * ns) / scale_;
    known_[knot] = true;
    size_t previous = KNOTS;
    for (size_t k = 0; k < knots_; ++k) {
        if (!known_[k]) continue;
        for (size_t j = previous == KNOTS ? 0 : previous + 1; j < k; ++j) {
            const double from = previous == KNOTS ? 0.0 : knot_rows(previous);
            const double low = previous == KNOTS ? shape_[k] : shape_[previous];
            const double share = (knot_rows(j) - from) / (knot_rows(k) - from);
            shape_[j] = low + share * (shape_[k] - low);
        }
        previous = k;
    }
    for (size_t j = previous + 1; j < knots_; ++j) shape_[j] = shape_[previous] * knot_rows(j) / knot_rows(previous);
    for (size_t k = 0; k < knots_; ++k)
        if (!known_[k]) raw_[k] = fitted(k);
}

// One step of normalised least mean squares (Widrow and Hoff, 1960) of scale_ and shift_ towards an observation, in
// units of the shape of one row: a change seen at small batches alone goes half to the scale and half to the shift.
void CostModel::fit(uint32_t rows, double ns, double rate) noexcept {
    const double unit = shape_[0], known = shape(rows);
    ENGINE_ASSERT(unit > 0.0 && known > 0.0, "a known batch costs some time");
    const double size = known / unit;
    const double step = rate * (ns - scale_ * known - shift_) / (size * size + 1.0);
    scale_ += step * size / unit;
    shift_ += step;
    if (shift_ < 0.0) {
        scale_ += shift_ / known;
        shift_ = 0.0;
    }
    scale_ = std::clamp(scale_, SCALE_MIN, SCALE_MAX);
    shift_ = std::min(shift_, COST_NS_MAX);
    ENGINE_ASSERT(std::isfinite(scale_) && std::isfinite(shift_) && shift_ >= 0.0, "the fit stays finite");
}

double CostModel::shape(uint32_t rows) const noexcept {
    const size_t at = std::min(knot_below(rows), knots_ - 1);
    const double from = knot_rows(at);
    if (at + 1 >= knots_) return shape_[at] * rows / from;
    return shape_[at] + (rows - from) / (knot_rows(at + 1) - from) * (shape_[at + 1] - shape_[at]);
}

// Makes larger batches cost no less than smaller ones, which noise may hide.
void CostModel::publish() noexcept {
    double most = 0.0;
    for (size_t k = 0; k < knots_; ++k) {
        raw_[k] = std::min(raw_[k], COST_NS_MAX);
        most = std::max(most, raw_[k]);
        ENGINE_ASSERT(most > 0.0 && std::isfinite(most), "a batch costs some time");
        mean_[k].store(most, std::memory_order_relaxed);
    }
}

int64_t CostModel::expected_ns(uint32_t rows) const noexcept {
    if (rows == 0) return 0;
    const size_t at = std::min(knot_below(rows), knots_ - 1);
    const double low = mean(at);
    const double from = knot_rows(at);
    if (rows == knot_rows(at)) return static_cast<int64_t>(low);
    if (at + 1 >= knots_) return static_cast<int64_t>(std::min(low * rows / from, COST_NS_MAX));
    const double share = (rows - from) / (knot_rows(at + 1) - from);
    return static_cast<int64_t>(low + share * (mean(at + 1) - low));
}

int64_t CostModel::high_ns(uint32_t rows) const noexcept {
    return static_cast<int64_t>(static_cast<double>(expected_ns(rows)) * spread());
}

bool CostModel::is_stall(uint32_t rows, int64_t ns) const noexcept {
    const int64_t expected = expected_ns(rows);
    return expected > 0 && static_cast<double>(ns) > STALL_RATIO * static_cast<double>(expected);
}

uint32_t CostModel::rows_within(int64_t budget_ns) const noexcept {
    if (high_ns(1) > budget_ns) return 0;
    uint32_t low = 1, high = rows_max_;  // high_ns(low) fits; costs grow with rows
    while (low < high) {
        const uint32_t middle = low + (high - low + 1) / 2;
        if (high_ns(middle) <= budget_ns) low = middle;
        else high = middle - 1;
    }
    ENGINE_ASSERT(low >= 1 && low <= rows_max_, "a batch that fits has rows, and no more than allowed");
    return low;
}

void CostModel::observe(uint32_t rows, int64_t ns) noexcept {
    if (rows == 0 || ns <= 0) return;
    ns = std::min(ns, static_cast<int64_t>(COST_NS_MAX));
    const int64_t expected = expected_ns(rows);
    if (expected <= 0) return prime(rows, ns);
    double ratio = static_cast<double>(ns) / static_cast<double>(expected);

    double spread = spread_.load(std::memory_order_relaxed);
    spread += SPREAD_STEP * (ratio > spread ? SPREAD_QUANTILE : SPREAD_QUANTILE - 1.0);
    spread_.store(std::clamp(spread, SPREAD_MIN, SPREAD_MAX), std::memory_order_relaxed);

    if (ratio > STALL_RATIO) {
        stalls_.fetch_add(1, std::memory_order_relaxed);
        if (++stalls_in_a_row_ < STALLS_BELIEVED) return;
    } else {
        stalls_in_a_row_ = 0;
    }
    const size_t at = std::min(knot_below(rows), knots_ - 1);
    const bool believed = ratio > STALL_RATIO || ratio < SURPRISE_RATIO;
    size_t first = 0, last = knots_ - 1;
    while (!known_[first]) ++first;
    while (!known_[last]) --last;
    if (!believed && (at < first || at > last)) {
        // Outside the measured sizes there is no shape to return to. It begins here.
        know(at, raw_[at] * ratio);
    } else {
        const double scale_before = scale_, shift_before = shift_;
        fit(rows, static_cast<double>(ns), believed ? BELIEVED_RATE : SCALE_RATE);
        for (size_t k = 0; k < knots_; ++k) {
            const bool near = k == at || (k == at + 1 && knot_rows(at) != rows);
            if (near) raw_[k] *= 1.0 + (believed ? BELIEVED_RATE : LEARNING_RATE) * (ratio - 1.0);
            else if (believed) raw_[k] *= fitted(k) / (scale_before * shape_[k] + shift_before);
            else raw_[k] += RETURN_RATE * (fitted(k) - raw_[k]);
        }
    }
    publish();
    if (++observed_ % REFRESH_EVERY == 0) refresh_efficient();
}

void CostModel::refresh_efficient() noexcept {
    double best = 0.0;
    for (size_t k = 0; k < knots_; ++k)
        if (mean(k) > 0.0) best = std::max(best, knot_rows(k) / mean(k));
    efficient_rows_.store(smallest_within(EFFICIENT_SHARE * best), std::memory_order_relaxed);
    peak_rows_.store(smallest_within(PEAK_SHARE * best), std::memory_order_relaxed);
}

// The smallest knot with at least this many rows per nanosecond.
uint32_t CostModel::smallest_within(double rows_per_ns) const noexcept {
    for (size_t k = 0; k < knots_; ++k)
        if (mean(k) > 0.0 && knot_rows(k) / mean(k) >= rows_per_ns) return std::min(knot_rows(k), rows_max_);
    return 1;
}

}  // namespace engine::scheduler
