// The sample standard deviation of doubles, of which n * sum(x^2) - sum(x)^2 is computed without rounding: both sums
// are fixed-point numbers as in exact_sum.hpp, and values can be taken away again. So the result depends on the values
// alone, equal values have a spread of exactly zero, and a large mean costs no digits.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/assert.hpp"

namespace engine::feature_store {

class ExactSpread {
public:
    void clear() noexcept { *this = ExactSpread(); }

    void add(double value) noexcept { change(value, 1); }

    // Takes back a value that was added before.
    void remove(double value) noexcept { change(value, -1); }

    // sqrt(d / (n * (n - 1))): d = n * sum(x^2) - sum(x)^2 is rounded once to 53 bits, then the quotient, then the
    // root. NaN over fewer than two values, and where one of them is infinite.
    double value() const noexcept {
        if (count_ < 2 || infinities_ != 0) return std::numeric_limits<double>::quiet_NaN();
        Digits sum{}, squares{}, product{};
        sum_.carried(sum);
        [[maybe_unused]] const bool negative = squares_.carried(squares);
        ENGINE_ASSERT(!negative, "a sum of squares is not below zero");
        times(squares, static_cast<uint64_t>(count_));
        square(sum, product);
        int64_t borrow = 0;
        for (size_t at = 0; at < DIGITS; ++at) borrow = put(squares, at, int64_t{squares[at]} - product[at] + borrow);
        ENGINE_ASSERT(borrow == 0, "n * sum(x^2) is at least sum(x)^2");
        return root(squares);
    }

private:
    // Bit 0 of a sum is worth 2^-1074, and that of a sum of squares 2^-2148. A double reaches up to bit 2097, so a
    // square to bit 4195. The other digits hold the carries of 2^31 values and the product with their number.
    static constexpr size_t DIGITS = 136;
    static constexpr int UNIT_OF_SQUARES = -2148;
    using Digits = std::array<uint32_t, DIGITS>;

    static int64_t put(Digits& digits, size_t at, int64_t total) noexcept {
        digits[at] = static_cast<uint32_t>(total);
        return total >> 32;  // arithmetic, towards minus infinity
    }

    // A fixed-point number whose carries wait: a limb has 31 bits to spare above its digit.
    struct Fixed {
        std::array<int64_t, DIGITS> limbs{};
        size_t low = DIGITS, end = 0;  // the limbs that were touched

        void change(unsigned __int128 magnitude, int shift, int64_t sign) noexcept {
            size_t limb = static_cast<size_t>(shift) >> 5;
            const int within = shift & 31;
            low = std::min(low, limb);
            uint64_t moved = 0;
            for (; magnitude != 0 || moved != 0; ++limb, magnitude >>= 32) {
                ENGINE_ASSERT(limb + 3 < DIGITS, "the square of every finite double has its limbs");
                const uint64_t part = static_cast<uint64_t>(static_cast<uint32_t>(magnitude)) << within | moved;
                limbs[limb] += sign * static_cast<int64_t>(static_cast<uint32_t>(part));
                moved = part >> 32;
            }
            end = std::max(end, limb);
        }

        // The digits of the magnitude; returns whether the number is below zero.
        bool carried(Digits& digits) const noexcept {
            if (carry_into(digits, 1) == 0) return false;
            [[maybe_unused]] const int64_t again = carry_into(digits, -1);
            ENGINE_ASSERT(again == 0, "the magnitude of a number below zero is above zero");
            return true;
        }

        // Two limbs above the highest that was touched are enough for the carries.
        int64_t carry_into(Digits& digits, int64_t sign) const noexcept {
            int64_t carry = 0;
            for (size_t at = low; at < end + 2; ++at) carry = put(digits, at, sign * limbs[at] + carry);
            return carry;
        }
    };

    void change(double value, int64_t sign) noexcept {
        const auto bits = std::bit_cast<uint64_t>(value);
        const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
        uint64_t mantissa = bits & 0xfffffffffffffULL;
        count_ += sign;
        ENGINE_ASSERT(count_ >= 0, "only what was added is taken back");
        if (exponent == 0x7ff) {
            ENGINE_ASSERT(mantissa == 0, "NaN is a missing value, and is never added");
            infinities_ += sign;
            return;
        }
        if (exponent != 0) mantissa |= 1ULL << 52;
        if (mantissa == 0) return;
        const int shift = exponent == 0 ? 0 : exponent - 1;
        sum_.change(mantissa, shift, bits >> 63 ? -sign : sign);
        squares_.change(static_cast<unsigned __int128>(mantissa) * mantissa, 2 * shift, sign);
    }

    static void times(Digits& digits, uint64_t factor) noexcept {
        unsigned __int128 carry = 0;
        for (uint32_t& digit : digits) {
            carry += static_cast<unsigned __int128>(digit) * factor;
            digit = static_cast<uint32_t>(carry);
            carry >>= 32;
        }
        ENGINE_ASSERT(carry == 0, "the product with the number of values has its digits");
    }

    void square(const Digits& sum, Digits& product) const noexcept {
        const size_t end = std::min(sum_.end + 2, DIGITS);
        for (size_t i = sum_.low; i < end; ++i) {
            if (sum[i] == 0) continue;
            uint64_t carry = 0;
            for (size_t j = sum_.low; j < end || carry != 0; ++j) {
                ENGINE_ASSERT(i + j < DIGITS, "the square of a sum has its digits");
                const uint64_t factor = j < end ? sum[j] : 0;
                const uint64_t total = uint64_t{sum[i]} * factor + product[i + j] + carry;
                product[i + j] = static_cast<uint32_t>(total);
                carry = total >> 32;
            }
        }
    }

    // The root of the number over n * (n - 1).
    double root(const Digits& digits) const noexcept {
        size_t top = DIGITS;
        while (top > 0 && digits[top - 1] == 0) --top;
        if (top == 0) return 0.0;
        // The highest 64 bits from the leading one, and whether anything below them is not zero.
        const auto digit = [&](size_t below) noexcept {
            return below >= top ? 0ULL : uint64_t{digits[top - 1 - below]};
        };
        const int lead = std::countl_zero(digits[top - 1]);
        uint64_t head = (digit(0) << 32 | digit(1)) << lead;
        const uint64_t rest = digit(2) << lead;
        head |= rest >> 32;
        bool sticky = (rest & 0xffffffffULL) != 0;
        for (size_t below = 3; !sticky && below < top; ++below) sticky = digit(below) != 0;
        // To 53 bits, to nearest, ties to even. Bit 11 of head is then worth 2^exponent.
        uint64_t mantissa = head >> 11;
        const uint64_t tail = head & 0x7ff;
        if (tail > 0x400 || (tail == 0x400 && (sticky || (mantissa & 1)))) ++mantissa;
        int exponent = static_cast<int>(32 * top) - lead - 53 + UNIT_OF_SQUARES;
        auto number = static_cast<double>(mantissa);
        // An even exponent, so that the root is scaled without rounding.
        if (exponent & 1) {
            number *= 2.0;
            --exponent;
        }
        const auto n = static_cast<uint64_t>(count_);
        return std::ldexp(std::sqrt(number / static_cast<double>(n * (n - 1))), exponent / 2);
    }

    Fixed sum_, squares_;
    int64_t count_ = 0, infinities_ = 0;
};

}  // namespace engine::feature_store
