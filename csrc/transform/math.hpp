// The arithmetic of the steps: one scalar function each, which the row and the block share.
//
// Every function uses only operations whose bits IEEE 754 fixes: + - * / sqrt, comparison, conversion. The C library's
// log1p, sin and cos are not among them, because it picks another variant where the CPU has fused multiply-add, and the
// variants differ in the last bit. Series are Taylor series in Horner's form; each comment bounds the first term left
// out.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/assert.hpp"

namespace engine::transform {

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline bool is_missing(double v) noexcept { return v != v; }

inline double impute(double v, double with) noexcept { return is_missing(v) ? with : v; }

inline double scale(double v, double shift, double divisor) noexcept { return (v - shift) / divisor; }

// NaN fails both comparisons, so it passes through.
inline double clip(double v, double low, double high) noexcept {
    const double raised = v < low ? low : v;
    return raised > high ? high : raised;
}

// The comparison keeps the compiler from calling the C library for v < 0, because the call sets errno and so stops the
// loop from being vectorised.
inline double square_root(double v) noexcept { return v < 0.0 ? kNaN : __builtin_sqrt(v); }

inline double ratio(double a, double b, double when_zero) noexcept {
    // A missing numerator stays missing even over zero: `when_zero` replaces a division, not a missing value.
    if (is_missing(a)) return a;
    return b == 0.0 ? when_zero : a / b;
}

// The place of a pair of codes among all pairs, where b has n codes. NaN where either is no code.
inline double cross_codes(double a, double b, double n) noexcept {
    const bool whole = a >= 0.0 && b >= 0.0 && b < n && __builtin_floor(a) == a && __builtin_floor(b) == b;
    return whole ? a * n + b : kNaN;
}

// ln(1 + v), within 2 units in the last place.
//
// With u = 1 + v = m 2^k and m in [sqrt(1/2), sqrt(2)): ln u = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1). Then
// s^2 < 0.0295, and eleven terms of the series leave less than 1e-18. Rounding u loses the bits of v below u's last
// bit; `lost` is exactly those bits, and lost / u adds them back to first order.
inline double log1p(double v) noexcept {
    if (is_missing(v) || v == kInfinity || v == 0.0) return v;  // -0.0 stays -0.0
    if (v < -1.0) return kNaN;
    if (v == -1.0) return -kInfinity;
    const double u = 1.0 + v;
    const double lost = v >= 1.0 ? 1.0 - (u - v) : v - (u - 1.0);
    // u is at least 2^-53, so it is normal and its exponent field is its exponent. Adding kOne - kRootHalf to the bits
    // moves the cut between exponents from 1 to sqrt(1/2), so k and m come out of the sum directly.
    constexpr std::uint64_t kOne = 0x3FF0000000000000u, kRootHalf = 0x3FE6A09E667F3BCDu;
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(u) + (kOne - kRootHalf);
    const int k = static_cast<int>(bits >> 52) - 1023;
    ENGINE_ASSERT(k >= -53 && k <= 1024, "u is a positive, normal number");
    const double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) + kRootHalf);
    // For small v, k is 0, the subtraction is exact, and m - 1 carries the leading bits of v.
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
    // ln 2 in two parts. The first has 11 zero bits at its end, so k times it is exact.
    constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
    const double tail = 2.0 * s * w * series + (lost / u + k * kLn2Low);
    return k * kLn2High + (2.0 * s + tail);
}

// sin(2 pi t) for t in [-1/8, 1/8], or one rounding beyond. The first term left out is below 1e-17.
inline double sine_of_turn(double t) noexcept {
    ENGINE_ASSERT(t >= -0.12500001 && t <= 0.12500001, "a turn was reduced to an eighth");
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

// cos(2 pi t), as above.
inline double cosine_of_turn(double t) noexcept {
    ENGINE_ASSERT(t >= -0.12500001 && t <= 0.12500001, "a turn was reduced to an eighth");
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

// sin(2 pi v / period), `quarters` quarter turns ahead: 0 gives the sine, 1 the cosine. The turn is reduced before it
// is scaled by 2 pi, so whole and quarter turns are exact. NaN for an infinite v.
inline double sine_of_cycle(double v, double period, unsigned quarters) noexcept {
    const double turns = v / period;
    if (!(turns - turns == 0.0)) return kNaN;
    const double part = turns - __builtin_floor(turns);        // in [0, 1]: the subtraction can round up to 1
    const double nearest = __builtin_floor(part * 4.0 + 0.5);  // the nearest quarter turn, 0 to 4
    const double rest = part - nearest * 0.25;                 // exact; in [-1/8, 1/8], or one rounding beyond
    switch ((static_cast<unsigned>(nearest) + quarters) & 3u) {
        case 0: return sine_of_turn(rest);
        case 1: return cosine_of_turn(rest);
        case 2: return -sine_of_turn(rest);
        default: return -cosine_of_turn(rest);
    }
}

// ln v for v > 0, normal or subnormal. As log1p, without the lost bits.
inline double logarithm(double v) noexcept {
    ENGINE_ASSERT(v > 0.0 && v < kInfinity, "a logarithm is taken of a positive, finite number");
    double scaled = 0.0;
    if (v < 0x1p-1022) {
        v *= 0x1p54;
        scaled = -54.0;
    }
    constexpr std::uint64_t kOne = 0x3FF0000000000000u, kRootHalf = 0x3FE6A09E667F3BCDu;
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(v) + (kOne - kRootHalf);
    const double k = static_cast<double>(static_cast<int>(bits >> 52) - 1023) + scaled;
    const double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) + kRootHalf);
    const double s = (m - 1.0) / (m + 1.0);
    const double w = s * s;
    double series = 1.0 / 23.0;
    for (int odd = 21; odd >= 3; odd -= 2) series = series * w + 1.0 / odd;
    constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
    return k * kLn2High + (2.0 * s + (2.0 * s * w * series + k * kLn2Low));
}

// e^v = 2^k e^r with |r| <= ln 2 / 2. The first term left out is below 1e-17. The power of two is multiplied in as two
// halves, because 2^k alone can leave the range of a double. A subnormal result is then rounded once, and a result
// beyond the range is infinite.
inline double exponential(double v) noexcept {
    if (v > 710.0) return kInfinity;
    if (v < -746.0) return 0.0;
    constexpr double kLn2High = 0x1.62e42fefa3800p-1, kLn2Low = 0x1.ef35793c76730p-45;
    const double k = __builtin_floor(v * 1.4426950408889634 + 0.5);
    const double r = (v - k * kLn2High) - k * kLn2Low;
    double series = 1.0;
    for (int n = 14; n >= 1; --n) series = series * r / n + 1.0;
    const int whole = static_cast<int>(k), half = whole / 2;
    const auto two_to = [](int n) {
        ENGINE_ASSERT(n >= -1022 && n <= 1023, "half a power of two is a normal number");
        return std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52);
    };
    return series * two_to(half) * two_to(whole - half);
}

// v^x. A whole x from -64 to 64 multiplies by squaring, which is exact where the result is representable. Any other x
// gives e^(x ln v): its relative error is below 1e-12, which rounding to float32 hides. v^0 is 1 unless v is missing.
inline double power(double v, double x) noexcept {
    if (is_missing(v)) return v;
    const bool whole = __builtin_floor(x) == x;
    if (whole && x >= -64.0 && x <= 64.0) {
        double result = 1.0, square = v;
        for (unsigned n = static_cast<unsigned>(x < 0.0 ? -x : x); n != 0; n >>= 1) {
            if (n & 1u) result *= square;
            square *= square;
        }
        return x < 0.0 ? 1.0 / result : result;
    }
    if (v < 0.0 && !whole) return kNaN;
    const double size = v < 0.0 ? -v : v;
    double result;
    if (size == 0.0 || size == kInfinity) result = (size == 0.0) == (x > 0.0) ? 0.0 : kInfinity;
    else result = exponential(x * logarithm(size));
    const bool odd = whole && x / 2.0 != __builtin_floor(x / 2.0);
    return v < 0.0 && odd ? -result : result;
}

// atan t for t in [0, 1]. Halving the angle twice leaves t^2 < 0.04; the first term left out is then below 1e-17.
inline double arctangent(double t) noexcept {
    ENGINE_ASSERT(t >= 0.0 && t <= 1.0, "the smaller side is divided by the larger one");
    t = t / (1.0 + __builtin_sqrt(1.0 + t * t));
    t = t / (1.0 + __builtin_sqrt(1.0 + t * t));
    const double w = t * t;
    double series = 1.0 / 25.0;
    for (int odd = 23; odd >= 1; odd -= 2) series = 1.0 / odd - w * series;
    return 4.0 * t * series;
}

// The angle in radians between two places on a sphere, given in degrees. The haversine formula is accurate for near
// places too. NaN for a latitude beyond the poles; longitudes are taken modulo 360.
inline double central_angle(double latitude, double longitude, double other_latitude, double other_longitude) noexcept {
    const auto on_globe = [](double degrees) { return degrees >= -90.0 && degrees <= 90.0; };
    if (!on_globe(latitude) || !on_globe(other_latitude)) return kNaN;
    const double north = sine_of_cycle(other_latitude - latitude, 720.0, 0);  // sine of half the angle
    const double east = sine_of_cycle(other_longitude - longitude, 720.0, 0);
    const double level = sine_of_cycle(latitude, 360.0, 1) * sine_of_cycle(other_latitude, 360.0, 1);
    const double h = north * north + level * (east * east);
    if (is_missing(h)) return kNaN;
    const double near = __builtin_sqrt(h), far = h < 1.0 ? __builtin_sqrt(1.0 - h) : 0.0;
    constexpr double kHalfPi = 1.5707963267948966;
    return 2.0 * (near <= far ? arctangent(near / far) : kHalfPi - arctangent(far / near));
}

}  // namespace engine::transform
