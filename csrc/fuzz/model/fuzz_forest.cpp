// Bytes -> the arrays that a reader of trees hands over -> a forest that load() refuses, or scores.
//
// Refused ones must be refused by std::invalid_argument, whatever the arrays hold. Accepted ones are scored by every
// layout of every instruction set that this CPU has, in float and in double, one row and many, and must give the bits
// of the plain reference.
//
// Half of the inputs describe sound trees (grown leaf by leaf, then perhaps damaged in one place), because random
// arrays would nearly never be accepted.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/model/bytes.hpp"
#include "model/forest/forest.hpp"

using namespace engine::forest;

namespace {

struct Arrays {
    std::vector<std::int32_t> root, output, feature, left, right, set_begin;
    std::vector<double> threshold, leaf, base;
    std::vector<std::uint8_t> rules;
    std::vector<std::uint32_t> set_words;
};

constexpr std::size_t splits_max = 2000;

void add_sets(Arrays& a, fuzz::Bytes& in) {
    const std::size_t sets = in.below(14);
    if (!sets) return;
    for (std::size_t set = 0; set < sets; ++set) {
        a.set_begin.push_back(static_cast<std::int32_t>(a.set_words.size()));
        for (std::size_t word = in.below(4); word > 0; --word)
            a.set_words.push_back(in.word() | static_cast<std::uint32_t>(in.word()) << 16);
    }
    a.set_begin.push_back(static_cast<std::int32_t>(a.set_words.size()));
}

std::int32_t add_leaf(Arrays& a, fuzz::Bytes& in) {
    a.leaf.push_back((static_cast<int>(in.word()) - 32768) / 1000.0);
    return ~static_cast<std::int32_t>(a.leaf.size() - 1);
}

std::int32_t add_split(Arrays& a, fuzz::Bytes& in, std::uint32_t n_features) {
    a.feature.push_back(static_cast<std::int32_t>(in.below(n_features)));
    std::uint8_t rule = in.byte() % 6;  // missing_left with none, nan or zero
    double threshold = in.real();
    if (a.set_begin.size() > 1 && in.byte() % 3 == 0) {
        rule = static_cast<std::uint8_t>(rule::categorical | (in.byte() & (rule::members_left | rule::truncates | 1)));
        threshold = static_cast<double>(in.below(a.set_begin.size() - 1));
    }
    a.rules.push_back(rule);
    a.threshold.push_back(threshold);
    a.left.push_back(0);
    a.right.push_back(0);
    return static_cast<std::int32_t>(a.feature.size() - 1);
}

// Every open end becomes a leaf or a split, until the tree has its number of splits.
void grow(Arrays& a, fuzz::Bytes& in, std::uint32_t n_features, std::size_t splits) {
    if (splits == 0) return a.root.push_back(add_leaf(a, in));
    a.root.push_back(add_split(a, in, n_features));
    std::vector<std::pair<std::int32_t, bool>> ends{{a.root.back(), false}, {a.root.back(), true}};
    for (std::size_t made = 1; made < splits; ++made) {
        const std::size_t at = in.below(ends.size());
        const auto [parent, is_right] = ends[at];
        const std::int32_t child = add_split(a, in, n_features);
        (is_right ? a.right : a.left)[parent] = child;
        ends[at] = {child, false};
        ends.emplace_back(child, true);
    }
    for (const auto& [parent, is_right] : ends) (is_right ? a.right : a.left)[parent] = add_leaf(a, in);
}

// All splits of a level alike, as CatBoost's trees are.
void grow_symmetric(Arrays& a, fuzz::Bytes& in, std::uint32_t n_features, std::uint32_t depth) {
    const auto first = static_cast<std::int32_t>(a.feature.size());
    const std::int32_t splits = (1 << depth) - 1;
    const auto first_leaf = static_cast<std::int32_t>(a.leaf.size());
    for (std::int32_t leaf = 0; leaf <= splits; ++leaf) add_leaf(a, in);
    const auto child = [&](std::int32_t c) { return c < splits ? first + c : ~(first_leaf + c - splits); };
    a.root.push_back(child(0));
    for (std::int32_t s = 0; s < splits; ++s) {
        if ((s & (s + 1)) == 0) {  // the first of its level
            add_split(a, in, n_features);
        } else {
            const std::size_t before = a.feature.size() - 1;
            a.feature.push_back(a.feature[before]);
            a.rules.push_back(a.rules[before]);
            a.threshold.push_back(a.threshold[before]);
            a.left.push_back(0);
            a.right.push_back(0);
        }
        a.left.back() = child(2 * s + 1);
        a.right.back() = child(2 * s + 2);
    }
}

template <class List>
void damage(List& list, fuzz::Bytes& in) {
    if (list.empty()) return;
    auto& value = list[in.below(list.size())];
    static constexpr int edges[] = {0, 1, -1, -2, 7, 255, 32768, 1 << 30, -(1 << 30)};
    value = static_cast<std::remove_reference_t<decltype(value)>>(edges[in.below(9)]);
    if (in.byte() % 4 == 0) list.pop_back();
}

template <class T>
void check_rows(const Forest& forest, std::uint32_t n_features, fuzz::Bytes& in) {
    const std::size_t n_rows = 1 + in.below(70);
    std::vector<T> some(1 + in.below(40)), rows(n_rows * n_features);
    for (T& value : some) value = static_cast<T>(in.value());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = some[(i * 31 + i / 7) % some.size()];
    std::vector<double> expected(n_rows * forest.n_answers()), got(expected.size());
    fuzz::require(forest.score_by("reference", rows.data(), n_rows, n_features, expected.data()) == ENGINE_SCORE_OK);
    for (const std::string& layout : forest.layouts()) {
        fuzz::require(forest.score_by(layout, rows.data(), n_rows, n_features, got.data()) == ENGINE_SCORE_OK);
        fuzz::require(std::memcmp(got.data(), expected.data(), got.size() * sizeof(double)) == 0);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Bytes in(data, size);
    Arrays a;
    static constexpr std::uint32_t widths[] = {1, 2, 5, 40, 70, 130, 300};
    const std::uint32_t n_features = widths[in.below(7)];
    const auto n_outputs = static_cast<std::uint32_t>(1 + in.below(3));
    const bool symmetric = in.byte() % 4 == 0;
    add_sets(a, in);
    for (std::size_t trees = 1 + in.below(40); trees > 0 && a.feature.size() < splits_max; --trees) {
        if (symmetric)
            grow_symmetric(a, in, n_features, static_cast<std::uint32_t>(in.below(6)));
        else
            grow(a, in, n_features, in.below(30) == 7 ? 300 : in.below(20));
        a.output.push_back(static_cast<std::int32_t>(in.below(n_outputs)));
    }
    for (std::uint32_t k = 0; k < n_outputs; ++k) a.base.push_back(in.real() / 1e300);
    Spec spec;
    spec.n_features = n_features;
    spec.n_outputs = n_outputs;
    spec.float32_rows = in.byte() % 2;
    spec.link = static_cast<Link>(in.below(link_count + 1));
    for (std::size_t hits = in.byte() % 2 ? 0 : in.below(4); hits > 0; --hits) {
        switch (in.below(11)) {
            case 0: damage(a.root, in); break;
            case 1: damage(a.output, in); break;
            case 2: damage(a.feature, in); break;
            case 3: damage(a.threshold, in); break;
            case 4: damage(a.left, in); break;
            case 5: damage(a.right, in); break;
            case 6: damage(a.rules, in); break;
            case 7: damage(a.leaf, in); break;
            case 8: damage(a.set_begin, in); break;
            case 9: damage(a.set_words, in); break;
            default: damage(a.base, in);
        }
    }
    spec.root = a.root;
    spec.output = a.output;
    spec.feature = a.feature;
    spec.threshold = a.threshold;
    spec.left = a.left;
    spec.right = a.right;
    spec.rule = a.rules;
    spec.leaf = a.leaf;
    spec.set_begin = a.set_begin;
    spec.set_words = a.set_words;
    spec.base = a.base;
    std::unique_ptr<Forest> forest;
    try {
        forest = Forest::load(spec);
    } catch (const std::invalid_argument&) {
        return 0;
    }
    check_rows<float>(*forest, n_features, in);
    check_rows<double>(*forest, n_features, in);
    return 0;
}
