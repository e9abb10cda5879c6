#include "scheduler/request.hpp"

#include <iterator>

#include "base/assert.hpp"

namespace engine::scheduler {

namespace {

constexpr const char* REASON_NAMES[] = {
    "ok",
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
    "default_error",
};
constexpr const char* SOURCE_NAMES[] = {"primary", "fallback", "default"};
constexpr const char* PRIORITY_NAMES[] = {"critical", "normal", "sheddable"};

static_assert(std::size(REASON_NAMES) == REASONS && static_cast<int>(Reason::default_error) + 1 == REASONS);
static_assert(std::size(SOURCE_NAMES) == SOURCES && static_cast<int>(Source::default_value) + 1 == SOURCES);
static_assert(std::size(PRIORITY_NAMES) == PRIORITIES && static_cast<int>(Priority::sheddable) + 1 == PRIORITIES);

}  // namespace

const char* reason_name(Reason reason) noexcept {
    ENGINE_ASSERT(static_cast<int>(reason) < REASONS, "a reason is one of the enumeration");
    return REASON_NAMES[static_cast<int>(reason)];
}

const char* source_name(Source source) noexcept {
    ENGINE_ASSERT(static_cast<int>(source) < SOURCES, "a source is one of the enumeration");
    return SOURCE_NAMES[static_cast<int>(source)];
}

const char* priority_name(Priority priority) noexcept {
    ENGINE_ASSERT(static_cast<int>(priority) < PRIORITIES, "a priority is one of the enumeration");
    return PRIORITY_NAMES[static_cast<int>(priority)];
}

}  // namespace engine::scheduler
