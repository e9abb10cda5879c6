// Any bytes as a JSON row of a fixed schema. A row that the reader accepts must mean the same to the slow reader below,
// which follows RFC 8259 word by word, and no byte outside the row may be read.
//
// The first byte of the input chooses the schema and how far the row lies off an aligned address. The row is copied to
// memory that ends where it ends, so the address sanitizer sees a byte read past it.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "transform/json.hpp"

using namespace engine::transform;

namespace {

[[noreturn]] void fail(const char* words) {
    std::fprintf(stderr, "the readers differ: %s\n", words);
    std::abort();
}

// A JSON value, or nothing where the text is none.
struct Value {
    enum Type { kNull, kTrue, kFalse, kNumber, kString, kArray, kObject } type = kNull;
    std::string text;                // of a number its characters, of a string its UTF-8
    std::vector<Value> elements;     // of an array, or the values of an object's members
    std::vector<std::string> names;  // of an object's members
};

// RFC 8259, one function for each rule. Depth is bounded by the size of the input.
class SlowReader {
public:
    explicit SlowReader(std::string_view text) : text_(text) {}

    std::optional<Value> document() {
        std::optional<Value> found = element();
        return found && at_ == text_.size() ? found : std::nullopt;
    }

private:
    int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
    bool eat(char c) { return peek() == static_cast<unsigned char>(c) && (++at_, true); }
    bool eat(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }
    void space() {
        while (eat(' ') || eat('\t') || eat('\n') || eat('\r')) {
        }
    }

    std::optional<Value> element() {
        space();
        std::optional<Value> found = value();
        space();
        return found;
    }

    std::optional<Value> value() {
        if (++depth_ > 200) return std::nullopt;
        std::optional<Value> found;
        if (eat("null")) found = Value{Value::kNull, {}, {}, {}};
        else if (eat("true")) found = Value{Value::kTrue, {}, {}, {}};
        else if (eat("false")) found = Value{Value::kFalse, {}, {}, {}};
        else if (peek() == '"') found = string();
        else if (peek() == '[') found = array();
        else if (peek() == '{') found = object();
        else found = number();
        --depth_;
        return found;
    }

    std::optional<Value> array() {
        Value made{Value::kArray, {}, {}, {}};
        eat('[');
        space();
        if (eat(']')) return made;
        do {
            std::optional<Value> one = element();
            if (!one) return std::nullopt;
            made.elements.push_back(*one);
        } while (eat(','));
        return eat(']') ? std::optional(made) : std::nullopt;
    }

    std::optional<Value> object() {
        Value made{Value::kObject, {}, {}, {}};
        eat('{');
        space();
        if (eat('}')) return made;
        do {
            space();
            std::optional<Value> name = string();
            space();
            if (!name || !eat(':')) return std::nullopt;
            std::optional<Value> one = element();
            if (!one) return std::nullopt;
            made.names.push_back(name->text);
            made.elements.push_back(*one);
        } while (eat(','));
        return eat('}') ? std::optional(made) : std::nullopt;
    }

    bool digits() {
        const std::size_t start = at_;
        while (peek() >= '0' && peek() <= '9') ++at_;
        return at_ > start;
    }

    std::optional<Value> number() {
        const std::size_t start = at_;
        eat('-');
        if (!eat('0') && !digits()) return std::nullopt;
        if (eat('.') && !digits()) return std::nullopt;
        if (eat('e') || eat('E')) {
            if (!eat('-')) eat('+');
            if (!digits()) return std::nullopt;
        }
        return Value{Value::kNumber, std::string(text_.substr(start, at_ - start)), {}, {}};
    }

    // Escapes other than \u are read as the character behind the backslash, and \u as "?": the quick reader accepts
    // none, and where it gives up nothing is compared.
    std::optional<Value> string() {
        if (!eat('"')) return std::nullopt;
        Value made{Value::kString, {}, {}, {}};
        while (peek() != '"') {
            if (peek() < 0x20) return std::nullopt;
            if (eat('\\')) {
                if (peek() < 0x20) return std::nullopt;
                made.text += '?';
                ++at_;
            } else if (!code_point(made.text)) {
                return std::nullopt;
            }
        }
        eat('"');
        return made;
    }

    // One code point: decoded, and encoded again to see that it had its shortest form.
    bool code_point(std::string& to) {
        const unsigned first = static_cast<unsigned>(peek());
        const unsigned more = first < 0x80 ? 0 : first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
        if (first >= 0x80 && first < 0xC0) return false;
        if (first >= 0xF8 || at_ + more >= text_.size()) return false;
        unsigned point = more == 0 ? first : first & (0x3Fu >> more);
        for (unsigned i = 1; i <= more; ++i) {
            const unsigned next = static_cast<unsigned char>(text_[at_ + i]);
            if ((next & 0xC0u) != 0x80) return false;
            point = point << 6 | (next & 0x3Fu);
        }
        const unsigned needed = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
        if (needed != more || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
        to += text_.substr(at_, more + 1);
        at_ += more + 1;
        return true;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    int depth_ = 0;
};

// The registers of one row: numbers by register, categories as text or nothing.
struct Row {
    std::vector<double> numbers;
    std::vector<std::optional<std::string>> texts;
};

bool slow_number(const Value& value, double& to) {
    switch (value.type) {
        case Value::kNull: to = std::nan(""); return true;
        case Value::kTrue: to = 1.0; return true;
        case Value::kFalse: to = 0.0; return true;
        case Value::kNumber: to = std::strtod(value.text.c_str(), nullptr); return std::isfinite(to);
        default: return false;
    }
}

bool slow_input(const JsonRows::Input& input, const Value& value, Row& row) {
    if (input.kind == InputKind::kNumber) return slow_number(value, row.numbers[input.at]);
    if (input.kind == InputKind::kCategory) {
        if (value.type == Value::kNull) row.texts[input.at].reset();
        else if (value.type == Value::kString || value.type == Value::kNumber) row.texts[input.at] = value.text;
        else return false;
        return value.type != Value::kNumber || value.text.find_first_of(".eE") == std::string::npos;
    }
    if (input.kind != InputKind::kVector) return false;
    for (std::uint32_t i = 0; i < input.size; ++i) row.numbers[input.at + i] = std::nan("");
    if (value.type == Value::kNull) return true;
    if (value.type != Value::kArray || value.elements.size() != input.size) return false;
    for (std::uint32_t i = 0; i < input.size; ++i) {
        if (!slow_number(value.elements[i], row.numbers[input.at + i])) return false;
    }
    return true;
}

// The row that the text means, or nothing.
std::optional<Row> slow_row(const std::vector<JsonRows::Input>& inputs, bool refuse_missing, std::string_view text) {
    const std::optional<Value> found = SlowReader(text).document();
    if (!found) return std::nullopt;
    std::map<std::string, const Value*> by_name;  // the last of equal names
    if (found->type == Value::kObject) {
        for (std::size_t i = 0; i < found->names.size(); ++i) by_name[found->names[i]] = &found->elements[i];
    } else if (found->type == Value::kArray && found->elements.size() == inputs.size()) {
        for (std::size_t i = 0; i < inputs.size(); ++i) by_name[inputs[i].name] = &found->elements[i];
    } else {
        return std::nullopt;
    }
    Row row{std::vector<double>(16, std::nan("")), std::vector<std::optional<std::string>>(4)};
    for (const JsonRows::Input& input : inputs) {
        const auto place = by_name.find(input.name);
        if (place == by_name.end()) {
            if (refuse_missing) return std::nullopt;
            continue;
        }
        if (!slow_input(input, *place->second, row)) return std::nullopt;
    }
    return row;
}

std::vector<JsonRows::Input> schema_of(unsigned choice) {
    std::vector<JsonRows::Input> inputs = {
        {"x", InputKind::kNumber, 0, 1},           {"c", InputKind::kCategory, 0, 1},
        {"v", InputKind::kVector, 1, 2},           {"a name of more than sixteen bytes", InputKind::kNumber, 3, 1},
        {"d\xc3\xa4", InputKind::kCategory, 1, 1},
    };
    if (choice & 1u) inputs.push_back({"at", InputKind::kTimestamp, 4, 1});
    if (choice & 2u) inputs.resize(3);
    return inputs;
}

bool same(double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const unsigned choice = data[0];
    const std::size_t off = choice >> 2 & 7;
    const bool refuse_missing = (choice & 32u) != 0;
    const std::vector<JsonRows::Input> inputs = schema_of(choice);
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::unique_ptr<char[]> memory(new char[off + text.size()]);
    std::memcpy(memory.get() + off, text.data(), text.size());
    const char* const start = memory.get() + off;

    JsonRows rows(inputs, refuse_missing);
    std::vector<double> numbers(16, -7.0);
    std::vector<Text> texts(4, Text{"(untouched)", 11});
    if (!rows.read(start, text.size(), numbers.data(), texts.data())) return 0;

    const std::optional<Row> expected = slow_row(inputs, refuse_missing, text);
    if (!expected) fail("the quick one accepts a row that is none");
    for (const JsonRows::Input& input : inputs) {
        if (input.kind != InputKind::kCategory) {
            for (std::uint32_t i = input.at; i < input.at + input.size; ++i) {
                if (!same(numbers[i], expected->numbers[i])) fail("a number");
            }
            continue;
        }
        const Text got = texts[input.at];
        const std::optional<std::string>& wanted = expected->texts[input.at];
        if ((got.data == nullptr) == wanted.has_value()) fail("a missing category");
        if (!wanted) continue;
        if (got.data < start || got.data + got.size > start + text.size()) fail("a category outside the row");
        if (std::string_view(got.data, got.size) != *wanted) fail("a category");
    }
    return 0;
}
