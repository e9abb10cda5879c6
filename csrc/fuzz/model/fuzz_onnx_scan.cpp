// The scan of an ONNX file before ONNX Runtime sees it: any bytes are read to their end or refused, never out of
// bounds.
//
// Differential: the finding must not depend on where the bytes lie. Each input is scanned from a copy of exactly its
// size at every offset from 0 to 7 of an aligned block, so that AddressSanitizer sees a read past the end, and then
// behind a copy of itself: appending a model to itself doubles what is found.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "model/onnx/onnx.hpp"

namespace {

struct Found {
    bool whole = false;
    engine::onnx::Contents contents;
    engine::onnx::Error error;
};

Found scan(const std::byte* bytes, std::size_t size) {
    Found found;
    found.whole = engine::onnx::scan({bytes, size}, found.contents, found.error);
    return found;
}

bool same(const Found& a, const Found& b) {
    return a.whole == b.whole && a.error.fault == b.error.fault && a.error.text == b.error.text &&
           a.contents.external == b.contents.external && a.contents.properties == b.contents.properties;
}

void require(bool holds) {
    if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    const Found first = scan(bytes, size);
    require(first.whole == (first.error.fault == engine::onnx::Fault::none));
    require(first.whole == first.error.text.empty());
    for (std::size_t offset = 0; offset < 8; ++offset) {
        const std::unique_ptr<std::byte[]> moved(new std::byte[offset + size]);
        if (size) std::memcpy(moved.get() + offset, bytes, size);
        require(same(first, scan(moved.get() + offset, size)));
    }
    if (!first.whole) return 0;
    const std::unique_ptr<std::byte[]> twice(new std::byte[2 * size]);
    std::memcpy(twice.get(), bytes, size);
    std::memcpy(twice.get() + size, bytes, size);
    const Found both = scan(twice.get(), 2 * size);
    require(both.whole && both.contents.external.size() == 2 * first.contents.external.size() &&
            both.contents.properties.size() == 2 * first.contents.properties.size());
    return 0;
}
