// A scorer in front of another: columns in another order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/assert.hpp"
#include "engine/scorer.h"
#include "model/changed_rows.hpp"

namespace engine::model {

// order[i] is the column of the given rows that is the inner scorer's column i.
struct Order {
    std::vector<std::uint32_t> order;

    template <class Value>
    void operator()(const Value* from, Value* to, std::size_t width) const noexcept {
        for (std::size_t i = 0; i < width; ++i) to[i] = from[order[i]];
    }
};

// `order` is a permutation of 0 … n_features - 1.
inline engine_scorer reordered(const engine_scorer& inner, std::vector<std::uint32_t> order) {
    ENGINE_ASSERT(order.size() == inner.n_features, "an order has a place for every column");
    for ([[maybe_unused]] const std::uint32_t column : order)
        ENGINE_ASSERT(column < inner.n_features, "an order names columns of the rows");
    return with_changed_rows(inner, Order{std::move(order)});
}

}  // namespace engine::model
