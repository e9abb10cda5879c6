// Seeded random numbers: the same bits on every machine and with every standard library. The distributions of <random>
// do not promise that.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace engine {

// xoshiro256++ (Blackman and Vigna, ACM TOMS 47(4), 2021), seeded through splitmix64 as its authors advise.
class Random {
public:
    Random(uint64_t seed, uint64_t stream) noexcept {
        uint64_t x = seed + stream * 0xD1342543DE82EF95u;
        for (uint64_t& word : state_) {
            x += 0x9E3779B97F4A7C15u;
            uint64_t z = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
            word = z ^ (z >> 31);
        }
    }

    uint64_t bits() noexcept {
        const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
        const uint64_t shifted = state_[1] << 17;
        state_[2] ^= state_[0];
        state_[3] ^= state_[1];
        state_[1] ^= state_[2];
        state_[0] ^= state_[3];
        state_[2] ^= shifted;
        state_[3] = std::rotl(state_[3], 45);
        return result;
    }

    // Uniform in [0, 1), with all 53 bits of a double.
    double uniform() noexcept { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    // True for a share of the calls. A share of 0 draws nothing, so a plan without a fault leaves the rest of the
    // stream as it was.
    bool chance(double share) noexcept { return share > 0.0 && uniform() < share; }
    double exponential(double mean) noexcept { return -mean * std::log1p(-uniform()); }
    // A factor with median 1: exp(sigma * z), z standard normal (Box and Muller, 1958).
    double lognormal(double sigma) noexcept {
        if (sigma <= 0.0) return 1.0;
        const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
        return std::exp(sigma * radius * std::cos(6.283185307179586 * uniform()));
    }

private:
    uint64_t state_[4];
};

}  // namespace engine
