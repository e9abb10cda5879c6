// The CUDA driver, opened at run time: nothing of CUDA is needed to build or to import the package. Names are the
// ABI's.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace engine::gpu {

using Result = int;  // CUresult
using DevicePointer = unsigned long long;
using Context = struct CUctx_st*;
using Stream = struct CUstream_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Graph = struct CUgraph_st*;
using GraphExec = struct CUgraphExec_st*;

inline constexpr Result SUCCESS = 0;
inline constexpr Result OUT_OF_MEMORY = 2;
inline constexpr Result NOT_READY = 600;
inline constexpr Result UNKNOWN = 999;

// X(member, symbol, arguments). The ABI keeps old behaviour under old names, so symbols carry the versions that CUDA 12
// gives to programs compiled against it.
#define ENGINE_GPU_CALLS(X)                                                                                     \
    X(cuInit, cuInit, (unsigned))                                                                               \
    X(cuDriverGetVersion, cuDriverGetVersion, (int*))                                                           \
    X(cuDeviceGetCount, cuDeviceGetCount, (int*))                                                               \
    X(cuDeviceGet, cuDeviceGet, (int*, int))                                                                    \
    X(cuDeviceGetName, cuDeviceGetName, (char*, int, int))                                                      \
    X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int*, int, int))                                             \
    X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (Context*, int))                                      \
    X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (int))                                           \
    X(cuCtxSetCurrent, cuCtxSetCurrent, (Context))                                                              \
    X(cuCtxGetCurrent, cuCtxGetCurrent, (Context*))                                                             \
    X(cuGetErrorName, cuGetErrorName, (Result, const char**))                                                   \
    X(cuMemGetInfo, cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                              \
    X(cuMemAlloc, cuMemAlloc_v2, (DevicePointer*, std::size_t))                                                 \
    X(cuMemFree, cuMemFree_v2, (DevicePointer))                                                                 \
    X(cuMemHostAlloc, cuMemHostAlloc, (void**, std::size_t, unsigned))                                          \
    X(cuMemFreeHost, cuMemFreeHost, (void*))                                                                    \
    X(cuMemHostGetDevicePointer, cuMemHostGetDevicePointer_v2, (DevicePointer*, void*, unsigned))               \
    X(cuMemcpyHtoD, cuMemcpyHtoD_v2, (DevicePointer, const void*, std::size_t))                                 \
    X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (DevicePointer, const void*, std::size_t, Stream))               \
    X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void*, DevicePointer, std::size_t, Stream))                     \
    X(cuStreamCreateWithPriority, cuStreamCreateWithPriority, (Stream*, unsigned, int))                         \
    X(cuStreamDestroy, cuStreamDestroy_v2, (Stream))                                                            \
    X(cuStreamSynchronize, cuStreamSynchronize, (Stream))                                                       \
    X(cuStreamQuery, cuStreamQuery, (Stream))                                                                   \
    X(cuModuleLoadData, cuModuleLoadData, (Module*, const void*))                                               \
    X(cuModuleUnload, cuModuleUnload, (Module))                                                                 \
    X(cuModuleGetFunction, cuModuleGetFunction, (Function*, Module, const char*))                               \
    X(cuFuncSetAttribute, cuFuncSetAttribute, (Function, int, int))                                             \
    X(cuLaunchKernel, cuLaunchKernel,                                                                           \
      (Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**, void**)) \
    X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (Stream, int))                                             \
    X(cuStreamEndCapture, cuStreamEndCapture, (Stream, Graph*))                                                 \
    X(cuGraphGetNodes, cuGraphGetNodes, (Graph, void*, std::size_t*))                                           \
    X(cuGraphDestroy, cuGraphDestroy, (Graph))                                                                  \
    X(cuGraphInstantiate, cuGraphInstantiateWithFlags, (GraphExec*, Graph, unsigned long long))                 \
    X(cuGraphUpload, cuGraphUpload, (GraphExec, Stream))                                                        \
    X(cuGraphExecDestroy, cuGraphExecDestroy, (GraphExec))                                                      \
    X(cuGraphLaunch, cuGraphLaunch, (GraphExec, Stream))

struct Driver {
#define ENGINE_GPU_MEMBER(name, symbol, arguments) Result(*name) arguments = nullptr;
    ENGINE_GPU_CALLS(ENGINE_GPU_MEMBER)
#undef ENGINE_GPU_MEMBER

    // The driver at `path`, which stays open for the life of the process: it does not survive being unloaded. Null,
    // with the reason in `error`, where there is no driver, an older one than CUDA 12's, or no device.
    static std::shared_ptr<const Driver> open(const char* path, std::string* error);

    // CUDA_ERROR_… of a result, for error texts.
    std::string name_of(Result result) const;
};

// "<doing>: CUDA_ERROR_…" into `error`; false, so that a caller can return it.
bool failed(const Driver& driver, const std::string& doing, Result result, std::string* error);

}  // namespace engine::gpu
