// Opens ONNX Runtime's shared library and finds the functions of its C API.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "base/assert.hpp"
#include "model/onnx/api.hpp"

namespace engine::onnx {
namespace {

struct ApiBase {
    const void* (*get_api)(uint32_t version);
    const char* (*version)();
};

// The oldest table asked for: that of onnxruntime 1.17, the oldest release this package admits. A newer library hands
// out the same positions for it.
constexpr uint32_t api_version = 17;

class Table {
public:
    explicit Table(const void* api) : entries_(static_cast<void* const*>(api)) {}
    template <class Function>
    void read(size_t index, Function& out) const {
        static_assert(sizeof(Function) == sizeof(void*));
        ENGINE_ASSERT(entries_ != nullptr, "the library offered a table");
        std::memcpy(&out, &entries_[index], sizeof out);
    }

private:
    void* const* entries_;
};

Api read_api(const void* table) {
    const Table at(table);
    Api api{};
    at.read(0, api.create_status);
    at.read(1, api.error_code);
    at.read(2, api.error_message);
    at.read(3, api.create_env);
    at.read(6, api.disable_telemetry);
    at.read(7, api.create_session);
    at.read(8, api.create_session_from_array);
    at.read(9, api.run);
    at.read(10, api.create_options);
    at.read(23, api.set_optimisation);
    at.read(24, api.set_intra_op_threads);
    at.read(25, api.set_inter_op_threads);
    at.read(30, api.input_count);
    at.read(31, api.output_count);
    at.read(33, api.input_type);
    at.read(34, api.output_type);
    at.read(36, api.input_name);
    at.read(37, api.output_name);
    at.read(49, api.wrap_tensor);
    at.read(51, api.tensor_data);
    at.read(55, api.type_tensor_info);
    at.read(56, api.type_kind);
    at.read(60, api.element_type);
    at.read(61, api.dimension_count);
    at.read(62, api.dimensions);
    at.read(65, api.value_tensor_info);
    at.read(66, api.value_type);
    at.read(69, api.create_cpu_memory_info);
    at.read(76, api.allocator_free);
    at.read(78, api.default_allocator);
    at.read(93, api.release_status);
    at.read(95, api.release_session);
    at.read(96, api.release_value);
    at.read(98, api.release_type);
    at.read(99, api.release_tensor_info);
    at.read(100, api.release_options);
    at.read(130, api.add_config);
    return api;
}

Error refuse(const std::string& path, const std::string& why) {
    return {Fault::library, "'" + path + "' cannot be used as ONNX Runtime: " + why};
}

// A status made and read back proves that the table is laid out as expected before anything depends on it.
bool answers_as_expected(const Api& api) {
    constexpr int code = 2;
    constexpr char text[] = "engine: is this the table we know?";
    Status* status = api.create_status(code, text);
    if (status == nullptr) return false;
    const bool same = api.error_code(status) == code && std::strcmp(api.error_message(status), text) == 0;
    api.release_status(status);
    return same;
}

Error share_objects(Library& library, const std::string& path) {
    const Api& api = library.api;
    Error error = take(api, api.create_env(log_fatal_only, "engine", &library.env));
    if (error.fault == Fault::none) error = take(api, api.disable_telemetry(library.env));
    if (error.fault == Fault::none) {
        error = take(api, api.create_cpu_memory_info(allocator_device, memory_default, &library.cpu));
    }
    if (error.fault == Fault::none) error = take(api, api.default_allocator(&library.allocator));
    return error.fault == Fault::none ? error : refuse(path, error.text);
}

std::unique_ptr<Library> load(const std::string& path, Error& error) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* reason = dlerror();
        error = refuse(path, reason == nullptr ? "it does not open" : reason);
        return nullptr;
    }
    const auto get_base = reinterpret_cast<const ApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
    if (get_base == nullptr) {
        error = refuse(path, "it has no OrtGetApiBase");
        return nullptr;
    }
    auto library = std::make_unique<Library>();
    library->version = get_base()->version();
    unsigned major = 0, minor = 0;
    // Checked before asking for the table: an older library would print a complaint and return nothing.
    if (std::sscanf(library->version.c_str(), "%u.%u", &major, &minor) != 2 || major != 1 || minor < api_version) {
        error = refuse(path, "version 1." + std::to_string(api_version) + " or later of series 1 is needed, it is " +
                                 library->version);
        return nullptr;
    }
    const void* table = get_base()->get_api(api_version);
    if (table == nullptr) {
        error = refuse(path, "it does not offer API version " + std::to_string(api_version));
        return nullptr;
    }
    library->api = read_api(table);
    if (!answers_as_expected(library->api)) {
        error = refuse(path, "its function table is not laid out as expected");
        return nullptr;
    }
    error = share_objects(*library, path);
    return error.fault == Fault::none ? std::move(library) : nullptr;
}

}  // namespace

const Library* open_library(const std::string& path, Error& error) {
    // Kept for the life of the process: a session may outlive every static object, and threads may be inside the
    // library while the process exits.
    static std::mutex& mutex = *new std::mutex;
    static auto& opened = *new std::map<std::string, std::unique_ptr<Library>>;
    const std::lock_guard lock(mutex);
    const auto found = opened.find(path);
    if (found != opened.end()) return found->second.get();
    std::unique_ptr<Library> library = load(path, error);
    if (library == nullptr) return nullptr;
    return (opened[path] = std::move(library)).get();
}

Error take(const Api& api, Status* status) {
    if (status == nullptr) return {};
    Error error{api.error_code(status) == error_not_implemented ? Fault::unsupported : Fault::model,
                api.error_message(status)};
    api.release_status(status);
    return error;
}

std::string library_version(const std::string& library, Error& error) {
    const Library* opened = open_library(library, error);
    return opened == nullptr ? std::string() : opened->version;
}

}  // namespace engine::onnx
