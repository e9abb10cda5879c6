// The arithmetic of the steps, one scalar function each, used by the row and by the block alike.
//
// Only operations whose every bit IEEE 754 fixes (+ - * / sqrt, comparison, conversion) are used. The C library's
// log1p, sin and cos are not: it picks another variant where the CPU has fused multiply-add, and the bits follow.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace engine::transform {

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline bool is_missing(double v) noexcept { return v != v; }

inline double impute(double v, double with) noexcept { return is_missing(v) ? with : v; }

inline double scale(double v, double shift, double divisor) noexcept { return (v - shift) / divisor; }

// Written so that NaN fails both comparisons and is passed on.
inline double clip(double v, double low, double high) noexcept {
    const double raised = v < low ? low : v;
    return raised > high ? high : raised;
}

// Below zero NaN without asking the C library, whose errno would keep the loop from being vectorised.
inline double square_root(double v) noexcept { return v < 0.0 ? kNaN : __builtin_sqrt(v); }

inline double ratio(double a, double b, double when_zero) noexcept {
    // A missing part is missing even over zero: the declared value stands for the division alone.
    if (is_missing(a)) return a;
    return b == 0.0 ? when_zero : a / b;
}

// ln(1 + v) by ln(m 2^k) = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)), so that
// s^2 < 0.0295 and eleven terms of the series leave less than 1e-18. `u - 1` loses what v had below u's last bit;
// the lost part is exact and goes back in as a first-order term. Within 2 units in the last place.
inline double log1p(double v) noexcept {
    if (is_missing(v) || v == kInfinity || v == 0.0) return v;  // keeps -0.0
    if (v < -1.0) return kNaN;
    if (v == -1.0) return -kInfinity;
    const double u = 1.0 + v;
    const double lost = v >= 1.0 ? 1.0 - (u - v) : v - (u - 1.0);
    // u is normal: it is at least 2^-53.
    constexpr std::uint64_t kOne = 0x3FF0000000000000u, kRootHalf = 0x3FE6A09E667F3BCDu;
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(u) + (kOne - kRootHalf);
    const int k = static_cast<int>(bits >> 52) - 1023;
    const double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) + kRootHalf);
    // For small v the subtraction of 1 is exact and m - 1 carries the leading bits of v; k is then 0.
    const double s = (m - 1.0) / (m + 1.0);
    const double w = s * s;
    double series = 1.0 / 23.0;
    series = series * w + 1.0 / 21.0;
    series = series * w + 1.0 / 19.0;
    series = series * w + 1.0 / 17.0;
    series = series * w + 1.0 / 15.0;
    series = series * w + 1.0 / 13.0;
    series = series * w + 1.0 / 11.0;
    series = series * w + 1.0 / 9.0;
    series = series * w + 1.0 / 7.0;
    series = series * w + 1.0 / 5.0;
    series = series * w + 1.0 / 3.0;
    // ln 2 in two parts: k times the first is exact for every exponent a double has.
    constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
    const double tail = 2.0 * s * w * series + (lost / u + k * kLn2Low);
    return k * kLn2High + (2.0 * s + tail);
}

// sin(2 pi t) for t in [-1/8, 1/8] and the cosine beside it: Taylor, the first term left out is under 1e-17.
inline double sine_of_turn(double t) noexcept {
    const double r = t * 6.283185307179586;
    const double w = r * r;
    double series = -1.0 / 1307674368000.0;
    series = series * w + 1.0 / 6227020800.0;
    series = series * w - 1.0 / 39916800.0;
    series = series * w + 1.0 / 362880.0;
    series = series * w - 1.0 / 5040.0;
    series = series * w + 1.0 / 120.0;
    series = series * w - 1.0 / 6.0;
    return r + r * w * series;
}

inline double cosine_of_turn(double t) noexcept {
    const double r = t * 6.283185307179586;
    const double w = r * r;
    double series = 1.0 / 20922789888000.0;
    series = series * w - 1.0 / 87178291200.0;
    series = series * w + 1.0 / 479001600.0;
    series = series * w - 1.0 / 3628800.0;
    series = series * w + 1.0 / 40320.0;
    series = series * w - 1.0 / 720.0;
    series = series * w + 1.0 / 24.0;
    return 1.0 + (w * w * series - 0.5 * w);
}

// Sine of `v` turns of `period`, started `quarters` quarter turns ahead (1 makes it the cosine). The turn is reduced
// before it is scaled by 2 pi, so whole and quarter turns are exact. NaN for an infinite v.
inline double sine_of_cycle(double v, double period, unsigned quarters) noexcept {
    const double turns = v / period;
    if (!(turns - turns == 0.0)) return kNaN;
    const double part = turns - __builtin_floor(turns);  // [0, 1]: it can round up to 1
    const double eighths = __builtin_floor(part * 4.0 + 0.5);
    const double rest = part - eighths * 0.25;  // [-1/8, 1/8], exact
    switch ((static_cast<unsigned>(eighths) + quarters) & 3u) {
        case 0: return sine_of_turn(rest);
        case 1: return cosine_of_turn(rest);
        case 2: return -sine_of_turn(rest);
        default: return -cosine_of_turn(rest);
    }
}

}  // namespace engine::transform
