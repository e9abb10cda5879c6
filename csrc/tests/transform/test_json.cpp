// The quick reader of JSON rows: the rows that it reads, to the bit, and the rows that it leaves to a whole JSON
// library. Each row lies in memory of exactly its size, so the address sanitizer sees a byte read past it.
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/check.hpp"
#include "transform/json.hpp"

using namespace engine::transform;

namespace {

using Kind = InputKind;

struct Row {
    bool read;
    double numbers[4] = {-7.0, -7.0, -7.0, -7.0};  // x, v[0], v[1], at
    std::string text = "(missing)";
};

Row read(const std::string& json, bool refuse_missing = false) {
    JsonRows rows({{"x", Kind::kNumber, 0, 1}, {"c", Kind::kCategory, 0, 1}, {"v", Kind::kVector, 1, 2}},
                  refuse_missing);
    const std::unique_ptr<char[]> exact(new char[json.size()]);
    std::memcpy(exact.get(), json.data(), json.size());
    Row row{};
    Text text{"(untouched)", 11};
    row.read = rows.read(exact.get(), json.size(), row.numbers, &text);
    if (row.read && text.data != nullptr) row.text.assign(text.data, text.size);
    return row;
}

bool same(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

double number(const std::string& written) {
    const Row row = read("{\"x\":" + written + "}");
    CHECK(row.read);
    return row.numbers[0];
}

bool left(const std::string& json) { return !read(json).read; }

}  // namespace

TEST(a_row_of_every_kind) {
    const Row row = read(" {\"x\" : 1.5 , \"c\":\"Zürich\",\"v\":[ 1 , null ], \"other\":\"x\"} \n");
    CHECK(row.read && row.numbers[0] == 1.5 && row.text == "Zürich");
    CHECK(row.numbers[1] == 1.0 && std::isnan(row.numbers[2]));
}

TEST(any_order_and_the_last_of_a_key_given_twice) {
    const Row row = read("{\"v\":null,\"c\":12,\"x\":1,\"c\":\"b\",\"x\":2}");
    CHECK(row.read && row.numbers[0] == 2.0 && row.text == "b" && std::isnan(row.numbers[1]));
}

TEST(absent_keys_are_missing_or_left) {
    const Row row = read("{}");
    CHECK(row.read && std::isnan(row.numbers[0]) && std::isnan(row.numbers[2]) && row.text == "(missing)");
    CHECK(!read("{\"x\":1,\"c\":\"a\",\"x\":1}", true).read);
    CHECK(read("{\"x\":1,\"c\":null,\"v\":[1,2]}", true).read);
}

TEST(an_array_is_in_input_order) {
    const Row row = read("[3, \"a\", [1, 2]]");
    CHECK(row.read && row.numbers[0] == 3.0 && row.text == "a" && row.numbers[2] == 2.0);
    CHECK(left("[3, \"a\"]") && left("[3, \"a\", [1, 2], 4]") && left("[]"));
}

TEST(numbers_are_rounded_to_nearest) {
    CHECK(same(number("0.1"), 0.1) && same(number("-0.0"), -0.0) && same(number("0"), 0.0));
    CHECK(same(number("123456789012345678"), 123456789012345678.0));
    CHECK(same(number("9007199254740993"), 9007199254740992.0));  // halfway, to even
    CHECK(same(number("9007199254740993.00000000000001"), 9007199254740994.0));
    CHECK(same(number("18446744073709551616"), 18446744073709551616.0));
    CHECK(same(number("5e-324"), 5e-324) && same(number("1E+3"), 1000.0) && same(number("-2e-2"), -0.02));
    CHECK(same(number("true"), 1.0) && same(number("false"), 0.0) && std::isnan(number("null")));
}

TEST(numbers_out_of_range_or_grammar_are_left) {
    for (const char* text :
         {"1e400", "-1e400",   "-0",  "01",  "-01", "1.",  ".5",    "1.e5", "1e",    "1e+", "+1", "-", "--1",
          "NaN",   "Infinity", "inf", "0x1", "1_0", "1 2", "\"1\"", "nul",  "truex", "[1]", "{}", ""}) {
        CHECK(left("{\"x\":" + std::string(text) + "}"));
    }
}

TEST(texts) {
    CHECK(read("{\"c\":\"\"}").text.empty() && read("{\"c\":-12}").text == "-12" &&
          read("{\"c\":\"日本\"}").text == "日本");
    CHECK(read("{\"c\":999999999999999999}").text == "999999999999999999");
    for (const char* text : {"1.0", "1234567890123456789", "true", "-0", "\"a\\n\"", "\"a\nb\"", "\"a", "\"\xff\"",
                             "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "[\"a\"]"}) {
        CHECK(left("{\"c\":" + std::string(text) + "}"));
    }
}

TEST(vectors_of_another_length_are_left) {
    CHECK(left("{\"v\":[1]}") && left("{\"v\":[1,2,3]}") && left("{\"v\":[1,]}") && left("{\"v\":[]}") &&
          left("{\"v\":3}"));
}

TEST(every_beginning_of_a_row_is_left) {
    const std::string row = "{\"x\":-12.5e1,\"c\":\"\xe6\x97\xa5\",\"v\":[1,null],\"k\":true}";
    CHECK(read(row).read);
    for (std::size_t size = 0; size < row.size(); ++size) CHECK(left(row.substr(0, size)));
    CHECK(left(row + "x") && left(row + "{}") && left("\xef\xbb\xbf" + row));
    CHECK(left("{\"x\":1,}") && left("{,}") && left("{x:1}") && left("{\"x\" 1}") && left("{\"x\":1 \"c\":2}"));
}

CHECK_MAIN()
