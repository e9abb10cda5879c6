#include "gpu/dense_body.hpp"

#include <algorithm>

#include "model/dense/net.hpp"

namespace engine::gpu {

namespace {

constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;  // CUfunction_attribute
constexpr unsigned SHARED_BYTES = 96 * 1024;      // two blocks a multiprocessor from sm_80 on
// From so many blocks on a device is busy, and rows may share a block.
constexpr std::uint32_t BLOCKS_MIN = 64;

}  // namespace

std::unique_ptr<DenseBody> DenseBody::load(std::shared_ptr<Device> device, Module module, const dense::Dense& net,
                                           std::string* error) {
    std::unique_ptr<DenseBody> made(new DenseBody(std::move(device)));
    made->float64_ = net.wide() != nullptr;
    made->n_features_ = net.n_features();
    made->n_outputs_ = net.n_outputs();
    made->double_.missing_zero = net.missing_zero() ? 1 : 0;
    const bool prepared = made->float64_ ? made->prepare(made->double_, *net.wide(), error)
                                         : made->prepare(made->single_, *net.single(), error);
    if (!prepared || !made->arrays_.upload("the net", error)) return nullptr;
    made->device_->make_current();
    return made->find_kernels(module, error) ? std::move(made) : nullptr;
}

template <class T>
bool DenseBody::prepare(DenseNet<T>& view, const dense::Net<T>& net, std::string* error) {
    if (net.layers.size() > DENSE_LAYERS_MAX) {
        *error = "a net on the GPU has at most " + std::to_string(DENSE_LAYERS_MAX) + " layers, got " +
                 std::to_string(net.layers.size());
        return false;
    }
    view.n_in = n_features_;
    view.n_out = n_outputs_;
    view.width = n_features_;
    for (const dense::Layer<T>& layer : net.layers) {
        const bool dot = layer.n_out <= DENSE_DOT_OUTPUTS_MAX;
        std::vector<T> weights(layer.n_in * layer.n_out);
        for (std::size_t i = 0; i < layer.n_in; ++i)
            for (std::size_t o = 0; o < layer.n_out; ++o)
                weights[dot ? o * layer.n_in + i : i * layer.n_out + o] = layer.weight(i, o);
        std::vector<T> bias(layer.bias.begin(), layer.bias.begin() + static_cast<std::ptrdiff_t>(layer.n_out));
        DenseLayer<T>& to = view.layers[view.n_layers++];
        to.n_in = static_cast<std::uint32_t>(layer.n_in);
        to.n_out = static_cast<std::uint32_t>(layer.n_out);
        to.activation = static_cast<std::uint32_t>(layer.activation);
        to.dot = dot ? 1 : 0;
        arrays_.add(&to.weights, weights);
        arrays_.add(&to.bias, bias);
        view.width = std::max(view.width, to.n_out);
    }
    width_ = view.width;
    if (shared_bytes(1) <= std::min<std::size_t>(SHARED_BYTES, static_cast<std::size_t>(device_->shared_bytes_max())))
        return true;
    *error = "a row of " + std::to_string(width_) + " values does not fit the shared memory of a block";
    return false;
}

std::size_t DenseBody::shared_bytes(std::uint32_t rows) const noexcept {
    return std::size_t{2} * rows * width_ * (float64_ ? sizeof(double) : sizeof(float));
}

bool DenseBody::find_kernels(Module module, std::string* error) {
    const Driver& driver = device_->driver();
    const auto most = std::min(SHARED_BYTES, static_cast<unsigned>(device_->shared_bytes_max()));
    for (const std::uint32_t rows : {1u, 4u, 8u}) {
        if (shared_bytes(rows) > most) break;
        Variant found{rows, nullptr};
        const std::string name = "dense_rows_" + std::to_string(rows) + (float64_ ? "_f64" : "_f32");
        if (const Result result = driver.cuModuleGetFunction(&found.function, module, name.c_str()))
            return failed(driver, "the kernel " + name, result, error);
        if (const Result result =
                driver.cuFuncSetAttribute(found.function, MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(most)))
            return failed(driver, "shared memory of " + name, result, error);
        variants_.push_back(found);
    }
    return true;
}

PipelineOptions DenseBody::options(std::uint32_t rows_max) const noexcept {
    PipelineOptions options;
    options.n_features = n_features_;
    options.n_outputs = n_outputs_;
    options.rows_max = rows_max;
    options.float64_rows = float64_;
    return options;
}

// The largest block that still leaves enough of them to fill the device.
const DenseBody::Variant& DenseBody::variant_for(std::uint32_t rows) const noexcept {
    if (variant >= 0) return variants_[std::min(static_cast<std::size_t>(variant), variants_.size() - 1)];
    std::size_t chosen = 0;
    for (std::size_t i = 1; i < variants_.size(); ++i)
        if ((rows + variants_[i].rows - 1) / variants_[i].rows >= BLOCKS_MIN) chosen = i;
    return variants_[chosen];
}

Result DenseBody::enqueue(void* ctx, Stream stream, const Batch& batch) noexcept {
    auto& self = *static_cast<DenseBody*>(ctx);
    const Variant& chosen = self.variant_for(batch.rows);
    void* const net = self.float64_ ? static_cast<void*>(&self.double_) : static_cast<void*>(&self.single_);
    DevicePointer in = batch.in, control = batch.control, out = batch.out;
    std::uint32_t row_stride = self.n_features_;
    void* arguments[] = {net, &in, &row_stride, &control, &out};
    return self.device_->driver().cuLaunchKernel(
        chosen.function, (batch.rows + chosen.rows - 1) / chosen.rows, 1, 1, self.threads, 1, 1,
        static_cast<unsigned>(self.shared_bytes(chosen.rows)), stream, arguments, nullptr);
}

}  // namespace engine::gpu
