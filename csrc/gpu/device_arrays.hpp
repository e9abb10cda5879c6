// The arrays of a model in one allocation of device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/device.hpp"

namespace engine::gpu {

class DeviceArrays {
public:
    explicit DeviceArrays(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    ~DeviceArrays();
    DeviceArrays(const DeviceArrays&) = delete;
    DeviceArrays& operator=(const DeviceArrays&) = delete;

    // Copies `from`; upload() writes where it lies on the device to *at. An empty array gets memory too.
    template <class To, class T>
    void add(const To** at, const std::vector<T>& from) {
        add_bytes(at, from.data(), from.size() * sizeof(T));
    }
    // Claims, allocates and copies, once. False, with the reason in `error`, and nothing is kept; `what` names the
    // model.
    bool upload(const std::string& what, std::string* error);
    // Of device memory.
    std::size_t bytes() const noexcept { return claimed_; }

private:
    static constexpr std::size_t ALIGNMENT = 256;
    void add_bytes(void* at, const void* from, std::size_t bytes);

    std::shared_ptr<Device> device_;
    std::vector<std::byte> host_;
    std::vector<std::pair<void*, std::size_t>> places_;  // of pointers to write, and what they point to
    DevicePointer memory_ = 0;
    std::size_t claimed_ = 0;
};

}  // namespace engine::gpu
