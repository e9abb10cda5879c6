// A request's class: at overload the lower class falls back first.
#pragma once

#include <cstdint>

namespace engine::scheduler {

enum class Priority : uint8_t { critical, normal, sheddable };
inline constexpr int PRIORITIES = 3;
const char* priority_name(Priority priority) noexcept;

}  // namespace engine::scheduler
