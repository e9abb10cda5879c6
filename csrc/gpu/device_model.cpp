#include "gpu/device_model.hpp"

#include <algorithm>
#include <utility>

#include "base/clock.hpp"
#include "model/shared_scorer.hpp"

namespace engine::gpu {

std::shared_ptr<Kernels> Kernels::load(std::shared_ptr<Device> device, const void* image, std::string* error) {
    std::shared_ptr<Kernels> made(new Kernels(std::move(device)));
    made->device_->make_current();
    const Driver& driver = made->device_->driver();
    if (const Result result = driver.cuModuleLoadData(&made->module_, image)) {
        made->module_ = nullptr;
        failed(driver, "loading the kernels", result, error);
        return nullptr;
    }
    for (const auto& [name, at] : {std::pair{"publish", &made->publish_}, {"widen", &made->widen_}}) {
        if (const Result result = driver.cuModuleGetFunction(at, made->module_, name)) {
            failed(driver, std::string("the kernel ") + name, result, error);
            return nullptr;
        }
    }
    return made;
}

Result Kernels::widen(Stream stream, DevicePointer from, DevicePointer to, std::uint32_t count) const noexcept {
    constexpr unsigned THREADS = 128;
    void* arguments[] = {&from, &to, &count};
    return device_->driver().cuLaunchKernel(widen_, (count + THREADS - 1) / THREADS, 1, 1, THREADS, 1, 1, 0, stream,
                                            arguments, nullptr);
}

Kernels::~Kernels() {
    if (module_ == nullptr || device_->lost()) return;
    device_->make_current();
    device_->driver().cuModuleUnload(module_);
}

template <class BodyOf>
bool DeviceModel::open(BodyOf& body, std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
                       std::uint32_t repeats, std::string* error) {
    PipelineOptions options = body.options(rows_max);
    options.lanes = lanes;
    inner_ = body.body();
    repeats_ = repeats;
    pipeline_ =
        Pipeline::make(kernels_->device(), options, {this, &DeviceModel::enqueue, nullptr}, kernels_->publish(), error);
    if (!pipeline_) return false;
    if (cpu == nullptr) return true;
    cpu_ = engine_scorer_read(cpu);
    cpu_.retain(cpu_.ctx);
    has_cpu_ = true;
    cpu_answers_.reset(new CpuAnswers[lanes]);
    for (std::uint32_t i = 0; i < lanes; ++i)
        cpu_answers_[i].values.resize(std::size_t{options.rows_max} * options.n_outputs);
    return true;
}

Result DeviceModel::enqueue(void* ctx, Stream stream, const Batch& batch) noexcept {
    auto& self = *static_cast<DeviceModel*>(ctx);
    Result result = SUCCESS;
    for (std::uint32_t i = 0; i < self.repeats_ && result == SUCCESS; ++i)
        result = self.inner_.enqueue(self.inner_.ctx, stream, batch);
    return result;
}

std::unique_ptr<DeviceModel> DeviceModel::make(std::shared_ptr<Kernels> kernels, const forest::Forest& forest,
                                               std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
                                               std::uint32_t repeats, std::string* error) {
    std::unique_ptr<DeviceModel> made(new DeviceModel(std::move(kernels)));
    made->forest_ =
        ForestBody::load(made->kernels_->device(), made->kernels_->module(), forest, ForestBody::Trees::best, error);
    if (!made->forest_ || !made->open(*made->forest_, rows_max, lanes, cpu, repeats, error)) return nullptr;
    return made;
}

std::unique_ptr<DeviceModel> DeviceModel::make(std::shared_ptr<Kernels> kernels, const dense::Dense& net,
                                               std::uint32_t rows_max, std::uint32_t lanes, const engine_scorer* cpu,
                                               std::uint32_t repeats, std::string* error) {
    std::unique_ptr<DeviceModel> made(new DeviceModel(std::move(kernels)));
    made->net_ = DenseBody::load(made->kernels_->device(), made->kernels_->module(), net, error);
    if (!made->net_ || !made->open(*made->net_, rows_max, lanes, cpu, repeats, error)) return nullptr;
    return made;
}

std::unique_ptr<DeviceModel> DeviceModel::make(std::shared_ptr<Kernels> kernels, const PipelineOptions& options,
                                               const Body& body, std::string* error) {
    std::unique_ptr<DeviceModel> made(new DeviceModel(std::move(kernels)));
    made->pipeline_ = Pipeline::make(made->kernels_->device(), options, body, made->kernels_->publish(), error);
    return made->pipeline_ ? std::move(made) : nullptr;
}

DeviceModel::~DeviceModel() {
    pipeline_.reset();
    if (has_cpu_) cpu_.release(cpu_.ctx);
}

std::size_t DeviceModel::device_bytes() const noexcept {
    return pipeline_->device_bytes() + (forest_ ? forest_->device_bytes() : net_ ? net_->device_bytes() : 0);
}

template <class Row>
int DeviceModel::score_rows(const Row* rows, std::size_t n, std::size_t stride, double* out,
                            std::int64_t deadline_ns) noexcept {
    int status = ENGINE_SCORE_FAILED;
    if (!has_cpu_ || (n >= rows_min_ && !device().lost())) {
        status = pipeline_->score_until(rows, n, stride, out, deadline_ns);
        if (!has_cpu_ || status != ENGINE_SCORE_FAILED) return status;
        rescued_.fetch_add(1, std::memory_order_relaxed);
    }
    return score_on_cpu(rows, n, stride, out, deadline_ns);
}

template <class Row>
int DeviceModel::score_on_cpu(const Row* rows, std::size_t n, std::size_t stride, double* out,
                              std::int64_t deadline_ns) noexcept {
    if constexpr (sizeof(Row) == sizeof(double)) return engine_score_by_f64(&cpu_, rows, n, stride, out, deadline_ns);
    else return engine_score_by(&cpu_, rows, n, stride, out, deadline_ns);
}

template <class Row>
int DeviceModel::begin_rows(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    if (!has_cpu_ || (n >= rows_min_ && !device().lost())) {
        const int status = pipeline_->begin(rows, n, stride, ticket);
        if (!has_cpu_ || status != ENGINE_SCORE_FAILED) return status;
        rescued_.fetch_add(1, std::memory_order_relaxed);
    }
    return begin_on_cpu(rows, n, stride, ticket);
}

// The exchange makes the buffer this thread's; acquire and release, because another one may have read it last.
template <class Row>
int DeviceModel::begin_on_cpu(const Row* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    const PipelineOptions& options = pipeline_->options();
    if (n > options.rows_max) return ENGINE_SCORE_FAILED;
    for (std::uint32_t i = 0; i < options.lanes; ++i) {
        CpuAnswers& answers = cpu_answers_[i];
        if (answers.taken.exchange(true, std::memory_order_acq_rel)) continue;
        const int status = score_on_cpu(rows, n, stride, answers.values.data(), NEVER_NS);
        answers.n_rows = static_cast<std::uint32_t>(n);
        *ticket = Pipeline::TICKETS + i;
        if (status != ENGINE_SCORE_OK) answers.taken.store(false, std::memory_order_release);
        return status;
    }
    return ENGINE_SCORE_BUSY;
}

int DeviceModel::begin(const float* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    return begin_rows(rows, n, stride, ticket);
}

int DeviceModel::begin(const double* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) noexcept {
    return begin_rows(rows, n, stride, ticket);
}

int DeviceModel::poll(std::uint32_t ticket, double* out) noexcept {
    const PipelineOptions& options = pipeline_->options();
    if (ticket >= Pipeline::TICKETS) {
        CpuAnswers& answers = cpu_answers_[ticket - Pipeline::TICKETS];
        if (out != nullptr) std::copy_n(answers.values.data(), std::size_t{answers.n_rows} * options.n_outputs, out);
        answers.taken.store(false, std::memory_order_release);
        return ENGINE_SCORE_OK;
    }
    const int status = pipeline_->poll(ticket, out);
    if (status != ENGINE_SCORE_FAILED || !has_cpu_ || out == nullptr) return status;
    rescued_.fetch_add(1, std::memory_order_relaxed);
    std::uint32_t n = 0;
    const std::byte* rows = pipeline_->failed_rows(ticket, &n);
    const std::size_t width = options.n_features;
    if (options.float64_rows) return score_on_cpu(reinterpret_cast<const double*>(rows), n, width, out, NEVER_NS);
    return score_on_cpu(reinterpret_cast<const float*>(rows), n, width, out, NEVER_NS);
}

void DeviceModel::abandon(std::uint32_t ticket) noexcept {
    if (ticket < Pipeline::TICKETS) pipeline_->abandon(ticket);
}

template <class Row>
int DeviceModel::score_patiently(const Row* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    const std::uint32_t batch = pipeline_->options().rows_max;
    for (std::size_t first = 0; first < n; first += batch) {
        const std::size_t here = std::min<std::size_t>(batch, n - first);
        const int status = score_rows(rows + first * stride, here, stride, out + first * pipeline_->options().n_outputs,
                                      now_ns() + PATIENCE_NS);
        if (status != ENGINE_SCORE_OK) return status == ENGINE_SCORE_OUT_OF_TIME ? ENGINE_SCORE_FAILED : status;
    }
    return ENGINE_SCORE_OK;
}

int DeviceModel::score(const float* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return score_patiently(rows, n, stride, out);
}

int DeviceModel::score(const double* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return score_patiently(rows, n, stride, out);
}

int DeviceModel::score_by_deadline(const float* rows, std::size_t n, std::size_t stride, double* out,
                                   std::int64_t deadline_ns) noexcept {
    return score_rows(rows, n, stride, out, deadline_ns);
}

int DeviceModel::score_by_deadline(const double* rows, std::size_t n, std::size_t stride, double* out,
                                   std::int64_t deadline_ns) noexcept {
    return score_rows(rows, n, stride, out, deadline_ns);
}

int DeviceModel::score_there(const float* rows, std::size_t n, std::size_t stride, double* out) noexcept {
    return pipeline_->score_until(rows, n, stride, out, now_ns() + PATIENCE_NS);
}

engine_scorer DeviceModel::scorer(std::unique_ptr<DeviceModel> model) {
    const PipelineOptions options = model->pipeline_->options();
    engine_scorer scorer =
        model::shared_scorer(std::move(model), options.n_features, options.n_outputs, !options.float64_rows);
    scorer.flags = ENGINE_SCORER_REENTRANT;  // it waits for a device: not for the inline lane, and no fallback
    using Shared = model::SharedScorer<DeviceModel>;
    scorer.begin = [](void* ctx, const float* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) {
        return static_cast<Shared*>(ctx)->model->begin(rows, n, stride, ticket);
    };
    if (scorer.score_f64 != nullptr)
        scorer.begin_f64 = [](void* ctx, const double* rows, std::size_t n, std::size_t stride, std::uint32_t* ticket) {
            return static_cast<Shared*>(ctx)->model->begin(rows, n, stride, ticket);
        };
    scorer.poll = [](void* ctx, std::uint32_t ticket, double* out) {
        return static_cast<Shared*>(ctx)->model->poll(ticket, out);
    };
    scorer.abandon = [](void* ctx, std::uint32_t ticket) { static_cast<Shared*>(ctx)->model->abandon(ticket); };
    scorer.in_flight_max = options.lanes;
    scorer.rows_max = options.rows_max;
    return scorer;
}

}  // namespace engine::gpu
