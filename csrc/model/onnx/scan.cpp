// Walks the protobuf bytes of an ONNX model and lists the files that its tensors refer to.
//
// It runs before ONNX Runtime sees the model, because ONNX Runtime would open those paths: a model from elsewhere must
// not choose a file of this machine.
#include <array>
#include <optional>
#include <string_view>

#include "base/assert.hpp"
#include "model/onnx/onnx.hpp"

namespace engine::onnx {
namespace {

enum class Message {
    model,
    training,
    function,
    graph,
    node,
    attribute,
    sparse,
    tensor,
    entry_property,  // StringStringEntryProto, of the model's metadata
    entry_external,  // the same type, of a tensor kept elsewhere
};

struct Child {
    Message parent;
    uint32_t field;
    Message child;
};

// The fields of onnx.proto that lead to a tensor or to metadata; every other field is stepped over.
constexpr std::array children{
    Child{Message::model, 7, Message::graph},          Child{Message::model, 14, Message::entry_property},
    Child{Message::model, 20, Message::training},      Child{Message::model, 25, Message::function},
    Child{Message::training, 1, Message::graph},       Child{Message::training, 2, Message::graph},
    Child{Message::function, 7, Message::node},        Child{Message::function, 11, Message::attribute},
    Child{Message::graph, 1, Message::node},           Child{Message::graph, 5, Message::tensor},
    Child{Message::graph, 15, Message::sparse},        Child{Message::node, 5, Message::attribute},
    Child{Message::attribute, 5, Message::tensor},     Child{Message::attribute, 6, Message::graph},
    Child{Message::attribute, 10, Message::tensor},    Child{Message::attribute, 11, Message::graph},
    Child{Message::attribute, 22, Message::sparse},    Child{Message::attribute, 23, Message::sparse},
    Child{Message::sparse, 1, Message::tensor},        Child{Message::sparse, 2, Message::tensor},
    Child{Message::tensor, 13, Message::entry_external},
};

std::optional<Message> child_of(Message parent, uint32_t field) {
    for (const Child& known : children) {
        if (known.parent == parent && known.field == field) return known.child;
    }
    return std::nullopt;
}

// protobuf's own parsers stop at this depth, so no model that loads is nested deeper.
constexpr int depth_max = 100;

class Walker {
public:
    Walker(std::span<const std::byte> bytes, Contents& contents) : bytes_(bytes), contents_(contents) {}

    bool walk(Message message, size_t begin, size_t end, int depth) {
        ENGINE_ASSERT(begin <= end && end <= bytes_.size(), "a message lies inside the bytes");
        if (depth > depth_max) return fail(begin, "messages nested too deep");
        Entry entry;
        size_t at = begin;
        while (at < end) {
            uint64_t tag = 0;
            if (!varint(at, end, tag)) return false;
            const uint64_t field = tag >> 3;
            if (field == 0 || field > 0x1fffffff) return fail(at, "a field number out of range");
            ENGINE_ASSERT(at <= end, "no read goes past the message");
            if ((tag & 7) == 2) {
                uint64_t length = 0;
                if (!varint(at, end, length)) return false;
                if (length > end - at) return fail(at, "a field that runs past its end");
                if (!enter(message, static_cast<uint32_t>(field), at, at + length, depth, entry)) return false;
                at += length;
            } else if (!step_over(tag & 7, at, end)) {
                return false;
            }
        }
        return keep(message, entry);
    }

    bool saw_graph = false;
    Error error;

private:
    struct Entry {
        std::string_view key, value;
    };

    bool enter(Message message, uint32_t field, size_t begin, size_t end, int depth, Entry& entry) {
        if (message == Message::entry_property || message == Message::entry_external) {
            const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + begin, end - begin);
            if (field == 1) entry.key = text;
            if (field == 2) entry.value = text;
            return true;
        }
        const std::optional<Message> child = child_of(message, field);
        if (!child) return true;
        if (*child == Message::graph) saw_graph = true;
        return walk(*child, begin, end, depth + 1);
    }

    bool keep(Message message, const Entry& entry) {
        if (message == Message::entry_property) contents_.properties.emplace_back(entry.key, entry.value);
        if (message == Message::entry_external && entry.key == "location") contents_.external.emplace_back(entry.value);
        return true;
    }

    bool step_over(uint64_t wire, size_t& at, size_t end) {
        uint64_t ignored = 0;
        if (wire == 0) return varint(at, end, ignored);
        const size_t size = wire == 1 ? 8 : wire == 5 ? 4 : 0;
        if (size == 0) return fail(at, "a wire type that ONNX does not use");
        if (size > end - at) return fail(at, "a field that runs past its end");
        at += size;
        return true;
    }

    bool varint(size_t& at, size_t end, uint64_t& value) {
        for (unsigned shift = 0; shift < 70 && at < end; shift += 7) {
            const uint64_t byte = std::to_integer<uint64_t>(bytes_[at++]);
            if (shift < 64) value |= (byte & 0x7f) << shift;
            if (byte < 0x80) return true;
        }
        return fail(at, "a number that does not end");
    }

    bool fail(size_t at, const char* what) {
        error = {Fault::model, std::string(what) + " at byte " + std::to_string(at) + " of " +
                                   std::to_string(bytes_.size())};
        return false;
    }

    std::span<const std::byte> bytes_;
    Contents& contents_;
};

}  // namespace

bool scan(std::span<const std::byte> model, Contents& contents, Error& error) {
    Walker walker(model, contents);
    if (!walker.walk(Message::model, 0, model.size(), 0)) {
        error = walker.error;
        return false;
    }
    if (!walker.saw_graph) {
        error = {Fault::model, "no graph in its " + std::to_string(model.size()) + " bytes"};
        return false;
    }
    return true;
}

}  // namespace engine::onnx
