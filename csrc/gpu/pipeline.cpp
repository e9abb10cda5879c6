#include "gpu/pipeline.hpp"

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "base/clock.hpp"
#include "engine/scorer.h"

namespace engine::gpu {

namespace {

constexpr std::size_t LINE = 64;  // of the processor's cache: control and token have one each
static_assert(sizeof(Control) == LINE);

// Flags of the driver's enumerations.
constexpr unsigned HOST_PORTABLE = 1, HOST_MAPPED = 2;
constexpr unsigned STREAM_NON_BLOCKING = 1;
constexpr int CAPTURE_THREAD_LOCAL = 1;

constexpr std::uint32_t HOT_LOOKS = 200;  // polls without giving way, some microseconds

}  // namespace

Pipeline::Pipeline(std::shared_ptr<Device> device, const PipelineOptions& options, const Body& body, Function publish)
    : device_(std::move(device)), options_(options), body_(body), publish_(publish) {
    for (std::uint32_t rows = 1; rows < options_.rows_max; rows *= 2) buckets_.push_back(rows);
    buckets_.push_back(options_.rows_max);
}

std::unique_ptr<Pipeline> Pipeline::make(std::shared_ptr<Device> device, const PipelineOptions& options,
                                         const Body& body, Function publish, std::string* error) {
    ENGINE_ASSERT(options.rows_max > 0 && options.n_features > 0, "a pipeline has rows");
    ENGINE_ASSERT(options.lanes > 0 && options.lanes <= LANES_MAX,
                  "a pipeline has lanes, and their numbers fit tickets");
    std::unique_ptr<Pipeline> made(new Pipeline(std::move(device), options, body, publish));
    return made->build(error) ? std::move(made) : nullptr;
}

bool Pipeline::build(std::string* error) {
    device_->make_current();
    if (!device_->claim(device_bytes(), "the batches in flight", error)) return false;
    claimed_bytes_ = device_bytes();
    lanes_.reset(new Lane[options_.lanes]);
    for (std::uint32_t i = 0; i < options_.lanes; ++i) {
        if (!allocate(lanes_[i], error)) return false;
        for (const std::uint32_t rows : buckets_)
            if (!capture(lanes_[i], rows, error)) return false;
    }
    return true;
}

bool Pipeline::allocate(Lane& lane, std::string* error) {
    const Driver& driver = device_->driver();
    const std::size_t in_bytes = staged_bytes(options_.rows_max);
    const std::size_t out_bytes = answer_bytes(options_.rows_max);
    if (const Result result = driver.cuStreamCreateWithPriority(&lane.stream, STREAM_NON_BLOCKING, 0))
        return failed(driver, "creating a stream", result, error);
    const auto host = [&](std::byte** at, DevicePointer* mapped, std::size_t bytes) {
        void* got = nullptr;
        if (const Result result = driver.cuMemHostAlloc(&got, bytes, HOST_MAPPED | HOST_PORTABLE))
            return failed(driver, std::to_string(bytes) + " bytes of page-locked memory", result, error);
        *at = static_cast<std::byte*>(got);
        std::memset(*at, 0, bytes);
        if (const Result result = driver.cuMemHostGetDevicePointer(mapped, got, 0))
            return failed(driver, "mapping page-locked memory", result, error);
        return true;
    };
    if (!host(&lane.in, &lane.in_mapped, in_bytes) || !host(&lane.out, &lane.out_mapped, out_bytes)) return false;
    const auto device = [&](DevicePointer* at, std::size_t bytes) {
        const Result result = driver.cuMemAlloc(at, bytes);
        return result == SUCCESS || failed(driver, std::to_string(bytes) + " bytes of device memory", result, error);
    };
    if (options_.scratch_bytes > 0 && !device(&lane.scratch, options_.scratch_bytes)) return false;
    if (in_bytes <= options_.mapped_bytes_max) return true;
    return device(&lane.in_device, in_bytes) && device(&lane.out_device, out_bytes);
}

std::size_t Pipeline::device_bytes() const noexcept {
    std::size_t bytes = options_.scratch_bytes;
    if (staged_bytes(options_.rows_max) > options_.mapped_bytes_max)
        bytes += staged_bytes(options_.rows_max) + answer_bytes(options_.rows_max);
    return bytes * options_.lanes;
}

std::size_t Pipeline::staged_bytes(std::uint32_t rows) const noexcept {
    const std::size_t value_bytes = options_.float64_rows ? sizeof(double) : sizeof(float);
    return LINE + std::size_t{rows} * options_.n_features * value_bytes;
}

std::size_t Pipeline::answer_bytes(std::uint32_t rows) const noexcept {
    return LINE + std::size_t{rows} * options_.n_outputs * sizeof(double);
}

bool Pipeline::is_mapped(const Lane& lane, std::uint32_t rows) const noexcept {
    return lane.in_device == 0 || staged_bytes(rows) <= options_.mapped_bytes_max;
}

// Everything that a batch of this bucket needs, on the lane's stream: captured, or run for real to warm up.
Result Pipeline::record(Lane& lane, std::uint32_t rows) noexcept {
    const Driver& driver = device_->driver();
    const bool mapped = is_mapped(lane, rows);
    const DevicePointer in = mapped ? lane.in_mapped : lane.in_device;
    const DevicePointer out = (mapped ? lane.out_mapped : lane.out_device) + LINE;
    if (!mapped)
        if (const Result result = driver.cuMemcpyHtoDAsync(in, lane.in, staged_bytes(rows), lane.stream)) return result;
    if (const Result result = body_.enqueue(body_.ctx, lane.stream, Batch{rows, in, in + LINE, out, lane.scratch}))
        return result;
    if (!mapped)
        if (const Result result =
                driver.cuMemcpyDtoHAsync(lane.out + LINE, out, answer_bytes(rows) - LINE, lane.stream))
            return result;
    DevicePointer control = in, token = lane.out_mapped;
    void* arguments[] = {&control, &token};
    return driver.cuLaunchKernel(publish_, 1, 1, 1, 1, 1, 1, 0, lane.stream, arguments, nullptr);
}

bool Pipeline::capture(Lane& lane, std::uint32_t rows, std::string* error) {
    const Driver& driver = device_->driver();
    const std::string what = " for " + std::to_string(rows) + " rows";
    // Once for real, because what is loaded or allocated at a first launch may not be while a stream captures.
    if (const Result result = record(lane, rows)) return failed(driver, "running the model" + what, result, error);
    if (const Result result = driver.cuStreamSynchronize(lane.stream))
        return failed(driver, "running the model" + what, result, error);
    if (const Result result = driver.cuStreamBeginCapture(lane.stream, CAPTURE_THREAD_LOCAL))
        return failed(driver, "beginning a capture" + what, result, error);
    const Result recorded = record(lane, rows);
    Graph graph = nullptr;
    // On every path, because a stream that goes on capturing is of no use to anybody.
    const Result ended = driver.cuStreamEndCapture(lane.stream, &graph);
    if (recorded != SUCCESS || ended != SUCCESS) {
        if (graph != nullptr) driver.cuGraphDestroy(graph);
        return failed(driver, "capturing the model" + what, recorded != SUCCESS ? recorded : ended, error);
    }
    std::size_t nodes = 0;
    driver.cuGraphGetNodes(graph, nullptr, &nodes);
    const std::size_t own = is_mapped(lane, rows) ? 1 : 3;  // the token, and the copies
    GraphExec exec = nullptr;
    const Result instantiated = driver.cuGraphInstantiate(&exec, graph, 0);
    driver.cuGraphDestroy(graph);
    if (instantiated != SUCCESS) return failed(driver, "instantiating the graph" + what, instantiated, error);
    lane.graphs.push_back(exec);
    // Such a graph would give back whatever lies in the buffers, batch after batch.
    if (nodes <= own) {
        *error = "the model put nothing on the stream while it was captured" + what;
        return false;
    }
    driver.cuGraphUpload(exec, lane.stream);
    if (const Result result = driver.cuStreamSynchronize(lane.stream))
        return failed(driver, "uploading the graph" + what, result, error);
    return true;
}

Pipeline::~Pipeline() {
    device_->make_current();
    // A device that does not come back may still write. What it writes to, and what it reads, is then left behind.
    if (lanes_ != nullptr && !all_through()) return;
    const Driver& driver = device_->driver();
    for (std::uint32_t i = 0; lanes_ != nullptr && i < options_.lanes; ++i) {
        Lane& lane = lanes_[i];
        for (const GraphExec exec : lane.graphs) driver.cuGraphExecDestroy(exec);
        if (lane.scratch != 0) driver.cuMemFree(lane.scratch);
        if (lane.in_device != 0) driver.cuMemFree(lane.in_device);
        if (lane.out_device != 0) driver.cuMemFree(lane.out_device);
        if (lane.in != nullptr) driver.cuMemFreeHost(lane.in);
        if (lane.out != nullptr) driver.cuMemFreeHost(lane.out);
        if (lane.stream != nullptr) driver.cuStreamDestroy(lane.stream);
    }
    if (body_.release != nullptr) body_.release(body_.ctx);
    device_->give_back(claimed_bytes_);
}

bool Pipeline::all_through() noexcept {
    const std::int64_t until = now_ns() + options_.close_patience_ns;
    for (std::uint32_t i = 0; i < options_.lanes; ++i) {
        if (lanes_[i].stream == nullptr) continue;
        while (!device_->lost() && device_->driver().cuStreamQuery(lanes_[i].stream) == NOT_READY) {
            if (now_ns() > until) return false;
            sched_yield();
        }
    }
    return !device_->lost();
}

// Acquire: the device wrote the answers before the token, with a release that is as wide as the system.
bool Pipeline::published(const Lane& lane) const noexcept {
    const auto* word = reinterpret_cast<const std::uint32_t*>(lane.out);
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) == lane.token.load(std::memory_order_relaxed);
}

// An abandoned lane is free once its batch is through: before that the device may still write to its memory.
void Pipeline::reclaim(Lane& lane) noexcept {
    int abandoned = ABANDONED;
    if (lane.state.load(std::memory_order_acquire) == ABANDONED && published(lane))
        lane.state.compare_exchange_strong(abandoned, IDLE, std::memory_order_acq_rel);
}

std::uint32_t Pipeline::free_lanes() noexcept {
    std::uint32_t count = 0;
    for (std::uint32_t i = 0; i < options_.lanes; ++i) {
        reclaim(lanes_[i]);
        count += lanes_[i].state.load(std::memory_order_acquire) == IDLE;
    }
    return count;
}

// The exchange is what makes the lane this thread's; acquire, so that its memory is seen as the last holder left it.
Pipeline::Lane* Pipeline::take_lane(std::uint32_t* number) noexcept {
    for (std::uint32_t i = 0; i < options_.lanes; ++i) {
        Lane& lane = lanes_[i];
        reclaim(lane);
        int idle = IDLE;
        if (!lane.state.compare_exchange_strong(idle, IN_FLIGHT, std::memory_order_acq_rel)) continue;
        *number = i;
        return &lane;
    }
    return nullptr;
}

template <class Row>
void Pipeline::stage(Lane& lane, const Row* rows, std::size_t n, std::size_t stride) noexcept {
    const std::size_t width = options_.n_features;
    std::byte* to = lane.in + LINE;
    if (options_.float64_rows == (sizeof(Row) == sizeof(double))) {
        if (stride == width) std::memcpy(to, rows, n * width * sizeof(Row));
        else
            for (std::size_t r = 0; r < n; ++r)
                std::memcpy(to + r * width * sizeof(Row), rows + r * stride, width * sizeof(Row));
    } else {
        auto* values = reinterpret_cast<double*>(to);
        for (std::size_t r = 0; r < n; ++r)
            for (std::size_t c = 0; c < width; ++c) values[r * width + c] = static_cast<double>(rows[r * stride + c]);
    }
    lane.n_rows = static_cast<std::uint32_t>(n);
    // After 2^32 batches 0 is a token like any other: what counts is that it differs from the last one published.
    lane.token.store(lane.token.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    const Control control{lane.n_rows, lane.token.load(std::memory_order_relaxed)};
    std::memcpy(lane.in, &control, sizeof control);
}

int Pipeline::begin(const float* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    return begin_rows(rows, n, stride, ticket);
}

int Pipeline::begin(const double* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    return options_.float64_rows ? begin_rows(rows, n, stride, ticket) : ENGINE_SCORE_FAILED;
}

template <class Row>
int Pipeline::begin_rows(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    if (device_->lost() || n == 0 || n > options_.rows_max) return ENGINE_SCORE_FAILED;
    std::uint32_t number = 0;
    Lane* lane = take_lane(&number);
    if (lane == nullptr) return ENGINE_SCORE_BUSY;
    device_->make_current();
    stage(*lane, rows, n, stride);
    *ticket = ticket_of(number, lane->token.load(std::memory_order_relaxed));
    lane->begun_ns = now_ns();
    lane->ask_ns = lane->begun_ns + options_.ask_after_ns;
    const auto bucket = std::lower_bound(buckets_.begin(), buckets_.end(), lane->n_rows) - buckets_.begin();
    const Driver& driver = device_->driver();
    if (const Result result = driver.cuGraphLaunch(lane->graphs[static_cast<std::size_t>(bucket)], lane->stream)) {
        // Nothing was launched. An error of the context sticks, and shows again; one of this call alone does not.
        if (driver.cuStreamQuery(lane->stream) == result) device_->lose(result);
        lane->token.store(lane->token.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
        lane->state.store(IDLE, std::memory_order_release);
        return ENGINE_SCORE_FAILED;
    }
    launched_.fetch_add(1, std::memory_order_relaxed);
    return ENGINE_SCORE_OK;
}

int Pipeline::poll(std::uint32_t ticket, double* out) noexcept {
    if (out == nullptr) return poll_abandoned(ticket);
    ENGINE_ASSERT(ticket % LANES_MAX < options_.lanes, "a ticket has the number of a lane");
    Lane& lane = lanes_[ticket % LANES_MAX];
    ENGINE_ASSERT(lane.state.load(std::memory_order_relaxed) == IN_FLIGHT, "a ticket is polled while it is in flight");
    if (!published(lane)) {
        const int status = ask(lane);
        if (status != ENGINE_SCORE_OK) return status;
    }
    std::memcpy(out, lane.out + LINE, std::size_t{lane.n_rows} * options_.n_outputs * sizeof(double));
    lane.state.store(IDLE, std::memory_order_release);
    return ENGINE_SCORE_OK;
}

// Another thread may have found the lane free, and may have begun a batch in it. The driver is asked each time,
// because an abandoned batch is polled rarely, and nobody else may find out that the device is lost.
int Pipeline::poll_abandoned(std::uint32_t ticket) noexcept {
    const std::uint32_t number = ticket % LANES_MAX;
    Lane& lane = lanes_[number];
    reclaim(lane);
    const bool still = lane.state.load(std::memory_order_acquire) == ABANDONED &&
                       ticket_of(number, lane.token.load(std::memory_order_relaxed)) == ticket;
    if (!still || device_->lost()) return ENGINE_SCORE_OUT_OF_TIME;
    device_->make_current();
    const Result result = device_->driver().cuStreamQuery(lane.stream);
    if (result == SUCCESS || result == NOT_READY) return ENGINE_SCORE_PENDING;
    device_->lose(result);
    return ENGINE_SCORE_OUT_OF_TIME;
}

const std::byte* Pipeline::failed_rows(std::uint32_t ticket, std::uint32_t* n_rows) const noexcept {
    const Lane& lane = lanes_[ticket % LANES_MAX];
    ENGINE_ASSERT(lane.state.load(std::memory_order_relaxed) == IN_FLIGHT, "a batch that failed keeps its lane");
    *n_rows = lane.n_rows;
    return lane.in + LINE;
}

// The answer is not there. Asks the driver why, but only once it is overdue, and then ever less often: a call costs a
// microsecond and a lock in the driver.
int Pipeline::ask(Lane& lane) noexcept {
    if (device_->lost()) return ENGINE_SCORE_FAILED;  // the lane is the device's for ever
    const std::int64_t now = now_ns();
    if (now < lane.ask_ns) return ENGINE_SCORE_PENDING;
    lane.ask_ns = now + 2 * (now - lane.begun_ns);
    device_->make_current();
    const Result result = device_->driver().cuStreamQuery(lane.stream);
    if (result == NOT_READY) return ENGINE_SCORE_PENDING;
    if (result == SUCCESS && published(lane)) return ENGINE_SCORE_OK;
    // A graph that ran to its end without publishing says nothing that can be believed.
    device_->lose(result == SUCCESS ? UNKNOWN : result);
    return ENGINE_SCORE_FAILED;
}

void Pipeline::abandon(std::uint32_t ticket) noexcept {
    ENGINE_ASSERT(ticket % LANES_MAX < options_.lanes, "a ticket has the number of a lane");
    lanes_[ticket % LANES_MAX].state.store(ABANDONED, std::memory_order_release);
}

// Polls until the batch's status is there, or the time is over.
int Pipeline::wait(std::uint32_t ticket, double* out, std::int64_t deadline_ns) noexcept {
    int status = ENGINE_SCORE_PENDING;
    for (std::uint32_t looks = 0; (status = poll(ticket, out)) == ENGINE_SCORE_PENDING; ++looks) {
        if (now_ns() >= deadline_ns) {
            abandon(ticket);
            return ENGINE_SCORE_OUT_OF_TIME;
        }
        if (looks > HOT_LOOKS) sched_yield();
    }
    return status;
}

template <class Row>
int Pipeline::score_rows(const Row* rows, std::size_t n, std::size_t stride, double* out,
                         std::int64_t deadline_ns) noexcept {
    for (std::size_t first = 0; first < n; first += options_.rows_max) {
        const std::size_t here = std::min<std::size_t>(n - first, options_.rows_max);
        std::uint32_t ticket = 0;
        int status = ENGINE_SCORE_BUSY;
        while ((status = begin(rows + first * stride, here, stride, &ticket)) == ENGINE_SCORE_BUSY) {
            if (now_ns() >= deadline_ns) return ENGINE_SCORE_OUT_OF_TIME;
            sched_yield();
        }
        if (status == ENGINE_SCORE_OK) status = wait(ticket, out + first * options_.n_outputs, deadline_ns);
        if (status != ENGINE_SCORE_OK) return status;
    }
    return ENGINE_SCORE_OK;
}

int Pipeline::score_until(const float* rows, std::size_t n, std::size_t stride, double* out,
                          std::int64_t deadline_ns) noexcept {
    return score_rows(rows, n, stride, out, deadline_ns);
}

int Pipeline::score_until(const double* rows, std::size_t n, std::size_t stride, double* out,
                          std::int64_t deadline_ns) noexcept {
    return score_rows(rows, n, stride, out, deadline_ns);
}

}  // namespace engine::gpu
