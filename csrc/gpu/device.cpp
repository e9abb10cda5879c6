#include "gpu/device.hpp"

#include <utility>

namespace engine::gpu {

namespace {

// CUdevice_attribute
constexpr int MULTIPROCESSOR_COUNT = 16;
constexpr int COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int COMPUTE_CAPABILITY_MINOR = 76;
constexpr int MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;

}  // namespace

std::shared_ptr<Device> Device::open(int ordinal, const char* driver_path, std::string* error) {
    auto driver = Driver::open(driver_path, error);
    return driver ? on(std::move(driver), ordinal, error) : nullptr;
}

std::shared_ptr<Device> Device::on(std::shared_ptr<const Driver> driver, int ordinal, std::string* error) {
    int count = 0;
    if (const Result result = driver->cuDeviceGetCount(&count)) {
        failed(*driver, "cuDeviceGetCount", result, error);
        return nullptr;
    }
    if (ordinal < 0 || ordinal >= count) {
        *error = "there is no GPU " + std::to_string(ordinal) + ": the driver shows " + std::to_string(count);
        return nullptr;
    }
    std::shared_ptr<Device> device(new Device());
    device->driver_ = driver;
    device->ordinal_ = ordinal;
    if (const Result result = driver->cuDeviceGet(&device->handle_, ordinal)) {
        failed(*driver, "cuDeviceGet", result, error);
        return nullptr;
    }
    char name[128] = {};
    driver->cuDeviceGetName(name, sizeof name - 1, device->handle_);
    device->name_ = name;
    const auto attribute = [&](int which) {
        int value = 0;
        driver->cuDeviceGetAttribute(&value, which, device->handle_);
        return value;
    };
    device->capability_ = 10 * attribute(COMPUTE_CAPABILITY_MAJOR) + attribute(COMPUTE_CAPABILITY_MINOR);
    device->shared_bytes_max_ = attribute(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    device->multiprocessors_ = attribute(MULTIPROCESSOR_COUNT);
    if (const Result result = driver->cuDevicePrimaryCtxRetain(&device->context_, device->handle_)) {
        failed(*driver, "cuDevicePrimaryCtxRetain", result, error);
        return nullptr;
    }
    device->make_current();
    return device;
}

Device::~Device() {
    if (context_ != nullptr) driver_->cuDevicePrimaryCtxRelease(handle_);
}

std::size_t Device::free_bytes() const noexcept {
    make_current();
    std::size_t free = 0, total = 0;
    return driver_->cuMemGetInfo(&free, &total) == SUCCESS ? free : 0;
}

bool Device::claim(std::size_t bytes, const std::string& what, std::string* error) noexcept {
    if (bytes == 0) return true;
    const auto mib = [](std::size_t count) { return std::to_string((count + (1u << 20) - 1) >> 20) + " MiB"; };
    const std::size_t before = claimed_.fetch_add(bytes, std::memory_order_relaxed);
    const std::size_t budget = budget_bytes(), free = free_bytes();
    const bool in_budget = before <= budget && bytes <= budget - before;
    const bool leaves_room = bytes <= free && free - bytes >= HEADROOM_BYTES;
    if (in_budget && leaves_room) return true;
    give_back(bytes);
    *error = what + " needs " + mib(bytes) + " of GPU " + std::to_string(ordinal_) + ", ";
    if (!in_budget) *error += "and models hold " + mib(before) + " of their budget of " + mib(budget);
    else *error += "where " + mib(free) + " are free, of which " + mib(HEADROOM_BYTES) + " stay free";
    return false;
}

void Device::lose(Result by) noexcept {
    Result none = SUCCESS;
    if (lost_by_.compare_exchange_strong(none, by, std::memory_order_acq_rel)) lost_by_.notify_all();
}

Result Device::wait_until_lost() const noexcept {
    lost_by_.wait(SUCCESS, std::memory_order_acquire);
    return lost_by();
}

void Device::make_current() const noexcept {
    // Asked every time, because a model of the user's (CuPy, PyTorch) may have set another device on this thread.
    Context now = nullptr;
    if (driver_->cuCtxGetCurrent(&now) == SUCCESS && now == context_) return;
    driver_->cuCtxSetCurrent(context_);
}

}  // namespace engine::gpu
