// The words of answers, in the order of their codes.
#include "scheduler/request.hpp"

#include <string_view>

#include "scheduler/slot.hpp"
#include "tests/check.hpp"

using namespace engine::scheduler;

TEST(every_reason_has_its_name) {
    const std::string_view names[] = {"ok",
                                      "late",
                                      "stalled",
                                      "full",
                                      "timeout",
                                      "released",
                                      "expired",
                                      "no_time",
                                      "primary_error",
                                      "primary_bad_shape",
                                      "primary_not_finite",
                                      "fallback_error",
                                      "closing",
                                      "shed",
                                      "breaker_open",
                                      "out_of_time",
                                      "default_error"};
    for (int i = 0; i < REASONS; ++i) CHECK(reason_name(static_cast<Reason>(i)) == names[i]);
    CHECK(std::size(names) == REASONS);
}

TEST(every_source_and_priority_has_its_name) {
    CHECK(source_name(Source::primary) == std::string_view("primary"));
    CHECK(source_name(Source::fallback) == std::string_view("fallback"));
    CHECK(source_name(Source::default_value) == std::string_view("default"));
    CHECK(priority_name(Priority::critical) == std::string_view("critical"));
    CHECK(priority_name(Priority::normal) == std::string_view("normal"));
    CHECK(priority_name(Priority::sheddable) == std::string_view("sheddable"));
}

TEST(a_generation_is_never_zero) {
    const uint32_t last = state_word(UINT32_MAX >> STATE_BITS, State::free);
    CHECK(generation_after(0) == 1);
    CHECK(generation_after(state_word(41, State::free)) == 42);
    CHECK(generation_after(last) == 1);
}

CHECK_MAIN()
