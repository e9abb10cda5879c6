// One JSON row straight into the registers of a feature program, without a Python object a value.
//
// Read are rows as services send them: an object of known keys and of unknown ones with plain values, or an array in
// input order; strings without escapes, numbers within the range of a double. Whatever else there is, damage included, is left to a whole JSON
// library: `read` then says false, and what that library makes of the bytes is the answer. So this reader decides nothing
// on its own: it accepts only what every JSON reader accepts with the same meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transform/program.hpp"

namespace engine::transform {

class JsonRows {
public:
    enum class Kind : std::uint8_t { kNumber, kText, kVector, kOther };

    struct Input {
        std::string name;  // UTF-8
        Kind kind;
        std::uint32_t at;    // the first register, of the numbers or the texts
        std::uint32_t size;  // values a row
    };

    // With `refuse_missing` a row that lacks a key is left to the library as well.
    JsonRows(std::vector<Input> inputs, bool refuse_missing);
    ~JsonRows();
    JsonRows(const JsonRows&) = delete;
    JsonRows& operator=(const JsonRows&) = delete;

    // Hot: one row. Texts point into `data`; no byte at or after data + size is read. Not for two threads at once.
    // After false the registers hold anything.
    bool read(const char* data, std::size_t size, double* numbers, Text* texts) noexcept;

    struct Bytes;  // of the text, in transform_json.cpp

private:
    std::int64_t find(Text key, std::size_t expected) const noexcept;
    bool take_object(Bytes& in, double* numbers, Text* texts) noexcept;
    bool take_array(Bytes& in, double* numbers, Text* texts) noexcept;
    static bool take_value(Bytes& in, const Input& input, double* numbers, Text* texts) noexcept;
    void clear_unseen(double* numbers, Text* texts) const noexcept;

    std::vector<Input> inputs_;
    std::unique_ptr<Table> places_;  // index of each input by name
    std::vector<std::uint8_t> seen_;  // of each input: was in the row at hand
    bool refuse_missing_;
};

}  // namespace engine::transform
