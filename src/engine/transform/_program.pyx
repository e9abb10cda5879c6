# A native feature program: built from the steps of a plan, run over rows that _row_reader.pyx reads and over columns
# that _columns.pyx points to.
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython cimport final
from libc.stdint cimport uint32_t
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine.transform._columns cimport Column
from engine._common._features cimport ENGINE_FEATURES_ABI, ENGINE_FEATURES_CAPSULE, engine_features
from engine.transform._row_reader cimport InputKind, RowReader
from engine.transform._native cimport CppColumn, CppProgram, Function, Op, Step, Zone, xxh64_native

from engine.transform._row_reader import KINDS
from engine.errors import InputError, InputTypeError, ProgramError

cnp.import_array()

# In the order of engine::transform::Op.
OPS = ("impute", "missing", "scale", "clip", "log1p", "sqrt", "bucket", "sine", "cosine", "power", "date_part",
       "difference", "ratio", "product", "cross_codes", "haversine", "call", "text_impute", "lookup", "hash", "hash_cross",
       "length", "text_missing", "emit", "one_hot", "vector", "tokens")
if len(OPS) != <int>Op.kCount_:
    raise ImportError("OPS does not list the steps of csrc/include/engine/transform.hpp")

def xxh64(data, seed=0) -> int:
    """XXH64 of bytes, the hash that hashed categories are pinned to."""
    cdef bytes raw = bytes(data)
    return xxh64_native(raw, len(raw), seed)


def _writable(out, shape, dtype):
    """`out`, if the rows of a batch can be written straight into it."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        got = f"dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputTypeError(f"out: expected a NumPy array of {np.dtype(dtype)}, got {got}")
    if out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError(f"out: expected a writable, C-contiguous array of shape {list(shape)}, got shape "
                         f"{list(out.shape)}, writable: {out.flags.writeable}, contiguous: {out.flags.c_contiguous}")
    return out


cdef void _retain(void* ctx) noexcept:
    Py_INCREF(<object>ctx)


cdef void _release(void* ctx) noexcept:
    Py_DECREF(<object>ctx)


cdef int _read_row(void* ctx, void* row, float* out) except -1:
    return (<NativeProgram>ctx).read(<PyObject*>row, out)


cdef void _free_capsule(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


@final
cdef class NativeProgram:
    """A compiled feature program. Immutable; any thread may use it.

    Args:
        inputs: (name, kind of KINDS, values) of each input, in order. Texts are registers 0, 1, … of the texts, all
            others of the numbers, as many as they have values, each in this order.
        n_outputs: float32 values a row.
        steps: (op of OPS, fields of engine::transform::Step by name).
        tables: (UTF-8 keys, values) of each look-up table; edges: rising edges of each bucket step; zones: (edges,
            offsets) of each time zone, in seconds; vectors: float32 [rows, width] arrays.
        functions: (function, argument registers, n_results); an `address` of native code that the function keeps alive.
        refuse_missing: a missing key is an InputError, where it otherwise counts as a missing value.

    Raises ProgramError where the steps make no sense.
    """

    cdef CppProgram* program
    cdef engine_features socket
    cdef RowReader reader
    cdef object functions   # keeps the addresses alive

    def __cinit__(self, inputs, n_outputs, steps, tables, edges, zones, vectors, functions, refuse_missing):
        self.functions = list(functions)
        self.reader = RowReader(inputs, refuse_missing)
        try:
            self.program = new CppProgram(self.reader.n_numbers, self.reader.n_texts, n_outputs)
            for keys, values in tables:
                self.program.add_table(<vector[string]>keys, <vector[double]>values)
            for rising in edges:
                self.program.add_edges(<vector[double]>rising)
            for zone in zones:
                self._add_zone(zone)
            for rows in vectors:
                self.program.add_vectors(<vector[float]>rows.ravel().tolist(), rows.shape[1])
            for op, fields in steps:
                self._add(op, fields)
            self.program.finish()
        except (ValueError, OverflowError, TypeError) as error:
            raise ProgramError(f"the program does not compile: {error}") from None
        self.reader.reserve(self.program.number_registers(), self.program.text_registers())
        self.socket.abi = ENGINE_FEATURES_ABI
        self.socket.n_features = n_outputs
        self.socket.ctx = <void*>self
        self.socket.read_row = _read_row
        self.socket.retain = _retain
        self.socket.release = _release

    def __dealloc__(self):
        del self.program

    cdef int _add(self, object op, object fields) except -1:
        cdef Step step
        step.op = <Op><int>OPS.index(op)
        step.dst = fields.get("dst", 0)
        step.a = fields.get("a", 0)
        step.b = fields.get("b", 0)
        step.c = fields.get("c", 0)
        step.d = fields.get("d", 0)
        step.table = fields.get("table", 0)
        step.count = fields.get("count", 0)
        step.seed = fields.get("seed", 0)
        step.x = fields.get("x", 0.0)
        step.y = fields.get("y", 0.0)
        if op == "call":
            # Here, where its arguments have been written.
            function, arguments, n_results = self.functions[step.table]
            step.table = self._add_function(function, arguments, n_results)
        self.program.add_step(step)
        return 0

    cdef uint32_t _add_function(self, object function, object arguments, object n_results) except? 0:
        cdef Function native
        native.address = <const void*><size_t>function.address
        native.arguments = <vector[uint32_t]>arguments
        native.n_results = n_results
        return self.program.add_function(native)

    cdef int _add_zone(self, object zone) except -1:
        cdef Zone native
        native.edges_s, native.offsets_s = zone
        self.program.add_zone(native)
        return 0

    # Hot: what the socket's read_row does.
    cdef int read(self, PyObject* row, float* out) except -1:
        self.reader.read(row)
        self.program.run_row(self.reader.numbers, self.reader.texts, out)
        return 0

    def row(self, row):
        """One mapping, or sequence in input order -> a new float32 [n_outputs]."""
        cdef cnp.npy_intp shape = self.program.n_outputs()
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT32, 0)
        self.read(<PyObject*>row, <float*>cnp.PyArray_DATA(out))
        return out

    def row_json(self, data, parse):
        """One row as JSON -> a new float32 [n_outputs]; `parse` reads what the quick reader leaves."""
        cdef cnp.npy_intp shape = self.program.n_outputs()
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT32, 0)
        if self.reader.quick_json(data):
            self.program.run_row(self.reader.numbers, self.reader.texts, <float*>cnp.PyArray_DATA(out))
        else:
            row = parse(data)
            self.read(<PyObject*>row, <float*>cnp.PyArray_DATA(out))
        return out

    def rows(self, rows, out=None):
        """A sequence of mappings (or sequences in input order), read one by one -> [n, n_outputs], new or `out`."""
        cdef list kept = list(rows)
        cdef Py_ssize_t i
        cdef size_t width = self.program.n_outputs()
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = len(kept), width
        cdef cnp.ndarray made
        if out is None:
            made = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32, 0)
        else:
            made = _writable(out, (len(kept), width), np.float32)
        cdef float* to = <float*>cnp.PyArray_DATA(made)
        for i in range(len(kept)):
            try:
                self.read(PyList_GET_ITEM(kept, i), to + i * width)
            except (InputError, InputTypeError) as error:
                raise type(error)(f"row {i}, {error}") from None
        return made

    def batch(self, columns, size_t n_rows, bint as_float64=False, out=None):
        """One Column an input, in order -> [n_rows, n_outputs]: a new array, or `out`, C-contiguous of that type."""
        cdef vector[CppColumn] numbers
        cdef vector[CppColumn] texts
        cdef CppColumn native
        cdef Column column
        cdef uint32_t i, j
        cdef list kept = list(columns)
        cdef RowReader inputs = self.reader
        for i in range(inputs.n_inputs):
            column = kept[i]
            if <size_t>column.n_rows != n_rows:
                raise InputError(f"column {inputs.names[i]!r} has {column.n_rows} rows, expected {n_rows}")
            if column.is_text != (inputs.kind_of[i] == InputKind.TEXT) or column.width != inputs.size_of[i]:
                raise InputError(f"column {inputs.names[i]!r} does not hold {inputs.size_of[i]} "
                                 f"{KINDS[inputs.kind_of[i]]} values a row")
            native.chunks = column.chunks.data()
            native.n_chunks = column.chunks.size()
            for j in range(inputs.size_of[i]):
                native.component = j
                if column.is_text:
                    texts.push_back(native)
                else:
                    numbers.push_back(native)
        shape, dtype = (n_rows, self.program.n_outputs()), np.float64 if as_float64 else np.float32
        cdef cnp.ndarray rows = np.empty(shape, dtype) if out is None else _writable(out, shape, dtype)
        cdef void* to = cnp.PyArray_DATA(rows)
        with nogil:
            if as_float64:
                self.program.run_batch_f64(numbers.data(), texts.data(), n_rows, <double*>to)
            else:
                self.program.run_batch(numbers.data(), texts.data(), n_rows, <float*>to)
        return rows

    @property
    def capsule(self):
        """The PyCapsule `engine.features.v1` (csrc/include/engine/features.h) of this program."""
        capsule = PyCapsule_New(&self.socket, ENGINE_FEATURES_CAPSULE, _free_capsule)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void*>self)
        return capsule
