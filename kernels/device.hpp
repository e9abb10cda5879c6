// What kernels include. Under nvcc it is nearly nothing; under g++ it brings a machine on which the same source runs
// (csrc/tests/gpu/shim).
//
// Sums and products are written add_rn() and mul_rn(): nvcc then never fuses them, whatever its flags, and the bits are
// those of the CPU, whose files are compiled with -ffp-contract=off.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void
// The dynamic shared memory of a block, from its first byte, aligned to 16.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Publishes everything that this thread wrote before, to the host and to the device.
__device__ __forceinline__ void store_release_system(std::uint32_t* to, std::uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned long long device_ns() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }

#else
#include "cuda_host.hpp"
#endif
