// Forests built by hand in memory, run under the sanitizers: what load refuses, what every layout answers.
#include "model/forest/forest.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/check.hpp"

using engine::forest::Forest;
using engine::forest::Spec;
using engine::forest::Link;
namespace rule = engine::forest::rule;

namespace {

// Owns what a Spec borrows; one stump on feature 0 at 1.5, leaves 10 and 20, until changed.
struct Arrays {
    std::vector<std::int32_t> root{0}, output{0}, feature{0}, left{-1}, right{-2}, set_begin;
    std::vector<double> threshold{1.5}, leaf{10, 20}, base{0};
    std::vector<std::uint8_t> rules{rule::missing_nan | rule::missing_left};
    std::vector<std::uint32_t> set_words;
    std::uint32_t n_features = 2;
    Link link = Link::identity;

    Spec spec() const {
        Spec made;
        made.n_features = n_features;
        made.n_outputs = static_cast<std::uint32_t>(base.size());
        made.root = root;
        made.output = output;
        made.feature = feature;
        made.threshold = threshold;
        made.left = left;
        made.right = right;
        made.rule = rules;
        made.leaf = leaf;
        made.set_begin = set_begin;
        made.set_words = set_words;
        made.base = base;
        made.link = link;
        return made;
    }
};

bool refused(const Arrays& arrays, const std::string& part) {
    try {
        Forest::load(arrays.spec());
    } catch (const std::invalid_argument& error) {
        if (std::string(error.what()).find(part) != std::string::npos) return true;
        std::fprintf(stderr, "expected '%s', got '%s'\n", part.c_str(), error.what());
    }
    return false;
}

// `trees` random trees over `features` features, bushes and chains.
Arrays random_arrays(std::uint32_t seed, std::size_t trees, std::size_t splits, std::uint32_t features) {
    std::uint64_t state = seed;
    const auto draw = [&state](std::uint64_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (state >> 33) % below;
    };
    Arrays made;
    made.n_features = features;
    for (auto* list : {&made.root, &made.output, &made.feature, &made.left, &made.right}) list->clear();
    made.threshold.clear();
    made.leaf.clear();
    made.rules.clear();
    for (std::size_t t = 0; t < trees; ++t) {
        made.root.push_back(static_cast<std::int32_t>(made.feature.size()));
        made.output.push_back(0);
        std::vector<std::int32_t*> ends;
        const std::size_t first = made.feature.size();
        made.left.resize(first + splits);
        made.right.resize(first + splits);
        for (std::size_t s = first; s < first + splits; ++s) {
            if (!ends.empty()) {
                const std::size_t at = draw(ends.size());
                *ends[at] = static_cast<std::int32_t>(s);
                ends.erase(ends.begin() + static_cast<std::ptrdiff_t>(at));
            }
            ends.push_back(&made.left[s]);
            ends.push_back(&made.right[s]);
            made.feature.push_back(static_cast<std::int32_t>(draw(features)));
            made.threshold.push_back(static_cast<double>(draw(40)) / 7.0 - 3.0);
            made.rules.push_back(static_cast<std::uint8_t>(draw(6)));
        }
        for (std::int32_t* end : ends) {
            *end = ~static_cast<std::int32_t>(made.leaf.size());
            made.leaf.push_back(static_cast<double>(draw(1000)) / 999.0 - 0.3);
        }
    }
    return made;
}

}  // namespace

TEST(a_stump_answers) {
    auto forest = Forest::load(Arrays{}.spec());
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float rows[] = {1.5f, 0, std::nextafter(1.5f, 2.0f), 0, nan, 0, -INFINITY, 0, INFINITY, 0};
    for (const std::string& layout : forest->layouts()) {
        double out[5];
        CHECK(forest->score_by(layout, rows, 5, 2, out) == ENGINE_SCORE_OK);
        CHECK(out[0] == 10 && out[1] == 20 && out[2] == 10 && out[3] == 10 && out[4] == 20);
    }
    double out[5];
    CHECK(forest->score_by("fastest", rows, 5, 2, out) == ENGINE_SCORE_FAILED);
}

TEST(what_is_no_tree_is_refused) {
    Arrays a;
    a.left = {0};
    CHECK(refused(a, "met twice"));
    a = {};
    a.right = {-1};
    CHECK(refused(a, "met twice"));
    a = {};
    a.right = {std::numeric_limits<std::int32_t>::min()};
    CHECK(refused(a, "does not exist"));
    a = {};
    a.root = {7};
    CHECK(refused(a, "does not exist"));
    a = {};
    a.feature = {2};
    CHECK(refused(a, "feature 2 of 2"));
    a = {};
    a.feature = {-1};
    CHECK(refused(a, "feature"));
    a = {};
    a.output = {1};
    CHECK(refused(a, "output 1"));
    a = {};
    a.threshold = {std::nan("")};
    CHECK(refused(a, "NaN"));
    a = {};
    a.leaf = {10, INFINITY};
    CHECK(refused(a, "not finite"));
    a = {};
    a.rules = {rule::missing_mask};
    CHECK(refused(a, "unknown rule"));
    a = {};
    a.rules = {rule::categorical};
    CHECK(refused(a, "category set"));
    a = {};
    a.rules.push_back(0);
    CHECK(refused(a, "same length"));
    a = {};
    a.root.clear();
    a.output.clear();
    CHECK(refused(a, "at least one tree"));
}

TEST(layouts_agree_bit_for_bit) {
    const struct {
        std::size_t trees, splits;
        std::uint32_t features;
    } shapes[] = {{1, 1, 1}, {15, 3, 4}, {16, 20, 9}, {33, 40, 30}, {50, 12, 90}, {50, 12, 200}, {3, 300, 5}};
    std::uint32_t seed = 1;
    for (const auto& shape : shapes) {
        auto forest = Forest::load(random_arrays(seed++, shape.trees, shape.splits, shape.features).spec());
        // Rows of exactly their own length at the end of the allocation: the sanitizer sees a read beyond.
        std::vector<float> rows(70 * shape.features);
        for (std::size_t i = 0; i < rows.size(); ++i)
            rows[i] = i % 11 == 0 ? NAN : static_cast<float>(i * 37 % 41) / 7.0f - 3.0f;
        std::vector<double> expected(70), got(70);
        forest->score_by("reference", rows.data(), 70, shape.features, expected.data());
        for (const std::string& layout : forest->layouts()) {
            for (std::size_t n : {1, 63, 64, 65, 70}) {
                forest->score_by(layout, rows.data() + (70 - n) * shape.features, n, shape.features, got.data());
                CHECK(std::memcmp(got.data(), expected.data() + (70 - n), n * sizeof(double)) == 0);
            }
        }
    }
}

// Every layout against the reference, on rows of exactly their own length at the end of the allocation.
void check_layouts(const Forest& forest, std::uint32_t features, const std::vector<float>& values) {
    std::vector<float> rows(70 * features);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = values[i * 37 % values.size()];
    std::vector<double> expected(70), got(70);
    forest.score_by("reference", rows.data(), 70, features, expected.data());
    for (const std::string& layout : forest.layouts()) {
        for (std::size_t n : {1, 63, 64, 65, 70}) {
            CHECK(forest.score_by(layout, rows.data() + (70 - n) * features, n, features, got.data()) == ENGINE_SCORE_OK);
            CHECK(std::memcmp(got.data(), expected.data() + (70 - n), n * sizeof(double)) == 0);
        }
    }
}

bool has_layout(const Forest& forest, const std::string& name) {
    const auto layouts = forest.layouts();
    return std::find(layouts.begin(), layouts.end(), name) != layouts.end();
}

TEST(symmetric_trees_are_found_and_agree) {
    Arrays a;
    a.n_features = 5;
    for (auto* list : {&a.root, &a.output, &a.feature, &a.left, &a.right}) list->clear();
    a.threshold.clear();
    a.leaf.clear();
    a.rules.clear();
    for (std::int32_t tree = 0; tree < 75; ++tree) {
        const std::int32_t depth = tree % 7;  // depth 0 is a leaf alone
        const std::int32_t splits = (1 << depth) - 1;
        const auto first = static_cast<std::int32_t>(a.feature.size());
        const auto first_leaf = static_cast<std::int32_t>(a.leaf.size());
        const auto child = [&](std::int32_t c) { return c < splits ? first + c : ~(first_leaf + c - splits); };
        a.root.push_back(child(0));
        a.output.push_back(0);
        for (std::int32_t s = 0; s < splits; ++s) {
            std::int32_t level = 0;
            while ((2 << level) - 1 <= s) ++level;
            a.feature.push_back((tree + level) % 5);
            a.threshold.push_back((tree + 3 * level) % 9 - 4);
            a.rules.push_back(level % 2 ? rule::missing_nan : rule::missing_nan | rule::missing_left);
            a.left.push_back(child(2 * s + 1));
            a.right.push_back(child(2 * s + 2));
        }
        for (std::int32_t leaf = 0; leaf <= splits; ++leaf) a.leaf.push_back(0.37 * leaf - tree);
    }
    auto forest = Forest::load(a.spec());
    CHECK(has_layout(*forest, "symmetric-scalar"));
    check_layouts(*forest, 5, {-5, -4, -3.5, 0, 1, 2, 3, 4, 5, NAN, INFINITY});
}

TEST(category_sets_beyond_bytes_are_looked_up_in_a_table) {
    Arrays a = random_arrays(3, 40, 20, 4);
    for (std::size_t s = 0; s < a.feature.size(); s += 2) {
        a.rules[s] = static_cast<std::uint8_t>(rule::categorical | (s % 3 ? rule::members_left : 0) |
                                               (s % 5 ? rule::truncates : 0) | (s % 4 ? rule::missing_left : 0));
        a.threshold[s] = static_cast<double>(a.set_begin.size());
        a.set_begin.push_back(static_cast<std::int32_t>(a.set_words.size()));
        for (std::size_t word = 0; word <= s % 3; ++word)
            a.set_words.push_back(static_cast<std::uint32_t>((s + word + 1) * 2654435761u));
    }
    a.set_begin.push_back(static_cast<std::int32_t>(a.set_words.size()));
    auto forest = Forest::load(a.spec());
    CHECK(has_layout(*forest, "wide-scalar") && !has_layout(*forest, "lanes-scalar"));
    check_layouts(*forest, 4, {-1, -0.5, 0, 1, 2, 31, 32, 33.5, 63, 64, 95, 96, 1e9, NAN, INFINITY, -INFINITY, 16777216});
}

// A clock that moves on by one each time it is read.
std::int64_t ticks = 0;
std::int64_t tick() noexcept { return ++ticks; }

TEST(a_forest_stops_between_its_parts) {
    auto forest = Forest::load(random_arrays(7, 400, 200, 30).spec());
    std::vector<float> rows(130 * 30);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 37 % 41) / 7.0f - 3.0f;
    for (const std::string& layout : forest->layouts()) {
        for (std::size_t n : {1, 64, 130}) {
            std::vector<double> expected(n), got(n, -7.0);
            ticks = 0;
            CHECK(forest->score_by(layout, rows.data(), n, 30, expected.data()) == ENGINE_SCORE_OK);
            CHECK(ticks == 0);  // without a deadline nobody asks for the time
            const auto status = forest->score_by(layout, rows.data(), n, 30, got.data(), engine::forest::Stop{1, tick});
            CHECK(status == ENGINE_SCORE_OUT_OF_TIME && ticks == 1);
            CHECK(got == std::vector<double>(n, -7.0));  // it was over before it began
            // How often it looks: a deadline n looks away is met at exactly the n-th.
            ticks = 0;
            forest->score_by(layout, rows.data(), n, 30, got.data(), engine::forest::Stop{engine::NEVER_NS - 1, tick});
            const std::int64_t looks = ticks;
            CHECK(looks >= (n == 1 ? 2 : 4) && looks <= static_cast<std::int64_t>(25 * n));
            CHECK(got == expected);
            for (std::int64_t after = 1; after <= looks; ++after) {
                ticks = 0;
                CHECK(forest->score_by(layout, rows.data(), n, 30, got.data(), engine::forest::Stop{after, tick}) ==
                      ENGINE_SCORE_OUT_OF_TIME);
                CHECK(ticks == after);
            }
            ticks = 0;
            CHECK(forest->score_by(layout, rows.data(), n, 30, got.data(), engine::forest::Stop{looks + 1, tick}) ==
                  ENGINE_SCORE_OK);
            CHECK(got == expected);
        }
    }
}

TEST(the_socket_stops_by_the_clock) {
    engine_scorer scorer = Forest::scorer(Forest::load(Arrays{}.spec()));
    const float row[] = {9, 0};
    const double wide[] = {9, 0};
    double out = 0;
    CHECK(scorer.abi == ENGINE_SCORER_ABI);
    CHECK(engine_score_by(&scorer, row, 1, 2, &out, engine::now_ns()) == ENGINE_SCORE_OUT_OF_TIME);
    CHECK(engine_score_by_f64(&scorer, wide, 1, 2, &out, 0) == ENGINE_SCORE_OUT_OF_TIME);
    CHECK(engine_score_by(&scorer, row, 1, 2, &out, engine::NEVER_NS) == ENGINE_SCORE_OK && out == 20);
    engine_scorer old = scorer;  // as a module built against ABI 1 made it: what lies beyond is not looked at
    old.abi = 1;
    out = 0;
    CHECK(engine_score_by(&old, row, 1, 2, &out, 0) == ENGINE_SCORE_OK && out == 20);
    CHECK(engine_scorer_read(&old).score_until == nullptr && engine_scorer_read(&old).score == scorer.score);
    scorer.release(scorer.ctx);
}

TEST(the_scorer_counts_its_references) {
    engine_scorer scorer = Forest::scorer(Forest::load(Arrays{}.spec()));
    const float row[] = {9, 0};
    double out = 0;
    scorer.retain(scorer.ctx);
    scorer.release(scorer.ctx);
    CHECK(scorer.score(scorer.ctx, row, 1, 2, &out) == ENGINE_SCORE_OK);
    CHECK(out == 20);
    CHECK(scorer.score_f64 != nullptr);
    scorer.release(scorer.ctx);  // the last: the leak checker tells otherwise
}

TEST(links) {
    Arrays a;
    a.link = Link::positive;
    const float row[] = {0, 0};
    double out = 0;
    CHECK(Forest::load(a.spec())->score(row, 1, 2, &out) == ENGINE_SCORE_OK);
    CHECK(out == 1.0);
    a.base = {0, 30};
    a.link = Link::argmax;
    auto forest = Forest::load(a.spec());
    CHECK(forest->n_answers() == 1);
    forest->score(row, 1, 2, &out);
    CHECK(out == 1.0);
}

CHECK_MAIN()
