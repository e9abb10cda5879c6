// A model on a GPU: graphs captured once, then batches begun and polled without blocking and without the GIL.
//
// A lane is a stream, page-locked memory for one batch, and one graph for each bucket of rows (1, 2, 4, … the most). A
// batch takes a free lane, is written into the lane's memory, and one call launches the graph of its bucket:
//
//     copy in (or nothing: kernels read small batches over the bus) → body → copy out → the token
//
// The last kernel of the graph writes the batch's token to a word of host memory. So completion costs a load, not a
// call, and the driver is asked only once an answer is overdue.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu/batch.hpp"
#include "gpu/device.hpp"

namespace engine::gpu {

// Where one captured batch lies.
struct Batch {
    std::uint32_t rows;     // of the bucket; how many are real is in the control block
    DevicePointer control;  // a Control
    DevicePointer in;       // [rows][n_features], float32, or double where the options say so
    DevicePointer out;      // double [rows][n_outputs]
    DevicePointer scratch;  // scratch_bytes of the lane's own, 0 where there are none
};

// What is captured. enqueue() puts the model's work for one batch on `stream`, and nothing else; it is called once to
// warm up and once for each bucket and lane while the stream captures, always by one thread at a time. 0, or a driver
// result. release() is called when no graph refers to the body any more.
struct Body {
    void* ctx = nullptr;
    Result (*enqueue)(void* ctx, Stream stream, const Batch& batch) = nullptr;
    void (*release)(void* ctx) = nullptr;
};

struct PipelineOptions {
    std::uint32_t n_features = 0;
    std::uint32_t n_outputs = 1;
    std::uint32_t rows_max = 64;    // of one batch
    std::uint32_t lanes = 2;        // batches in flight, up to Pipeline::LANES_MAX
    bool float64_rows = false;      // rows lie in double on the device; rows in float32 are widened
    std::size_t scratch_bytes = 0;  // of device memory, for each lane
    // Batches of up to so many bytes are not copied: kernels read and write host memory over the bus.
    std::size_t mapped_bytes_max = 64 * 1024;
    // An answer that is overdue by this much: ask the driver whether the device still lives.
    std::int64_t ask_after_ns = 200'000;
    // How long the destructor waits for batches in flight. After that their memory is left behind.
    std::int64_t close_patience_ns = 1'000'000'000;
};

class Pipeline {
public:
    static constexpr std::uint32_t LANES_MAX = 64;
    // Tickets are smaller.
    static constexpr std::uint32_t TICKETS = 1u << 31;

    // Allocates and captures everything. Null, with the reason in `error`; then the body is released and nothing of the
    // device is kept. `publish` is the kernel of that name.
    static std::unique_ptr<Pipeline> make(std::shared_ptr<Device> device, const PipelineOptions& options,
                                          const Body& body, Function publish, std::string* error);
    ~Pipeline();
    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    // Hot, any thread, never waits for the device. Copies n rows (`stride` values from row to row) and launches them:
    // ENGINE_SCORE_OK with *ticket, ENGINE_SCORE_BUSY where every lane is taken, ENGINE_SCORE_FAILED. Rows in double
    // are for a pipeline of float64_rows alone.
    int begin(const float* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    int begin(const double* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    // Hot, one thread a ticket. ENGINE_SCORE_PENDING; or the batch's status, and the ticket is then spent. Answers are
    // in `out` (double [n][n_outputs]) where that is ENGINE_SCORE_OK; `out` is null for an abandoned ticket.
    int poll(std::uint32_t ticket, double* out) noexcept;
    // Nobody waits for the ticket any more. Its lane is free again once the device is through with the batch, whether
    // or not anybody polls for that.
    void abandon(std::uint32_t ticket) noexcept;
    // The rows of a ticket that poll() has just given ENGINE_SCORE_FAILED, dense, in the device's type: its lane is the
    // device's for ever, and nobody else writes there.
    const std::byte* failed_rows(std::uint32_t ticket, std::uint32_t* n_rows) const noexcept;
    // Begins and polls until `deadline_ns` of the monotonic clock; ENGINE_SCORE_OUT_OF_TIME after that. More rows than
    // a batch holds go in several.
    int score_until(const float* rows, std::size_t n, std::size_t stride, double* out,
                    std::int64_t deadline_ns) noexcept;
    int score_until(const double* rows, std::size_t n, std::size_t stride, double* out,
                    std::int64_t deadline_ns) noexcept;

    std::uint32_t free_lanes() noexcept;
    std::uint64_t launched() const noexcept { return launched_.load(std::memory_order_relaxed); }
    // Device memory of all lanes together.
    std::size_t device_bytes() const noexcept;
    const PipelineOptions& options() const noexcept { return options_; }
    Device& device() noexcept { return *device_; }

private:
    enum LaneState : int { IDLE, IN_FLIGHT, ABANDONED };
    struct alignas(64) Lane {
        Stream stream = nullptr;
        std::byte* in = nullptr;                      // host: Control, then rows
        std::byte* out = nullptr;                     // host: the token in a line of its own, then answers
        DevicePointer in_mapped = 0, out_mapped = 0;  // the same memory, as the device addresses it
        DevicePointer in_device = 0, out_device = 0;  // copies in device memory; 0 where every bucket is mapped
        DevicePointer scratch = 0;
        std::vector<GraphExec> graphs;  // by bucket
        // Written by whoever holds the lane, read by any thread that looks whether an abandoned one is through.
        std::atomic<std::uint32_t> token{0};
        std::uint32_t n_rows = 0;
        std::int64_t begun_ns = 0;
        std::int64_t ask_ns = 0;
        std::atomic<int> state{IDLE};
    };

    Pipeline(std::shared_ptr<Device> device, const PipelineOptions& options, const Body& body, Function publish);
    bool build(std::string* error);
    bool allocate(Lane& lane, std::string* error);
    bool capture(Lane& lane, std::uint32_t rows, std::string* error);
    Result record(Lane& lane, std::uint32_t rows) noexcept;
    std::size_t staged_bytes(std::uint32_t rows) const noexcept;
    std::size_t answer_bytes(std::uint32_t rows) const noexcept;
    bool is_mapped(const Lane& lane, std::uint32_t rows) const noexcept;
    Lane* take_lane(std::uint32_t* number) noexcept;
    template <class Row>
    int begin_rows(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept;
    template <class Row>
    int score_rows(const Row* rows, std::size_t n, std::size_t stride, double* out, std::int64_t deadline_ns) noexcept;
    int wait(std::uint32_t ticket, double* out, std::int64_t deadline_ns) noexcept;
    template <class Row>
    void stage(Lane& lane, const Row* rows, std::size_t n, std::size_t stride) noexcept;
    static std::uint32_t ticket_of(std::uint32_t lane, std::uint32_t token) noexcept {
        return (token * LANES_MAX + lane) % TICKETS;
    }
    int poll_abandoned(std::uint32_t ticket) noexcept;
    int ask(Lane& lane) noexcept;
    bool published(const Lane& lane) const noexcept;
    void reclaim(Lane& lane) noexcept;
    bool all_through() noexcept;

    std::shared_ptr<Device> device_;
    PipelineOptions options_;
    Body body_;
    Function publish_;
    std::vector<std::uint32_t> buckets_;  // rows, ascending
    std::unique_ptr<Lane[]> lanes_;
    std::size_t claimed_bytes_ = 0;
    std::atomic<std::uint64_t> launched_{0};
};

}  // namespace engine::gpu
