// A checked forest in scoring order, and the interface of its layouts. Private to csrc/model/forest.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cpu.hpp"
#include "model/forest/forest.hpp"

namespace engine::forest {

inline constexpr std::size_t lanes = 16;         // accumulators an output, and trees a group
inline constexpr std::size_t block_rows = 64;    // rows of one call of a layout, at most
inline constexpr std::uint32_t outputs_max = 1024;
inline constexpr double zero_band = 1e-35f;      // LightGBM's kZeroThreshold, a float constant held in double

struct Split {
    double threshold;      // x <= threshold goes left, rows in double
    float threshold_f32;   // the largest float32 <= threshold: exact for rows in float32
    std::int32_t feature;
    std::int32_t left;     // >= 0 a split, < 0 leaf ~left
    std::int32_t right;
    std::int32_t set;      // category set, -1 for a numerical split
    std::uint8_t rule;
};

// One tree: its root as a child number, and its depth in splits. A group holds up to 16 trees of one output, one a
// lane.
struct Tree {
    std::int32_t root;
    std::uint32_t depth;
};
struct Group {
    std::uint32_t output;
    std::uint32_t first;  // into Trees::trees
    std::uint32_t count;  // 1 to 16
};

struct Trees {
    std::uint32_t n_features;
    std::uint32_t n_outputs;
    std::vector<Split> splits;
    std::vector<double> leaves;
    std::vector<Tree> trees;    // in scoring order: by output, then by depth, then as trained
    std::vector<Group> groups;  // outputs ascending
    std::vector<std::int32_t> set_begin;
    std::vector<std::uint32_t> set_words;
};

// Checks `spec` and puts it in order. Throws std::invalid_argument.
Trees make_trees(const Spec& spec);

// The largest float32 that is not above x; -inf below the range.
float round_down(double x) noexcept;

// Whether x is missing to a numerical split or column of this rule. A NaN that the rule does not know becomes 0.
template <class T>
bool takes_for_missing(std::uint8_t rule_of, T& x) noexcept {
    const bool nan = std::isnan(x);
    switch (rule_of & rule::missing_mask) {
        case rule::missing_nan: return nan;
        case rule::missing_zero: return nan || std::fabs(static_cast<double>(x)) <= zero_band;
        default:
            if (nan) x = 0;
            return false;
    }
}

// Adds the sixteen accumulators by halves: the one order in which every layout ends.
inline double fold(const double* accumulators) noexcept {
    double half[8];
    for (int i = 0; i < 8; ++i) half[i] = accumulators[i] + accumulators[i + 8];
    for (int i = 0; i < 4; ++i) half[i] += half[i + 4];
    return (half[0] + half[2]) + (half[1] + half[3]);
}

// Asks a Stop for the time: before the first part of the work, and then after every sixteen groups of trees times rows.
// Reading the clock takes some 20 ns, sixteen groups of trees some microseconds.
class Pace {
public:
    explicit Pace(const Stop& stop) noexcept : stop_(stop) {}

    // Call before a part of the work. True: give up.
    bool over() noexcept {
        if (stop_.deadline_ns == NEVER_NS || since_look_ < group_rows_a_look) return false;
        since_look_ = 0;
        return stop_.passed();
    }
    // Call after the part, with its groups of trees times rows.
    void did(std::size_t group_rows) noexcept { since_look_ += group_rows; }

private:
    static constexpr std::size_t group_rows_a_look = 16;
    const Stop stop_;
    std::size_t since_look_ = group_rows_a_look;
};

// One way to hold a forest. raw() writes n_rows x n_outputs sums of leaves, for up to block_rows rows, and returns
// true. It gives up where `pace` says so, and returns false.
class Layout {
public:
    explicit Layout(std::string name) : name_(std::move(name)) {}
    virtual ~Layout() = default;
    virtual bool raw(const float* rows, std::size_t n_rows, std::size_t row_stride, double* sums,
                     Pace& pace) const noexcept = 0;
    virtual bool raw(const double* rows, std::size_t n_rows, std::size_t row_stride, double* sums,
                     Pace& pace) const noexcept = 0;
    const std::string& name() const noexcept { return name_; }

private:
    std::string name_;
};

std::unique_ptr<Layout> make_reference(std::shared_ptr<const Trees> trees);

}  // namespace engine::forest
