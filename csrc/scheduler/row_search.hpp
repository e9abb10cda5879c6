// Finds the rows that make a scoring call fail, in few calls: generalised binary splitting (Hwang, JASA 67(339), 1972).
//
// Rows are settled from the front. A failed call leaves a group known to hold a bad row. Halves of its front find the
// group's first bad row in log2(group) calls. Rows behind that row may all be good, so they go back to the rows of
// which nothing is known, and the next call takes them together. A row is blamed only after it has failed alone: a
// failure that was an accident then costs no row its answer. Pure: no clock, no allocation.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/assert.hpp"

namespace engine::scheduler {

class RowSearch {
public:
    explicit RowSearch(uint32_t rows) noexcept : rows_(rows) {}

    bool done() const noexcept { return at_ == rows_; }
    // The first row that is not settled.
    uint32_t at() const noexcept { return at_; }
    // Whether the row at() has been in a failed call.
    bool tried() const noexcept { return at_ < tried_; }
    // The rows of the next call, from at() on; `most` is at least 1.
    uint32_t next(uint32_t most) const noexcept {
        ENGINE_ASSERT(!done() && most > 0, "a call has rows");
        return std::min(most, group_ > 0 ? std::max(group_ / 2, 1u) : rows_ - at_);
    }
    // The call of `n` rows gave answers.
    void passed(uint32_t n) noexcept {
        ENGINE_ASSERT(n > 0 && n <= rows_ - at_, "a call has rows, none of them settled");
        at_ += n;
        group_ = group_ > n ? group_ - n : 0;
    }
    // The call of `n` rows failed. A row that failed alone is settled.
    void failed(uint32_t n) noexcept {
        ENGINE_ASSERT(n > 0 && n <= rows_ - at_, "a call has rows, none of them settled");
        tried_ = std::max(tried_, at_ + n);
        group_ = n > 1 ? n : 0;
        if (n == 1) ++at_;
    }
    // The row at() is settled without a call.
    void skip() noexcept {
        ENGINE_ASSERT(!done(), "a row is skipped once");
        ++at_;
        if (group_ > 0) --group_;
    }

private:
    uint32_t rows_;
    uint32_t at_ = 0;
    uint32_t group_ = 0;  // rows from at_ on that failed together; 0 where nothing is known of the row at_
    uint32_t tried_ = 0;  // rows before this one have been in a failed call
};

}  // namespace engine::scheduler
