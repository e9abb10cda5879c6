// Sessions of ONNX Runtime and the scorer that runs one.
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <type_traits>
#include <utility>

#include "base/assert.hpp"
#include "model/onnx/api.hpp"
#include "model/onnx/onnx.hpp"

namespace engine::onnx {
namespace {


// Frees what the C API made when the scope ends, on every path.
template <class T>
class Owned {
public:
    explicit Owned(void (*release)(T*)) : release_(release) {}
    ~Owned() {
        if (pointer_ != nullptr) release_(pointer_);
    }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    T* get() const { return pointer_; }
    T** out() { return &pointer_; }
    T* give_up() { return std::exchange(pointer_, nullptr); }

private:
    T* pointer_ = nullptr;
    void (*release_)(T*);
};

// Carries a failed status out of nested calls while a session is being set up; never crosses the scorer socket.
struct Failed {
    Error error;
};

void require(const Api& api, Status* status) {
    if (status != nullptr) throw Failed{take(api, status)};
}

class LoadedSession final : public Session {
public:
    LoadedSession(const Library& library, std::span<const std::byte> model, const std::string* path, int threads)
        : library(library), native_(library.api.release_session) {
        const Api& api = library.api;
        Owned<SessionOptions> options(api.release_options);
        configure(options, threads);
        if (path != nullptr) {
            require(api, api.create_session(library.env, path->c_str(), options.get(), native_.out()));
        } else {
            require(api, api.create_session_from_array(library.env, model.data(), model.size(), options.get(),
                                                       native_.out()));
        }
        inputs_ = ports(api.input_count, api.input_name, api.input_type);
        outputs_ = ports(api.output_count, api.output_name, api.output_type);
    }

    const std::vector<Port>& inputs() const override { return inputs_; }
    const std::vector<Port>& outputs() const override { return outputs_; }
    NativeSession* native() const { return native_.get(); }

    // Element type and shape of what the library describes; throws Failed.
    void read_type(const TypeInfo* type, Port& port) const {
        const Api& api = library.api;
        int kind = 0;
        require(api, api.type_kind(type, &kind));
        port.tensor = kind == type_tensor;
        if (!port.tensor) return;
        const TensorInfo* tensor = nullptr;
        require(api, api.type_tensor_info(type, &tensor));
        if (tensor == nullptr) throw Failed{{Fault::model, "'" + port.name + "' is a tensor without a type"}};
        size_t rank = 0;
        require(api, api.element_type(tensor, &port.element));
        require(api, api.dimension_count(tensor, &rank));
        port.shape.resize(rank);
        require(api, api.dimensions(tensor, port.shape.data(), rank));
    }

    const Library& library;

private:
    void configure(Owned<SessionOptions>& options, int threads) const {
        const Api& api = library.api;
        require(api, api.create_options(options.out()));
        require(api, api.set_optimisation(options.get(), optimise_all));
        require(api, api.set_intra_op_threads(options.get(), threads));
        require(api, api.set_inter_op_threads(options.get(), 1));
        // A pool that spins between calls takes the core that the next deadline needs.
        require(api, api.add_config(options.get(), "session.intra_op.allow_spinning", "0"));
        require(api, api.add_config(options.get(), "session.inter_op.allow_spinning", "0"));
    }

    template <class Count, class Name, class Type>
    std::vector<Port> ports(Count count_of, Name name_of, Type type_of) const {
        size_t count = 0;
        require(library.api, count_of(native(), &count));
        std::vector<Port> found(count);
        for (size_t index = 0; index < count; ++index) {
            char* name = nullptr;
            require(library.api, name_of(native(), index, library.allocator, &name));
            found[index].name = name;
            require(library.api, library.api.allocator_free(library.allocator, name));
            Owned<TypeInfo> type(library.api.release_type);
            require(library.api, type_of(native(), index, type.out()));
            read_type(type.get(), found[index]);
        }
        return found;
    }

    Owned<NativeSession> native_;
    std::vector<Port> inputs_, outputs_;
};

// The context behind a scorer socket.
struct OnnxScorer {
    OnnxScorer(std::shared_ptr<LoadedSession> session, Plan plan) : session(std::move(session)), plan(std::move(plan)) {}

    const std::shared_ptr<LoadedSession> session;
    const Plan plan;
    std::atomic<size_t> references{1};
    std::mutex error_mutex;
    std::string error;

    // Keeps the text of a failure, because a status has room for a number only.
    void remember(std::string text) {
        const std::lock_guard lock(error_mutex);
        error = std::move(text);
    }

    // Returns false, the reason remembered, where the call failed.
    bool passed(Status* status) {
        if (status == nullptr) return true;
        remember(take(session->library.api, status).text);
        return false;
    }

    bool run(const void* rows, size_t n_rows, Owned<Value>& output);
    int answer(const void* rows, size_t n_rows, double* out);
    int read(Value* value, size_t n_rows, double* out);
};

template <class T>
void copy_columns(const T* from, const Plan& plan, size_t n_rows, double* out) {
    ENGINE_ASSERT(plan.first_column + plan.n_outputs <= plan.n_columns, "the answer's columns exist");
    for (size_t row = 0; row < n_rows; ++row, from += plan.n_columns) {
        for (uint32_t column = 0; column < plan.n_outputs; ++column) {
            *out++ = static_cast<double>(from[plan.first_column + column]);
        }
    }
}

std::string text_of_shape(const int64_t* shape, size_t rank) {
    std::string text = "[";
    for (size_t axis = 0; axis < rank; ++axis) text += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
    return text + "]";
}

int OnnxScorer::read(Value* value, size_t n_rows, double* out) {
    const Api& api = session->library.api;
    Owned<TensorInfo> info(api.release_tensor_info);
    int element = 0;
    size_t rank = 0;
    if (!passed(api.value_tensor_info(value, info.out())) || !passed(api.element_type(info.get(), &element)) ||
        !passed(api.dimension_count(info.get(), &rank))) {
        return ENGINE_SCORE_FAILED;
    }
    int64_t shape[2] = {0, 1};
    if (rank < 1 || rank > 2) {
        remember("output '" + plan.output + "' has " + std::to_string(rank) + " axes, expected 1 or 2");
        return ENGINE_SCORE_BAD_SHAPE;
    }
    if (!passed(api.dimensions(info.get(), shape, rank))) return ENGINE_SCORE_FAILED;
    if (shape[0] != static_cast<int64_t>(n_rows) || shape[1] != plan.n_columns) {
        remember("output '" + plan.output + "' has shape " + text_of_shape(shape, rank) + ", expected [" +
                 std::to_string(n_rows) + ", " + std::to_string(plan.n_columns) + "]");
        return ENGINE_SCORE_BAD_SHAPE;
    }
    void* data = nullptr;
    if (!passed(api.tensor_data(value, &data))) return ENGINE_SCORE_FAILED;
    if (element == element_float) {
        copy_columns(static_cast<const float*>(data), plan, n_rows, out);
    } else if (element == element_double) {
        copy_columns(static_cast<const double*>(data), plan, n_rows, out);
    } else {
        remember("output '" + plan.output + "' holds element type " + std::to_string(element) +
                 ", expected float or double");
        return ENGINE_SCORE_FAILED;
    }
    return ENGINE_SCORE_OK;
}

// `rows` are dense and of the model's own element type.
bool OnnxScorer::run(const void* rows, size_t n_rows, Owned<Value>& output) {
    ENGINE_ASSERT(rows != nullptr && n_rows > 0, "a run has rows");
    ENGINE_ASSERT(plan.n_features >= 1, "a plan has features");
    const Api& api = session->library.api;
    const size_t size = plan.input_element == element_double ? sizeof(double) : sizeof(float);
    const int64_t shape[2] = {static_cast<int64_t>(n_rows), static_cast<int64_t>(plan.n_features)};
    Owned<Value> input(api.release_value);
    // The C API has no type for a tensor that is only read; ONNX Runtime never writes to what it is fed.
    if (!passed(api.wrap_tensor(session->library.cpu, const_cast<void*>(rows), n_rows * plan.n_features * size, shape, 2,
                                plan.input_element, input.out()))) {
        return false;
    }
    const char* input_name = plan.input.c_str();
    const char* output_name = plan.output.c_str();
    const Value* fed = input.get();
    return passed(api.run(session->native(), nullptr, &input_name, &fed, 1, &output_name, 1, output.out()));
}

int OnnxScorer::answer(const void* rows, size_t n_rows, double* out) {
    Owned<Value> output(session->library.api.release_value);
    return run(rows, n_rows, output) ? read(output.get(), n_rows, out) : ENGINE_SCORE_FAILED;
}

// Rows as the model wants them: in place where type and spacing agree, else copied to a buffer that each thread keeps
// and that grows to its largest batch.
template <class Wanted, class Given>
const Wanted* dense_rows(const Given* rows, size_t n_rows, size_t row_stride, size_t n_features) {
    if constexpr (std::is_same_v<Wanted, Given>) {
        if (n_rows == 1 || row_stride == n_features) return rows;
    }
    thread_local std::vector<Wanted> kept;
    kept.resize(std::max(kept.size(), n_rows * n_features));
    Wanted* to = kept.data();
    for (size_t row = 0; row < n_rows; ++row, to += n_features) {
        std::transform(rows + row * row_stride, rows + row * row_stride + n_features, to,
                       [](Given value) { return static_cast<Wanted>(value); });
    }
    return kept.data();
}

template <class Wanted, class Given>
int score_as(OnnxScorer& scorer, const Given* rows, size_t n_rows, size_t row_stride, double* out) {
    if (!scorer.plan.row_by_row) {
        return scorer.answer(dense_rows<Wanted>(rows, n_rows, row_stride, scorer.plan.n_features), n_rows, out);
    }
    for (size_t row = 0; row < n_rows; ++row, rows += row_stride, out += scorer.plan.n_outputs) {
        const int status = scorer.answer(dense_rows<Wanted>(rows, 1, row_stride, scorer.plan.n_features), 1, out);
        if (status != ENGINE_SCORE_OK) return status;
    }
    return ENGINE_SCORE_OK;
}

template <class Given>
int score(void* ctx, const Given* rows, size_t n_rows, size_t row_stride, double* out) noexcept {
    OnnxScorer& scorer = *static_cast<OnnxScorer*>(ctx);
    if (n_rows == 0) return ENGINE_SCORE_OK;
    try {
        return scorer.plan.input_element == element_double ? score_as<double>(scorer, rows, n_rows, row_stride, out)
                                                           : score_as<float>(scorer, rows, n_rows, row_stride, out);
    } catch (const std::exception&) {  // no memory for the rows, or for the text of an error: so none is kept
        return ENGINE_SCORE_FAILED;
    }
}

int score_f32(void* ctx, const float* rows, size_t n_rows, size_t row_stride, double* out) {
    return score(ctx, rows, n_rows, row_stride, out);
}

int score_f64(void* ctx, const double* rows, size_t n_rows, size_t row_stride, double* out) {
    return score(ctx, rows, n_rows, row_stride, out);
}

// The orders are those of model/shared_scorer.hpp, for its reasons.
void retain(void* ctx) {
    const size_t before = static_cast<OnnxScorer*>(ctx)->references.fetch_add(1, std::memory_order_relaxed);
    ENGINE_ASSERT(before > 0, "only a model that somebody holds is retained");
    static_cast<void>(before);
}

void release(void* ctx) {
    OnnxScorer* scorer = static_cast<OnnxScorer*>(ctx);
    const size_t before = scorer->references.fetch_sub(1, std::memory_order_acq_rel);
    ENGINE_ASSERT(before > 0, "a reference is given back once");
    if (before == 1) delete scorer;
}

// open() makes every Session, so each is a LoadedSession.
std::shared_ptr<LoadedSession> as_loaded(const std::shared_ptr<Session>& session) {
    return std::static_pointer_cast<LoadedSession>(session);
}

std::shared_ptr<Session> open(const std::string& path, std::span<const std::byte> model, const std::string* file,
                              int threads, Error& error) {
    const Library* library = open_library(path, error);
    if (library == nullptr) return nullptr;
    try {
        return std::make_shared<LoadedSession>(*library, model, file, threads);
    } catch (const Failed& failed) {
        error = failed.error;
    } catch (const std::exception& failure) {
        error = {Fault::model, failure.what()};
    }
    return nullptr;
}

}  // namespace

std::shared_ptr<Session> Session::from_bytes(const std::string& library, std::span<const std::byte> model,
                                             int intra_op_threads, Error& error) {
    return open(library, model, nullptr, intra_op_threads, error);
}

std::shared_ptr<Session> Session::from_file(const std::string& library, const std::string& path, int intra_op_threads,
                                            Error& error) {
    return open(library, {}, &path, intra_op_threads, error);
}

bool probe(const std::shared_ptr<Session>& session, const Plan& plan, size_t n_rows, Port& found, Error& error) {
    const auto loaded = as_loaded(session);
    const Api& api = loaded->library.api;
    // Zeros of either element type are zero bytes.
    const std::vector<double> rows(n_rows * plan.n_features);
    OnnxScorer scorer(loaded, plan);
    Owned<Value> output(api.release_value);
    Owned<TypeInfo> type(api.release_type);
    if (!scorer.run(rows.data(), n_rows, output) || !scorer.passed(api.value_type(output.get(), type.out()))) {
        error = {Fault::unsupported, scorer.error};
        return false;
    }
    try {
        found.name = plan.output;
        loaded->read_type(type.get(), found);
    } catch (const Failed& failed) {
        error = failed.error;
    }
    return error.fault == Fault::none;
}

engine_scorer make_scorer(std::shared_ptr<Session> session, const Plan& plan) {
    ENGINE_ASSERT(plan.n_features >= 1 && plan.n_outputs >= 1, "a plan has features and outputs");
    ENGINE_ASSERT(plan.first_column + plan.n_outputs <= plan.n_columns, "the answer's columns exist");
    auto* scorer = new OnnxScorer(as_loaded(session), plan);
    return {ENGINE_SCORER_ABI,
            ENGINE_SCORER_REENTRANT,
            plan.n_features,
            plan.n_outputs,
            scorer,
            score_f32,
            plan.input_element == element_double ? score_f64 : nullptr,
            retain,
            release};
}

std::string last_error(const engine_scorer& scorer) {
    if (scorer.score != score_f32) return {};  // not made here: its context is another type
    OnnxScorer& ours = *static_cast<OnnxScorer*>(scorer.ctx);
    const std::lock_guard lock(ours.error_mutex);
    return ours.error;
}

}  // namespace engine::onnx
