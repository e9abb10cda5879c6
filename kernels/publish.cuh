// The end of every graph, and two kernels that only tests of a real device launch.
#pragma once

#include "device.hpp"
#include "gpu/batch.hpp"

// Tells the host that this batch's answers are there: writes its token after everything before it. One thread.
KERNEL publish(const engine::gpu::Control* control, std::uint32_t* token) {
    store_release_system(token, control->token);
}

// Keeps the device busy for this long: a device that stalls. One thread.
KERNEL spin(unsigned long long ns) {
    const unsigned long long until = device_ns() + ns;
    while (device_ns() < until) {
    }
}

// Writes where it may not: a device that is lost. One thread.
KERNEL trap_address(std::uint32_t* at) { *at = 1; }
