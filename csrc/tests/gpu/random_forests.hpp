// Random forests and rows for tests: the arrays of a ForestSpec, every missing-value rule and category sets among them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "model/forest/forest.hpp"

namespace gpu_tests {

// A small generator: the same numbers everywhere.
struct Draw {
    uint64_t state;
    uint64_t operator()(uint64_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (state >> 33) % below;
    }
};
struct Arrays {
    std::vector<int32_t> root, output, feature, left, right, set_begin;
    std::vector<double> threshold, leaf, base;
    std::vector<uint8_t> rules;
    std::vector<uint32_t> set_words;
    uint32_t n_features = 2;
    engine::forest::Spec spec() const {
        engine::forest::Spec made;
        made.n_features = n_features;
        made.n_outputs = static_cast<uint32_t>(base.size());
        made.root = root, made.output = output, made.feature = feature, made.threshold = threshold, made.left = left,
        made.right = right;
        made.rule = rules, made.leaf = leaf, made.base = base, made.set_begin = set_begin, made.set_words = set_words;
        return made;
    }
};
// kinds: distinct thresholds a feature at most.
inline Arrays random_arrays(uint32_t seed, size_t trees, size_t splits, uint32_t features, uint32_t outputs,
                            uint32_t kinds, uint32_t sets = 0) {
    Draw draw{seed};
    Arrays made;
    made.n_features = features;
    for (uint32_t s = 0; s < sets; ++s) {
        made.set_begin.push_back(static_cast<int32_t>(made.set_words.size()));
        for (uint64_t words = 1 + draw(3); words > 0; --words)
            made.set_words.push_back(static_cast<uint32_t>(draw(1ull << 31) * 2 + draw(2)));
    }
    if (sets > 0) made.set_begin.push_back(static_cast<int32_t>(made.set_words.size()));
    made.base.assign(outputs, 0.0);
    for (size_t t = 0; t < trees; ++t) {
        made.root.push_back(static_cast<int32_t>(made.feature.size()));
        made.output.push_back(static_cast<int32_t>(t % outputs));
        const size_t first = made.feature.size();
        made.left.resize(first + splits);
        made.right.resize(first + splits);
        std::vector<std::pair<size_t, bool>> open;
        for (size_t s = first; s < first + splits; ++s) {
            if (!open.empty()) {
                const size_t at = draw(open.size());
                (open[at].second ? made.right : made.left)[open[at].first] = static_cast<int32_t>(s);
                open.erase(open.begin() + static_cast<ptrdiff_t>(at));
            }
            open.push_back({s, false});
            open.push_back({s, true});
            made.feature.push_back(static_cast<int32_t>(draw(features)));
            if (sets > 0 && draw(4) == 0) {
                made.threshold.push_back(static_cast<double>(draw(sets)));
                const uint8_t sides = static_cast<uint8_t>((draw(2) ? engine::forest::rule::members_left : 0) |
                                                           (draw(2) ? engine::forest::rule::truncates : 0));
                made.rules.push_back(static_cast<uint8_t>(engine::forest::rule::categorical | draw(2) | sides));
            } else {
                made.threshold.push_back(static_cast<double>(draw(kinds)) / 7.0 - 3.0);
                made.rules.push_back(static_cast<uint8_t>(draw(6)));
            }
        }
        for (const auto& [s, right] : open) {
            (right ? made.right : made.left)[s] = ~static_cast<int32_t>(made.leaf.size());
            made.leaf.push_back(static_cast<double>(draw(1000)) / 999.0 - 0.3);
        }
    }
    return made;
}
inline std::vector<float> random_rows(uint32_t seed, size_t n, uint32_t features) {
    Draw draw{seed * 977u + 5};
    std::vector<float> rows(n * features);
    for (float& x : rows) {
        const uint64_t what = draw(20);
        x = what == 0   ? std::numeric_limits<float>::quiet_NaN()
            : what == 1 ? 0.0f
            : what == 2 ? -0.0f
            : what == 3 ? 1e-36f
                        : static_cast<float>(static_cast<double>(draw(100)) / 14.0 - 3.2);
    }
    return rows;
}

}  // namespace gpu_tests
