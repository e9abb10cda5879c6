// Reads one row of JSON into the registers of a feature program, without a Python object for each value.
//
// It accepts the common shapes: an object of inputs and of unknown keys with plain values, or an array in input order;
// strings without escapes, numbers within the range of a double. It accepts only rows that every JSON library accepts
// with the same meaning. For all other rows, damaged ones included, `read` returns false; the caller then asks a whole
// JSON library, and that library's result or error is the answer. So this reader decides nothing on its own.
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
    struct Input {
        std::string name;    // UTF-8
        InputKind kind;      // a row with a timestamp is left to the library
        std::uint32_t at;    // the first register, among the texts for a category and the numbers for the rest
        std::uint32_t size;  // values a row
    };

    // With `refuse_missing`, a row that lacks a key is left to the library too, because it is an error there.
    JsonRows(std::vector<Input> inputs, bool refuse_missing);
    ~JsonRows();
    JsonRows(const JsonRows&) = delete;
    JsonRows& operator=(const JsonRows&) = delete;

    // Hot: one row. Returns whether it was read; after false the registers hold anything. Texts point into `data`.
    // Reads no byte at or after data + size. One thread at a time.
    bool read(const char* data, std::size_t size, double* numbers, Text* texts) noexcept;

    struct Bytes;  // the text that is left to read; json.cpp

private:
    std::int64_t find(Text key, std::size_t expected) const noexcept;
    bool take_object(Bytes& in, double* numbers, Text* texts) noexcept;
    bool take_array(Bytes& in, double* numbers, Text* texts) noexcept;
    static bool take_value(Bytes& in, const Input& input, double* numbers, Text* texts) noexcept;
    void clear_unseen(double* numbers, Text* texts) const noexcept;

    std::vector<Input> inputs_;
    std::unique_ptr<Table> places_;   // name of an input -> its index
    std::vector<std::uint8_t> seen_;  // one flag for each input: the current row has it
    bool refuse_missing_;
};

}  // namespace engine::transform
