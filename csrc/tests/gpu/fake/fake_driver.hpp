// The control side of the fake driver: kernels to run, faults to bring about, what was seen. Tests only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

extern "C" {
// run() executes the whole grid with parameters at params[i]; null, or what went wrong (a barrier some never reach).
typedef const char* (*fake_driver_run)(void* kernel, void** params, const unsigned grid[3], const unsigned block[3],
                                       std::size_t shared_bytes);
void fake_driver_register(const char* name, void* kernel, fake_driver_run run, const std::size_t* sizes,
                          unsigned count);
// "kernel_ns", "launch_ns": what a kernel, and a call that submits, take at least. "hang": 1 stops the device before
// its next operation until 0. "sticky_after": so many kernels from now the context fails with "sticky_code". "fail":
// the next call to the function named in fake_driver_fail() returns its code. "memory_bytes": of the device. "devices".
void fake_driver_set(const char* key, long long value);
// "kernels", "graph_launches", "in_use_bytes", "pageable_copies", "exec_overlaps", "capture_violations", "live".
long long fake_driver_get(const char* key);
void fake_driver_fail(const char* function, int code, int times);
const char* fake_driver_complaint();  // the first misuse that the real driver would leave undefined; null for none
void fake_driver_reset();             // a new machine: all contexts, memory and counters gone
}

#ifdef FAKE_DRIVER_KERNELS
#include "cuda_host.hpp"
namespace fake_driver {
template <class... P>
struct Kernel {
    template <std::size_t... I>
    static const char* go(void* kernel, void** params, const unsigned* g, const unsigned* b, std::size_t shared,
                          std::index_sequence<I...>) {
        auto* fn = reinterpret_cast<void (*)(P...)>(kernel);
        return cuhost::launch(dim3{g[0], g[1], g[2]}, dim3{b[0], b[1], b[2]}, shared,
                              [&] { fn(*static_cast<std::remove_reference_t<P>*>(params[I])...); });
    }
    static const char* run(void* kernel, void** params, const unsigned g[3], const unsigned b[3], std::size_t shared) {
        return go(kernel, params, g, b, shared, std::index_sequence_for<P...>{});
    }
};
template <class... P>
void add(const char* name, void (*kernel)(P...)) {
    const std::size_t sizes[] = {sizeof(P)..., 0};
    fake_driver_register(name, reinterpret_cast<void*>(kernel), &Kernel<P...>::run, sizes, sizeof...(P));
}
}  // namespace fake_driver
#endif
