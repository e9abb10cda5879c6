// The scan of an ONNX file before ONNX Runtime sees it: any bytes are read to their end or refused, never out of bounds.
#include <cstddef>
#include <cstdint>
#include <span>

#include "model/onnx/onnx.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    engine::onnx::Contents contents;
    engine::onnx::Error error;
    engine::onnx::scan({reinterpret_cast<const std::byte*>(data), size}, contents, error);
    return 0;
}
