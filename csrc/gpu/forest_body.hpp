// A coded forest in device memory, and the kernels that score it. Sums of leaves have the CPU's bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu/forest_view.hpp"
#include "gpu/pipeline.hpp"
#include "model/forest/coded.hpp"

namespace engine::gpu {

class ForestBody {
public:
    // Uploads the forest; `module` holds the kernels. Null, with the reason in `error`, and nothing is kept.
    // scale and base: what the forest makes of its sums before the link.
    static std::unique_ptr<ForestBody> load(std::shared_ptr<Device> device, Module module,
                                            std::shared_ptr<const forest::Coded> coded, double scale,
                                            const std::vector<double>& base, std::string* error);
    ~ForestBody();
    ForestBody(const ForestBody&) = delete;
    ForestBody& operator=(const ForestBody&) = delete;

    // The body of a pipeline; it keeps a pointer to this object, which must outlive the pipeline.
    Body body() noexcept { return {this, &ForestBody::enqueue, nullptr}; }

    std::size_t device_bytes() const noexcept { return device_bytes_; }

    // For tests and calibration: threads of a block, and the variant to use whatever the batch (-1: by its size).
    unsigned threads = 256;
    int variant = -1;

private:
    struct Variant {
        std::uint32_t rows;  // a block
        Function function;
    };
    explicit ForestBody(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    bool upload(const forest::Coded& coded, const std::vector<double>& base, std::string* error);
    bool find_kernels(Module module, std::string* error);
    template <class T>
    bool put(const T** at, const std::vector<T>& from, std::string* error);
    static Result enqueue(void* ctx, Stream stream, const Batch& batch) noexcept;
    const Variant& variant_for(std::uint32_t rows) const noexcept;

    std::shared_ptr<Device> device_;
    std::uint32_t n_features_ = 0;
    ForestView view_{};
    ForestLink link_{};
    std::vector<DevicePointer> owned_;
    std::vector<Variant> variants_;  // rows a block ascending
    Function scale_ = nullptr;
    unsigned shared_bytes_max_ = 0;
    std::size_t device_bytes_ = 0;
};

}  // namespace engine::gpu
