// The functions of links and activations: near the exact value, near libm, and the same bits in each instruction set.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "model/function_loops.hpp"
#include "tests/check.hpp"

using engine::Isa;
using namespace engine::model;

namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr double NOT_A_NUMBER = std::numeric_limits<double>::quiet_NaN();

// The same numbers everywhere.
struct Draw {
    std::uint64_t state;
    double share() {  // 0 to 1
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(state >> 11) * 0x1p-53;
    }
};

// Distance from the exact value in units of the last place of that value, subnormal ones included.
template <class T>
double error_in_ulps(T value, long double exact) {
    const int places = std::numeric_limits<T>::digits, least = std::numeric_limits<T>::min_exponent - places;
    int exponent = 0;
    std::frexp(exact, &exponent);
    const long double ulp = std::ldexp(1.0L, std::max(exponent - places, least));
    return static_cast<double>(std::fabs(static_cast<long double>(value) - exact) / ulp);
}

// How many doubles, or floats, lie between two.
template <class T>
double steps_between(T a, T b) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    const auto place = [](T x) {
        const Bits bits = std::bit_cast<Bits>(x);
        return bits < 0 ? std::numeric_limits<Bits>::min() - bits : bits;
    };
    return std::fabs(static_cast<double>(place(a) - place(b)));
}

template <class T>
struct Worst {
    double exact = 0, libm = 0, differing = 0, over_one = 0, count = 0;
    void look(T ours, T theirs, long double is) {
        exact = std::max(exact, error_in_ulps(ours, is));
        const double steps = steps_between(ours, theirs);
        libm = std::max(libm, steps);
        differing += steps != 0;
        over_one += steps > 1;
        ++count;
    }
    void print(const char* name) const {
        std::printf("%s: %.4f ulp from the exact value, %.0f from libm; %.3f %% differ from libm\n", name, exact, libm,
                    100 * differing / count);
    }
};

constexpr int MANY = 400'000;

}  // namespace

TEST(the_exponential_is_nearly_rounded_once) {
    Worst<double> worst;
    Draw draw{1};
    for (int i = 0; i < MANY; ++i) {
        const double x = i % 3 == 0 ? draw.share() * 1398 - 690 : draw.share() * 40 - 20;
        worst.look(exponential(x), std::exp(x), std::exp(static_cast<long double>(x)));
    }
    worst.print("exp, double");
    CHECK(worst.exact < 0.52);
    CHECK(worst.libm <= 1);
    Worst<double> subnormal;
    for (int i = 0; i < MANY / 10; ++i) {
        const double x = -690 - draw.share() * 56;
        subnormal.look(exponential(x), std::exp(x), std::exp(static_cast<long double>(x)));
    }
    CHECK(subnormal.exact <= 1.0);
    CHECK(subnormal.libm <= 1);
    Worst<float> single;
    for (int i = 0; i < MANY; ++i) {
        const auto x = static_cast<float>(draw.share() * 200 - 105);
        const auto theirs = std::exp(x);
        if (std::isfinite(theirs)) single.look(exponential(x), theirs, std::exp(static_cast<long double>(x)));
    }
    single.print("exp, float");
    CHECK(single.exact < 0.5001);
    CHECK(single.libm <= 1);
}

TEST(the_hyperbolic_tangent_is_within_one_place) {
    Worst<double> worst;
    Worst<float> single;
    Draw draw{2};
    for (int i = 0; i < MANY; ++i) {
        const double x = i % 3 == 0   ? draw.share() * 46 - 23
                         : i % 3 == 1 ? draw.share() * 3 - 1.5
                                      : std::ldexp(draw.share() - 0.5, -i % 1000);
        const auto narrow = static_cast<float>(x);
        worst.look(hyperbolic_tangent(x), std::tanh(x), std::tanh(static_cast<long double>(x)));
        single.look(hyperbolic_tangent(narrow), std::tanh(narrow), std::tanh(static_cast<long double>(narrow)));
    }
    worst.print("tanh, double");
    single.print("tanh, float");
    CHECK(worst.exact < 1.0);
    CHECK(single.exact < 0.5001);
    // libm's own error is up to two places.
    CHECK(worst.libm <= 2);
    CHECK(single.libm <= 2);
}

TEST(the_logarithm_of_one_plus_is_within_one_place) {
    Worst<double> worst;
    Draw draw{3};
    for (int i = 0; i < MANY; ++i) {
        const double x =
            i % 2 ? draw.share() * 3 : std::ldexp(1 + draw.share(), static_cast<int>(draw.share() * 2040) - 1020);
        worst.look(log_one_plus(x), std::log1p(x), std::log1p(static_cast<long double>(x)));
    }
    worst.print("log1p, double");
    CHECK(worst.exact < 1.0);
    CHECK(worst.libm <= 1);
}

TEST(composed_functions_are_those_of_libm_but_for_the_last_places) {
    Worst<double> logistics, softpluses;
    Worst<float> single;
    Draw draw{4};
    for (int i = 0; i < MANY; ++i) {
        const double x = draw.share() * 80 - 40;
        const auto narrow = static_cast<float>(x);
        const long double wide = x;
        logistics.look(logistic(x), 1.0 / (1.0 + std::exp(-x)), 1 / (1 + std::exp(-wide)));
        softpluses.look(softplus(x), std::log1p(std::exp(x)), std::log1p(std::exp(wide)));
        single.look(logistic(narrow), 1.0f / (1.0f + std::exp(-narrow)),
                    1 / (1 + std::exp(-static_cast<long double>(narrow))));
    }
    logistics.print("logistic, double");
    single.print("logistic, float");
    softpluses.print("softplus, double");
    // Where the exponential is the other of two neighbours that are as good, a quotient may be three places away.
    for (const double steps : {logistics.libm, softpluses.libm, single.libm}) CHECK(steps <= 3);
    for (const Worst<double>& each : {logistics, softpluses}) CHECK(each.over_one < 0.0005 * each.count);
    CHECK(logistics.differing < 0.005 * logistics.count);
    CHECK(single.differing < 0.005 * single.count);
}

TEST(edges_are_those_of_libm) {
    const double values[] = {0.0,     -0.0, 1e-320, -1e-320, 1e-300, 709.78, 709.79, 710.5, 1e300, -708.5, -745.13,
                             -745.14, -746, -1e300, INF,     -INF,   0.55,   22.0,   22.5,  1.0,   -1.0};
    for (const double x : values) {
        CHECK(exponential(x) == std::exp(x));
        CHECK(exponential(static_cast<float>(x)) == std::exp(static_cast<float>(x)));
        CHECK(steps_between(hyperbolic_tangent(x), std::tanh(x)) <= 1);
        CHECK(std::signbit(hyperbolic_tangent(x)) == std::signbit(x));
        CHECK(steps_between(logistic(x), 1.0 / (1.0 + std::exp(-x))) <= 1);
        if (x >= 0) CHECK(steps_between(log_one_plus(x), std::log1p(x)) <= 1);
    }
    CHECK(std::isnan(exponential(NOT_A_NUMBER)) && std::isnan(logistic(NOT_A_NUMBER)));
    CHECK(std::isnan(hyperbolic_tangent(NOT_A_NUMBER)) && std::isnan(softplus(NOT_A_NUMBER)));
    CHECK(std::isnan(exponential(static_cast<float>(NOT_A_NUMBER))));
    CHECK(exponential(0.0) == 1.0 && logistic(0.0) == 0.5 && hyperbolic_tangent(INF) == 1.0 &&
          log_one_plus(0.0) == 0.0);
    CHECK(std::isinf(softplus(1000.0)) && softplus(-1000.0) == 0.0);
}

namespace {

template <class T>
void check_loops(const FunctionLoops<T>& loops, std::size_t count) {
    Draw draw{count + 7};
    std::vector<T> values(count);
    for (T& x : values) x = static_cast<T>(draw.share() * 60 - 30);
    if (count > 5) {
        values[1] = static_cast<T>(NOT_A_NUMBER), values[2] = static_cast<T>(INF), values[3] = static_cast<T>(-INF);
        values[4] = T(-800), values[5] = T(800);
    }
    const auto check = [&](auto loop, auto function) {
        std::vector<T> by_loop = values, one_by_one = values;
        loop(by_loop.data(), count);
        for (T& x : one_by_one) x = function(x);
        for (std::size_t i = 0; i < count; ++i)
            CHECK(std::isnan(by_loop[i]) ? std::isnan(one_by_one[i])
                                         : std::memcmp(&by_loop[i], &one_by_one[i], sizeof(T)) == 0);
    };
    check(loops.exponential, [](T x) { return exponential(x); });
    check(loops.logistic, [](T x) { return logistic(x); });
    check(loops.hyperbolic_tangent, [](T x) { return hyperbolic_tangent(x); });
    if constexpr (sizeof(T) == 8) check(loops.softplus, [](T x) { return softplus(x); });
    for (T& x : values) x = static_cast<T>(draw.share() * 60 - 30);
    std::vector<T> softmax = values;
    loops.softmax(softmax.data(), count);
    const T largest = *std::max_element(values.begin(), values.end());
    T total = 0;
    for (const T x : values) total += exponential(x - largest);
    for (std::size_t i = 0; i < count; ++i) CHECK(softmax[i] == exponential(values[i] - largest) / total);
}

}  // namespace

TEST(every_instruction_set_gives_the_same_bits) {
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (isa > engine::detected_isa()) continue;
        for (std::size_t count = 1; count < 40; ++count) {
            check_loops(function_loops(isa).f32, count);
            check_loops(function_loops(isa).f64, count);
        }
        check_loops(function_loops(isa).f64, 1023);
    }
}

CHECK_MAIN()
