#include "gpu/forest_body.hpp"

#include <algorithm>
#include <cstddef>

#include "base/assert.hpp"

namespace engine::gpu {

static_assert(sizeof(ForestColumn) == sizeof(forest::Column));
static_assert(offsetof(ForestColumn, split) == offsetof(forest::Column, split));
static_assert(offsetof(ForestColumn, rule) == offsetof(forest::Column, rule));
static_assert(offsetof(ForestColumn, missing) == offsetof(forest::Column, missing));
static_assert(sizeof(ForestGroup) == sizeof(forest::CodedGroup));
static_assert(TREES_A_GROUP == forest::lanes && CUTS_PADDED == forest::cuts_padded);

namespace {

constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;  // CUfunction_attribute
constexpr unsigned SHARED_BYTES = 96 * 1024;      // two blocks a multiprocessor from sm_80 on
// From so many blocks on a device is busy, and rows may share a block.
constexpr std::uint32_t BLOCKS_MIN = 64;
constexpr std::size_t LEAF_BYTES = sizeof(double) * TREES_A_GROUP;

std::uint32_t rounded_up(std::uint32_t value, std::uint32_t to) { return (value + to - 1) / to * to; }

// First group of each output, and the end.
std::vector<std::uint32_t> output_begins(const forest::CodedView& view) {
    std::vector<std::uint32_t> begins;
    std::uint32_t g = 0;
    for (std::uint32_t output = 0; output <= view.n_outputs; ++output) {
        while (g < view.n_groups && view.groups[g].output < output) ++g;
        begins.push_back(g);
    }
    return begins;
}

// What each column of a category set asks; columns of thresholds have an entry that nobody reads.
std::vector<ForestSet> sets_of(const forest::Coded& coded) {
    std::vector<ForestSet> sets;
    for (const forest::Column& column : coded.columns) {
        ForestSet set{};
        if (column.split >= 0) {
            const forest::Split& split = coded.trees->splits[static_cast<std::size_t>(column.split)];
            const auto begin = static_cast<std::uint32_t>(coded.trees->set_begin[static_cast<std::size_t>(split.set)]);
            const auto end =
                static_cast<std::uint32_t>(coded.trees->set_begin[static_cast<std::size_t>(split.set) + 1]);
            set = {begin, end - begin, static_cast<std::uint8_t>((split.rule & forest::rule::members_left) != 0),
                   static_cast<std::uint8_t>((split.rule & forest::rule::truncates) != 0)};
        }
        sets.push_back(set);
    }
    return sets;
}

template <class To, class From>
std::vector<To> as(const std::vector<From>& from) {
    const auto* first = reinterpret_cast<const To*>(from.data());
    return {first, first + from.size()};
}

}  // namespace

std::unique_ptr<ForestBody> ForestBody::load(std::shared_ptr<Device> device, Module module,
                                             std::shared_ptr<const forest::Coded> coded, double scale,
                                             const std::vector<double>& base, std::string* error) {
    ENGINE_ASSERT(base.size() == coded->view.n_outputs, "a base for each output");
    std::unique_ptr<ForestBody> made(new ForestBody(std::move(device)));
    made->device_->make_current();
    made->n_features_ = coded->trees->n_features;
    made->link_.scale = scale;
    if (!made->upload(*coded, base, error) || !made->find_kernels(module, error)) return nullptr;
    return made;
}

ForestBody::~ForestBody() {
    if (device_->lost()) return;  // nothing of a lost device can be given back
    device_->make_current();
    for (const DevicePointer at : owned_) device_->driver().cuMemFree(at);
}

template <class T>
bool ForestBody::put(const T** at, const std::vector<T>& from, std::string* error) {
    const Driver& driver = device_->driver();
    const std::size_t bytes = std::max<std::size_t>(from.size() * sizeof(T), 1);
    const std::string what = std::to_string(bytes) + " bytes of the forest";
    DevicePointer to = 0;
    if (const Result result = driver.cuMemAlloc(&to, bytes)) return failed(driver, what, result, error);
    owned_.push_back(to);
    device_bytes_ += bytes;
    if (!from.empty())
        if (const Result result = driver.cuMemcpyHtoD(to, from.data(), from.size() * sizeof(T)))
            return failed(driver, what, result, error);
    *at = reinterpret_cast<const T*>(to);
    return true;
}

bool ForestBody::upload(const forest::Coded& coded, const std::vector<double>& base, std::string* error) {
    view_.n_outputs = coded.view.n_outputs;
    view_.n_columns = coded.view.n_columns;
    view_.n_groups = coded.view.n_groups;
    view_.values_by_node = coded.view.values_by_node;
    return put(&view_.columns, as<ForestColumn>(coded.columns), error) && put(&view_.cuts, coded.cuts_f32, error) &&
           put(&view_.words, coded.words, error) && put(&view_.groups, as<ForestGroup>(coded.groups), error) &&
           put(&view_.roots, coded.roots, error) && put(&view_.value_base, coded.value_base, error) &&
           put(&view_.values, coded.values, error) && put(&view_.output_begin, output_begins(coded.view), error) &&
           put(&view_.sets, sets_of(coded), error) && put(&view_.set_words, coded.trees->set_words, error) &&
           put(&link_.base, base, error);
}

bool ForestBody::find_kernels(Module module, std::string* error) {
    const Driver& driver = device_->driver();
    shared_bytes_max_ = std::min(SHARED_BYTES, static_cast<unsigned>(device_->shared_bytes_max()));
    const auto find = [&](const char* name, Function* at) {
        const Result result = driver.cuModuleGetFunction(at, module, name);
        return result == SUCCESS || failed(driver, std::string("the kernel ") + name, result, error);
    };
    for (const auto& [rows, name] :
         {std::pair{1u, "forest_rows_1"}, {4u, "forest_rows_4"}, {8u, "forest_rows_8"}, {16u, "forest_rows_16"}}) {
        Function function = nullptr;
        if (!find(name, &function)) return false;
        if (const Result result =
                driver.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(shared_bytes_max_)))
            return failed(driver, std::string("shared memory of ") + name, result, error);
        variants_.push_back({rows, function});
    }
    return find("forest_scale", &scale_);
}

// The largest block that still leaves enough of them to fill the device.
const ForestBody::Variant& ForestBody::variant_for(std::uint32_t rows) const noexcept {
    if (variant >= 0) return variants_[static_cast<std::size_t>(variant)];
    std::size_t chosen = 0;
    for (std::size_t i = 1; i < variants_.size(); ++i)
        if ((rows + variants_[i].rows - 1) / variants_[i].rows >= BLOCKS_MIN) chosen = i;
    return variants_[chosen];
}

Result ForestBody::enqueue(void* ctx, Stream stream, const Batch& batch) noexcept {
    auto& self = *static_cast<ForestBody*>(ctx);
    const Variant& chosen = self.variant_for(batch.rows);
    const unsigned threads = std::max(self.threads, TREES_A_GROUP * chosen.rows);
    std::uint32_t code_stride = rounded_up(self.view_.n_columns, 4);
    const std::uint32_t code_bytes = rounded_up(chosen.rows * code_stride, 16);
    const auto fitting = static_cast<std::uint32_t>((self.shared_bytes_max_ - code_bytes) / (LEAF_BYTES * chosen.rows));
    std::uint32_t chunk_groups = std::max(std::min(fitting, self.view_.n_groups), 1u);
    const auto shared = static_cast<unsigned>(code_bytes + chunk_groups * LEAF_BYTES * chosen.rows);
    const Driver& driver = self.device_->driver();
    std::uint32_t stride = self.n_features_;
    DevicePointer in = batch.in, control = batch.control, out = batch.out;
    void* arguments[] = {&self.view_, &in, &stride, &control, &out, &code_stride, &chunk_groups};
    const unsigned blocks = (batch.rows + chosen.rows - 1) / chosen.rows;
    if (const Result result =
            driver.cuLaunchKernel(chosen.function, blocks, 1, 1, threads, 1, 1, shared, stream, arguments, nullptr))
        return result;
    std::uint32_t n_outputs = self.view_.n_outputs;
    void* scale_arguments[] = {&n_outputs, &self.link_, &control, &out};
    constexpr unsigned SCALE_THREADS = 128;
    const unsigned scale_blocks = (batch.rows * n_outputs + SCALE_THREADS - 1) / SCALE_THREADS;
    return driver.cuLaunchKernel(self.scale_, scale_blocks, 1, 1, SCALE_THREADS, 1, 1, 0, stream, scale_arguments,
                                 nullptr);
}

}  // namespace engine::gpu
