// Window aggregates against a slow, obvious reference: every row looks at every other row, and a sum is added in an
// array of bits, plus and minus apart.
//
// Input: a byte with the window, then for each row a byte (group, step in time, shape of the value) and its value.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "feature_store/window.hpp"

namespace {

constexpr size_t ROWS_MAX = 24;  // the reference takes rows squared times 2,200 bits
constexpr double MISSING = std::numeric_limits<double>::quiet_NaN();

[[gnu::noinline]] void require(bool holds) {
    if (!holds) __builtin_trap();
}

// A whole number of units of 2^-1074, one bool a bit, least first.
class Bits {
public:
    void add(double magnitude) {
        int exponent;
        const double fraction = std::frexp(magnitude, &exponent);  // magnitude = fraction * 2^exponent, below 1
        auto mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53));
        int at = exponent - 53 + 1074;
        for (; at < 0; ++at) mantissa >>= 1;  // a subnormal has zeros there
        for (int bit = 0; bit < 53; ++bit)
            if (mantissa >> bit & 1) carry(at + bit);
    }

    // This less a smaller number.
    Bits minus(const Bits& other) const {
        Bits result = *this;
        for (size_t i = 0; i < SIZE; ++i) {
            if (!other.bits_[i]) continue;
            size_t at = i;
            while (!result.bits_[at]) result.bits_[at++] = true;
            result.bits_[at] = false;
        }
        return result;
    }

    bool below(const Bits& other) const {
        for (size_t i = SIZE; i-- > 0;)
            if (bits_[i] != other.bits_[i]) return other.bits_[i];
        return false;
    }

    // To nearest, ties to even.
    double rounded() const {
        int lead = SIZE - 1;
        while (lead >= 0 && !bits_[lead]) --lead;
        if (lead < 0) return 0.0;
        const int last = std::max(lead - 52, 0);
        uint64_t mantissa = 0;
        for (int at = lead; at >= last; --at) mantissa = mantissa << 1 | (bits_[at] ? 1 : 0);
        bool more = false;
        for (int at = 0; at < last - 1; ++at) more |= bits_[at];
        if (last > 0 && bits_[last - 1] && (more || (mantissa & 1))) ++mantissa;
        return std::ldexp(static_cast<double>(mantissa), last - 1074);
    }

private:
    static constexpr size_t SIZE = 2200;

    void carry(size_t at) {
        while (bits_[at]) bits_[at++] = false;
        bits_[at] = true;
    }

    std::vector<bool> bits_ = std::vector<bool>(SIZE);
};

double sum_of(const std::vector<double>& values) {
    Bits plus, minus;
    bool up = false, down = false;
    for (double value : values) {
        if (std::isinf(value)) (value > 0 ? up : down) = true;
        else if (value != 0) (value > 0 ? plus : minus).add(std::abs(value));
    }
    if (up || down) return up && down ? MISSING : up ? HUGE_VAL : -HUGE_VAL;
    return plus.below(minus) ? -minus.minus(plus).rounded() : plus.minus(minus).rounded();
}

bool same_bits(double one, double other) {
    return (std::isnan(one) && std::isnan(other)) || std::bit_cast<uint64_t>(one) == std::bit_cast<uint64_t>(other);
}

double value_of(uint8_t shape, uint64_t bits) {
    switch (shape % 8) {
        case 0: return MISSING;
        case 1: return static_cast<double>(static_cast<int64_t>(bits) % 1000);
        case 2: return std::ldexp(static_cast<double>(static_cast<int64_t>(bits) % 4), static_cast<int>(bits >> 54));
        case 3: return std::bit_cast<double>(bits & 0x800fffffffffffffULL);  // subnormal
        case 4: return bits & 1 ? HUGE_VAL : -HUGE_VAL;
        case 5: return (bits & 1 ? -1 : 1) * std::numeric_limits<double>::max();
        default: return std::bit_cast<double>(bits);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    // Windows of a few steps, and one that reaches from one end of the clock to the other.
    const int64_t window = data[0] == 255 ? std::numeric_limits<int64_t>::max() : 1 + data[0] % 12;
    std::vector<int64_t> groups, times;
    std::vector<double> values;
    int64_t group = 0, time = std::numeric_limits<int64_t>::min() + 1;
    for (size_t at = 1; at + 9 <= size && groups.size() < ROWS_MAX; at += 9) {
        const uint8_t shape = data[at];
        uint64_t bits;
        std::memcpy(&bits, data + at + 1, 8);
        if (shape >> 6 == 3) {
            ++group;
            time = static_cast<int64_t>(bits >> 2);
        } else if (time < std::numeric_limits<int64_t>::max() - 3) {
            time += shape >> 6;
        }
        groups.push_back(group);
        times.push_back(time);
        values.push_back(value_of(shape, bits));
    }
    const size_t rows = groups.size();
    std::vector<int64_t> count(rows);
    std::vector<double> sum(rows), least(rows), greatest(rows);
    require(engine::feature_store::window_aggregate({groups, times}, values, {window, false},
                                                    {count.data(), sum.data(), least.data(), greatest.data()}));
    for (size_t row = 0; row < rows; ++row) {
        std::vector<double> seen;
        for (size_t other = 0; other < rows; ++other) {
            const auto age = static_cast<__int128>(times[row]) - times[other];
            if (groups[other] == groups[row] && age >= 0 && age < window && !std::isnan(values[other]))
                seen.push_back(values[other]);
        }
        require(count[row] == static_cast<int64_t>(seen.size()));
        require(same_bits(sum[row], seen.empty() ? MISSING : sum_of(seen)));
        // Not by bits: of 0.0 and -0.0 either is the least.
        require(seen.empty() ? std::isnan(least[row]) : least[row] == *std::min_element(seen.begin(), seen.end()));
        require(seen.empty() ? std::isnan(greatest[row])
                             : greatest[row] == *std::max_element(seen.begin(), seen.end()));
    }
    return 0;
}
