// A fuzzer's input as a stream of small numbers; zeros behind its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace fuzz {

class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    std::uint8_t byte() { return at_ == end_ ? 0 : *at_++; }
    std::uint16_t word() {
        const unsigned low = byte();
        return static_cast<std::uint16_t>(low | byte() << 8);
    }
    // From 0 to count - 1; small counts take one byte.
    std::size_t below(std::size_t count) { return (count <= 256 ? byte() : word()) % count; }
    bool left() const { return at_ != end_; }

    // Edge values of a float now and then, else a number with few digits, so that values meet thresholds.
    double real() {
        static constexpr double edges[] = {0.0,   -0.0,    1e-35f,  -1e-35f, 2e-35, 1.0,      16777215.0, 16777216.0, 1e-45,
                                           3e38f, -3e38f,  -0.5,    0.1,     1e300, -1e300,   31.0,       32.0,       63.5};
        const std::uint8_t kind = byte();
        if (kind < 64) return edges[kind % (sizeof edges / sizeof edges[0])];
        return (static_cast<int>(kind) - 160) / 8.0;
    }
    // A value of a row: real(), or NaN or an infinity.
    double value() {
        const std::uint8_t kind = byte();
        if (kind < 16) return __builtin_nan("");
        if (kind < 24) return __builtin_inf();
        if (kind < 32) return -__builtin_inf();
        return real();
    }

private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

inline void require(bool holds) {
    if (!holds) std::abort();
}

}  // namespace fuzz
