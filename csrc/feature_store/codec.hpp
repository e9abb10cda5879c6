// One row of a feature view as one string of bytes: how it is written, read and compared. Every stored row, in every
// store, has this layout; integers are little-endian unless the table says otherwise:
//
//   0     4    magic, whose last byte is the layout's version
//   4     8    tag: names the schema that the values were written under; all zero for the mark of a deletion
//   12    8    event time, ns since 1970, big-endian with its sign bit flipped, so that it sorts as bytes
//   20    8    created time, the same; all zero if there is none
//   28    8    revision of the materialisation, big-endian
//   36    b    null bits, one for each column: b = (columns + 7) / 8
//   36+b  8n   values: int64 (whole numbers, booleans, microseconds since 1970), float64, or for a text the uint32
//              offset and uint32 length of its bytes in the rest of the row
//   ...        texts, UTF-8
//
// Bytes 12 to 36 order the rows of one key. The script that writes to Redis compares the same bytes. Rows on disk have
// this layout, so another layout needs another version in the magic.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/assert.hpp"

namespace engine::feature_store {

static_assert(std::endian::native == std::endian::little, "values are stored as the machine holds them");

inline constexpr std::string_view MAGIC{"EFB\x01", 4};
inline constexpr size_t TAG_BYTES = 8;
// A row with this tag has no values: its entity was deleted, and older rows stay out.
inline constexpr std::string_view DELETED_TAG{"\0\0\0\0\0\0\0\0", TAG_BYTES};
inline constexpr size_t TAG_AT = MAGIC.size();
inline constexpr size_t ORDER_AT = TAG_AT + TAG_BYTES;
inline constexpr size_t REVISION_AT = ORDER_AT + 16;
inline constexpr size_t HEAD_BYTES = REVISION_AT + 8;
inline constexpr size_t COLUMNS_MAX = 1024;
inline constexpr uint64_t TEXT_BYTES_MAX = UINT32_MAX;  // of all texts of a row together
static_assert(HEAD_BYTES == 36);

enum class Kind : uint8_t { BOOL, INT, FLOAT, TEXT, TIME };
inline constexpr uint8_t KIND_COUNT = 5;

// The outcome of a look-up. The binding's REASONS has the same order.
enum class Outcome : int { FOUND, NOT_FOUND, EXPIRED, FOREIGN, SCHEMA, NULL_KEY };

// A new row against the stored row of the same key: write it, leave the same row, leave the newer row, or leave bytes
// that are no row.
enum class Order : int { FOREIGN = -2, OLDER = -1, SAME = 0, NEWER = 1 };

struct Head {
    int64_t event_ns = 0;
    int64_t created_ns = 0;
    bool has_created = false;
    uint64_t revision = 0;
};

// One value of a row. A text points into the row, or to the caller's bytes while a row is written.
struct Cell {
    const char* text = nullptr;
    uint64_t bits = 0;  // the 8 bytes of the value; the length of a text
    bool null = false;

    int64_t whole() const noexcept { return std::bit_cast<int64_t>(bits); }
    double number() const noexcept { return std::bit_cast<double>(bits); }
};

namespace detail {

// A time as a word whose big-endian bytes sort as the time does.
inline constexpr uint64_t SIGN = uint64_t{1} << 63;

inline void put_big_endian(char* out, uint64_t word) noexcept {
    word = __builtin_bswap64(word);
    std::memcpy(out, &word, 8);
}

inline uint64_t big_endian(const char* at) noexcept {
    uint64_t word;
    std::memcpy(&word, at, 8);
    return __builtin_bswap64(word);
}

}  // namespace detail

// Whether these bytes begin as a row does, of whatever schema.
inline bool is_row(std::string_view bytes) noexcept { return bytes.size() >= HEAD_BYTES && bytes.starts_with(MAGIC); }

inline Head head_of(std::string_view row) noexcept {
    ENGINE_ASSERT(is_row(row), "only a row has a head");
    const uint64_t created = detail::big_endian(row.data() + ORDER_AT + 8);
    return {static_cast<int64_t>(detail::big_endian(row.data() + ORDER_AT) ^ detail::SIGN),
            created == 0 ? 0 : static_cast<int64_t>(created ^ detail::SIGN), created != 0,
            detail::big_endian(row.data() + REVISION_AT)};
}

// Whether a row is older than `ttl_ns` at `now_ns`. A row ahead of the clock is not, because the clock may be behind.
inline bool is_expired(std::string_view row, int64_t now_ns, int64_t ttl_ns) noexcept {
    ENGINE_ASSERT(ttl_ns >= 0, "a TTL is a length of time");
    const int64_t event_ns = head_of(row).event_ns;
    // Unsigned, because two ends of the clock are further apart than an int64 reaches.
    return event_ns<now_ns&& static_cast<uint64_t>(now_ns) - static_cast<uint64_t>(event_ns)> static_cast<uint64_t>(
        ttl_ns);
}

// The layout of one view's rows: the kind of each column, and the tag of the schema. A plain value.
class Layout {
public:
    Layout() = default;
    Layout(std::span<const char, TAG_BYTES> tag, std::span<const Kind> kinds) noexcept;

    size_t columns() const noexcept { return columns_; }
    Kind kind(size_t column) const noexcept {
        ENGINE_ASSERT(column < columns_, "a column of the layout");
        return kinds_[column];
    }

    // A row takes base() bytes and those of its texts, which are TEXT_BYTES_MAX at most.
    size_t base() const noexcept { return base_; }
    size_t text_bytes(std::span<const Cell> cells) const noexcept;

    // Writes a row of base() + text_bytes(cells) bytes.
    void write(const Head& head, std::span<const Cell> cells, char* out) const noexcept;

    // Hot: once per view and request. FOUND for a row of this layout, FOREIGN for bytes that are no row, SCHEMA for a
    // row of another schema, NOT_FOUND for the mark of a deletion.
    Outcome check(std::string_view bytes) const noexcept {
        if (!is_row(bytes)) return Outcome::FOREIGN;
        if (std::memcmp(bytes.data() + TAG_AT, tag_.data(), TAG_BYTES) != 0) return without_tag(bytes);
        const bool whole = has_texts_ ? bytes.size() >= base_ : bytes.size() == base_;
        return whole ? Outcome::FOUND : Outcome::FOREIGN;
    }

    // Hot: once per feature and request. A column of a row that `check` found; false if its text ends beyond the row.
    bool read(size_t column, std::string_view row, Cell& cell) const noexcept {
        ENGINE_ASSERT(column < columns_, "a column of the layout");
        ENGINE_ASSERT(row.size() >= base_, "check has found the row long enough for its columns");
        cell = Cell{};
        if (static_cast<uint8_t>(row[HEAD_BYTES + column / 8]) >> (column % 8) & 1) {
            cell.null = true;
            return true;
        }
        const char* at = row.data() + value_at(column);
        if (kinds_[column] != Kind::TEXT) {
            std::memcpy(&cell.bits, at, 8);
            return true;
        }
        std::array<uint32_t, 2> extent;
        std::memcpy(extent.data(), at, 8);
        const uint64_t end = uint64_t{base_} + extent[0] + extent[1];
        if (end > row.size()) return false;
        cell.text = row.data() + base_ + extent[0];
        cell.bits = extent[1];
        return true;
    }

private:
    static Outcome without_tag(std::string_view row) noexcept {
        return row.substr(TAG_AT, TAG_BYTES) == DELETED_TAG ? Outcome::NOT_FOUND : Outcome::SCHEMA;
    }

    size_t value_at(size_t column) const noexcept { return base_ - 8 * (columns_ - column); }

    size_t columns_ = 0;
    size_t base_ = HEAD_BYTES;  // where the texts begin
    bool has_texts_ = false;
    std::array<char, TAG_BYTES> tag_{};
    std::array<Kind, COLUMNS_MAX> kinds_{};
};

// A new row, which must be one, against the stored bytes of its key. The order is by event time, then created time. Of
// two rows with the same times and other values, the higher revision is the newer: a correction of the source, or an
// aggregate that late events changed.
Order compare(std::string_view row, std::string_view stored) noexcept;

}  // namespace engine::feature_store
