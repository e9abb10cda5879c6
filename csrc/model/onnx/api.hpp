// The part of ONNX Runtime's C API that scoring needs, found by position in its function table.
//
// The table only ever grows at its end: ONNX Runtime pins positions by compile-time assertions (entry 101 closes
// version 1 of the table, 118 version 2), and the positions used here are the same in its headers of API versions 1 and
// 29. Declaring the functions here keeps the build free of that header; a library is tried before its table is trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "model/onnx/onnx.hpp"

namespace engine::onnx {

// Opaque to everyone but the library.
struct Status;
struct Env;
struct NativeSession;
struct SessionOptions;
struct RunOptions;
struct Value;
struct TypeInfo;
struct TensorInfo;
struct MemoryInfo;
struct Allocator;

// Constants of the C API's enumerations.
inline constexpr int log_fatal_only = 4;  // failures come back as a status; nothing is printed on the service's stderr
inline constexpr int optimise_all = 99;
inline constexpr int allocator_device = 0;
inline constexpr int memory_default = 0;
inline constexpr int type_tensor = 1;
inline constexpr int error_not_implemented = 9;

struct Api {
    Status* (*create_status)(int code, const char* text);
    int (*error_code)(const Status*);
    const char* (*error_message)(const Status*);
    void (*release_status)(Status*);

    Status* (*create_env)(int log_level, const char* log_name, Env** out);
    Status* (*disable_telemetry)(const Env*);
    Status* (*create_cpu_memory_info)(int allocator, int memory, MemoryInfo** out);
    Status* (*default_allocator)(Allocator** out);  // owned by the library
    Status* (*allocator_free)(Allocator*, void*);

    Status* (*create_options)(SessionOptions** out);
    Status* (*set_optimisation)(SessionOptions*, int level);
    Status* (*set_intra_op_threads)(SessionOptions*, int count);
    Status* (*set_inter_op_threads)(SessionOptions*, int count);
    Status* (*add_config)(SessionOptions*, const char* key, const char* value);
    void (*release_options)(SessionOptions*);

    Status* (*create_session)(const Env*, const char* path, const SessionOptions*, NativeSession** out);
    Status* (*create_session_from_array)(const Env*, const void* bytes, size_t size, const SessionOptions*,
                                         NativeSession** out);
    void (*release_session)(NativeSession*);
    Status* (*run)(NativeSession*, const RunOptions*, const char* const* input_names, const Value* const* inputs,
                   size_t n_inputs, const char* const* output_names, size_t n_outputs, Value** outputs);

    Status* (*input_count)(const NativeSession*, size_t* out);
    Status* (*output_count)(const NativeSession*, size_t* out);
    Status* (*input_type)(const NativeSession*, size_t index, TypeInfo** out);
    Status* (*output_type)(const NativeSession*, size_t index, TypeInfo** out);
    Status* (*input_name)(const NativeSession*, size_t index, Allocator*, char** out);
    Status* (*output_name)(const NativeSession*, size_t index, Allocator*, char** out);

    Status* (*type_kind)(const TypeInfo*, int* out);
    Status* (*type_tensor_info)(const TypeInfo*, const TensorInfo** out);  // owned by the TypeInfo
    void (*release_type)(TypeInfo*);
    Status* (*element_type)(const TensorInfo*, int* out);
    Status* (*dimension_count)(const TensorInfo*, size_t* out);
    Status* (*dimensions)(const TensorInfo*, int64_t* out, size_t count);
    void (*release_tensor_info)(TensorInfo*);

    Status* (*wrap_tensor)(const MemoryInfo*, void* data, size_t bytes, const int64_t* shape, size_t rank, int element,
                           Value** out);  // borrows `data`
    Status* (*value_type)(const Value*, TypeInfo** out);
    Status* (*value_tensor_info)(const Value*, TensorInfo** out);
    Status* (*tensor_data)(Value*, void** out);
    void (*release_value)(Value*);
};

// One opened library: its functions, and the objects that all sessions of a process share and nobody frees.
struct Library {
    Api api{};
    std::string version;
    Env* env = nullptr;
    MemoryInfo* cpu = nullptr;
    Allocator* allocator = nullptr;
};

// Opens the library at `path`, or finds it opened already. nullptr and `error` filled where it cannot be used.
const Library* open_library(const std::string& path, Error& error);

// Text and code of a failed status, which is freed; nullptr (success) gives an Error without fault.
Error take(const Api& api, Status* status);

}  // namespace engine::onnx
