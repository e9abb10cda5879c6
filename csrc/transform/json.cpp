// The reader of JSON rows. The grammar is RFC 8259. Every take_* function returns false where it gives up.
#include "transform/json.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/assert.hpp"
#include "transform/math.hpp"
#include "transform/table.hpp"

namespace engine::transform {

// The text that is left to read, front first.
struct JsonRows::Bytes {
    const char* at;
    const char* end;

    bool done() const noexcept { return at == end; }
    bool starts(char c) const noexcept { return at != end && *at == c; }

    void skip_space() noexcept {
        while (at != end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) ++at;
    }

    bool take(char c) noexcept {
        if (!starts(c)) return false;
        ++at;
        return true;
    }

    template <std::size_t kSize>
    bool take_word(const char (&word)[kSize]) noexcept {
        constexpr std::size_t n = kSize - 1;
        if (static_cast<std::size_t>(end - at) < n || std::memcmp(at, word, n) != 0) return false;
        at += n;
        return true;
    }
};

namespace {

using Bytes = JsonRows::Bytes;

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

// Well-formed UTF-8 by table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF. The
// first byte tells the length of a sequence, and the range of the second byte; later bytes are 80 to BF.
bool is_utf8(const char* at, const char* end) noexcept {
    const auto byte = [&](std::ptrdiff_t i) { return static_cast<unsigned char>(at[i]); };
    while (at != end) {
        const unsigned first = byte(0);
        if (first < 0x80) {
            ++at;
            continue;
        }
        const std::ptrdiff_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
        if (first < 0xC2 || first > 0xF4 || end - at < size) return false;         // C0, C1: overlong; F5 on: too large
        const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;   // below: overlong
        const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;  // above: a surrogate, too large
        if (byte(1) < low || byte(1) > high) return false;
        for (std::ptrdiff_t i = 2; i < size; ++i) {
            if ((byte(i) & 0xC0u) != 0x80) return false;
        }
        at += size;
        ENGINE_ASSERT(at <= end, "a sequence ends inside its text");
    }
    return true;
}

// A string, from behind its first quote. Gives up at an escape, because the text would have to be rewritten.
bool take_string(Bytes& in, Text& text) noexcept {
    const char* const start = in.at;
    unsigned char seen = 0;
    for (; in.at != in.end && *in.at != '"'; ++in.at) {
        const auto c = static_cast<unsigned char>(*in.at);
        if (c < 0x20 || c == '\\') return false;
        seen |= c;
    }
    if (in.done() || (seen >= 0x80 && !is_utf8(start, in.at))) return false;
    ENGINE_ASSERT(start <= in.at && in.at < in.end, "a string ends at a quote inside the row");
    text = {start, static_cast<std::size_t>(in.at - start)};
    ++in.at;
    return true;
}

// A number. Sets `whole` where it is an integer of at most 18 digits, which int64 holds. Gives up at the integer -0,
// because some libraries read it as 0 and some as -0.0.
bool take_number(Bytes& in, double& value, bool& whole) noexcept {
    const char* const start = in.at;
    const bool negative = in.take('-');
    const char* const digits = in.at;
    std::int64_t integer = 0;
    for (; !in.done() && is_digit(*in.at); ++in.at) {
        if (in.at - digits < 18) integer = integer * 10 + (*in.at - '0');
    }
    const std::ptrdiff_t n = in.at - digits;
    if (n == 0 || (n > 1 && *digits == '0')) return false;
    if (in.done() || (*in.at != '.' && (*in.at | 0x20) != 'e')) {
        whole = n <= 18;
        if (negative && integer == 0) return false;
        if (whole) {
            value = static_cast<double>(negative ? -integer : integer);
            return true;
        }
    } else {
        whole = false;
        if (in.take('.')) {
            if (in.done() || !is_digit(*in.at)) return false;
            while (!in.done() && is_digit(*in.at)) ++in.at;
        }
        if (!in.done() && (*in.at | 0x20) == 'e') {
            ++in.at;
            if (!in.take('-')) in.take('+');
            if (in.done() || !is_digit(*in.at)) return false;
            while (!in.done() && is_digit(*in.at)) ++in.at;
        }
    }
    // Rounds to nearest, as Python's float does. Gives up at a number out of range.
    ENGINE_ASSERT(start < in.at && in.at <= in.end, "a number lies inside the row");
    const auto found = std::from_chars(start, in.at, value);
    return found.ec == std::errc{} && found.ptr == in.at;
}

// The value of a number input: a number, null, true or false.
bool take_number_value(Bytes& in, double& value) noexcept {
    bool whole;
    if (in.done()) return false;
    switch (*in.at) {
        case 'n': value = kNaN; return in.take_word("null");
        case 't': value = 1.0; return in.take_word("true");
        case 'f': value = 0.0; return in.take_word("false");
        default: return take_number(in, value, whole);
    }
}

// The value of a category: a string, null, or an integer, whose digits are the category.
bool take_text_value(Bytes& in, Text& text) noexcept {
    if (in.take('"')) return take_string(in, text);
    if (in.starts('n')) {
        text = {nullptr, 0};
        return in.take_word("null");
    }
    const char* const start = in.at;
    double value;
    bool whole = false;
    if (!take_number(in, value, whole) || !whole) return false;
    text = {start, static_cast<std::size_t>(in.at - start)};
    return true;
}

// The value of a vector: null, or an array of exactly `size` numbers.
bool take_vector_value(Bytes& in, std::uint32_t size, double* to) noexcept {
    if (in.starts('n')) {
        std::fill_n(to, size, kNaN);
        return in.take_word("null");
    }
    if (!in.take('[')) return false;
    for (std::uint32_t i = 0; i < size; ++i) {
        if (i > 0 && !in.take(',')) return false;
        in.skip_space();
        if (!take_number_value(in, to[i])) return false;
        in.skip_space();
    }
    return in.take(']');
}

// The value of an unknown key. Gives up at an array or an object, because its depth has no bound.
bool skip_value(Bytes& in) noexcept {
    Text text;
    double value;
    return in.take('"') ? take_string(in, text) : take_number_value(in, value);
}

}  // namespace

JsonRows::JsonRows(std::vector<Input> inputs, bool refuse_missing)
    : inputs_(std::move(inputs)), seen_(inputs_.size(), 0), refuse_missing_(refuse_missing) {
    std::vector<std::string> names;
    std::vector<double> places;
    for (const Input& input : inputs_) {
        names.push_back(input.name);
        places.push_back(static_cast<double>(places.size()));
    }
    places_ = std::make_unique<Table>(names, places);
    ENGINE_ASSERT(places_->size() == inputs_.size() && seen_.size() == inputs_.size(), "every input has a place");
}

JsonRows::~JsonRows() = default;

// The index of the input with this name, or -1. Clients write their keys in one order, so the next key is mostly the
// expected one, and one comparison finds it.
std::int64_t JsonRows::find(Text key, std::size_t expected) const noexcept {
    if (expected < inputs_.size()) {
        const std::string& name = inputs_[expected].name;
        if (name.size() == key.size && std::memcmp(name.data(), key.data, key.size) == 0) {
            return static_cast<std::int64_t>(expected);
        }
    }
    return places_->find(key);
}

bool JsonRows::take_value(Bytes& in, const Input& input, double* numbers, Text* texts) noexcept {
    switch (input.kind) {
        case InputKind::kNumber: return take_number_value(in, numbers[input.at]);
        case InputKind::kCategory: return take_text_value(in, texts[input.at]);
        case InputKind::kVector: return take_vector_value(in, input.size, numbers + input.at);
        default: return false;  // a timestamp
    }
}

// The members of an object, from behind its brace. Inputs that it lacks are missing.
bool JsonRows::take_object(Bytes& in, double* numbers, Text* texts) noexcept {
    std::size_t expected = 0, found = 0;
    std::fill(seen_.begin(), seen_.end(), std::uint8_t{0});
    in.skip_space();
    for (bool more = !in.starts('}'); more; more = in.take(',')) {
        Text key;
        in.skip_space();
        if (!in.take('"') || !take_string(in, key)) return false;
        in.skip_space();
        if (!in.take(':')) return false;
        in.skip_space();
        const std::int64_t place = find(key, expected);
        if (place < 0) {
            if (!skip_value(in)) return false;
        } else {
            const auto input = static_cast<std::size_t>(place);
            ENGINE_ASSERT(input < inputs_.size(), "a name that is found belongs to an input");
            // If a key comes twice, the last value counts, as in every JSON library.
            if (!take_value(in, inputs_[input], numbers, texts)) return false;
            found += seen_[input] == 0;
            seen_[input] = 1;
            expected = input + 1;
        }
        in.skip_space();
    }
    ENGINE_ASSERT(found <= inputs_.size(), "each input is counted once");
    if (found < inputs_.size()) {
        if (refuse_missing_) return false;
        clear_unseen(numbers, texts);
    }
    return in.take('}');
}

void JsonRows::clear_unseen(double* numbers, Text* texts) const noexcept {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
        const Input& input = inputs_[i];
        if (seen_[i]) continue;
        if (input.kind == InputKind::kCategory) texts[input.at] = {nullptr, 0};
        else std::fill_n(numbers + input.at, input.size, kNaN);
    }
}

// The elements of an array, from behind its bracket: one value for each input, in input order.
bool JsonRows::take_array(Bytes& in, double* numbers, Text* texts) noexcept {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
        if (i > 0 && !in.take(',')) return false;
        in.skip_space();
        if (!take_value(in, inputs_[i], numbers, texts)) return false;
        in.skip_space();
    }
    return in.take(']');
}

bool JsonRows::read(const char* data, std::size_t size, double* numbers, Text* texts) noexcept {
    Bytes in{data, data + size};
    in.skip_space();
    const bool read = in.take('{')   ? take_object(in, numbers, texts)
                      : in.take('[') ? take_array(in, numbers, texts)
                                     : false;
    in.skip_space();
    ENGINE_ASSERT(in.at >= data && in.at <= in.end, "the reader stays inside the row");
    return read && in.done();
}

}  // namespace engine::transform
