// One GPU of this process: its primary context, and whether it is lost.
//
// The primary context is shared with whoever else uses the device (CuPy, TensorRT, PyTorch), so it is never reset. CUDA
// says of most errors that the process must end before the device works again: such an error sticks, and the device is
// then lost to this process for good.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "gpu/driver.hpp"

namespace engine::gpu {

class Device {
public:
    // GPU `ordinal`, counted as the driver does. Null, with the reason in `error`, where there is none.
    static std::shared_ptr<Device> open(int ordinal, const char* driver_path, std::string* error);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const Driver& driver() const noexcept { return *driver_; }
    const std::string& name() const noexcept { return name_; }
    int ordinal() const noexcept { return ordinal_; }
    // Compute capability as 10 * major + minor: 90 for an H100.
    int capability() const noexcept { return capability_; }
    // Bytes of shared memory that a kernel may ask for.
    int shared_bytes_max() const noexcept { return shared_bytes_max_; }
    int multiprocessors() const noexcept { return multiprocessors_; }
    // Free bytes of device memory, 0 where the driver does not say.
    std::size_t free_bytes() const noexcept;

    bool lost() const noexcept { return lost_by() != SUCCESS; }
    Result lost_by() const noexcept { return lost_by_.load(std::memory_order_acquire); }
    // Keeps the first reason. Any thread.
    void lose(Result by) noexcept;
    // Makes the primary context this thread's own. Hot: does nothing where it is already.
    void make_current() const noexcept;

private:
    Device() = default;

    std::shared_ptr<const Driver> driver_;
    std::string name_;
    Context context_ = nullptr;
    int ordinal_ = 0, handle_ = 0, capability_ = 0, shared_bytes_max_ = 0, multiprocessors_ = 0;
    std::atomic<Result> lost_by_{SUCCESS};
};

}  // namespace engine::gpu
