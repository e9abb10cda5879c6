#include "gpu/device.hpp"

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
    if (!driver) return nullptr;
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

void Device::lose(Result by) noexcept {
    Result none = SUCCESS;
    lost_by_.compare_exchange_strong(none, by, std::memory_order_acq_rel);
}

void Device::make_current() const noexcept {
    // Asked every time, because a model of the user's (CuPy, PyTorch) may have set another device on this thread.
    Context now = nullptr;
    if (driver_->cuCtxGetCurrent(&now) == SUCCESS && now == context_) return;
    driver_->cuCtxSetCurrent(context_);
}

}  // namespace engine::gpu
