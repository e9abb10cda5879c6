#include "gpu/driver.hpp"

#include <dlfcn.h>

namespace engine::gpu {

std::shared_ptr<const Driver> Driver::open(const char* path, std::string* error) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        *error = std::string("no CUDA driver: ") + dlerror();
        return nullptr;
    }
    auto driver = std::make_shared<Driver>();
#define ENGINE_GPU_FIND(name, symbol, arguments)                                                           \
    driver->name = reinterpret_cast<Result(*) arguments>(dlsym(library, #symbol));                         \
    if (driver->name == nullptr) {                                                                         \
        *error = "the CUDA driver has no " #symbol ": it is older than CUDA 12, update the NVIDIA driver"; \
        return nullptr;                                                                                    \
    }
    ENGINE_GPU_CALLS(ENGINE_GPU_FIND)
#undef ENGINE_GPU_FIND
    if (const Result result = driver->cuInit(0)) {
        failed(*driver, "cuInit", result, error);
        return nullptr;
    }
    return driver;
}

std::string Driver::name_of(Result result) const {
    const char* name = nullptr;
    if (cuGetErrorName(result, &name) == SUCCESS && name != nullptr) return name;
    return "CUDA error " + std::to_string(result);
}

bool failed(const Driver& driver, const std::string& doing, Result result, std::string* error) {
    *error = doing + ": " + driver.name_of(result);
    return false;
}

}  // namespace engine::gpu
