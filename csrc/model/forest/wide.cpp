// Packs a forest for wide codes, codes rows, and the walk in plain C++.
#include "model/forest/wide.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "base/assert.hpp"

namespace engine::forest {
namespace {

// Beyond this size there is no table and each row asks the sets one by one: a small file could claim a table of any
// size.
constexpr std::size_t TABLE_WORDS_MAX = std::size_t{1} << 24;
constexpr std::size_t NODES_MAX = std::size_t{1} << 30;

using Key = std::tuple<std::int32_t, std::uint8_t, std::int32_t>;  // feature, rule, set or -1

Key key_of(const Split& split) {
    const bool plain = !(split.rule & (rule::categorical | rule::missing_mask));
    return {split.feature, plain ? std::uint8_t{0} : split.rule, split.set};
}

class Packer {
public:
    explicit Packer(std::shared_ptr<const Trees> trees) : wide_(std::make_shared<Wide>()) {
        wide_->trees = std::move(trees);
    }

    std::shared_ptr<const Wide> pack() {
        if (2 * trees().splits.size() + trees().trees.size() >= NODES_MAX) return nullptr;
        sort_thresholds();
        if (!make_columns()) return nullptr;
        wide_->nodes.push_back({wide_leaf, 0});  // node 0 and value 0: the leaf of lanes without a tree
        wide_->values.push_back(0.0);
        std::vector<std::uint32_t> outputs;
        std::vector<std::size_t> bytes;
        for (const Group& group : trees().groups) {
            const std::size_t before = 8 * (wide_->nodes.size() + wide_->values.size());
            for (std::uint32_t lane = 0; lane < lanes; ++lane)
                lane < group.count ? pack_tree(trees().trees[group.first + lane].root) : wide_->roots.push_back(0);
            outputs.push_back(group.output);
            bytes.push_back(8 * (wide_->nodes.size() + wide_->values.size()) - before);
        }
        wide_->parts = make_parts(trees().n_outputs, outputs, bytes);
        ENGINE_ASSERT(wide_->roots.size() == trees().groups.size() * lanes, "every lane of every group has a root");
        ENGINE_ASSERT(wide_->n_columns <= wide_columns_max, "columns fit the codes of a row");
        wide_->view = {trees().n_outputs,
                       wide_->nodes.data(),
                       static_cast<std::uint32_t>(wide_->nodes.size()),
                       static_cast<std::uint32_t>(wide_->values.size()),
                       wide_->roots.data(),
                       wide_->values.data()};
        return wide_;
    }

private:
    const Trees& trees() const { return *wide_->trees; }

    void sort_thresholds() {
        for (std::size_t s = 0; s < trees().splits.size(); ++s) {
            const Split& split = trees().splits[s];
            if (split.left == split.right) continue;  // a place that no tree reaches
            thresholds_[key_of(split)].push_back(split.threshold);
            if (split.set >= 0) asks_[key_of(split)] = static_cast<std::int32_t>(s);
        }
        for (auto& [key, sorted] : thresholds_) {
            std::sort(sorted.begin(), sorted.end());
            sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
        }
    }

    bool make_columns() {
        for (const auto& [key, sorted] : thresholds_) {
            first_column_[key] = wide_->n_columns;
            const std::size_t needed = (sorted.size() + wide_cuts_max - 1) / wide_cuts_max;
            if (wide_->n_columns + needed > wide_columns_max) return false;
            if (std::get<2>(key) >= 0) add_set(key);
            else
                for (std::size_t from = 0; from < sorted.size(); from += wide_cuts_max) add_column(key, sorted, from);
        }
        for (WideCategories& block : wide_->categories) make_table(block);
        return true;
    }

    void add_column(const Key& key, const std::vector<double>& sorted, std::size_t from) {
        const auto& [feature, bits, set] = key;
        const std::size_t count = std::min(wide_cuts_max, sorted.size() - from);
        const bool left = bits & rule::missing_left;
        wide_->columns.push_back({feature, static_cast<std::uint32_t>(wide_->cuts_f64.size()),
                                  static_cast<std::uint32_t>(count), static_cast<std::uint16_t>(wide_->n_columns++),
                                  static_cast<std::uint16_t>(left ? 0 : 65535), bits});
        for (std::size_t i = from; i < from + count; ++i) {
            wide_->cuts_f64.push_back(sorted[i]);
            wide_->cuts_f32.push_back(round_down(sorted[i]));
        }
    }

    // Keys come in order, so all sets of a feature under one rule follow one another.
    void add_set(const Key& key) {
        const auto& [feature, bits, set] = key;
        auto& blocks = wide_->categories;
        if (blocks.empty() || blocks.back().feature != feature || blocks.back().rule != bits)
            blocks.push_back({feature, static_cast<std::uint16_t>(wide_->n_columns), 0, 0, 0, bits,
                              static_cast<std::uint32_t>(wide_->set_splits.size())});
        ++blocks.back().sets;
        ++wide_->n_columns;
        wide_->set_splits.push_back(asks_.at(key));
    }

    void make_table(WideCategories& block) {
        std::size_t categories = 0;
        for (std::size_t j = 0; j < block.sets; ++j) {
            const Split& split = trees().splits[wide_->set_splits[block.first_split + j]];
            const auto words = trees().set_begin[split.set + 1] - trees().set_begin[split.set];
            categories = std::max(categories, 32 * static_cast<std::size_t>(words));
        }
        const std::size_t line = (block.sets + 31) / 32;
        if ((categories + 1) * line > TABLE_WORDS_MAX - std::min(TABLE_WORDS_MAX, wide_->table.size())) return;
        block.categories = static_cast<std::uint32_t>(categories);
        block.first_word = wide_->table.size();
        wide_->table.resize(wide_->table.size() + (categories + 1) * line, 0);
        for (std::size_t c = 0; c <= categories; ++c) {
            std::uint32_t* words = wide_->table.data() + block.first_word + c * line;
            for (std::size_t j = 0; j < block.sets; ++j) {
                const Split& split = trees().splits[wide_->set_splits[block.first_split + j]];
                const bool left = category_goes_left(trees(), split, static_cast<double>(c));
                words[j / 32] |= std::uint32_t{!left} << (j % 32);
            }
        }
    }

    std::uint32_t ask_of(const Split& split) const {
        const Key key = key_of(split);
        const std::vector<double>& sorted = thresholds_.at(key);
        const auto rank =
            static_cast<std::size_t>(std::lower_bound(sorted.begin(), sorted.end(), split.threshold) - sorted.begin());
        ENGINE_ASSERT(rank < sorted.size() && sorted[rank] == split.threshold, "a split's threshold is a cut");
        const std::size_t column = first_column_.at(key) + rank / wide_cuts_max;
        ENGINE_ASSERT(column < wide_->n_columns, "a split's column exists");
        return static_cast<std::uint32_t>(column | rank % wide_cuts_max << 16);
    }

    // Breadth first, children side by side.
    void pack_tree(std::int32_t root) {
        std::vector<WideNode>& nodes = wide_->nodes;
        std::vector<std::pair<std::int32_t, std::size_t>> queue{{root, nodes.size()}};
        wide_->roots.push_back(static_cast<std::int32_t>(nodes.size()));
        nodes.push_back({});
        for (std::size_t q = 0; q < queue.size(); ++q) {
            const auto [child, at] = queue[q];
            if (child < 0) {
                nodes[at] = {wide_leaf, static_cast<std::uint32_t>(wide_->values.size())};
                wide_->values.push_back(trees().leaves[~child]);
                continue;
            }
            const Split& split = trees().splits[child];
            const std::size_t left = nodes.size();
            nodes.resize(left + 2);
            nodes[at] = {ask_of(split), static_cast<std::uint32_t>(left - at)};
            queue.push_back({split.left, left});
            queue.push_back({split.right, left + 1});
        }
    }

    std::shared_ptr<Wide> wide_;
    std::map<Key, std::vector<double>> thresholds_;
    std::map<Key, std::int32_t> asks_;  // a split that asks for the category set of this column
    std::map<Key, std::size_t> first_column_;
};

// How many of `count` sorted cuts (at least one) are below x; NaN is above none.
template <class T>
std::uint16_t count_below(const T* cuts, std::size_t count, T x) noexcept {
    ENGINE_ASSERT(count >= 1 && count <= wide_cuts_max, "a column has cuts, and their count fits a code");
    const T* at = cuts;
    while (count > 1) {
        const std::size_t half = count / 2;
        at += at[half - 1] < x ? half : 0;
        count -= half;
    }
    return static_cast<std::uint16_t>(at - cuts + (*at < x ? 1 : 0));
}

template <class T>
std::uint16_t code_of(const WideColumn& column, const T* cuts, T x) noexcept {
    if (takes_for_missing(column.rule, x)) return column.missing;
    return count_below(cuts + column.first_cut, column.cuts, x);
}

void code_categories(const Wide& wide, const WideKernels& kernels, const WideCategories& block, double x,
                     std::uint16_t* codes) noexcept {
    std::uint16_t* to = codes + block.first_column;
    if (std::isnan(x)) {
        std::fill_n(to, block.sets, static_cast<std::uint16_t>(block.rule & rule::missing_left ? 0 : 1));
        return;
    }
    if (block.categories == 0) {
        for (std::size_t j = 0; j < block.sets; ++j)
            to[j] =
                category_goes_left(*wide.trees, wide.trees->splits[wide.set_splits[block.first_split + j]], x) ? 0 : 1;
        return;
    }
    std::size_t line = block.categories;  // in no set
    if (x > -1.0 && x < block.categories && (x >= 0.0 || (block.rule & rule::truncates)))
        line = static_cast<std::size_t>(static_cast<std::int32_t>(x));
    const std::size_t words_a_line = (block.sets + 31u) / 32u;
    ENGINE_ASSERT(block.first_word + (line + 1) * words_a_line <= wide.table.size(), "a category has a line");
    ENGINE_ASSERT(std::size_t(block.first_column) + block.sets <= wide.n_columns, "the sets' columns exist");
    const std::uint32_t* words = wide.table.data() + block.first_word + line * words_a_line;
    kernels.unpack(words, block.sets, to);
}

const float* cuts_of(const Wide& wide, float) noexcept { return wide.cuts_f32.data(); }
const double* cuts_of(const Wide& wide, double) noexcept { return wide.cuts_f64.data(); }

template <class T>
void code_row(const Wide& wide, const WideKernels& kernels, const T* row, std::uint16_t* codes) noexcept {
    const T* cuts = cuts_of(wide, T(0));
    for (const WideColumn& column : wide.columns) codes[column.column] = code_of(column, cuts, row[column.feature]);
    for (const WideCategories& block : wide.categories)
        code_categories(wide, kernels, block, row[block.feature], codes);
}

class WideLanes final : public Layout {
public:
    WideLanes(std::string name, std::shared_ptr<const Wide> wide, const WideKernels& kernels)
        : Layout(std::move(name)), wide_(std::move(wide)), kernels_(kernels) {}

    bool raw(const float* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return score(rows, n_rows, stride, sums, pace);
    }
    bool raw(const double* rows, std::size_t n_rows, std::size_t stride, double* sums,
             Pace& pace) const noexcept override {
        return score(rows, n_rows, stride, sums, pace);
    }

private:
    template <class T>
    bool score(const T* rows, std::size_t n_rows, std::size_t stride, double* sums, Pace& pace) const noexcept {
        const std::size_t width = (wide_->n_columns + 31) / 32 * 32;
        const std::size_t together = std::min(block_rows, width ? (wide_codes - 32) / width : block_rows);
        ENGINE_ASSERT(together >= 1 && together * width + 32 <= wide_codes, "the codes of a row fit the buffer");
        alignas(64) std::uint16_t codes[wide_codes];
        alignas(64) double lane_sums[block_rows][lanes];
        const std::uint32_t n_outputs = wide_->view.n_outputs;
        for (std::size_t from = 0; from < n_rows; from += together) {
            const std::size_t count = std::min(together, n_rows - from);
            for (std::size_t r = 0; r < count; ++r)
                code_row(*wide_, kernels_, rows + (from + r) * stride, codes + r * width);
            for (const Part& part : wide_->parts) {
                if (pace.over()) return false;
                if (part.opens) std::fill_n(lane_sums[0], count * lanes, 0.0);
                for (std::size_t r = 0; r < count; ++r)
                    kernels_.walk(wide_->view, codes + r * width, part.first, part.end, lane_sums[r]);
                pace.did(count * (part.end - part.first));
                if (!part.closes) continue;
                for (std::size_t r = 0; r < count; ++r) sums[(from + r) * n_outputs + part.output] = fold(lane_sums[r]);
            }
        }
        return true;
    }

    std::shared_ptr<const Wide> wide_;
    WideKernels kernels_;
};

void walk(const WideView& forest, const std::uint16_t* codes, std::size_t first, std::size_t end,
          double* sums) noexcept {
    for (std::size_t slot = first * lanes; slot < end * lanes; slot += 8) {
        WideNode here[8];
        std::uint32_t at[8];
        for (int j = 0; j < 8; ++j) at[j] = static_cast<std::uint32_t>(forest.roots[slot + j]);
        for (bool walking = true; walking;) {
            walking = false;
            for (int j = 0; j < 8; ++j) {
                ENGINE_ASSERT(at[j] < forest.n_nodes, "a lane stands on a node that exists");
                here[j] = forest.nodes[at[j]];
                const bool split = here[j].ask < wide_leaf;
                walking |= split;
                const std::uint32_t right = codes[here[j].ask & 0xffff] > here[j].ask >> 16 ? 1 : 0;
                at[j] += split ? here[j].next + right : 0;
            }
        }
        for (int j = 0; j < 8; ++j) {
            ENGINE_ASSERT(here[j].next < forest.n_values, "a leaf has a value");
            sums[slot % lanes + j] += forest.values[here[j].next];
        }
    }
}

// Eight bits at a time: a loop over bits takes most of a nanosecond for each.
void unpack(const std::uint32_t* words, std::size_t count, std::uint16_t* codes) noexcept {
    static const auto table = [] {
        std::array<std::array<std::uint16_t, 8>, 256> made{};
        for (unsigned byte = 0; byte < 256; ++byte)
            for (unsigned bit = 0; bit < 8; ++bit) made[byte][bit] = byte >> bit & 1;
        return made;
    }();
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8)
        std::memcpy(codes + i, table[words[i / 32] >> i % 32 & 255].data(), 8 * sizeof(std::uint16_t));
    for (; i < count; ++i) codes[i] = words[i / 32] >> (i % 32) & 1;
}

}  // namespace

const WideKernels wide_scalar{walk, unpack};

std::shared_ptr<const Wide> make_wide(std::shared_ptr<const Trees> trees) { return Packer(std::move(trees)).pack(); }

void add_wide_layouts(std::shared_ptr<const Trees> trees, std::vector<std::unique_ptr<Layout>>& layouts) {
    const std::shared_ptr<const Wide> wide = make_wide(std::move(trees));
    if (!wide) return;
    const struct {
        Isa isa;
        const WideKernels& kernels;
    } sets[] = {{Isa::scalar, wide_scalar}, {Isa::avx2, wide_avx2}, {Isa::avx512, wide_avx512}};
    for (const auto& set : sets)
        if (set.kernels.walk && set.isa <= active_isa())
            layouts.push_back(std::make_unique<WideLanes>(std::string("wide-") + isa_name(set.isa), wide, set.kernels));
}

}  // namespace engine::forest
