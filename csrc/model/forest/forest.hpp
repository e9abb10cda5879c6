// A forest of decision trees behind the scorer socket: any number of outputs; the missing-value rules and links of
// LightGBM, XGBoost, CatBoost and scikit-learn; thresholds in float32 or double.
//
// The same row gives the same bits at any batch size, thread count and instruction set. Load puts the trees in one
// order; every layout adds the leaf of tree s of an output to accumulator s % 16 in double, in that order, and folds
// the sixteen accumulators by halves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "engine/scorer.h"

namespace engine::forest {

// The function from a row's raw sums to its answer, as in the training library's own `predict`.
enum class Link : std::uint8_t {
    identity = 0,
    sigmoid = 1,        // 1 / (1 + exp(-parameter * raw)), each output by itself
    exponential = 2,    // exp(raw)
    softmax = 3,        // over the outputs of a row
    signed_square = 4,  // sign(raw) * raw * raw: LightGBM's reg_sqrt
    log1p_exp = 5,      // log(1 + exp(raw)): LightGBM's cross_entropy_lambda
    positive = 6,       // raw > 0 ? 1 : 0: XGBoost's binary:hinge
    argmax = 7,         // index of the largest raw sum, the first among equals; one value a row
    anomaly = 8,        // parameter - exp(raw): scikit-learn's isolation forest, raw = -ln 2 * depth / expected depth
};
inline constexpr int link_count = 9;

// Bits of Spec::rule, one byte a split.
namespace rule {
inline constexpr std::uint8_t missing_left = 1;   // where a missing value goes
inline constexpr std::uint8_t missing_mask = 6;   // which values are missing:
inline constexpr std::uint8_t missing_none = 0;   //   none: NaN is read as 0.0 and compared
inline constexpr std::uint8_t missing_nan = 2;    //   NaN
inline constexpr std::uint8_t missing_zero = 4;   //   NaN and every |x| <= 1e-35f
inline constexpr std::uint8_t categorical = 8;    // threshold is the index of a category set; NaN goes by missing_left
inline constexpr std::uint8_t members_left = 16;  // categorical: members of the set go left, the rest right
inline constexpr std::uint8_t truncates = 32;     // categorical: -1 < x < 0 is category 0, not a non-member
inline constexpr std::uint8_t all = 63;
}  // namespace rule

// A forest as its reader found it. Every span is borrowed during load only. Splits and leaves of all trees lie one
// behind the other; a child c >= 0 is split c, a child c < 0 is leaf ~c.
struct Spec {
    std::uint32_t n_features = 0;
    std::uint32_t n_outputs = 0;               // raw sums a row; argmax makes one answer of them
    bool float32_rows = false;                 // the trainer compares in float32: rows in double are rounded first
    std::span<const std::int32_t> root;        // [trees] child number of the root
    std::span<const std::int32_t> output;      // [trees] the raw sum that a tree adds to
    std::span<const std::int32_t> feature;     // [splits]
    std::span<const double> threshold;         // [splits] left where x <= threshold; or the index of a category set
    std::span<const std::int32_t> left;        // [splits]
    std::span<const std::int32_t> right;       // [splits]
    std::span<const std::uint8_t> rule;        // [splits] bits of namespace rule
    std::span<const double> leaf;              // [leaves]
    std::span<const std::int32_t> set_begin;   // [sets + 1] first word of each category set
    std::span<const std::uint32_t> set_words;  // bit c % 32 of word c / 32 stands for category c
    std::span<const double> base;              // [n_outputs] added to each sum after `scale`
    double scale = 1.0;                        // multiplies each sum: 1 / iterations where the forest averages
    Link link = Link::identity;
    double link_parameter = 1.0;
};

// The calibrated time of one layout, in microseconds.
struct LayoutTime {
    std::string name;
    double us_row_1 = 0;   // one row a call
    double us_row_64 = 0;  // per row, 64 rows a call
};

// The time to give up, asked for between groups of trees. Tests bring a clock of their own.
struct Stop {
    std::int64_t deadline_ns = NEVER_NS;
    std::int64_t (*now)() noexcept = now_ns;
    bool passed() const noexcept { return now() >= deadline_ns; }
};

struct Trees;
class Layout;

class Forest {
public:
    // Throws std::invalid_argument naming the tree and what is wrong: a child out of range or shared, a cycle, a
    // feature, output or category set that does not exist, a threshold or leaf that is not a number.
    static std::unique_ptr<Forest> load(const Spec& spec);
    ~Forest();

    // Hot: scores rows as engine_scorer says. Reentrant, allocates nothing.
    int score(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept;
    int score(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out) const noexcept;

    // As score(), or ENGINE_SCORE_OUT_OF_TIME where `stop` passes first. The clock is read at once, and then between
    // groups of trees, every few microseconds of work.
    int score_until(const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                    const Stop& stop) const noexcept;
    int score_until(const double* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                    const Stop& stop) const noexcept;

    template <class T>  // the scorer's own entry
    int score_by_deadline(const T* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                          std::int64_t deadline_ns) const noexcept {
        return score_until(rows, n_rows, row_stride, out, Stop{deadline_ns});
    }

    // As score_until(), through one layout by name, for tests and benchmarks. ENGINE_SCORE_FAILED without such a
    // layout.
    int score_by(const std::string& layout, const float* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                 const Stop& stop = {}) const noexcept;
    int score_by(const std::string& layout, const double* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                 const Stop& stop = {}) const noexcept;

    // The layouts that hold this forest on this CPU, the scalar reference first.
    std::vector<std::string> layouts() const;
    const std::string& single_layout() const noexcept;  // used below batch_rows_min() rows
    const std::string& batch_layout() const noexcept;
    std::size_t batch_rows_min() const noexcept;
    std::vector<LayoutTime> calibration() const { return times_; }

    // A scorer that owns `forest` by one reference; the last release() deletes the forest.
    static engine_scorer scorer(std::unique_ptr<Forest> forest);
    // What such a scorer of this module's holds; null for any other scorer.
    static const Forest* of(const engine_scorer& scorer) noexcept;

    std::uint32_t n_features() const noexcept { return n_features_; }
    std::uint32_t n_answers() const noexcept { return link_ == Link::argmax ? 1 : n_outputs_; }
    std::size_t n_trees() const noexcept { return n_trees_; }
    std::size_t n_leaves() const noexcept { return n_leaves_; }
    std::uint32_t depth() const noexcept { return depth_; }  // splits on the longest path

    // What another machine needs to give the same answers: the trees in scoring order, and what follows their sums.
    const std::shared_ptr<const Trees>& trees() const noexcept { return trees_; }
    std::uint32_t n_outputs() const noexcept { return n_outputs_; }
    bool float32_rows() const noexcept { return float32_rows_; }
    double scale() const noexcept { return scale_; }
    const std::vector<double>& base() const noexcept { return base_; }
    Link link() const noexcept { return link_; }
    double link_parameter() const noexcept { return link_parameter_; }

private:
    Forest() = default;
    template <class T>
    int score_with(const Layout& layout, const T* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                   const Stop& stop) const noexcept;
    template <class T>
    int score_any(const T* rows, std::size_t n_rows, std::size_t row_stride, double* out,
                  const Stop& stop) const noexcept;
    const Layout* find(const std::string& name) const noexcept;
    void calibrate(const Trees& trees);
    // Scales the raw sums of some rows, adds the base and applies the link. Writes over `sums`.
    void finish(double* sums, std::size_t n_rows, double* out) const noexcept;

    std::uint32_t n_features_ = 0;
    std::uint32_t n_outputs_ = 0;
    std::size_t n_trees_ = 0;
    std::size_t n_leaves_ = 0;
    std::uint32_t depth_ = 0;
    bool float32_rows_ = false;
    double scale_ = 1.0;
    Link link_ = Link::identity;
    double link_parameter_ = 1.0;
    std::vector<double> base_;
    std::shared_ptr<const Trees> trees_;
    std::vector<std::unique_ptr<Layout>> layouts_;
    const Layout* single_ = nullptr;
    const Layout* batch_ = nullptr;
    std::size_t batch_rows_min_ = 64;
    std::vector<LayoutTime> times_;
};

}  // namespace engine::forest
