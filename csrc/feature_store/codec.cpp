#include "feature_store/codec.hpp"

#include <algorithm>

namespace engine::feature_store {

Layout::Layout(std::span<const char, TAG_BYTES> tag, std::span<const Kind> kinds) noexcept
    : columns_(kinds.size()), base_(HEAD_BYTES + (kinds.size() + 7) / 8 + 8 * kinds.size()) {
    ENGINE_ASSERT(!kinds.empty() && kinds.size() <= COLUMNS_MAX, "a layout has 1 to 1,024 columns");
    std::copy(tag.begin(), tag.end(), tag_.begin());
    for (size_t column = 0; column < kinds.size(); ++column) {
        ENGINE_ASSERT(static_cast<uint8_t>(kinds[column]) < KIND_COUNT, "a kind that the layout knows");
        kinds_[column] = kinds[column];
        has_texts_ |= kinds[column] == Kind::TEXT;
    }
    ENGINE_ASSERT(value_at(columns_) == base_, "the values end where the texts begin");
}

size_t Layout::text_bytes(std::span<const Cell> cells) const noexcept {
    ENGINE_ASSERT(cells.size() == columns_, "a cell for each column");
    size_t bytes = 0;
    if (!has_texts_) return bytes;
    for (size_t column = 0; column < columns_; ++column)
        if (kinds_[column] == Kind::TEXT && !cells[column].null) bytes += cells[column].bits;
    return bytes;
}

void Layout::write(const Head& head, std::span<const Cell> cells, char* out) const noexcept {
    ENGINE_ASSERT(cells.size() == columns_, "a cell for each column");
    ENGINE_ASSERT(text_bytes(cells) <= TEXT_BYTES_MAX, "offsets and lengths of texts fit into 32 bits");
    std::memcpy(out, MAGIC.data(), MAGIC.size());
    std::memcpy(out + TAG_AT, tag_.data(), TAG_BYTES);
    detail::put_big_endian(out + ORDER_AT, static_cast<uint64_t>(head.event_ns) ^ detail::SIGN);
    // INT64_MIN is written as no created time is; instants begin one nanosecond later.
    detail::put_big_endian(out + ORDER_AT + 8,
                           head.has_created ? static_cast<uint64_t>(head.created_ns) ^ detail::SIGN : 0);
    detail::put_big_endian(out + REVISION_AT, head.revision);
    std::memset(out + HEAD_BYTES, 0, base_ - HEAD_BYTES);  // a null has eight zero bytes for a value
    size_t end = base_;
    for (size_t column = 0; column < columns_; ++column) {
        const Cell& cell = cells[column];
        if (cell.null) {
            out[HEAD_BYTES + column / 8] = static_cast<char>(out[HEAD_BYTES + column / 8] | 1 << (column % 8));
        } else if (kinds_[column] == Kind::TEXT) {
            ENGINE_ASSERT(cell.text != nullptr || cell.bits == 0, "a text has its bytes");
            const std::array<uint32_t, 2> extent{static_cast<uint32_t>(end - base_), static_cast<uint32_t>(cell.bits)};
            std::memcpy(out + value_at(column), extent.data(), 8);
            if (cell.bits > 0) std::memcpy(out + end, cell.text, cell.bits);
            end += cell.bits;
        } else {
            std::memcpy(out + value_at(column), &cell.bits, 8);
        }
    }
    ENGINE_ASSERT(end == base_ + text_bytes(cells), "as many bytes are written as the caller made room for");
    ENGINE_ASSERT(check({out, end}) == Outcome::FOUND, "a row that is written can be read");
}

Order compare(std::string_view row, std::string_view stored) noexcept {
    ENGINE_ASSERT(is_row(row), "the new row is one of ours");
    if (!is_row(stored)) return Order::FOREIGN;
    const auto part = [&](size_t at, size_t bytes) noexcept {
        return std::memcmp(row.data() + at, stored.data() + at, bytes);
    };
    const int times = part(ORDER_AT, REVISION_AT - ORDER_AT);
    if (times != 0) return times > 0 ? Order::NEWER : Order::OLDER;
    const bool same =
        row.size() == stored.size() && part(TAG_AT, TAG_BYTES) == 0 && part(HEAD_BYTES, row.size() - HEAD_BYTES) == 0;
    if (same) return Order::SAME;
    return part(REVISION_AT, HEAD_BYTES - REVISION_AT) >= 0 ? Order::NEWER : Order::OLDER;
}

}  // namespace engine::feature_store
