#include "gpu/device_arrays.hpp"

#include "base/assert.hpp"

namespace engine::gpu {

DeviceArrays::~DeviceArrays() {
    device_->give_back(claimed_);
    if (memory_ == 0 || device_->lost()) return;  // nothing of a lost device can be given back
    device_->make_current();
    device_->driver().cuMemFree(memory_);
}

void DeviceArrays::add_bytes(void* at, const void* from, std::size_t bytes) {
    ENGINE_ASSERT(memory_ == 0, "arrays are added before they are uploaded");
    const std::size_t place = (host_.size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    host_.resize(place + (bytes > 0 ? bytes : 1));
    if (bytes > 0) std::memcpy(host_.data() + place, from, bytes);
    places_.push_back({at, place});
}

bool DeviceArrays::upload(const std::string& what, std::string* error) {
    if (!device_->claim(host_.size(), what, error)) return false;
    claimed_ = host_.size();
    device_->make_current();
    const Driver& driver = device_->driver();
    const std::string doing = std::to_string(host_.size()) + " bytes of " + what;
    if (const Result result = driver.cuMemAlloc(&memory_, host_.size())) return failed(driver, doing, result, error);
    if (const Result result = driver.cuMemcpyHtoD(memory_, host_.data(), host_.size()))
        return failed(driver, doing, result, error);
    for (const auto& [at, place] : places_) {
        const DevicePointer there = memory_ + place;
        std::memcpy(at, &there, sizeof there);
    }
    std::vector<std::byte>().swap(host_);
    return true;
}

}  // namespace engine::gpu
