// A model on a GPU behind the scorer socket, with the same model on the CPU beside it where there is one.
//
// Both give the same bits, so each batch goes where it is answered sooner, and the CPU answers for a device that failed
// or is lost. A batch that is begun for the CPU is scored at once, and its answers wait for poll().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/scorer.h"
#include "gpu/dense_body.hpp"
#include "gpu/forest_body.hpp"
#include "gpu/pipeline.hpp"

namespace engine::gpu {

// The kernels of the package on one device.
class Kernels {
public:
    // image: a cubin, as it lies in memory. Null, with the reason in `error`.
    static std::shared_ptr<Kernels> load(std::shared_ptr<Device> device, const void* image, std::string* error);
    ~Kernels();
    Kernels(const Kernels&) = delete;
    Kernels& operator=(const Kernels&) = delete;

    const std::shared_ptr<Device>& device() const noexcept { return device_; }
    Module module() const noexcept { return module_; }
    Function publish() const noexcept { return publish_; }
    // Puts on the stream: `count` answers in float32 become doubles. For bodies of other libraries.
    Result widen(Stream stream, DevicePointer from, DevicePointer to, std::uint32_t count) const noexcept;

private:
    explicit Kernels(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    std::shared_ptr<Device> device_;
    Module module_ = nullptr;
    Function publish_ = nullptr, widen_ = nullptr;
};

class DeviceModel {
public:
    // cpu: the same model on the CPU, which is retained; null where there is none. repeats: how often each graph does
    // the work; more than once tells a benchmark the time of the kernels alone. Null, with the reason in `error`.
    static std::unique_ptr<DeviceModel> make(std::shared_ptr<Kernels> kernels, const forest::Forest& forest,
                                             std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
                                             std::uint32_t repeats, std::string* error);
    static std::unique_ptr<DeviceModel> make(std::shared_ptr<Kernels> kernels, const dense::Dense& net,
                                             std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
                                             std::uint32_t repeats, std::string* error);
    // A body of somebody else's; `options` are the pipeline's.
    static std::unique_ptr<DeviceModel> make(std::shared_ptr<Kernels> kernels, const PipelineOptions& options,
                                             const Body& body, std::string* error);
    ~DeviceModel();
    DeviceModel(const DeviceModel&) = delete;
    DeviceModel& operator=(const DeviceModel&) = delete;

    // As engine_scorer says. Blocks while the device works: begins, then polls until the batch is done. Without a
    // deadline a batch has PATIENCE_NS.
    int score(const float* rows, std::size_t n, std::size_t stride, double* out) noexcept;
    int score(const double* rows, std::size_t n, std::size_t stride, double* out) noexcept;
    int score_by_deadline(const float* rows, std::size_t n, std::size_t stride, double* out,
                          std::int64_t deadline_ns) noexcept;
    int score_by_deadline(const double* rows, std::size_t n, std::size_t stride, double* out,
                          std::int64_t deadline_ns) noexcept;
    // As engine_scorer says of begin, poll and abandon. As many batches may be out as there are lanes.
    int begin(const float* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    int begin(const double* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    int poll(std::uint32_t ticket, double* out) noexcept;
    void abandon(std::uint32_t ticket) noexcept;
    // On the device whatever the number of rows, and without the CPU's help.
    int score_there(const float* rows, std::size_t n, std::size_t stride, double* out) noexcept;

    // Batches below so many rows go to the CPU, where there is a model for it. Set before anybody else scores.
    void set_rows_min(std::uint32_t rows) noexcept { rows_min_ = rows; }

    static constexpr std::int64_t PATIENCE_NS = 60'000'000'000;
    Pipeline& pipeline() noexcept { return *pipeline_; }
    const Device& device() const noexcept { return *kernels_->device(); }
    const char* layout() const noexcept { return forest_ ? forest_->layout() : net_ ? "dense" : "body"; }
    std::size_t device_bytes() const noexcept;
    // Calls that the CPU answered because the device did not.
    std::uint64_t rescued() const noexcept { return rescued_.load(std::memory_order_relaxed); }

    // A scorer that owns the model by one reference.
    static engine_scorer scorer(std::unique_ptr<DeviceModel> model);

private:
    explicit DeviceModel(std::shared_ptr<Kernels> kernels) : kernels_(std::move(kernels)) {}
    template <class BodyOf>
    bool open(BodyOf& body, std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
              std::uint32_t repeats, std::string* error);
    static Result enqueue(void* ctx, Stream stream, const Batch& batch) noexcept;
    template <class Row>
    int score_rows(const Row* rows, std::size_t n, std::size_t stride, double* out, std::int64_t deadline_ns) noexcept;
    template <class Row>
    int score_on_cpu(const Row* rows, std::size_t n, std::size_t stride, double* out,
                     std::int64_t deadline_ns) noexcept;
    template <class Row>
    int begin_rows(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    template <class Row>
    int begin_on_cpu(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    template <class Row>
    int score_patiently(const Row* rows, std::size_t n, std::size_t stride, double* out) noexcept;

    std::shared_ptr<Kernels> kernels_;
    std::unique_ptr<ForestBody> forest_;
    std::unique_ptr<DenseBody> net_;
    Body inner_;
    std::uint32_t repeats_ = 1;
    std::unique_ptr<Pipeline> pipeline_;  // after the bodies, which it points to
    engine_scorer cpu_{};
    bool has_cpu_ = false;
    std::uint32_t rows_min_ = 0;
    // Answers of the CPU to batches that were begun, as many as there are lanes.
    struct CpuAnswers {
        std::atomic<bool> taken{false};
        std::uint32_t n_rows = 0;
        std::vector<double> values;
    };
    std::unique_ptr<CpuAnswers[]> cpu_answers_;
    std::atomic<std::uint64_t> rescued_{0};
};

}  // namespace engine::gpu
