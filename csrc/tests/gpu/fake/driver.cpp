// A libcuda.so.1 without a GPU: the part of the driver API that the executor uses, executed. Streams are threads,
// graphs are lists, kernels are the host-compiled ones. Calls that the real driver refuses are refused, what it leaves
// undefined is a complaint, and latency, hangs, errors and a lost device are brought about on request.
#include "tests/gpu/fake/fake_driver.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define CUDAAPI

// The part of cuda.h that this file needs; numbers are the ABI's. Its own, so that no CUDA toolkit is needed.
using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphNode = struct CUgraphNode_st*;
using CUgraphExec = struct CUgraphExec_st*;
using CUhostFn = void (*)(void*);
enum : CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_STATE = 401,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
};
enum CUdevice_attribute {
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};
enum CUfunction_attribute { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
enum CUstreamCaptureMode {
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
};
enum CUstreamCaptureStatus {
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
    CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2,
};
enum { CU_STREAM_NON_BLOCKING = 1, CU_EVENT_DISABLE_TIMING = 2 };

namespace {

using Clock = std::chrono::steady_clock;

struct Registered {
    void* kernel;
    fake_driver_run run;
    std::vector<std::size_t> sizes;
};
struct Op {
    enum Kind { copy, set, kernel, record, wait, host, graph } kind;
    void* to = nullptr;
    const void* from = nullptr;
    std::size_t bytes = 0;
    unsigned value = 0, width = 1;
    const Registered* code = nullptr;
    std::vector<std::vector<unsigned char>> params;
    unsigned grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
    std::size_t shared = 0;
    struct CUevent_st* event = nullptr;
    std::uint64_t sequence = 0;
    CUhostFn function = nullptr;
    void* user = nullptr;
    struct CUgraphExec_st* exec = nullptr;
};

}  // namespace

struct CUevent_st {
    std::atomic<std::uint64_t> recorded{0}, completed{0};
    std::atomic<std::int64_t> at_ns{0};
    bool timing = false;
};
struct CUgraph_st {
    std::vector<Op> ops;
};
struct CUgraphExec_st {
    std::vector<Op> ops;
    std::atomic<int> queued{0};
    std::mutex running;
};
struct CUfunc_st {
    const Registered* code;
    std::string name;
    int shared_max = 48 * 1024;
};
struct CUmod_st {
    std::vector<unsigned char> image;
    std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};
struct CUstream_st {
    std::thread thread;
    std::mutex lock;
    std::condition_variable changed;
    std::deque<Op> ops;
    std::uint64_t submitted = 0, finished = 0;
    bool ending = false;
    // capture
    bool capturing = false, invalid = false;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    std::thread::id by;
    CUgraph graph = nullptr;
};
struct CUctx_st {
    int users = 0;
};

namespace {

struct Machine {
    std::mutex lock;  // memory, names, settings
    std::map<std::string, Registered> kernels;
    std::map<std::uintptr_t, std::size_t> device_memory, host_memory;
    std::map<std::string, std::pair<int, int>> fail;  // function -> code, times
    std::atomic<long long> kernel_ns{0}, launch_ns{0}, hang{0}, sticky_after{-1}, sticky_code{700},
        memory_bytes{80ll << 30}, devices{1}, in_use{0};
    std::atomic<long long> n_kernels{0}, n_graphs{0}, pageable{0}, overlaps{0}, violations{0}, live{0};
    std::atomic<int> sticky{0};
    std::atomic<int> global_captures{0};
    std::mutex hang_lock;
    std::condition_variable hang_changed;
    CUctx_st primary;
    std::string complaint;
    bool initialised = false;
};
Machine& m() {
    static Machine& machine = *new Machine;
    return machine;
}
thread_local CUcontext current = nullptr;
thread_local int own_captures = 0;

void complain(const std::string& text) {
    const std::lock_guard<std::mutex> hold(m().lock);
    if (m().complaint.empty()) m().complaint = text;
}

// Every entry: injected failures, then the sticky error.
CUresult enter(const char* name, bool needs_context = true) {
    Machine& x = m();
    {
        const std::lock_guard<std::mutex> hold(x.lock);
        const auto it = x.fail.find(name);
        if (it != x.fail.end() && it->second.second > 0) {
            --it->second.second;
            return static_cast<CUresult>(it->second.first);
        }
        if (!x.initialised) return CUDA_ERROR_NOT_INITIALIZED;
    }
    if (needs_context && !current) return CUDA_ERROR_INVALID_CONTEXT;
    return static_cast<CUresult>(x.sticky.load(std::memory_order_acquire));
}
#define ENTER(name)                                               \
    do {                                                          \
        if (const CUresult entered = enter(name)) return entered; \
    } while (0)

void spend(long long ns) {
    if (ns <= 0) return;
    const auto until = Clock::now() + std::chrono::nanoseconds(ns);
    if (ns > 200'000) std::this_thread::sleep_for(std::chrono::nanoseconds(ns - 100'000));
    while (Clock::now() < until) {
    }
}

// A call that may synchronise or allocate while somebody captures: the capture is spoilt, as by the real driver.
CUresult unsafe_in_capture() {
    if (own_captures > 0 || m().global_captures.load() > 0) {
        ++m().violations;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

bool inside(const std::map<std::uintptr_t, std::size_t>& all, const void* at, std::size_t bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    auto it = all.upper_bound(address);
    if (it == all.begin()) return false;
    --it;
    return address + bytes <= it->first + it->second;
}

void execute(Op& op) {
    Machine& x = m();
    if (x.hang.load()) {
        std::unique_lock<std::mutex> hold(x.hang_lock);
        x.hang_changed.wait(hold, [&] { return x.hang.load() == 0; });
    }
    if (x.sticky.load(std::memory_order_acquire) && op.kind != Op::record && op.kind != Op::graph) return;
    switch (op.kind) {
        case Op::copy: std::memcpy(op.to, op.from, op.bytes); break;
        case Op::set:
            if (op.width == 1) std::memset(op.to, static_cast<int>(op.value), op.bytes);
            else
                for (std::size_t i = 0; i < op.bytes / 4; ++i) static_cast<unsigned*>(op.to)[i] = op.value;
            break;
        case Op::kernel: {
            ++x.n_kernels;
            if (x.sticky_after.load() >= 0 && x.sticky_after.fetch_sub(1) == 0) {
                x.sticky.store(static_cast<int>(x.sticky_code.load()), std::memory_order_release);
                return;
            }
            spend(x.kernel_ns.load());
            std::vector<void*> params;
            for (auto& p : op.params) params.push_back(p.data());
            if (const char* wrong = op.code->run(op.code->kernel, params.data(), op.grid, op.block, op.shared))
                complain(wrong);
            break;
        }
        case Op::record:
            op.event->at_ns.store(
                std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count());
            // A later record of the same event may have come meanwhile; this one never takes it back.
            for (std::uint64_t seen = op.event->completed.load();
                 seen < op.sequence &&
                 !op.event->completed.compare_exchange_weak(seen, op.sequence, std::memory_order_acq_rel);) {
            }
            break;
        case Op::wait:
            while (op.event->completed.load(std::memory_order_acquire) < op.sequence && !x.sticky.load())
                std::this_thread::sleep_for(std::chrono::microseconds(20));
            break;
        case Op::host: op.function(op.user); break;
        case Op::graph: {
            if (!op.exec->running.try_lock()) {
                ++x.overlaps;  // the real driver orders it behind the other; the caller meant it to run beside it
                op.exec->running.lock();
            }
            for (Op& each : op.exec->ops) execute(each);
            op.exec->running.unlock();
            op.exec->queued.fetch_sub(1);
            break;
        }
    }
}

void loop(CUstream s) {
    for (;;) {
        Op op;
        {
            std::unique_lock<std::mutex> hold(s->lock);
            s->changed.wait(hold, [&] { return s->ending || !s->ops.empty(); });
            if (s->ops.empty()) return;
            op = std::move(s->ops.front());
            s->ops.pop_front();
        }
        execute(op);
        {
            const std::lock_guard<std::mutex> hold(s->lock);
            ++s->finished;
        }
        s->changed.notify_all();
    }
}

CUresult submit(CUstream s, Op op, bool may_capture = true) {
    if (!s) {
        complain("the default stream was used");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    std::unique_lock<std::mutex> hold(s->lock);
    if (s->capturing) {
        if (!may_capture) {
            s->invalid = true;
            return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
        if (s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && s->by != std::this_thread::get_id())
            return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        s->graph->ops.push_back(std::move(op));
        return CUDA_SUCCESS;
    }
    s->ops.push_back(std::move(op));
    ++s->submitted;
    hold.unlock();
    s->changed.notify_all();
    return CUDA_SUCCESS;
}

CUresult copy(void* to, const void* from, std::size_t bytes, CUstream s, bool to_device, bool from_device) {
    Machine& x = m();
    {
        const std::lock_guard<std::mutex> hold(x.lock);
        if (to_device && !inside(x.device_memory, to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        if (from_device && !inside(x.device_memory, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        if ((!to_device && !inside(x.host_memory, to, bytes)) || (!from_device && !inside(x.host_memory, from, bytes)))
            ++x.pageable;
    }
    spend(x.launch_ns.load());
    Op op;
    op.kind = Op::copy;
    op.to = to, op.from = from, op.bytes = bytes;
    return submit(s, std::move(op));
}

void* memory(std::size_t bytes, bool device) {
    void* at = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    if (posix_memalign(&at, 256, bytes ? bytes : 1)) return nullptr;
#else
    if (posix_memalign(&at, 256, (bytes + 255) / 256 * 256 + 256)) return nullptr;
#endif
    std::memset(at, 0xCD, bytes);  // neither zeros nor what was there before
    const std::lock_guard<std::mutex> hold(m().lock);
    (device ? m().device_memory : m().host_memory)[reinterpret_cast<std::uintptr_t>(at)] = bytes;
    ++m().live;
    return at;
}
CUresult forget(void* at, bool device) {
    auto& all = device ? m().device_memory : m().host_memory;
    {
        const std::lock_guard<std::mutex> hold(m().lock);
        const auto it = all.find(reinterpret_cast<std::uintptr_t>(at));
        if (it == all.end()) return CUDA_ERROR_INVALID_VALUE;
        if (device) m().in_use -= static_cast<long long>(it->second);
        all.erase(it);
        --m().live;
    }
    std::free(at);
    return CUDA_SUCCESS;
}

}  // namespace

EXPORT void fake_driver_register(const char* name, void* kernel, fake_driver_run run, const std::size_t* sizes,
                                 unsigned count) {
    const std::lock_guard<std::mutex> hold(m().lock);
    m().kernels[name] = {kernel, run, {sizes, sizes + count}};
}
EXPORT void fake_driver_set(const char* key, long long v) {
    Machine& x = m();
    const std::string k = key;
    if (k == "hang") {
        {
            const std::lock_guard<std::mutex> hold(x.hang_lock);
            x.hang = v;
        }
        x.hang_changed.notify_all();
    } else if (k == "kernel_ns") x.kernel_ns = v;
    else if (k == "launch_ns") x.launch_ns = v;
    else if (k == "sticky_after") x.sticky_after = v;
    else if (k == "sticky_code") x.sticky_code = v;
    else if (k == "sticky") x.sticky = static_cast<int>(v);
    else if (k == "memory_bytes") x.memory_bytes = v;
    else if (k == "devices") x.devices = v;
}
EXPORT long long fake_driver_get(const char* key) {
    Machine& x = m();
    const std::string k = key;
    if (k == "kernels") return x.n_kernels;
    if (k == "graph_launches") return x.n_graphs;
    if (k == "in_use_bytes") return x.in_use;
    if (k == "pageable_copies") return x.pageable;
    if (k == "exec_overlaps") return x.overlaps;
    if (k == "capture_violations") return x.violations;
    if (k == "live") return x.live;
    return -1;
}
EXPORT void fake_driver_fail(const char* function, int code, int times) {
    const std::lock_guard<std::mutex> hold(m().lock);
    m().fail[function] = {code, times};
}
EXPORT const char* fake_driver_complaint() {
    const std::lock_guard<std::mutex> hold(m().lock);
    return m().complaint.empty() ? nullptr : m().complaint.c_str();
}
EXPORT void fake_driver_reset() {
    Machine& x = m();
    fake_driver_set("hang", 0);
    const std::lock_guard<std::mutex> hold(x.lock);
    x.fail.clear();
    x.sticky = 0, x.sticky_after = -1, x.kernel_ns = 0, x.launch_ns = 0, x.devices = 1, x.memory_bytes = 80ll << 30;
    x.n_kernels = 0, x.n_graphs = 0, x.pageable = 0, x.overlaps = 0, x.violations = 0;
    x.complaint.clear();
}

// ---- the driver API ----
EXPORT CUresult CUDAAPI cuInit(unsigned flags) {
    Machine& x = m();
    const std::lock_guard<std::mutex> hold(x.lock);
    const auto it = x.fail.find("cuInit");
    if (it != x.fail.end() && it->second.second-- > 0) return static_cast<CUresult>(it->second.first);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (x.devices == 0) return CUDA_ERROR_NO_DEVICE;
    x.initialised = true;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDriverGetVersion(int* v) {
    *v = 13000;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetCount(int* n) {
    if (const CUresult e = enter("cuDeviceGetCount", false)) return e;
    *n = static_cast<int>(m().devices.load());
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGet(CUdevice* d, int ordinal) {
    if (const CUresult e = enter("cuDeviceGet", false)) return e;
    if (ordinal < 0 || ordinal >= m().devices.load()) return CUDA_ERROR_INVALID_DEVICE;
    *d = ordinal;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetName(char* name, int len, CUdevice) {
    std::snprintf(name, static_cast<size_t>(len), "fake");
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceTotalMem_v2(size_t* bytes, CUdevice) {
    *bytes = static_cast<size_t>(m().memory_bytes.load());
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDeviceGetAttribute(int* v, CUdevice_attribute a, CUdevice) {
    switch (a) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = 9; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = 0; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 132; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = 227 * 1024; break;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *v = 1; break;
        default: *v = 0;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) {
    if (const CUresult e = enter("cuDevicePrimaryCtxRetain", false)) return e;
    const std::lock_guard<std::mutex> hold(m().lock);
    ++m().primary.users;
    *c = &m().primary;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice) {
    const std::lock_guard<std::mutex> hold(m().lock);
    --m().primary.users;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxSetCurrent(CUcontext c) {
    current = c;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuCtxGetCurrent(CUcontext* c) {
    *c = current;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGetErrorName(CUresult e, const char** name) {
    switch (static_cast<int>(e)) {
        case 0: *name = "CUDA_SUCCESS"; break;
        case 1: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case 100: *name = "CUDA_ERROR_NO_DEVICE"; break;
        case 600: *name = "CUDA_ERROR_NOT_READY"; break;
        case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case 702: *name = "CUDA_ERROR_LAUNCH_TIMEOUT"; break;
        case 214: *name = "CUDA_ERROR_ECC_UNCORRECTABLE"; break;
        default: *name = "CUDA_ERROR_OF_THE_FAKE"; break;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    ENTER("cuMemGetInfo");
    *total = static_cast<size_t>(m().memory_bytes.load());
    *free_bytes = static_cast<size_t>(m().memory_bytes.load() - m().in_use.load());
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr* p, size_t bytes) {
    ENTER("cuMemAlloc");
    if (const CUresult e = unsafe_in_capture()) return e;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (m().in_use.fetch_add(static_cast<long long>(bytes)) + static_cast<long long>(bytes) > m().memory_bytes.load()) {
        m().in_use -= static_cast<long long>(bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *p = reinterpret_cast<CUdeviceptr>(memory(bytes, true));
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemFree_v2(CUdeviceptr p) {
    if (const CUresult e = unsafe_in_capture()) return e;
    return forget(reinterpret_cast<void*>(p), true);
}
EXPORT CUresult CUDAAPI cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER("cuMemHostAlloc");
    if (const CUresult e = unsafe_in_capture()) return e;
    *p = memory(bytes, false);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemFreeHost(void* p) { return forget(p, false); }
EXPORT CUresult CUDAAPI cuMemHostGetDevicePointer_v2(CUdeviceptr* d, void* p, unsigned) {
    ENTER("cuMemHostGetDevicePointer");
    const std::lock_guard<std::mutex> hold(m().lock);
    if (!inside(m().host_memory, p, 1)) return CUDA_ERROR_INVALID_VALUE;
    *d = reinterpret_cast<CUdeviceptr>(p);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamCreate(CUstream* s, unsigned flags) {
    ENTER("cuStreamCreate");
    if (!(flags & CU_STREAM_NON_BLOCKING)) complain("a stream that waits for the default stream");
    *s = new CUstream_st;
    (*s)->thread = std::thread(loop, *s);
    ++m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamCreateWithPriority(CUstream* s, unsigned flags, int) {
    return cuStreamCreate(s, flags);
}
EXPORT CUresult CUDAAPI cuStreamDestroy_v2(CUstream s) {
    {
        const std::lock_guard<std::mutex> hold(s->lock);
        s->ending = true;
    }
    s->changed.notify_all();
    s->thread.join();
    delete s;
    --m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamSynchronize(CUstream s) {
    ENTER("cuStreamSynchronize");
    if (const CUresult e = unsafe_in_capture()) return e;
    std::unique_lock<std::mutex> hold(s->lock);
    const std::uint64_t until = s->submitted;
    s->changed.wait(hold, [&] { return s->finished >= until; });
    return static_cast<CUresult>(m().sticky.load());
}
EXPORT CUresult CUDAAPI cuStreamQuery(CUstream s) {
    ENTER("cuStreamQuery");
    const std::lock_guard<std::mutex> hold(s->lock);
    return s->finished >= s->submitted ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
EXPORT CUresult CUDAAPI cuEventCreate(CUevent* e, unsigned flags) {
    ENTER("cuEventCreate");
    *e = new CUevent_st;
    (*e)->timing = !(flags & CU_EVENT_DISABLE_TIMING);
    ++m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuEventDestroy_v2(CUevent e) {
    delete e;
    --m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuEventRecord(CUevent e, CUstream s) {
    ENTER("cuEventRecord");
    Op op;
    op.kind = Op::record;
    op.event = e;
    op.sequence = e->recorded.fetch_add(1) + 1;
    return submit(s, std::move(op));
}
EXPORT CUresult CUDAAPI cuEventQuery(CUevent e) {
    ENTER("cuEventQuery");
    return e->completed.load(std::memory_order_acquire) >= e->recorded.load() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
EXPORT CUresult CUDAAPI cuEventSynchronize(CUevent e) {
    ENTER("cuEventSynchronize");
    while (e->completed.load(std::memory_order_acquire) < e->recorded.load()) {
        if (const int error = m().sticky.load()) return static_cast<CUresult>(error);
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuEventElapsedTime_v2(float* ms, CUevent a, CUevent b) {
    *ms = static_cast<float>(static_cast<double>(b->at_ns.load() - a->at_ns.load()) / 1e6);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamWaitEvent(CUstream s, CUevent e, unsigned) {
    ENTER("cuStreamWaitEvent");
    Op op;
    op.kind = Op::wait;
    op.event = e;
    op.sequence = e->recorded.load();
    return submit(s, std::move(op));
}
EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream s) {
    ENTER("cuMemcpyHtoDAsync");
    return copy(reinterpret_cast<void*>(to), from, bytes, s, true, false);
}
EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream s) {
    ENTER("cuMemcpyDtoHAsync");
    return copy(to, reinterpret_cast<void*>(from), bytes, s, false, true);
}
EXPORT CUresult CUDAAPI cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    ENTER("cuMemcpyHtoD");
    if (const CUresult e = unsafe_in_capture()) return e;
    {
        const std::lock_guard<std::mutex> hold(m().lock);
        if (!inside(m().device_memory, reinterpret_cast<void*>(to), bytes)) return CUDA_ERROR_INVALID_VALUE;
    }
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char v, size_t n, CUstream s) {
    ENTER("cuMemsetD8Async");
    Op op;
    op.kind = Op::set;
    op.to = reinterpret_cast<void*>(to), op.bytes = n, op.value = v;
    return submit(s, std::move(op));
}
EXPORT CUresult CUDAAPI cuModuleLoadData(CUmodule* mod, const void* image) {
    ENTER("cuModuleLoadData");
    const auto* b = static_cast<const unsigned char*>(image);
    std::size_t size = 0;
    if (std::memcmp(b,
                    "\x7f"
                    "ELF",
                    4) == 0) {
        if ((b[18] | b[19] << 8) != 190) return CUDA_ERROR_INVALID_IMAGE;  // EM_CUDA
        std::uint64_t headers;
        std::memcpy(&headers, b + 40, 8);
        const unsigned each = b[58] | b[59] << 8, n = b[60] | b[61] << 8;
        size = headers + each * n;
        std::uint64_t programs;
        std::memcpy(&programs, b + 32, 8);
        const std::uint64_t end = programs + static_cast<std::uint64_t>(b[54] | b[55] << 8) * (b[56] | b[57] << 8);
        if (end > size) size = end;
    } else if (std::memcmp(b, "fake", 4) == 0) size = 5;
    else return CUDA_ERROR_INVALID_IMAGE;
    *mod = new CUmod_st;
    (*mod)->image.assign(b, b + size);
    ++m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuModuleUnload(CUmodule mod) {
    delete mod;
    --m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuModuleGetFunction(CUfunction* f, CUmodule mod, const char* name) {
    ENTER("cuModuleGetFunction");
    if (mod->image.size() > 5) {  // a real cubin: the kernel must be in it
        const std::string section = std::string(".text.") + name + '\0';
        if (memmem(mod->image.data(), mod->image.size(), section.data(), section.size()) == nullptr)
            return CUDA_ERROR_NOT_FOUND;
    }
    const std::lock_guard<std::mutex> hold(m().lock);
    const auto it = m().kernels.find(name);
    if (it == m().kernels.end()) return CUDA_ERROR_NOT_FOUND;
    auto& slot = mod->functions[name];
    if (!slot) slot.reset(new CUfunc_st{&it->second, name});
    *f = slot.get();
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    ENTER("cuFuncSetAttribute");
    if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (v > 227 * 1024) return CUDA_ERROR_INVALID_VALUE;
        f->shared_max = v;
    }
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                       unsigned bz, unsigned shared, CUstream s, void** params, void** extra) {
    ENTER("cuLaunchKernel");
    if (extra || !params) return CUDA_ERROR_INVALID_VALUE;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || !by || !bz || bx * by * bz > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (static_cast<int>(shared) > f->shared_max) return CUDA_ERROR_INVALID_VALUE;
    spend(m().launch_ns.load());
    Op op;
    op.kind = Op::kernel;
    op.code = f->code;
    for (std::size_t i = 0; i < f->code->sizes.size(); ++i) {
        const auto* from = static_cast<const unsigned char*>(params[i]);
        op.params.emplace_back(from, from + f->code->sizes[i]);
    }
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    std::memcpy(op.grid, grid, sizeof grid);
    std::memcpy(op.block, block, sizeof block);
    op.shared = shared;
    return submit(s, std::move(op));
}
EXPORT CUresult CUDAAPI cuLaunchHostFunc(CUstream s, CUhostFn fn, void* user) {
    ENTER("cuLaunchHostFunc");
    Op op;
    op.kind = Op::host;
    op.function = fn, op.user = user;
    return submit(s, std::move(op));
}
EXPORT CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode) {
    ENTER("cuStreamBeginCapture");
    const std::lock_guard<std::mutex> hold(s->lock);
    if (s->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    s->capturing = true, s->invalid = false, s->mode = mode, s->by = std::this_thread::get_id();
    s->graph = new CUgraph_st;
    if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL) ++m().global_captures;
    if (mode != CU_STREAM_CAPTURE_MODE_RELAXED) ++own_captures;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamEndCapture(CUstream s, CUgraph* g) {
    const std::lock_guard<std::mutex> hold(s->lock);
    if (!s->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    if (s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && s->by != std::this_thread::get_id())
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    s->capturing = false;
    if (s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL) --m().global_captures;
    if (s->mode != CU_STREAM_CAPTURE_MODE_RELAXED) --own_captures;
    *g = s->graph;
    s->graph = nullptr;
    if (const CUresult e = enter("cuStreamEndCapture")) {
        delete *g;
        *g = nullptr;
        return e;
    }
    if (s->invalid) {
        delete *g;
        *g = nullptr;
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    ++m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus* status) {
    const std::lock_guard<std::mutex> hold(s->lock);
    *status = !s->capturing ? CU_STREAM_CAPTURE_STATUS_NONE
              : s->invalid  ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                            : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphDestroy(CUgraph g) {
    delete g;
    --m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphGetNodes(CUgraph g, CUgraphNode*, size_t* n) {
    *n = g->ops.size();
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec* e, CUgraph g, unsigned long long) {
    ENTER("cuGraphInstantiate");
    *e = new CUgraphExec_st;
    (*e)->ops = g->ops;
    ++m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphUpload(CUgraphExec, CUstream) {
    ENTER("cuGraphUpload");
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec e) {
    if (e->queued.load()) complain("an executable graph was destroyed while it ran");
    delete e;
    --m().live;
    return CUDA_SUCCESS;
}
EXPORT CUresult CUDAAPI cuGraphLaunch(CUgraphExec e, CUstream s) {
    ENTER("cuGraphLaunch");
    spend(m().launch_ns.load());
    ++m().n_graphs;
    e->queued.fetch_add(1);
    Op op;
    op.kind = Op::graph;
    op.exec = e;
    return submit(s, std::move(op), false);
}
