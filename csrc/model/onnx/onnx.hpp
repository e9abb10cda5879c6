// ONNX models scored through ONNX Runtime's C API: no interpreter and no lock between a row and its score.
//
// The shared library is opened at run time from a path that the caller gives; nothing here is linked against it. The
// job ends at the scorer socket: the caller chooses the input and the output, from the ports that a session lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/scorer.h"

namespace engine::onnx {

enum class Fault {
    none,
    library,      // the shared library is missing, too old or does not behave as its contract says
    model,        // the bytes are not a model, or not a whole one
    unsupported,  // a valid model with an operator or a version that this library does not have
};

struct Error {
    Fault fault = Fault::none;
    std::string text;
};

// Element types by ONNX's own numbers (TensorProto.DataType); only the two that hold scores are named.
inline constexpr int element_float = 1;
inline constexpr int element_double = 11;

// One input or output of a model.
struct Port {
    std::string name;
    bool tensor = false;         // false for a sequence, a map or a sparse tensor
    int element = 0;             // element type; 0 where this is not a tensor
    std::vector<int64_t> shape;  // -1 where the axis is dynamic
};

// Facts in a model's bytes, found before any library has parsed them.
struct Contents {
    std::vector<std::string> external;                            // file locations named by tensors, as written
    std::vector<std::pair<std::string, std::string>> properties;  // metadata_props
};

// Walks the protobuf structure of an ONNX ModelProto without building it: bounded depth, no copies of tensor data.
// Returns false and fills `error` where the bytes are damaged, cut short or hold no graph.
bool scan(std::span<const std::byte> model, Contents& contents, Error& error);

// How rows become scores.
struct Plan {
    std::string input;
    std::string output;
    int input_element = element_float;  // element_float or element_double
    uint32_t n_features = 0;
    uint32_t n_columns = 1;     // columns of the model's output
    uint32_t first_column = 0;  // the scorer answers columns [first_column, first_column + n_outputs)
    uint32_t n_outputs = 1;
    bool row_by_row = false;  // the model's batch axis is fixed at one
};

// A loaded model. Runs on the thread that calls it when intra_op_threads is 1; safe to use from many threads at once.
class Session {
public:
    // `library` is a path to libonnxruntime.so*. A library once opened stays open for the life of the process.
    // Returns nullptr and fills `error` on failure.
    static std::shared_ptr<Session> from_bytes(const std::string& library, std::span<const std::byte> model,
                                               int intra_op_threads, Error& error);
    // The same from a file, for models with external data: locations are relative to the file's folder.
    static std::shared_ptr<Session> from_file(const std::string& library, const std::string& path,
                                              int intra_op_threads, Error& error);

    virtual ~Session() = default;
    virtual const std::vector<Port>& inputs() const = 0;
    virtual const std::vector<Port>& outputs() const = 0;

protected:
    Session() = default;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
};

// Runs n_rows rows of zeros and describes the output in `found`; also the first warm-up. Reads the plan's input,
// input_element, n_features and output. Returns false and fills `error` on failure.
bool probe(const std::shared_ptr<Session>& session, const Plan& plan, size_t n_rows, Port& found, Error& error);

// A scorer over `session` with one reference, which release() gives back. Reentrant, never takes the GIL.
engine_scorer make_scorer(std::shared_ptr<Session> session, const Plan& plan);

// ONNX Runtime's message for the last failed call of this scorer, on any thread. Empty where no call failed, and for a
// scorer that was not made here.
std::string last_error(const engine_scorer& scorer);

// The version that the library at this path reports, "1.17.0" say; empty and `error` filled where it cannot be used.
std::string library_version(const std::string& library, Error& error);

}  // namespace engine::onnx
