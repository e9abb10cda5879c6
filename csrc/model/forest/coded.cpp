// Packs a forest for coded features.
#include "model/forest/coded.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "base/assert.hpp"

namespace engine::forest {
namespace {

constexpr std::uint32_t leaf_cut = 255u << 8;

// Two splits share a column when they ask the same feature under the same rule, or for the same category set.
using ColumnKey = std::tuple<std::int32_t, std::uint8_t, std::int32_t>;

ColumnKey key_of(const Split& split) {
    // A rule without missing values ignores the direction of missing values.
    const bool plain = !(split.rule & (rule::categorical | rule::missing_mask));
    return {split.feature, plain ? std::uint8_t{0} : split.rule, split.set};
}

// Where each split finds its answer once the thresholds are sorted.
struct Place {
    std::uint8_t column;
    std::uint8_t cut;
};

class Packer {
public:
    explicit Packer(std::shared_ptr<const Trees> trees) : coded_(std::make_shared<Coded>()) {
        coded_->trees = std::move(trees);
    }

    std::shared_ptr<const Coded> pack() {
        if (!make_columns()) return nullptr;
        by_node_ = largest_tree() > leaves_by_byte;
        if (largest_tree() > 32767) return nullptr;
        coded_->words.push_back(leaf_cut);  // node 0 and value 0: the leaf of lanes without a tree
        coded_->values.push_back(0.0);
        for (const Group& group : trees().groups) pack_group(group);
        std::vector<std::uint32_t> outputs;
        for (const CodedGroup& group : coded_->groups) outputs.push_back(group.output);
        coded_->parts = make_parts(trees().n_outputs, outputs, group_bytes_);
        finish_view();
        return coded_;
    }

private:
    const Trees& trees() const { return *coded_->trees; }

    bool make_columns() {
        std::map<ColumnKey, std::vector<double>> cuts;
        for (std::size_t s = 0; s < trees().splits.size(); ++s) {
            const Split& split = trees().splits[s];
            if (split.left == split.right) continue;  // a place that no tree reaches
            cuts[key_of(split)].push_back(split.threshold);
            if (split.set >= 0) asks_[key_of(split)] = static_cast<std::int32_t>(s);
        }
        for (auto& [key, thresholds] : cuts) {
            std::sort(thresholds.begin(), thresholds.end());
            thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
            first_column_[key] = coded_->columns.size();
            for (std::size_t from = 0; from < thresholds.size(); from += cuts_max) {
                if (coded_->columns.size() == columns_max) return false;
                add_column(key, thresholds, from);
            }
        }
        thresholds_ = std::move(cuts);
        return true;
    }

    void add_column(const ColumnKey& key, const std::vector<double>& thresholds, std::size_t from) {
        const auto& [feature, bits, set] = key;
        const bool left = bits & rule::missing_left;
        const std::uint8_t missing = left ? 0 : 255;
        coded_->n_sets += set >= 0;
        coded_->columns.push_back({feature, set < 0 ? -1 : asks_.at(key), bits, missing});
        const std::size_t at = coded_->cuts_f64.size();
        coded_->cuts_f64.resize(at + cuts_padded, std::numeric_limits<double>::infinity());
        coded_->cuts_f32.resize(at + cuts_padded, std::numeric_limits<float>::infinity());
        for (std::size_t i = 0; i < cuts_max && from + i < thresholds.size(); ++i) {
            coded_->cuts_f64[at + i] = thresholds[from + i];
            coded_->cuts_f32[at + i] = round_down(thresholds[from + i]);
        }
        for (std::size_t block = 0; block < 16; ++block) {
            coded_->tops_f64.push_back(coded_->cuts_f64[at + 16 * block + 15]);
            coded_->tops_f32.push_back(coded_->cuts_f32[at + 16 * block + 15]);
        }
    }

    Place place_of(const Split& split) const {
        const ColumnKey key = key_of(split);
        const std::size_t first = first_column_.at(key);
        // A category set has one threshold, 0: code 0 goes left and 1 goes right.
        const std::vector<double>& sorted = thresholds_.at(key);
        const auto rank = static_cast<std::size_t>(
            std::lower_bound(sorted.begin(), sorted.end(), split.threshold) - sorted.begin());
        ENGINE_ASSERT(rank < sorted.size() && sorted[rank] == split.threshold, "a split's threshold is a cut");
        ENGINE_ASSERT(first + rank / cuts_max < coded_->columns.size(), "a split's column exists");
        return {static_cast<std::uint8_t>(first + rank / cuts_max), static_cast<std::uint8_t>(rank % cuts_max)};
    }

    std::size_t leaves_of(std::int32_t root) const {
        std::size_t leaves = 0;
        std::vector<std::int32_t> open{root};
        while (!open.empty()) {
            const std::int32_t child = open.back();
            open.pop_back();
            if (child < 0) {
                ++leaves;
                continue;
            }
            open.push_back(trees().splits[child].left);
            open.push_back(trees().splits[child].right);
        }
        return leaves;
    }

    std::size_t largest_tree() const {
        std::size_t most = 0;
        for (const Tree& tree : trees().trees) most = std::max(most, leaves_of(tree.root));
        return most;
    }

    void pack_group(const Group& group) {
        std::uint32_t steps = 0;
        for (std::uint32_t lane = 0; lane < lanes; ++lane) {
            if (lane >= group.count) {
                coded_->roots.push_back(0);
                coded_->value_base.push_back(0);
                coded_->row_trees.push_back({0, 0, 0});
                continue;
            }
            const Tree& tree = trees().trees[group.first + lane];
            steps = std::max(steps, tree.depth);
            pack_tree(tree.root);
        }
        coded_->groups.push_back({group.output, steps});
        group_bytes_.push_back(4 * (coded_->words.size() - words_seen_) + 8 * (coded_->values.size() - values_seen_));
        words_seen_ = coded_->words.size();
        values_seen_ = coded_->values.size();
    }

    // Breadth first, so that the top of a tree, which every row visits, shares cache lines.
    void pack_tree(std::int32_t root) {
        struct Open {
            std::int32_t child;
            std::size_t at;          // node in words
            std::uint32_t split_of;  // row-parallel: the parent split in row_splits, and the side
            bool is_right;
        };
        constexpr std::uint32_t no_parent = ~0u;
        const std::size_t base = coded_->words.size();
        const std::size_t first_split = coded_->row_splits.size();
        const std::size_t first_value = coded_->values.size();
        coded_->roots.push_back(static_cast<std::int32_t>(base));
        coded_->words.push_back(0);
        std::vector<Open> queue{{root, base, no_parent, false}};
        std::vector<std::size_t> leaf_order;  // queue entries that are leaves, in order of their number
        std::uint32_t n_splits = 0;
        for (std::size_t q = 0; q < queue.size(); ++q) {
            const Open open = queue[q];
            if (open.child < 0) {
                leaf_order.push_back(q);
                continue;
            }
            const Split& split = trees().splits[open.child];
            const Place place = place_of(split);
            const std::size_t left = coded_->words.size();
            coded_->words.resize(left + 2);
            ENGINE_ASSERT(left > open.at && left - open.at < 1u << 16, "a child is less than 65,536 nodes ahead");
            coded_->words[open.at] =
                place.column | std::uint32_t(place.cut) << 8 | static_cast<std::uint32_t>(left - open.at) << 16;
            if (open.split_of != no_parent) set_slot(open.split_of, open.is_right, n_splits);
            const auto mine = static_cast<std::uint32_t>(coded_->row_splits.size());
            coded_->row_splits.push_back({place.column, place.cut, 0, 0});
            ++n_splits;
            queue.push_back({split.left, left, mine, false});
            queue.push_back({split.right, left + 1, mine, true});
        }
        if (by_node_) coded_->values.resize(coded_->words.size(), 0.0);
        for (std::size_t leaf = 0; leaf < leaf_order.size(); ++leaf) {
            const Open& open = queue[leaf_order[leaf]];
            const double value = trees().leaves[~open.child];
            coded_->words[open.at] = leaf_cut | (by_node_ ? 0 : static_cast<std::uint32_t>(leaf));
            if (by_node_)
                coded_->values[open.at] = value;
            else
                coded_->values.push_back(value);
            if (open.split_of != no_parent)
                set_slot(open.split_of, open.is_right, n_splits + static_cast<std::uint32_t>(leaf));
        }
        coded_->value_base.push_back(by_node_ ? 0 : static_cast<std::int32_t>(first_value));
        coded_->row_trees.push_back({static_cast<std::uint32_t>(first_split), n_splits,
                                     static_cast<std::uint32_t>(first_value)});
    }

    void set_slot(std::uint32_t split, bool is_right, std::uint32_t slot) {
        ENGINE_ASSERT(split < coded_->row_splits.size(), "a parent stands before its children");
        RowSplit& parent = coded_->row_splits[split];
        (is_right ? parent.right : parent.left) = static_cast<std::uint16_t>(slot);
    }

    void finish_view() {
        Coded& c = *coded_;
        const std::size_t n_values = c.values.size();
        // The kernels by rows load 32 values at a tree's first: keep that inside the allocation.
        c.values.resize(n_values + 32, 0.0);
        ENGINE_ASSERT(c.roots.size() == c.groups.size() * lanes, "every lane of every group has a root");
        ENGINE_ASSERT(c.value_base.size() == c.roots.size(), "every lane of every group has a first value");
        ENGINE_ASSERT(c.row_trees.size() == c.roots.size(), "every lane of every group has a tree by rows");
        ENGINE_ASSERT(c.cuts_f64.size() == c.columns.size() * cuts_padded, "every column has 256 places for cuts");
        ENGINE_ASSERT(c.tops_f64.size() == c.columns.size() * 16, "every column has sixteen tops");
        ENGINE_ASSERT(c.parts.empty() || c.parts.back().end == c.groups.size(), "parts cover all groups");
        c.view = {trees().n_outputs,
                  static_cast<std::uint32_t>(c.columns.size()),
                  static_cast<std::uint32_t>(c.groups.size()),
                  static_cast<std::uint32_t>(c.words.size()),
                  static_cast<std::uint32_t>(n_values),
                  by_node_ ? 1u : 0u,
                  c.columns.data(),
                  c.cuts_f32.data(),
                  c.cuts_f64.data(),
                  c.tops_f32.data(),
                  c.tops_f64.data(),
                  c.words.data(),
                  c.groups.data(),
                  c.roots.data(),
                  c.value_base.data(),
                  c.values.data(),
                  by_node_ ? nullptr : c.row_trees.data(),
                  c.row_splits.data(),
                  c.trees.get()};
    }

    std::shared_ptr<Coded> coded_;
    std::map<ColumnKey, std::size_t> first_column_;
    std::map<ColumnKey, std::int32_t> asks_;  // a split that asks for the category set of this column
    std::map<ColumnKey, std::vector<double>> thresholds_;
    std::vector<std::size_t> group_bytes_;
    std::size_t words_seen_ = 0;
    std::size_t values_seen_ = 0;
    bool by_node_ = false;
};

}  // namespace

std::vector<Part> make_parts(std::uint32_t n_outputs, const std::vector<std::uint32_t>& group_output,
                             const std::vector<std::size_t>& group_bytes) {
    std::vector<Part> parts;
    std::uint32_t g = 0;
    const auto n_groups = static_cast<std::uint32_t>(group_output.size());
    for (std::uint32_t output = 0; output < n_outputs; ++output) {
        bool opens = true;
        do {
            Part part{output, g, g, opens, true};
            std::size_t bytes = 0;
            for (; g < n_groups && group_output[g] == output; ++g, ++part.end) {
                const bool full = bytes + group_bytes[g] > part_bytes && g - part.first >= part_groups_min;
                if (full && (g - part.first) % part_groups_min == 0) break;
                bytes += group_bytes[g];
            }
            part.closes = g == n_groups || group_output[g] != output;
            parts.push_back(part);
            opens = false;
        } while (!parts.back().closes);
    }
    return parts;
}

std::shared_ptr<const Coded> make_coded(std::shared_ptr<const Trees> trees) {
    return Packer(std::move(trees)).pack();
}

}  // namespace engine::forest
