// The walk over a model's bytes, on models written out here, cut short everywhere and damaged at random; and libraries
// that are none. Scoring itself needs the real library and is tested from Python.
#include <random>
#include <string>

#include "model/onnx/onnx.hpp"
#include "tests/check.hpp"

using namespace engine::onnx;

namespace {

std::string varint(uint64_t value) {
    std::string text;
    for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
    return text + static_cast<char>(value);
}

std::string field(uint32_t number, const std::string& content) {
    return varint(number << 3 | 2) + varint(content.size()) + content;
}

std::string number(uint32_t field_number, uint64_t value) { return varint(field_number << 3) + varint(value); }

std::string entry(const std::string& key, const std::string& value) { return field(1, key) + field(2, value); }

std::string external_tensor(const std::string& location) {
    return field(8, "weights") + number(14, 1) + field(13, entry("offset", "0")) +
           field(13, entry("location", location));
}

// One tensor in the graph, one in a node's attribute, one in the subgraph of an attribute, one in a sparse tensor.
std::string whole_model() {
    const std::string attribute = field(1, "value") + field(5, external_tensor("b"));
    const std::string branch = field(1, "branch") + field(6, field(5, external_tensor("c")));
    const std::string node = field(4, "Op") + field(5, attribute) + field(5, branch);
    const std::string graph =
        field(1, node) + field(5, external_tensor("a")) + field(15, field(1, external_tensor("d")));
    return number(1, 8) + field(7, graph) + field(14, entry("feature_names", "[]"));
}

bool scan_text(const std::string& text, Contents& contents, Error& error) {
    return scan(std::as_bytes(std::span(text)), contents, error);
}

bool refused(const std::string& text) {
    Contents contents;
    Error error;
    return !scan_text(text, contents, error) && error.fault == Fault::model && !error.text.empty();
}

}  // namespace

TEST(every_tensor_and_property_is_found) {
    Contents contents;
    Error error;
    CHECK(scan_text(whole_model(), contents, error));
    CHECK((contents.external == std::vector<std::string>{"b", "c", "a", "d"}));
    CHECK(contents.properties.size() == 1);
    CHECK(contents.properties.front().first == "feature_names" && contents.properties.front().second == "[]");
}

TEST(no_cut_through_a_field_of_the_model_passes) {
    const std::string text = whole_model();
    const size_t before_properties = text.size() - field(14, entry("feature_names", "[]")).size();
    for (size_t size = 0; size < text.size(); ++size) {
        // Between two fields of the outermost message a cut leaves a shorter model, which nobody can tell.
        CHECK(refused(text.substr(0, size)) == (size != before_properties));
    }
}

TEST(damage_never_reads_outside_the_bytes) {
    const std::string whole = whole_model();
    std::mt19937 random(20240917);
    for (int round = 0; round < 20'000; ++round) {
        std::string text = whole;
        for (int hit = 0; hit < 1 + round % 4; ++hit) text[random() % text.size()] = static_cast<char>(random());
        // A copy of exactly its size on the heap, so that the sanitizer sees one byte too many.
        const std::vector<char> bytes(text.begin(), text.end());
        Contents contents;
        Error error;
        const bool passed = scan(std::as_bytes(std::span(bytes)), contents, error);
        CHECK(passed == error.text.empty());
    }
}

TEST(what_is_no_model_is_refused) {
    CHECK(refused(""));
    CHECK(refused(number(1, 8)));                                // no graph
    CHECK(refused(std::string("\x08")));                         // a number that is missing
    CHECK(refused(std::string(12, '\xff')));                     // a number that does not end
    CHECK(refused(std::string("\x00\x00", 2)));                  // field number 0
    CHECK(refused(std::string("\x3a\xff\xff\xff\xff\x0f", 6)));  // a graph of 4 GiB
    CHECK(refused(field(7, "") + std::string("\x0b")));          // a group
}

TEST(nesting_is_bounded) {
    std::string graph = field(5, external_tensor("deep"));
    for (int level = 0; level < 30; ++level) graph = field(1, field(5, field(6, graph)));
    Contents contents;
    Error error;
    CHECK(scan_text(field(7, graph), contents, error));
    CHECK((contents.external == std::vector<std::string>{"deep"}));
    for (int level = 0; level < 10'000; ++level) graph = field(1, field(5, field(6, graph)));
    CHECK(refused(field(7, graph)));
}

TEST(a_library_that_is_none_is_named) {
    for (const char* path : {"/nowhere/libonnxruntime.so.1", "libc.so.6"}) {
        Error error;
        CHECK(library_version(path, error).empty());
        CHECK(error.fault == Fault::library);
        CHECK(error.text.find(path) != std::string::npos);
        Error again;
        CHECK(Session::from_bytes(path, {}, 1, again) == nullptr);
        CHECK(again.fault == Fault::library);
    }
}

CHECK_MAIN()
