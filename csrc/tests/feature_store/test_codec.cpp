#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "feature_store/codec.hpp"
#include "tests/check.hpp"

using namespace engine::feature_store;

namespace {

constexpr std::array<char, TAG_BYTES> TAG{'s', 'c', 'h', 'e', 'm', 'a', '-', '1'};
constexpr std::array<Kind, 5> KINDS{Kind::BOOL, Kind::INT, Kind::FLOAT, Kind::TEXT, Kind::TIME};

Cell number(double value) { return {nullptr, std::bit_cast<uint64_t>(value), false}; }
Cell whole(int64_t value) { return {nullptr, std::bit_cast<uint64_t>(value), false}; }
Cell text(const char* value) { return {value, std::strlen(value), false}; }
Cell null() { return {nullptr, 0, true}; }

std::string row(const Layout& layout, const Head& head, const std::vector<Cell>& cells) {
    std::string out(layout.base() + layout.text_bytes(cells), '\xff');
    layout.write(head, cells, out.data());
    return out;
}

std::string one(int64_t event, int64_t created, uint64_t revision, int64_t value) {
    const Layout layout(TAG, std::array{Kind::INT});
    return row(layout, {event, created, true, revision}, {whole(value)});
}

}  // namespace

// These bytes are on disk: a change of any of them needs another version of the layout.
TEST(a_row_has_the_documented_bytes) {
    const Layout layout(TAG, std::array{Kind::INT, Kind::TEXT});
    const std::string found = row(layout, {1, 2, true, 3}, {whole(0x0102), text("ab")});
    const std::string head("EFB\x01schema-1", 12);
    const std::string order("\x80\0\0\0\0\0\0\x01\x80\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03", 24);
    const std::string values("\0\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\0\0", 17);
    CHECK(found == head + order + values + "ab");
    const std::string nulls = row(layout, {-1, 0, false, 3}, {null(), null()});
    const std::string bare("\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03", 24);
    CHECK(nulls == head + bare + '\x03' + std::string(16, '\0'));
}

TEST(each_kind_comes_back) {
    const Layout layout(TAG, KINDS);
    const std::vector<Cell> cells{whole(1), whole(-5), number(0.1), text("naïve"), whole(1'357'000'000'000'000)};
    const std::string found = row(layout, {-7, 0, false, 9}, cells);
    CHECK(layout.check(found) == Outcome::FOUND);
    const Head head = head_of(found);
    CHECK(head.event_ns == -7 && !head.has_created && head.revision == 9);
    Cell cell;
    CHECK(layout.read(0, found, cell) && cell.whole() == 1);
    CHECK(layout.read(1, found, cell) && cell.whole() == -5);
    CHECK(layout.read(2, found, cell) && cell.number() == 0.1);
    CHECK(layout.read(3, found, cell) && std::string(cell.text, cell.bits) == "naïve");
    CHECK(layout.read(4, found, cell) && cell.whole() == 1'357'000'000'000'000);
}

TEST(bytes_that_are_no_row_or_of_another_schema_are_told_apart) {
    const Layout layout(TAG, KINDS);
    const std::string found = row(layout, {}, {null(), null(), null(), text("text"), null()});
    for (size_t size = 0; size < found.size() - 4; ++size)
        CHECK(layout.check(std::string_view(found).substr(0, size)) == Outcome::FOREIGN);
    std::string other = found;
    other[TAG_AT] ^= 1;
    CHECK(layout.check(other) == Outcome::SCHEMA);
    other[0] ^= 1;
    CHECK(layout.check(other) == Outcome::FOREIGN);
    // A text that would end beyond the row is refused, also where its end does not fit into 32 bits.
    Cell cell;
    CHECK(!layout.read(3, std::string_view(found).substr(0, found.size() - 1), cell));
    std::string far = found;
    std::memset(far.data() + layout.base() - 16, 0xff, 8);
    CHECK(!layout.read(3, far, cell));
    // Without texts a row has one size.
    const Layout plain(TAG, std::array{Kind::INT});
    CHECK(plain.check(one(0, 0, 0, 0)) == Outcome::FOUND);
    CHECK(plain.check(one(0, 0, 0, 0) + "x") == Outcome::FOREIGN);
}

TEST(event_then_created_then_revision_decide) {
    CHECK(compare(one(2, 0, 0, 1), one(1, 9, 9, 1)) == Order::NEWER);
    CHECK(compare(one(-2, 0, 0, 1), one(1, 0, 0, 1)) == Order::OLDER);
    CHECK(compare(one(1, 2, 0, 1), one(1, 1, 9, 1)) == Order::NEWER);
    CHECK(compare(one(1, 1, 1, 2), one(1, 1, 1, 3)) == Order::NEWER);
    CHECK(compare(one(1, 1, 0, 2), one(1, 1, 1, 3)) == Order::OLDER);
    // The same times and values are the same row, whatever run wrote it.
    CHECK(compare(one(1, 1, 5, 2), one(1, 1, 7, 2)) == Order::SAME);
    CHECK(compare(one(1, 1, 0, 2), "somebody else's bytes, long enough for a head") == Order::FOREIGN);
    CHECK(compare(one(1, 1, 0, 2), "") == Order::FOREIGN);
}

TEST(a_row_expires_after_its_ttl_and_never_ahead_of_the_clock) {
    const int64_t least = std::numeric_limits<int64_t>::min() + 1, greatest = std::numeric_limits<int64_t>::max();
    CHECK(!is_expired(one(100, 0, 0, 0), 110, 10));
    CHECK(is_expired(one(100, 0, 0, 0), 111, 10));
    CHECK(!is_expired(one(100, 0, 0, 0), 50, 10));
    // Two ends of the clock are 584 years apart.
    CHECK(is_expired(one(least, 0, 0, 0), greatest, greatest));
    CHECK(!is_expired(one(greatest, 0, 0, 0), least, 1));
}

CHECK_MAIN()
