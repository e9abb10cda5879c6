// A sum of doubles without rounding: a fixed-point number wide enough for every finite double, from which values can
// also be taken away again. After R. Neal, "Fast exact summation using small and large superaccumulators" (2015),
// section 2: digits of 32 bits in 64-bit limbs, so that carries can wait.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/assert.hpp"

namespace engine::feature_store {

class ExactSum {
public:
    void clear() noexcept { *this = ExactSum(); }

    void add(double value) noexcept { change(value, 1); }

    // Takes back a value that was added before.
    void remove(double value) noexcept { change(value, -1); }

    // The sum rounded once, to nearest, ties to even; NaN for infinities of both signs.
    double value() const noexcept {
        if (infinities_[0] != 0 || infinities_[1] != 0) {
            if (infinities_[0] != 0 && infinities_[1] != 0) return std::numeric_limits<double>::quiet_NaN();
            const double infinity = std::numeric_limits<double>::infinity();
            return infinities_[1] != 0 ? -infinity : infinity;
        }
        if (low_ > high_) return 0.0;
        std::array<uint32_t, LIMBS> digits;
        const bool negative = carried(digits);
        const double magnitude = rounded(digits);
        return negative ? -magnitude : magnitude;
    }

private:
    // Bit 0 of limb 0 is worth 2^-1074. A double reaches up to bit 2097. Two more limbs hold the carries of 2^31
    // values, because a limb has 31 bits to spare above its digit.
    static constexpr int LIMBS = 68;
    static constexpr int LEAST_EXPONENT = -1074;
    static_assert((LIMBS - 2) * 32 > 2097, "a finite double fits below the two limbs for carries");

    void change(double value, int64_t sign) noexcept {
        const auto bits = std::bit_cast<uint64_t>(value);
        const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
        uint64_t mantissa = bits & 0xfffffffffffffULL;
        if (exponent == 0x7ff) {
            ENGINE_ASSERT(mantissa == 0, "NaN is a missing value, and is never added");
            infinities_[bits >> 63] += sign;
            ENGINE_ASSERT(infinities_[bits >> 63] >= 0, "only what was added is taken back");
            return;
        }
        if (exponent != 0) mantissa |= 1ULL << 52;
        if (mantissa == 0) return;
        const int shift = exponent == 0 ? 0 : exponent - 1;
        const auto wide = static_cast<unsigned __int128>(mantissa) << (shift & 31);
        const int limb = shift >> 5;
        ENGINE_ASSERT(limb >= 0 && limb + 2 < LIMBS, "every finite double has its three limbs");
        if (bits >> 63) sign = -sign;
        limbs_[limb] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide));
        limbs_[limb + 1] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 32));
        limbs_[limb + 2] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 64));
        low_ = std::min(low_, limb);
        high_ = std::max(high_, limb + 2);
    }

    // The digits of the magnitude in [low_, high_ + 2], carried; returns whether the sum is below zero.
    bool carried(std::array<uint32_t, LIMBS>& digits) const noexcept {
        const int64_t left = carry_into(digits, 1);
        ENGINE_ASSERT(left == 0 || left == -1, "two limbs are enough for the carries");
        if (left == 0) return false;
        [[maybe_unused]] const int64_t again = carry_into(digits, -1);
        ENGINE_ASSERT(again == 0, "the magnitude of a sum below zero is above zero");
        return true;
    }

    int64_t carry_into(std::array<uint32_t, LIMBS>& digits, int64_t sign) const noexcept {
        int64_t carry = 0;
        for (int limb = low_; limb <= top(); ++limb) {
            const int64_t total = sign * limbs_[limb] + carry;
            digits[limb] = static_cast<uint32_t>(total);
            carry = total >> 32;  // arithmetic, towards minus infinity
        }
        return carry;
    }

    double rounded(const std::array<uint32_t, LIMBS>& digits) const noexcept {
        int limb = top();
        while (limb >= low_ && digits[limb] == 0) --limb;
        if (limb < low_) return 0.0;
        // The highest 64 bits from the leading one, and whether anything below them is not zero.
        const int lead = std::countl_zero(digits[limb]);
        const auto digit = [&](int at) noexcept { return at < low_ ? 0ULL : uint64_t{digits[at]}; };
        uint64_t head = (digit(limb) << 32 | digit(limb - 1)) << lead;
        uint64_t rest = digit(limb - 2) << lead;
        head |= rest >> 32;
        ENGINE_ASSERT(head >> 63 == 1, "the head begins with the leading one");
        bool sticky = (rest & 0xffffffffULL) != 0;
        for (int at = limb - 3; !sticky && at >= low_; --at) sticky = digits[at] != 0;
        // Bit 63 of head is worth 2^exponent. A double keeps 53 bits, fewer where it is subnormal.
        const int exponent = 32 * limb + (31 - lead) + LEAST_EXPONENT;
        const int kept = std::min(53, exponent - LEAST_EXPONENT + 1);
        ENGINE_ASSERT(kept >= 1 && kept <= 53, "a sum that is not zero keeps its leading bit");
        const int dropped = 64 - kept;
        uint64_t mantissa = head >> dropped;
        const uint64_t half = 1ULL << (dropped - 1);
        const uint64_t tail = head & ((half << 1) - 1);
        if (tail > half || (tail == half && (sticky || (mantissa & 1)))) ++mantissa;
        return std::ldexp(static_cast<double>(mantissa), exponent - kept + 1);
    }

    int top() const noexcept { return std::min(high_ + 2, LIMBS - 1); }

    std::array<int64_t, LIMBS> limbs_{};
    int low_ = LIMBS, high_ = -1;          // the limbs that were touched
    std::array<int64_t, 2> infinities_{};  // how many, of plus and of minus
};

}  // namespace engine::feature_store
