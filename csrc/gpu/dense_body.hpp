// A dense net in device memory, and the kernels that score it. Answers have the CPU's bits, but for those of a NaN.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/dense_view.hpp"
#include "gpu/device_arrays.hpp"
#include "gpu/pipeline.hpp"
#include "model/dense/dense.hpp"

namespace engine::gpu {

class DenseBody {
public:
    // Uploads the net; `module` holds the kernels. Null, with the reason in `error`, where it has over
    // DENSE_LAYERS_MAX layers, or does not fit the device; nothing is kept then.
    static std::unique_ptr<DenseBody> load(std::shared_ptr<Device> device, Module module, const dense::Dense& net,
                                           std::string* error);
    DenseBody(const DenseBody&) = delete;
    DenseBody& operator=(const DenseBody&) = delete;

    // The body of a pipeline; it keeps a pointer to this object, which must outlive the pipeline.
    Body body() noexcept { return {this, &DenseBody::enqueue, nullptr}; }
    // A pipeline's options but for rows and lanes.
    PipelineOptions options(std::uint32_t rows_max) const noexcept;

    std::size_t device_bytes() const noexcept { return arrays_.bytes(); }

    // For tests and benchmarks: threads of a block, and the variant whatever the batch (-1: by its size).
    unsigned threads = 256;
    int variant = -1;

private:
    struct Variant {
        std::uint32_t rows;  // a block
        Function function;
    };
    explicit DenseBody(std::shared_ptr<Device> device) : device_(device), arrays_(std::move(device)) {}
    template <class T>
    bool prepare(DenseNet<T>& view, const dense::Net<T>& net, std::string* error);
    bool find_kernels(Module module, std::string* error);
    std::size_t shared_bytes(std::uint32_t rows) const noexcept;
    const Variant& variant_for(std::uint32_t rows) const noexcept;
    static Result enqueue(void* ctx, Stream stream, const Batch& batch) noexcept;

    std::shared_ptr<Device> device_;
    DeviceArrays arrays_;
    bool float64_ = false;
    DenseNet<float> single_{};  // one of the two
    DenseNet<double> double_{};
    std::uint32_t n_features_ = 0, n_outputs_ = 0, width_ = 0;
    std::vector<Variant> variants_;  // rows a block ascending
};

}  // namespace engine::gpu
