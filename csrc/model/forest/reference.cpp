// The scalar reference: one row, one tree, one split at a time, as plainly as the rules can be written. Every other
// layout must give its bits.
#include <cmath>

#include "base/assert.hpp"
#include "model/forest/coded.hpp"

namespace engine::forest {
namespace {

bool is_member(const Trees& trees, const Split& split, double x) noexcept {
    // No trainer has categories of 2^24 or more: float32 cannot count them.
    if (!(x > -1.0 && x < 16777216.0)) return false;
    if (x < 0.0 && !(split.rule & rule::truncates)) return false;
    const auto category = static_cast<std::uint32_t>(static_cast<std::int32_t>(x));
    ENGINE_ASSERT(split.set >= 0 && std::size_t(split.set) + 1 < trees.set_begin.size(), "a split's set exists");
    const auto begin = static_cast<std::uint32_t>(trees.set_begin[split.set]);
    const auto end = static_cast<std::uint32_t>(trees.set_begin[split.set + 1]);
    ENGINE_ASSERT(begin <= end && end <= trees.set_words.size(), "a set's words exist");
    if (category / 32 >= end - begin) return false;
    return (trees.set_words[begin + category / 32] >> (category % 32)) & 1u;
}

template <class T>
T threshold_of(const Split& split) noexcept;
template <>
float threshold_of<float>(const Split& split) noexcept { return split.threshold_f32; }
template <>
double threshold_of<double>(const Split& split) noexcept { return split.threshold; }

template <class T>
bool goes_left(const Trees& trees, const Split& split, const T* row) noexcept {
    T x = row[split.feature];
    const bool missing_left = split.rule & rule::missing_left;
    if (split.rule & rule::categorical) {
        if (std::isnan(x)) return missing_left;
        return category_goes_left(trees, split, x);
    }
    if (takes_for_missing(split.rule, x)) return missing_left;
    return x <= threshold_of<T>(split);
}

class Reference final : public Layout {
public:
    explicit Reference(std::shared_ptr<const Trees> trees) : Layout("reference"), trees_(std::move(trees)) {}

    bool raw(const float* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return score_rows(rows, n_rows, stride, sums, pace);
    }
    bool raw(const double* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return score_rows(rows, n_rows, stride, sums, pace);
    }

private:
    template <class T>
    bool score_rows(const T* rows, std::size_t n_rows, std::size_t stride, double* sums, Pace& pace) const noexcept {
        for (std::size_t r = 0; r < n_rows; ++r)
            if (!score_row(rows + r * stride, sums + r * trees_->n_outputs, pace)) return false;
        return true;
    }

    template <class T>
    bool score_row(const T* row, double* sums, Pace& pace) const noexcept {
        std::size_t g = 0;
        for (std::uint32_t output = 0; output < trees_->n_outputs; ++output) {
            double accumulators[lanes] = {};
            for (; g < trees_->groups.size() && trees_->groups[g].output == output; ++g) {
                if (pace.over()) return false;
                const Group& group = trees_->groups[g];
                for (std::uint32_t lane = 0; lane < group.count; ++lane)
                    accumulators[lane] += leaf_of(trees_->trees[group.first + lane].root, row);
                pace.did(1);
            }
            sums[output] = fold(accumulators);
        }
        ENGINE_ASSERT(g == trees_->groups.size(), "groups stand in order of their outputs");
        return true;
    }

    template <class T>
    double leaf_of(std::int32_t child, const T* row) const noexcept {
        while (child >= 0) {
            ENGINE_ASSERT(std::size_t(child) < trees_->splits.size(), "a child is a split that exists");
            const Split& split = trees_->splits[child];
            ENGINE_ASSERT(std::uint32_t(split.feature) < trees_->n_features, "a split asks a feature that exists");
            child = goes_left(*trees_, split, row) ? split.left : split.right;
        }
        ENGINE_ASSERT(std::size_t(~child) < trees_->leaves.size(), "a child is a leaf that exists");
        return trees_->leaves[~child];
    }

    std::shared_ptr<const Trees> trees_;
};

}  // namespace

bool category_goes_left(const Trees& trees, const Split& split, double x) noexcept {
    return is_member(trees, split, x) == bool(split.rule & rule::members_left);
}

std::unique_ptr<Layout> make_reference(std::shared_ptr<const Trees> trees) {
    return std::make_unique<Reference>(std::move(trees));
}

}  // namespace engine::forest
