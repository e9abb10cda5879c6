// Stored rows. Any bytes are read or refused, never out of bounds, and a row that is written comes back: under every
// layout, against every stored row, at every clock.
//
// Input: a byte with the number of columns, their kinds, then the bytes of a row.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "feature_store/codec.hpp"

namespace {

using namespace engine::feature_store;

[[gnu::noinline]] void require(bool holds) {
    if (!holds) __builtin_trap();
}

class Reader {
public:
    Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
    uint64_t word() {
        uint64_t word = 0;
        for (int i = 0; i < 8; ++i) word = word << 8 | byte();
        return word;
    }
    std::string_view rest() const { return {reinterpret_cast<const char*>(data_) + at_, size_ - at_}; }

private:
    const uint8_t* data_;
    size_t size_, at_ = 0;
};

// A copy of its exact size on the heap, where a byte beyond the end is seen.
std::vector<char> exact(std::string_view bytes) { return {bytes.begin(), bytes.end()}; }
std::string_view view(const std::vector<char>& bytes) { return {bytes.data(), bytes.size()}; }

// Every byte of every text; false where a text is refused.
bool read_all(const Layout& layout, std::string_view row, std::vector<Cell>& cells) {
    volatile char seen = 0;
    bool all = true;
    for (size_t column = 0; column < layout.columns(); ++column) {
        Cell& cell = cells[column];
        if (!layout.read(column, row, cell)) {
            all = false;
            cell = Cell{.null = true};
            continue;
        }
        if (layout.kind(column) == Kind::TEXT && !cell.null)
            for (uint64_t i = 0; i < cell.bits; ++i) seen = cell.text[i];
    }
    static_cast<void>(seen);
    return all;
}

bool same(Kind kind, const Cell& one, const Cell& other) {
    if (one.null || other.null) return one.null == other.null;
    if (one.bits != other.bits) return false;
    return kind != Kind::TEXT || std::memcmp(one.text, other.text, one.bits) == 0;
}

std::vector<char> written(const Layout& layout, const Head& head, const std::vector<Cell>& cells) {
    std::vector<char> row(layout.base() + layout.text_bytes(cells));
    layout.write(head, cells, row.data());
    return row;
}

int sign(int64_t value) { return value < 0 ? -1 : value > 0; }

// The order of two rows in plain words, out of their heads.
Order expected(const Head& row, const Head& stored, bool alike) {
    if (row.event_ns != stored.event_ns) return row.event_ns > stored.event_ns ? Order::NEWER : Order::OLDER;
    if (row.has_created != stored.has_created) return row.has_created ? Order::NEWER : Order::OLDER;
    if (row.created_ns != stored.created_ns) return row.created_ns > stored.created_ns ? Order::NEWER : Order::OLDER;
    if (alike) return Order::SAME;
    return row.revision >= stored.revision ? Order::NEWER : Order::OLDER;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Reader in(data, size);
    std::vector<Kind> kinds(1 + in.byte() % 20);
    for (Kind& kind : kinds) kind = static_cast<Kind>(in.byte() % KIND_COUNT);
    const std::vector<char> raw = exact(in.rest());
    // The tag of the bytes themselves, so that they are read rather than refused for their schema.
    std::array<char, TAG_BYTES> tag{};
    if (raw.size() >= ORDER_AT) std::memcpy(tag.data(), raw.data() + TAG_AT, TAG_BYTES);
    const Layout layout(tag, kinds);

    std::vector<Cell> cells(kinds.size()), again(kinds.size());
    Head head{static_cast<int64_t>(in.word()), 0, false, in.word()};
    if (layout.check(view(raw)) == Outcome::FOUND) {
        read_all(layout, view(raw), cells);
        head = head_of(view(raw));
        is_expired(view(raw), static_cast<int64_t>(head.revision), static_cast<int64_t>(head.revision >> 1));
    } else {
        // Values from the bytes, so that rows to write are as odd as rows to read.
        for (size_t column = 0; column < kinds.size(); ++column) {
            const uint8_t shape = in.byte();
            cells[column] = Cell{.bits = in.word(), .null = shape % 4 == 0};
            if (kinds[column] != Kind::TEXT) continue;
            cells[column].bits = std::min<uint64_t>(cells[column].bits % 64, raw.size());
            cells[column].text = raw.data();
        }
    }

    // A written row comes back.
    const std::vector<char> row = written(layout, head, cells);
    require(layout.check(view(row)) == Outcome::FOUND);
    require(read_all(layout, view(row), again));
    for (size_t column = 0; column < kinds.size(); ++column) require(same(kinds[column], cells[column], again[column]));
    const Head back = head_of(view(row));
    require(back.event_ns == head.event_ns && back.has_created == head.has_created && back.revision == head.revision);
    require(back.created_ns == (head.has_created ? head.created_ns : 0));

    // A row is the same as itself, and two rows are ordered by their heads, both ways.
    require(compare(view(row), view(row)) == Order::SAME);
    Head other = head;
    other.event_ns ^= in.byte() % 4 == 0 ? int64_t{1} << in.byte() % 64 : 0;
    other.has_created = in.byte() % 2 == 0;
    other.created_ns = other.has_created ? static_cast<int64_t>(in.word() | 1) : 0;
    other.revision ^= in.byte();
    const std::vector<char> stored = written(layout, other, cells);
    require(compare(view(row), view(stored)) == expected(head, other, true));
    require(compare(view(stored), view(row)) == expected(other, head, true));
    require(sign(static_cast<int>(compare(view(row), view(raw)))) >= -1);
    if (!is_row(view(raw))) require(compare(view(row), view(raw)) == Order::FOREIGN);
    return 0;
}
