// The end of every graph, answers made wider, and two kernels that only tests of a real device launch.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"

// Tells the host that this batch's answers are there: writes its token after everything before it. One thread.
KERNEL publish(const engine::gpu::Control* control, std::uint32_t* token) {
    store_release_system(token, control->token);
}

// Answers in float32 as doubles: for models of other libraries. One thread one answer; no shared memory.
KERNEL widen(const float* from, double* to, std::uint32_t count) {
    const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = static_cast<double>(from[i]);
}

// Keeps the device busy for this long: a device that stalls. One thread.
KERNEL spin(unsigned long long ns) {
    const unsigned long long until = device_ns() + ns;
    while (device_ns() < until) {
    }
}

// Writes where it may not: a device that is lost. One thread.
KERNEL trap_address(std::uint32_t* at) { *at = 1; }
