// Parts of a date on the proleptic Gregorian calendar, in integer arithmetic.
#pragma once

#include <cstdint>

#include "base/assert.hpp"
#include "transform/math.hpp"
#include "transform/ops.hpp"

namespace engine::transform {

// a / b rounded down, for b > 0.
inline std::int64_t floor_divide(std::int64_t a, std::int64_t b) noexcept { return a / b - (a % b < 0); }

struct Date {
    std::int64_t year;
    std::int64_t month;        // 1 to 12
    std::int64_t day;          // 1 to 31
    std::int64_t day_of_year;  // 1 to 366
};

// Counts days from 1 March of year 0. A leap day is then the last day of its year, of its four years and of its four
// centuries, and the months from March on have 31, 30, 31, 30, 31 days over and over: month m starts on day
// (153 m + 2) / 5 of the year.
inline Date date_of(std::int64_t days_since_1970) noexcept {
    constexpr std::int64_t kDaysTo1970 = 719468, kDaysInEra = 146097, kDaysInCentury = 36524, kDaysInFour = 1461;
    const std::int64_t days = days_since_1970 + kDaysTo1970;
    const std::int64_t era = floor_divide(days, kDaysInEra);
    std::int64_t rest = days - era * kDaysInEra;
    const std::int64_t century = rest == kDaysInEra - 1 ? 3 : rest / kDaysInCentury;
    rest -= century * kDaysInCentury;
    const std::int64_t four = rest / kDaysInFour;
    rest -= four * kDaysInFour;
    const std::int64_t one = rest == kDaysInFour - 1 ? 3 : rest / 365;
    rest -= one * 365;
    const std::int64_t from_march = (5 * rest + 2) / 153;
    const std::int64_t month = from_march < 10 ? from_march + 3 : from_march - 9;
    const std::int64_t year = era * 400 + century * 100 + four * 4 + one + (month <= 2);
    const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    const std::int64_t day_of_year = month <= 2 ? rest - 305 : rest + 60 + leap;
    const std::int64_t day = rest - (153 * from_march + 2) / 5 + 1;
    ENGINE_ASSERT(month >= 1 && month <= 12, "a year has twelve months");
    ENGINE_ASSERT(day >= 1 && day <= 31, "a month has at most 31 days");
    ENGINE_ASSERT(day_of_year >= 1 && day_of_year <= 365 + leap, "a day lies inside its year");
    return {year, month, day, day_of_year};
}

// The part of an instant, on a clock that is `offset_s` ahead of UTC. instant_us: whole microseconds of Unix time. NaN
// for an instant that int64 cannot hold.
inline double date_part(double instant_us, double offset_s, DatePart part) noexcept {
    if (!(instant_us > -9e18 && instant_us < 9e18)) return kNaN;
    constexpr std::int64_t kSecond = 1000000, kDay = 86400 * kSecond;
    const std::int64_t local = static_cast<std::int64_t>(instant_us) + static_cast<std::int64_t>(offset_s) * kSecond;
    const std::int64_t days = floor_divide(local, kDay);
    const std::int64_t within = local - days * kDay;  // microseconds since midnight
    ENGINE_ASSERT(within >= 0 && within < kDay, "an instant lies inside its day");
    switch (part) {
        case DatePart::kYear: return static_cast<double>(date_of(days).year);
        case DatePart::kMonth: return static_cast<double>(date_of(days).month);
        case DatePart::kDay: return static_cast<double>(date_of(days).day);
        case DatePart::kDayOfYear: return static_cast<double>(date_of(days).day_of_year);
        case DatePart::kWeekday: return static_cast<double>(days + 3 - 7 * floor_divide(days + 3, 7));  // Monday is 0
        case DatePart::kHour: return static_cast<double>(within / (3600 * kSecond));
        case DatePart::kMinute: return static_cast<double>(within / (60 * kSecond) % 60);
        case DatePart::kSecond: return static_cast<double>(within % (60 * kSecond)) / 1e6;
        case DatePart::kSecondOfDay: return static_cast<double>(within) / 1e6;
        default: return instant_us / 1e6;  // kUnixSecond: the same in every zone
    }
}

}  // namespace engine::transform
