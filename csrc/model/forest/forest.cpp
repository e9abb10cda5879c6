// The forest itself: load, choose a layout, score, apply the link. The layouts walk the trees.
#include "model/forest/forest.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"
#include "model/forest/wide.hpp"
#include "model/function_loops.hpp"
#include "model/shared_scorer.hpp"

namespace engine::forest {

// Byte codes ask each category set by itself for every row. Beyond this many sets, load tries the table of wide codes
// too.
static constexpr std::size_t FEW_SETS = 8;

Forest::~Forest() = default;

std::unique_ptr<Forest> Forest::load(const Spec& spec) {
    auto trees = std::make_shared<const Trees>(make_trees(spec));
    std::unique_ptr<Forest> forest(new Forest());
    forest->trees_ = trees;
    forest->n_features_ = spec.n_features;
    forest->n_outputs_ = spec.n_outputs;
    forest->n_trees_ = trees->trees.size();
    forest->n_leaves_ = trees->leaves.size();
    for (const auto& tree : trees->trees) forest->depth_ = std::max(forest->depth_, tree.depth);
    forest->float32_rows_ = spec.float32_rows;
    forest->scale_ = spec.scale;
    forest->link_ = spec.link;
    forest->link_parameter_ = spec.link_parameter;
    forest->base_.assign(spec.base.begin(), spec.base.end());
    forest->layouts_.push_back(make_reference(trees));
    const auto coded = make_coded(trees);
    if (coded) add_coded_layouts(coded, forest->layouts_);
    if (!coded || coded->n_sets > FEW_SETS) add_wide_layouts(trees, forest->layouts_);
    forest->calibrate(*trees);
    return forest;
}

namespace {

constexpr std::size_t CALIBRATION_ROWS = 64;
constexpr std::size_t CALIBRATION_VALUES_MAX = 1u << 22;  // a small file may claim millions of features
constexpr double CALIBRATION_US_MAX = 3000;               // for a layout's single rows in one round
constexpr double CALIBRATION_BEHIND = 3;                  // times the fastest: a layout this slow is timed no more

// Rows that take both sides of the forest's own splits: each value is one of its feature's thresholds, or the next
// float after it. Zeros would walk one path and flatter every layout.
std::vector<float> calibration_input(const Trees& trees, std::size_t n_rows) {
    std::vector<float> rows(n_rows * trees.n_features, 0.0f);
    std::uint64_t state = 0x9e3779b97f4a7c15u;
    const std::size_t splits = trees.splits.size();
    for (std::size_t draw = 0; splits && draw < 4 * rows.size(); ++draw) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const auto& split = trees.splits[(state >> 20) % splits];
        float value = split.threshold_f32;
        if (split.set >= 0)
            value = static_cast<float>(
                (state >> 33) %
                (32u * static_cast<std::uint32_t>(trees.set_begin[split.set + 1] - trees.set_begin[split.set]) + 1));
        if (state >> 63) value = std::nextafter(value, HUGE_VALF);
        rows[(draw % n_rows) * trees.n_features + static_cast<std::uint32_t>(split.feature)] = value;
    }
    return rows;
}

template <class Call>
double taken_us(Call call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

// A layout under calibration. Microseconds a row, the fastest of several: one row a call, and a block of rows.
struct Timed {
    const Layout* layout;
    std::size_t singles = 0;  // rows that it is timed on one by one
    double row_1 = 1e30, row_64 = 1e30;
};

}  // namespace

// Times every layout on synthetic rows and keeps the fastest for single rows and for blocks. Layouts are timed in
// rounds, because a shared machine may be half as fast for some milliseconds. A layout far behind the fastest drops
// out.
void Forest::calibrate(const Trees& trees) {
    const std::size_t n_rows = std::clamp(CALIBRATION_VALUES_MAX / n_features_, std::size_t{1}, CALIBRATION_ROWS);
    const std::vector<float> rows = calibration_input(trees, n_rows);
    std::vector<double> sums(n_rows * n_outputs_);
    Pace unhurried{Stop{}};
    const auto score = [&](const Timed& timed, std::size_t first, std::size_t count) {
        timed.layout->raw(rows.data() + first * n_features_, count, n_features_, sums.data(), unhurried);
    };
    std::vector<Timed> all;
    for (const auto& layout : layouts_) {
        Timed timed{.layout = layout.get()};
        // Different rows, one a call, because the branch predictor learns a row that is repeated; it learned sixteen.
        // Slow layouts get fewer of them.
        const double first_us = taken_us([&] { score(timed, 0, 1); });
        timed.singles = std::min(n_rows, static_cast<std::size_t>(std::max(CALIBRATION_US_MAX / first_us, 4.0)));
        all.push_back(timed);
    }
    const auto time_all = [&](double best_1, double best_64) {
        for (Timed& timed : all) {
            if (timed.row_1 <= CALIBRATION_BEHIND * best_1) {
                const double us = taken_us([&] {
                    for (std::size_t r = 0; r < timed.singles; ++r) score(timed, r, 1);
                });
                timed.row_1 = std::min(timed.row_1, us / static_cast<double>(timed.singles));
            }
            if (timed.row_64 <= CALIBRATION_BEHIND * best_64) {
                const double us = taken_us([&] { score(timed, 0, n_rows); });
                timed.row_64 = std::min(timed.row_64, us / static_cast<double>(n_rows));
            }
        }
    };
    double best_1 = 1e30, best_64 = 1e30, spent_us = 0.0;
    for (int round = 0; round < 2 || (round < 5 && spent_us < 100'000) || (round < 50 && spent_us < 20'000); ++round) {
        spent_us += taken_us([&] { time_all(best_1, best_64); });
        for (const Timed& timed : all) {
            if (timed.row_1 < best_1) best_1 = timed.row_1, single_ = timed.layout;
            if (timed.row_64 < best_64) best_64 = timed.row_64, batch_ = timed.layout;
        }
    }
    for (const Timed& timed : all) times_.push_back({timed.layout->name(), timed.row_1, timed.row_64});
    ENGINE_ASSERT(single_ != nullptr && batch_ != nullptr, "calibration chooses two layouts");
    // A block takes nearly the same time however few rows fill it: it pays once its single rows would take longer.
    const double break_even = best_64 * CALIBRATION_ROWS / best_1;
    batch_rows_min_ = static_cast<std::size_t>(std::clamp(break_even + 1.0, 2.0, 64.0));
}

// Hot: once a block of rows.
void Forest::finish(double* sums, std::size_t n_rows, double* out) const noexcept {
    ENGINE_ASSERT(n_outputs_ >= 1 && n_outputs_ <= outputs_max, "outputs fit the buffer");
    const std::size_t n = n_outputs_, count = n_rows * n;
    if (n == 1) {
        for (std::size_t i = 0; i < count; ++i) sums[i] = sums[i] * scale_ + base_[0];
    } else {
        for (std::size_t r = 0; r < n_rows; ++r)
            for (std::size_t k = 0; k < n; ++k) sums[r * n + k] = sums[r * n + k] * scale_ + base_[k];
    }
    if (link_ == Link::argmax) {
        for (std::size_t r = 0; r < n_rows; ++r)
            out[r] = static_cast<double>(std::max_element(sums + r * n, sums + (r + 1) * n) - (sums + r * n));
        return;
    }
    const model::FunctionLoops<double>& loops = model::active_loops<double>();
    std::copy_n(sums, count, out);
    switch (link_) {
        case Link::identity:
        case Link::argmax: return;
        case Link::sigmoid:
            for (std::size_t i = 0; i < count; ++i) out[i] = link_parameter_ * out[i];
            if (count == 1) *out = model::logistic(*out);
            else loops.logistic(out, count);
            return;
        case Link::exponential: return loops.exponential(out, count);
        case Link::softmax:
            for (std::size_t r = 0; r < n_rows; ++r) loops.softmax(out + r * n, n);
            return;
        case Link::signed_square:
            for (std::size_t i = 0; i < count; ++i) out[i] = std::copysign(out[i] * out[i], out[i]);
            return;
        case Link::log1p_exp: return loops.softplus(out, count);
        case Link::positive:
            for (std::size_t i = 0; i < count; ++i) out[i] = out[i] > 0 ? 1.0 : 0.0;
            return;
        case Link::anomaly:
            loops.exponential(out, count);
            for (std::size_t i = 0; i < count; ++i) out[i] = link_parameter_ - out[i];
            return;
    }
}

template <class T>
int Forest::score_with(const Layout& layout, const T* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                       const Stop& stop) const noexcept {
    // Blocks keep the raw sums on the stack; with many outputs a block is fewer rows.
    constexpr std::size_t sums_max = 4096;
    double sums[sums_max];
    const std::size_t block = std::min(block_rows, sums_max / n_outputs_);
    const std::uint32_t answers = n_answers();
    ENGINE_ASSERT(block >= 1, "the sums of one row fit the buffer");
    ENGINE_ASSERT(n_rows == 0 || (rows != nullptr && out != nullptr), "rows and answers have memory");
    Pace pace(stop);
    for (std::size_t first = 0; first < n_rows; first += block) {
        const std::size_t count = std::min(block, n_rows - first);
        if (!layout.raw(rows + first * row_stride, count, row_stride, sums, pace)) return ENGINE_SCORE_OUT_OF_TIME;
        finish(sums, count, out + first * answers);
    }
    return ENGINE_SCORE_OK;
}

template <class T>
int Forest::score_any(const T* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                      const Stop& stop) const noexcept {
    return score_with(n_rows < batch_rows_min_ ? *single_ : *batch_, rows, n_rows, row_stride, out, stop);
}

int Forest::score(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept {
    return score_any(rows, n_rows, row_stride, out, Stop{});
}

int Forest::score(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept {
    return score_any(rows, n_rows, row_stride, out, Stop{});
}

int Forest::score_until(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                        const Stop& stop) const noexcept {
    return score_any(rows, n_rows, row_stride, out, stop);
}

int Forest::score_until(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                        const Stop& stop) const noexcept {
    return score_any(rows, n_rows, row_stride, out, stop);
}

const Layout* Forest::find(const std::string& name) const noexcept {
    for (const auto& layout : layouts_)
        if (layout->name() == name) return layout.get();
    return nullptr;
}

int Forest::score_by(const std::string& name, const float* rows, std::size_t n_rows, std::size_t row_stride,
                     double* out, const Stop& stop) const noexcept {
    const Layout* layout = find(name);
    return layout ? score_with(*layout, rows, n_rows, row_stride, out, stop) : ENGINE_SCORE_FAILED;
}

int Forest::score_by(const std::string& name, const double* rows, std::size_t n_rows, std::size_t row_stride,
                     double* out, const Stop& stop) const noexcept {
    const Layout* layout = find(name);
    return layout ? score_with(*layout, rows, n_rows, row_stride, out, stop) : ENGINE_SCORE_FAILED;
}

std::vector<std::string> Forest::layouts() const {
    std::vector<std::string> names;
    for (const auto& layout : layouts_) names.push_back(layout->name());
    return names;
}

const std::string& Forest::single_layout() const noexcept { return single_->name(); }
const std::string& Forest::batch_layout() const noexcept { return batch_->name(); }
std::size_t Forest::batch_rows_min() const noexcept { return batch_rows_min_; }

engine_scorer Forest::scorer(std::unique_ptr<Forest> forest) {
    const std::uint32_t n_features = forest->n_features();
    const std::uint32_t n_answers = forest->n_answers();
    const bool float32_rows = forest->float32_rows_;
    return model::shared_scorer(std::move(forest), n_features, n_answers, float32_rows);
}

const Forest* Forest::of(const engine_scorer& scorer) noexcept { return model::model_of<Forest>(scorer); }

}  // namespace engine::forest
