// One GPU of this process: its primary context, and whether it is lost.
//
// The primary context is shared with whoever else uses the device (CuPy, TensorRT, PyTorch), so it is never reset. CUDA
// says of most errors that the process must end before the device works again: such an error sticks, and the device is
// then lost to this process for good.
#pragma once

#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>

#include "gpu/driver.hpp"

namespace engine::gpu {

class Device {
public:
    // GPU `ordinal`, counted as the driver does. Null, with the reason in `error`, where there is none.
    static std::shared_ptr<Device> open(int ordinal, const char* driver_path, std::string* error);
    // The same on a driver that is open already.
    static std::shared_ptr<Device> on(std::shared_ptr<const Driver> driver, int ordinal, std::string* error);
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

    // Device memory of this process is claimed before it is allocated, because an allocation that just succeeds can
    // starve what serves already. False, with the reason in `error`, where the claim does not fit the budget, or would
    // leave less than HEADROOM_BYTES free. `what` names the claimant. Any thread.
    static constexpr std::size_t HEADROOM_BYTES = std::size_t{256} << 20;
    bool claim(std::size_t bytes, const std::string& what, std::string* error) noexcept;
    void give_back(std::size_t bytes) noexcept { claimed_.fetch_sub(bytes, std::memory_order_relaxed); }
    std::size_t claimed_bytes() const noexcept { return claimed_.load(std::memory_order_relaxed); }
    // Of all models of this process; no bound of its own until set.
    std::size_t budget_bytes() const noexcept { return budget_.load(std::memory_order_relaxed); }
    void set_budget(std::size_t bytes) noexcept { budget_.store(bytes, std::memory_order_relaxed); }

    bool lost() const noexcept { return lost_by() != SUCCESS; }
    Result lost_by() const noexcept { return lost_by_.load(std::memory_order_acquire); }
    // Keeps the first reason, and wakes who waits for it. Any thread.
    void lose(Result by) noexcept;
    // Blocks until the device is lost. For one thread that says so; it holds a reference, and may wait for ever.
    Result wait_until_lost() const noexcept;
    // Makes the primary context this thread's own. Hot: does nothing where it is already.
    void make_current() const noexcept;

private:
    Device() = default;

    std::shared_ptr<const Driver> driver_;
    std::string name_;
    Context context_ = nullptr;
    int ordinal_ = 0, handle_ = 0, capability_ = 0, shared_bytes_max_ = 0, multiprocessors_ = 0;
    std::atomic<Result> lost_by_{SUCCESS};
    std::atomic<std::size_t> claimed_{0}, budget_{std::numeric_limits<std::size_t>::max()};
};

}  // namespace engine::gpu
