// How much a request matters: at overload the lower class falls back first.
#pragma once

#include <cstdint>

namespace engine {

enum class Priority : uint8_t { critical, normal, sheddable };
inline constexpr int PRIORITIES = 3;

}  // namespace engine
