# ONNX Runtime through its C API: a session, its inputs and outputs, and the scorer capsule over it.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport shared_ptr
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

from engine.model._scorer cimport engine_scorer, scorer_from_capsule, scorer_to_capsule

from engine.errors import ConfigError, ModelFormatError, UnsupportedModelError

cdef extern from *:
    """
    #include <cstddef>
    #include <span>
    static inline std::span<const std::byte> engine_bytes(const char* data, size_t size) {
        return {reinterpret_cast<const std::byte*>(data), size};
    }
    """
    cdef cppclass byte_span "std::span<const std::byte>":
        pass
    byte_span engine_bytes(const char* data, size_t size) nogil

cdef extern from "model/onnx/onnx.hpp" namespace "engine::onnx" nogil:
    cdef enum class Fault:
        none
        library
        model
        unsupported

    cdef cppclass Error:
        Fault fault
        string text

    cdef cppclass Port:
        string name
        cpp_bool tensor
        int element
        vector[int64_t] shape

    cdef cppclass Contents:
        vector[string] external
        vector[pair[string, string]] properties

    cdef cppclass Plan:
        string input
        string output
        int input_element
        uint32_t n_features
        uint32_t n_columns
        uint32_t first_column
        uint32_t n_outputs
        cpp_bool row_by_row

    cdef cppclass CSession "engine::onnx::Session":
        @staticmethod
        shared_ptr[CSession] from_bytes(const string& library, byte_span model, int threads, Error& error) except +
        @staticmethod
        shared_ptr[CSession] from_file(const string& library, const string& path, int threads, Error& error) except +
        const vector[Port]& inputs()
        const vector[Port]& outputs()

    cpp_bool c_scan "engine::onnx::scan"(byte_span model, Contents& contents, Error& error) except +
    cpp_bool c_probe "engine::onnx::probe"(const shared_ptr[CSession]& session, const Plan& plan, size_t n_rows,
                                           Port& found, Error& error) except +
    engine_scorer make_scorer(shared_ptr[CSession] session, const Plan& plan) except +
    string c_last_error "engine::onnx::last_error"(const engine_scorer& scorer) except +
    string c_library_version "engine::onnx::library_version"(const string& library, Error& error) except +


class LibraryError(Exception):
    """ONNX Runtime's shared library cannot be used through its C API; its Python API may still serve."""


cdef object _exception(const Error& error):
    text = error.text.decode("utf-8", "replace")
    if error.fault == Fault.library:
        return LibraryError(text)
    if error.fault == Fault.unsupported:
        return UnsupportedModelError(f"this ONNX Runtime cannot run the model: {text}")
    return ModelFormatError(f"not an ONNX model that can be loaded: {text}")


def scan(bytes model not None) -> tuple:
    """Return the files that the tensors of an ONNX model refer to, and its metadata: ([location, …], {key: value}).

    Opens and loads nothing.

    Raises:
        ModelFormatError: the bytes are damaged, cut short or hold no graph.
    """
    cdef byte_span data = engine_bytes(model, len(model))
    cdef Contents contents
    cdef Error error
    cdef bint whole
    with nogil:
        whole = c_scan(data, contents, error)
    if not whole:
        raise _exception(error)
    locations = [location.decode("utf-8", "surrogateescape") for location in contents.external]
    return locations, {entry.first.decode("utf-8", "replace"): entry.second.decode("utf-8", "replace")
                       for entry in contents.properties}


def library_version(str library not None) -> str:
    """Return the version that the shared library at this path reports, such as "1.20.1".

    Raises:
        LibraryError: the library cannot be used.
    """
    cdef Error error
    version = c_library_version(library.encode(), error)
    if error.fault != Fault.none:
        raise _exception(error)
    return version.decode()


cdef list _ports(vector[Port] ports):
    return [(port.name.decode("utf-8", "replace"), port.element if port.tensor else None, list(port.shape))
            for port in ports]


cdef class Session:
    """A model loaded by ONNX Runtime's shared library.

    Args:
        library: path of libonnxruntime.so.
        model: the model's bytes; or its path, for a model with tensors in files of their own.
        intra_op_threads: threads of one call; 1 stays on the calling thread.

    Raises:
        LibraryError: the library cannot be used.
        ModelFormatError: the model is damaged.
        UnsupportedModelError: the library lacks an operator or a version of the model.
    """

    cdef shared_ptr[CSession] _session

    def __cinit__(self, str library not None, model, int intra_op_threads):
        cdef string library_path = library.encode()
        cdef string path
        cdef byte_span data
        cdef Error error
        if isinstance(model, bytes):
            data = engine_bytes(<bytes>model, len(model))
            with nogil:
                self._session = CSession.from_bytes(library_path, data, intra_op_threads, error)
        else:
            path = model.encode()
            with nogil:
                self._session = CSession.from_file(library_path, path, intra_op_threads, error)
        if self._session.get() is NULL:
            raise _exception(error)

    @property
    def inputs(self) -> list:
        """(name, element type or None where it is no tensor, shape with -1 for a dynamic axis) of each input."""
        return _ports(self._session.get().inputs())

    @property
    def outputs(self) -> list:
        """(name, element type, shape) of each output, as `inputs`."""
        return _ports(self._session.get().outputs())

    def probe(self, *, str input, int input_element, uint32_t n_features, str output, size_t n_rows) -> tuple:
        """Score rows of zeros; return (element type or None where it is no tensor, shape) of the output.

        Args:
            input, output: names of the input and the output.
            input_element: ONNX's number of the input's element type, 1 (float) or 11 (double).
            n_features: values a row.
            n_rows: rows of zeros.

        Raises:
            UnsupportedModelError: the model cannot score them; the message is the library's.
        """
        cdef Plan plan
        cdef Port found
        cdef Error error
        cdef bint scored
        plan.input = input.encode()
        plan.output = output.encode()
        plan.input_element = input_element
        plan.n_features = n_features
        with nogil:
            scored = c_probe(self._session, plan, n_rows, found, error)
        if not scored:
            raise _exception(error)
        return (found.element if found.tensor else None), list(found.shape)

    def scorer(self, *, str input, int input_element, uint32_t n_features, str output, uint32_t n_columns,
               uint32_t first_column, uint32_t n_outputs, bint row_by_row):
        """Return a capsule `engine.scorer.v1` over this session, which the capsule keeps alive.

        Args:
            input, input_element, n_features, output: as in `probe`.
            n_columns: columns of the output.
            first_column, n_outputs: the columns [first_column, first_column + n_outputs) are the answer.
            row_by_row: the model's batch axis is fixed at one row.

        Raises:
            ConfigError: the columns do not exist, or n_features or n_outputs is 0.
        """
        if n_features < 1 or n_outputs < 1 or first_column + n_outputs > n_columns:
            raise ConfigError(f"cannot take columns {first_column} to {first_column + n_outputs} of {n_columns} "
                              f"from rows of {n_features} features")
        cdef Plan plan
        plan.input = input.encode()
        plan.output = output.encode()
        plan.input_element = input_element
        plan.n_features = n_features
        plan.n_columns = n_columns
        plan.first_column = first_column
        plan.n_outputs = n_outputs
        plan.row_by_row = row_by_row
        cdef engine_scorer scorer = make_scorer(self._session, plan)
        return scorer_to_capsule(&scorer)


def last_error(capsule) -> str:
    """Return ONNX Runtime's message for the last failed call of a capsule made by `Session.scorer`.

    "" where no call failed, and for any other capsule. Raises ConfigError for an object that is no scorer capsule.
    """
    return c_last_error(scorer_from_capsule(capsule)[0]).decode("utf-8", "replace")
