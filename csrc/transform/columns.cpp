// Turns the values of a chunk, in any layout, into doubles or texts.
#include "transform/columns.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/assert.hpp"
#include "transform/math.hpp"

namespace engine::transform {

namespace {

bool bit_at(const std::uint8_t* bits, std::size_t i) noexcept { return bits[i >> 3] >> (i & 7) & 1; }

// Calls f(i) for each i < n whose row, row + i, has a validity bit of 0. First come single rows up to a byte boundary,
// then eight rows a step: most bytes are 0xFF and cost one comparison. Last come the rows of a broken byte.
template <class F>
void each_missing(const std::uint8_t* validity, std::size_t row, std::size_t n, F f) noexcept {
    if (validity == nullptr) return;
    std::size_t i = 0;
    for (; i < n && ((row + i) & 7) != 0; ++i) {
        if (!bit_at(validity, row + i)) f(i);
    }
    for (; i + 8 <= n; i += 8) {
        unsigned absent = ~static_cast<unsigned>(validity[(row + i) >> 3]) & 0xFFu;
        for (; absent != 0; absent &= absent - 1) f(i + static_cast<unsigned>(std::countr_zero(absent)));
    }
    for (; i < n; ++i) {
        if (!bit_at(validity, row + i)) f(i);
    }
}

// n values of type T to doubles, from value `at` on, `stride` values apart. The dense loop stands apart, because the
// compiler vectorises it.
template <class T>
void widen(const void* values, std::size_t at, std::size_t stride, std::size_t n, double* to) noexcept {
    const T* const from = static_cast<const T*>(values) + at;
    if (stride == 1) {
        for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<double>(from[i]);
    } else {
        for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<double>(from[i * stride]);
    }
}

// n of Arrow's strings as texts that point into the chunk. Offset is the type of its offsets.
template <class Offset>
void slice(const Chunk& chunk, std::size_t row, std::size_t n, Text* to) noexcept {
    // A text that is present never has a null pointer, and Arrow gives a column of empty strings no bytes at all.
    static const char empty = 0;
    const Offset* const offsets = static_cast<const Offset*>(chunk.values) + row;
    const char* const bytes = chunk.bytes == nullptr ? &empty : chunk.bytes;
    for (std::size_t i = 0; i < n; ++i) {
        ENGINE_ASSERT(offsets[i] >= 0 && offsets[i] <= offsets[i + 1], "the offsets of Arrow's strings never fall");
        to[i] = {bytes + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
    }
    each_missing(chunk.validity, row, n, [to](std::size_t i) { to[i].data = nullptr; });
}

}  // namespace

void ColumnReader::copy(const Chunk& chunk, std::size_t row, std::size_t n, double* to) const noexcept {
    ENGINE_ASSERT(chunk.values != nullptr, "a chunk with rows has values");
    const std::size_t at = row * chunk.stride + column_.component, step = chunk.stride;
    switch (chunk.layout) {
        case Layout::kF64: widen<double>(chunk.values, at, step, n, to); break;
        case Layout::kF32: widen<float>(chunk.values, at, step, n, to); break;
        case Layout::kI8: widen<std::int8_t>(chunk.values, at, step, n, to); break;
        case Layout::kI16: widen<std::int16_t>(chunk.values, at, step, n, to); break;
        case Layout::kI32: widen<std::int32_t>(chunk.values, at, step, n, to); break;
        case Layout::kI64: widen<std::int64_t>(chunk.values, at, step, n, to); break;
        case Layout::kU8: widen<std::uint8_t>(chunk.values, at, step, n, to); break;
        case Layout::kU16: widen<std::uint16_t>(chunk.values, at, step, n, to); break;
        case Layout::kU32: widen<std::uint32_t>(chunk.values, at, step, n, to); break;
        case Layout::kU64: widen<std::uint64_t>(chunk.values, at, step, n, to); break;
        case Layout::kBit: {
            const auto* const bits = static_cast<const std::uint8_t*>(chunk.values);
            for (std::size_t i = 0; i < n; ++i) to[i] = bit_at(bits, row + i) ? 1.0 : 0.0;
            break;
        }
        // The binding gives no column of texts to a number input.
        default: ENGINE_ASSERT(false, "a number input reads a column of numbers"); std::fill_n(to, n, kNaN);
    }
    each_missing(chunk.validity, row, n, [to](std::size_t i) { to[i] = kNaN; });
}

void ColumnReader::copy(const Chunk& chunk, std::size_t row, std::size_t n, Text* to) const noexcept {
    ENGINE_ASSERT(chunk.values != nullptr, "a chunk with rows has values");
    switch (chunk.layout) {
        case Layout::kText: std::copy_n(static_cast<const Text*>(chunk.values) + row, n, to); break;
        case Layout::kUtf8: slice<std::int32_t>(chunk, row, n, to); break;
        case Layout::kLargeUtf8: slice<std::int64_t>(chunk, row, n, to); break;
        default: ENGINE_ASSERT(false, "a text input reads a column of texts"); std::fill_n(to, n, Text{nullptr, 0});
    }
}

}  // namespace engine::transform
