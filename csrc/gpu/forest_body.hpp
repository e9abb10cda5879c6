// A forest in device memory, and the kernels that score it. Answers have the CPU's bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu/device_arrays.hpp"
#include "gpu/forest_view.hpp"
#include "gpu/pipeline.hpp"
#include "model/forest/forest.hpp"

namespace engine::forest {
struct Coded;
struct Symmetric;
struct Wide;
}  // namespace engine::forest

namespace engine::gpu {

class ForestBody {
public:
    // How the trees lie; the kernels of `symmetric` and `codes` read byte codes, those of `wide` codes of 16 bits.
    enum class Trees { best, codes, symmetric, wide };

    // Uploads the forest; `module` holds the kernels. Null, with the reason in `error`, where the forest has no such
    // layout, or does not fit the device; nothing is kept then. Symmetric trees are best, then byte codes.
    static std::unique_ptr<ForestBody> load(std::shared_ptr<Device> device, Module module, const forest::Forest& forest,
                                            Trees trees, std::string* error);
    ForestBody(const ForestBody&) = delete;
    ForestBody& operator=(const ForestBody&) = delete;

    // The body of a pipeline; it keeps a pointer to this object, which must outlive the pipeline.
    Body body() noexcept { return {this, &ForestBody::enqueue, nullptr}; }
    // A pipeline's options but for rows and lanes.
    PipelineOptions options(std::uint32_t rows_max) const noexcept;

    std::size_t device_bytes() const noexcept { return arrays_.bytes(); }
    const char* layout() const noexcept;

    // For tests and benchmarks: threads of a block, and the variant whatever the batch (-1: by its size). The one
    // after the last takes rows past trees that stay in shared memory, where the forest has it.
    unsigned threads = 256;
    int variant = -1;

private:
    struct Variant {
        std::uint32_t rows;  // a block
        Function function;
    };
    // Trees that stay in shared memory: how they are shared out among blocks.
    struct Stationary {
        std::uint32_t trees_a_block = 0;  // 0: this forest cannot
        std::uint32_t words_max = 0;
        const ForestSpan* spans = nullptr;
        Function code = nullptr, trees = nullptr, sum = nullptr;
    };
    explicit ForestBody(std::shared_ptr<Device> device) : device_(device), arrays_(std::move(device)) {}
    bool prepare(const forest::Forest& forest, Trees trees, std::string* error);
    void add_codes(const forest::Coded& coded);
    void add_narrow(const forest::Coded& coded);
    void add_symmetric(const forest::Symmetric& symmetric);
    void add_wide(const forest::Wide& wide);
    bool find_kernels(Module module, std::string* error);
    std::size_t shared_bytes(std::uint32_t rows, std::uint32_t chunk_groups) const noexcept;
    std::uint32_t code_stride() const noexcept;
    bool links_rows() const noexcept;
    std::size_t sum_bytes(std::uint32_t rows) const noexcept;
    std::uint32_t stationary_rows(std::uint32_t rows) const noexcept;
    bool is_stationary(std::uint32_t rows) const noexcept;
    const Variant& variant_for(std::uint32_t rows) const noexcept;
    Result put_rows(Stream stream, const Batch& batch, DevicePointer sums) noexcept;
    Result put_stationary(Stream stream, const Batch& batch, DevicePointer sums) noexcept;
    static Result enqueue(void* ctx, Stream stream, const Batch& batch) noexcept;

    std::shared_ptr<Device> device_;
    DeviceArrays arrays_;
    Trees trees_ = Trees::best;
    std::uint32_t n_features_ = 0, n_answers_ = 0;
    bool float64_rows_ = false;
    // The view of the layout in use; its kernels take it by value. Rows in float32 are read through the same structs.
    ForestView<double> narrow_{};
    SymmetricForestView<double> symmetric_{};
    WideForestView<double> wide_{};
    ForestShape shape_{};
    ForestLink link_{};
    Stationary stationary_;
    std::vector<Variant> variants_;  // rows a block ascending
    Function row_links_ = nullptr;
    unsigned shared_bytes_max_ = 0;
};

}  // namespace engine::gpu
