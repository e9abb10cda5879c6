// Checks a forest as its reader found it and puts it in scoring order.
#include "model/forest/trees.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "base/assert.hpp"

namespace engine::forest {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string place(std::size_t tree, std::size_t split) {
    return "tree " + std::to_string(tree) + ", split " + std::to_string(split) + ": ";
}

void check_shape(const Spec& spec) {
    const std::size_t splits = spec.feature.size();
    if (spec.n_features < 1) refuse("a forest needs at least one feature");
    if (spec.n_outputs < 1 || spec.n_outputs > outputs_max)
        refuse("expected 1 to " + std::to_string(outputs_max) + " outputs, got " + std::to_string(spec.n_outputs));
    if (spec.root.empty()) refuse("a forest needs at least one tree");
    if (spec.threshold.size() != splits || spec.left.size() != splits || spec.right.size() != splits ||
        spec.rule.size() != splits || spec.output.size() != spec.root.size() || spec.base.size() != spec.n_outputs)
        refuse("the arrays of a forest do not have the same length");
    // Node numbers of the layouts are 32 bits wide, and 2^30 splits would be 48 GB.
    if (splits > (1u << 30) || spec.leaf.size() > (1u << 30)) refuse("a forest holds at most 2^30 splits");
    if (static_cast<unsigned>(spec.link) >= link_count) refuse("unknown link");
    for (double base : spec.base)
        if (!std::isfinite(base)) refuse("a base score is not a finite number");
    if (!std::isfinite(spec.scale) || !std::isfinite(spec.link_parameter)) refuse("scale and link must be finite");
}

void check_sets(const Spec& spec) {
    if (spec.set_begin.empty()) {
        if (!spec.set_words.empty()) refuse("category words without category sets");
        return;
    }
    if (spec.set_begin.front() != 0 || static_cast<std::size_t>(spec.set_begin.back()) != spec.set_words.size())
        refuse("category sets do not cover their words");
    if (!std::is_sorted(spec.set_begin.begin(), spec.set_begin.end())) refuse("category sets are out of order");
}

void check_split(const Spec& spec, std::size_t tree, std::size_t s) {
    if (spec.feature[s] < 0 || static_cast<std::uint32_t>(spec.feature[s]) >= spec.n_features)
        refuse(place(tree, s) + "feature " + std::to_string(spec.feature[s]) + " of " +
               std::to_string(spec.n_features));
    const std::uint8_t bits = spec.rule[s];
    if (bits & ~rule::all || (bits & rule::missing_mask) == rule::missing_mask) refuse(place(tree, s) + "unknown rule");
    const double threshold = spec.threshold[s];
    if (std::isnan(threshold)) refuse(place(tree, s) + "the threshold is NaN");
    if (bits & rule::categorical) {
        const double sets = spec.set_begin.empty() ? 0.0 : static_cast<double>(spec.set_begin.size() - 1);
        if (!(threshold >= 0 && threshold < sets && threshold == std::floor(threshold)))
            refuse(place(tree, s) + "category set " + std::to_string(threshold) + " does not exist");
    }
}

Split make_split(const Spec& spec, std::size_t s) {
    const bool categorical = spec.rule[s] & rule::categorical;
    const double threshold = categorical ? 0.0 : spec.threshold[s];
    return {threshold,     round_down(threshold), spec.feature[s],
            spec.left[s],  spec.right[s],         categorical ? static_cast<std::int32_t>(spec.threshold[s]) : -1,
            spec.rule[s]};
}

// Walks one tree from its root without recursion and returns its depth. `seen_*` mark the splits and leaves that any
// tree has reached: one that is met twice is shared, or lies on a cycle.
std::uint32_t walk(const Spec& spec, std::size_t tree, std::vector<bool>& seen_split,
                   std::vector<bool>& seen_leaf) {
    std::vector<std::pair<std::int32_t, std::uint32_t>> open{{spec.root[tree], 0}};
    std::uint32_t deepest = 0;
    while (!open.empty()) {
        const auto [child, depth] = open.back();
        open.pop_back();
        deepest = std::max(deepest, depth);
        const auto index = static_cast<std::size_t>(child >= 0 ? child : ~child);
        std::vector<bool>& seen = child >= 0 ? seen_split : seen_leaf;
        if (index >= seen.size())
            refuse("tree " + std::to_string(tree) + ": child " + std::to_string(child) + " does not exist");
        if (seen[index]) refuse("tree " + std::to_string(tree) + ": child " + std::to_string(child) + " is met twice");
        seen[index] = true;
        if (child < 0) {
            if (!std::isfinite(spec.leaf[index])) refuse("tree " + std::to_string(tree) + ": a leaf is not finite");
            continue;
        }
        check_split(spec, tree, index);
        open.emplace_back(spec.left[index], depth + 1);
        open.emplace_back(spec.right[index], depth + 1);
    }
    return deepest;
}

}  // namespace

float round_down(double x) noexcept {
    const auto nearest = static_cast<float>(x);
    if (static_cast<double>(nearest) <= x) return nearest;
    return std::nextafter(nearest, -std::numeric_limits<float>::infinity());
}

Trees make_trees(const Spec& spec) {
    check_shape(spec);
    check_sets(spec);
    std::vector<bool> seen_split(spec.feature.size());
    std::vector<bool> seen_leaf(spec.leaf.size());
    std::vector<Tree> trees(spec.root.size());
    for (std::size_t t = 0; t < trees.size(); ++t) {
        if (spec.output[t] < 0 || static_cast<std::uint32_t>(spec.output[t]) >= spec.n_outputs)
            refuse("tree " + std::to_string(t) + ": output " + std::to_string(spec.output[t]) + " does not exist");
        trees[t] = {spec.root[t], walk(spec, t, seen_split, seen_leaf)};
    }

    Trees made{};
    made.n_features = spec.n_features;
    made.n_outputs = spec.n_outputs;
    made.splits.reserve(spec.feature.size());
    for (std::size_t s = 0; s < spec.feature.size(); ++s)
        made.splits.push_back(seen_split[s] ? make_split(spec, s) : Split{0, 0, 0, -1, -1, -1, 0});
    made.leaves.assign(spec.leaf.begin(), spec.leaf.end());
    made.set_begin.assign(spec.set_begin.begin(), spec.set_begin.end());
    made.set_words.assign(spec.set_words.begin(), spec.set_words.end());

    // Trees of like depth share a group, so that the lanes of one finish together.
    std::vector<std::size_t> order(trees.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return spec.output[a] != spec.output[b] ? spec.output[a] < spec.output[b] : trees[a].depth < trees[b].depth;
    });
    for (std::size_t i : order) {
        const auto output = static_cast<std::uint32_t>(spec.output[i]);
        if (made.groups.empty() || made.groups.back().output != output || made.groups.back().count == lanes)
            made.groups.push_back({output, static_cast<std::uint32_t>(made.trees.size()), 0});
        ++made.groups.back().count;
        made.trees.push_back(trees[i]);
    }
    ENGINE_ASSERT(made.trees.size() == spec.root.size(), "every tree stands in one group");
    for (const Group& group : made.groups) {
        ENGINE_ASSERT(group.count >= 1 && group.count <= lanes, "a group has one to sixteen trees");
        ENGINE_ASSERT(group.first + group.count <= made.trees.size(), "a group's trees exist");
        ENGINE_ASSERT(group.output < spec.n_outputs, "a group adds to an output that exists");
    }
    return made;
}

}  // namespace engine::forest
