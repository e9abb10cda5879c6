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

namespace engine::detail {

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
        std::array<std::uint32_t, kLimbs> digits;
        const bool negative = carried(digits);
        const double magnitude = rounded(digits);
        return negative ? -magnitude : magnitude;
    }

private:
    // Bit 0 of limb 0 is worth 2^-1074. A double reaches up to bit 2097; two more limbs hold the carries of 2^31 values.
    static constexpr int kLimbs = 68;
    static constexpr int kLeastExponent = -1074;

    void change(double value, std::int64_t sign) noexcept {
        const auto bits = std::bit_cast<std::uint64_t>(value);
        const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
        std::uint64_t mantissa = bits & 0xfffffffffffffULL;
        if (exponent == 0x7ff) {
            infinities_[bits >> 63] += sign;
            return;
        }
        if (exponent != 0) mantissa |= 1ULL << 52;
        if (mantissa == 0) return;
        const int shift = exponent == 0 ? 0 : exponent - 1;
        const auto wide = static_cast<unsigned __int128>(mantissa) << (shift & 31);
        const int limb = shift >> 5;
        if (bits >> 63) sign = -sign;
        limbs_[limb] += sign * static_cast<std::int64_t>(static_cast<std::uint32_t>(wide));
        limbs_[limb + 1] += sign * static_cast<std::int64_t>(static_cast<std::uint32_t>(wide >> 32));
        limbs_[limb + 2] += sign * static_cast<std::int64_t>(static_cast<std::uint32_t>(wide >> 64));
        low_ = std::min(low_, limb);
        high_ = std::max(high_, limb + 2);
    }

    // The digits of the magnitude in [low_, high_ + 2], carried; returns whether the sum is below zero.
    bool carried(std::array<std::uint32_t, kLimbs>& digits) const noexcept {
        bool negative = false;
        if (carry_into(digits, 1) < 0) {
            negative = true;
            carry_into(digits, -1);
        }
        return negative;
    }

    std::int64_t carry_into(std::array<std::uint32_t, kLimbs>& digits, std::int64_t sign) const noexcept {
        std::int64_t carry = 0;
        for (int limb = low_; limb <= top(); ++limb) {
            const std::int64_t total = sign * limbs_[limb] + carry;
            digits[limb] = static_cast<std::uint32_t>(total);
            carry = total >> 32;  // arithmetic, towards minus infinity
        }
        return carry;
    }

    double rounded(const std::array<std::uint32_t, kLimbs>& digits) const noexcept {
        int limb = top();
        while (limb >= low_ && digits[limb] == 0) --limb;
        if (limb < low_) return 0.0;
        // The highest 64 bits from the leading one, and whether anything below them is not zero.
        const int lead = std::countl_zero(digits[limb]);
        const auto digit = [&](int at) noexcept { return at < low_ ? 0ULL : std::uint64_t{digits[at]}; };
        std::uint64_t head = (digit(limb) << 32 | digit(limb - 1)) << lead;
        std::uint64_t rest = digit(limb - 2) << lead;
        head |= rest >> 32;
        bool sticky = (rest & 0xffffffffULL) != 0;
        for (int at = limb - 3; !sticky && at >= low_; --at) sticky = digits[at] != 0;
        // Bit 63 of head is worth 2^exponent. The bits that a double keeps: 53, fewer where it is subnormal.
        const int exponent = 32 * limb + (31 - lead) + kLeastExponent;
        const int kept = std::min(53, exponent - kLeastExponent + 1);
        const int dropped = 64 - kept;
        std::uint64_t mantissa = dropped == 64 ? 0 : head >> dropped;
        const std::uint64_t half = 1ULL << (dropped - 1);
        const std::uint64_t tail = dropped == 64 ? head : head & ((half << 1) - 1);
        if (tail > half || (tail == half && (sticky || (mantissa & 1)))) ++mantissa;
        return std::ldexp(static_cast<double>(mantissa), exponent - kept + 1);
    }

    int top() const noexcept { return std::min(high_ + 2, kLimbs - 1); }

    std::array<std::int64_t, kLimbs> limbs_{};
    int low_ = kLimbs, high_ = -1;  // the limbs that were touched
    std::array<std::int64_t, 2> infinities_{};  // of either sign, how many
};

}  // namespace engine::detail
