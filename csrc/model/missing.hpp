// A scorer in front of another: a number that stands for a missing value becomes NaN.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "engine/scorer.h"
#include "model/changed_rows.hpp"

namespace engine::model {

// Values are compared with the number in float32, as XGBoost does.
struct MissingNumber {
    float missing;

    template <class Value>
    void operator()(const Value* from, Value* to, std::size_t width) const noexcept {
        std::transform(from, from + width, to, [this](Value value) {
            return static_cast<float>(value) == missing ? std::numeric_limits<Value>::quiet_NaN() : value;
        });
    }
};

inline engine_scorer with_missing(const engine_scorer& inner, float missing) {
    return with_changed_rows(inner, MissingNumber{missing});
}

}  // namespace engine::model
