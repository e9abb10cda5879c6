# A native feature program: built from the steps of a plan, run over rows that _row_reader.pyx reads and over columns
# that _columns.pyx points to.
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython cimport final
from libc.stdint cimport uint32_t
from libcpp.memory cimport shared_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine._common._features cimport ENGINE_FEATURES_ABI, ENGINE_FEATURES_CAPSULE, engine_features
from engine.transform._columns cimport Column
from engine.transform._native cimport (
    CppColumn, CppProgram, DatePart, Function, InputKind, Matches, NativeFunction, Op, Rejection, Registers, Step, Zone,
    kArgumentsMax, kCodesMax, kDateParts, kOps, kResultsMax, xxh64_native,
)
from engine.transform._row_reader cimport RowReader

from engine.transform._row_reader import KINDS
from engine.errors import InputError, InputTypeError, ProgramError

cnp.import_array()

# Names by code, as csrc/transform/ops.hpp has them: the ops of a step, and the parts of a date.
OPS = tuple([kOps[code].name.decode() for code in range(<int>Op.kCount_)])
OPS_ON_TEXT = frozenset([OPS[code] for code in range(len(OPS)) if kOps[code].reads == Registers.kTexts])
DATE_PARTS = tuple([kDateParts[code].decode() for code in range(<int>DatePart.kCount_)])
cdef dict _CODE_OF = {name: code for code, name in enumerate(OPS)}

# Limits of the native program: arguments and results of a function, and codes, which a float32 must hold exactly.
ARGUMENTS_MAX = int(kArgumentsMax)
RESULTS_MAX = int(kResultsMax)
CODES_MAX = int(kCodesMax)


def xxh64(data, seed=0) -> int:
    """Return the XXH64 of bytes: the hash that `hash`, `cross` and `tokens` are defined by."""
    cdef bytes raw = bytes(data)
    return xxh64_native(raw, len(raw), seed)


def _writable(out, shape, dtype):
    """Return `out`. Raise InputTypeError or InputError if a batch cannot be written straight into it."""
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


cdef void* _absent(void* ctx) except NULL:
    names = (<NativeProgram>ctx).reader.absent()
    Py_INCREF(names)
    return <void*>names


cdef int _check_keys(void* ctx, void* row, void* also_known) except -1:
    return (<NativeProgram>ctx).reader.check_keys(<PyObject*>row, None if also_known is NULL else <object>also_known)


cdef shared_ptr[const CppProgram] program_of(object native) except *:
    if len((<NativeProgram?>native).functions):
        raise ProgramError("the program calls functions of your own, which a scorer does not keep alive")
    return <shared_ptr[const CppProgram]>(<NativeProgram>native).owner


cdef void _free_capsule(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


@final
cdef class NativeProgram:
    """Runs a compiled feature program. Immutable; any thread may use it.

    Args:
        inputs: one (name, kind, size) for each input, in order, as `RowReader` takes them.
        n_outputs: float32 values a row.
        steps: one (op, fields) for each step, in order: a name of OPS, and fields of engine::transform::Step by name.
        tables: (UTF-8 keys, values) of each look-up table.
        edges: the rising edges of each bucket step.
        zones: (edges, offsets) of each time zone, in seconds.
        vectors: float32 [rows, width] arrays.
        functions: one (function, argument registers, number of results) for each call. `function.address` is native
            code that lives as long as `function`.
        refuse_missing: True makes an absent key an InputError; False makes it a missing value.
        matches: (keys, values) of each step that matches numbers; the keys rise.

    Raises:
        ProgramError: the steps do not make a program; says why.
    """

    cdef shared_ptr[CppProgram] owner
    cdef CppProgram* program  # the owner's
    cdef engine_features socket
    cdef RowReader reader
    cdef object functions   # keeps the addresses alive

    def __cinit__(self, inputs, n_outputs, steps, tables, edges, zones, vectors, functions, refuse_missing,
                  matches=()):
        self.functions = list(functions)
        self.reader = RowReader(inputs, refuse_missing)
        try:
            self.owner.reset(new CppProgram(self.reader.n_numbers, self.reader.n_texts, n_outputs))
            self.program = self.owner.get()
            for keys, values in tables:
                self.program.add_table(<vector[string]>keys, <vector[double]>values)
            for pair in matches:
                self._add_matches(pair)
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
        self.socket.absent = _absent
        self.socket.check_keys = _check_keys

    cdef int _add(self, object op, object fields) except -1:
        cdef Step step
        if op not in _CODE_OF:
            raise ValueError(f"unknown op {op!r}")
        step.op = <Op><int>_CODE_OF[op]
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
        if step.op == Op.kCall:
            # A function is added just before its step, because only then are all its arguments written.
            function, arguments, n_results = self.functions[step.table]
            step.table = self._add_function(function, arguments, n_results)
        self.program.add_step(step)
        return 0

    cdef uint32_t _add_function(self, object function, object arguments, object n_results) except? 0:
        cdef Function native
        native.address = <NativeFunction><size_t>function.address
        native.arguments = <vector[uint32_t]>arguments
        native.n_results = n_results
        return self.program.add_function(native)

    cdef int _add_matches(self, object pair) except -1:
        cdef Matches native
        native.keys, native.values = pair
        self.program.add_matches(native)
        return 0

    cdef int _add_zone(self, object zone) except -1:
        cdef Zone native
        native.edges_s, native.offsets_s = zone
        self.program.add_zone(native)
        return 0

    # Hot: one row, for `row` and for the socket's read_row. Returns how many inputs the mapping has no key for.
    cdef int read(self, PyObject* row, float* out) except -1:
        cdef int n_absent = self.reader.read(row)
        cdef Rejection rejection = self.program.run_row(self.reader.numbers, self.reader.texts, out)
        if rejection.step is not NULL:
            self._raise(rejection, None)
        if self.reader.kept is not None:
            self.reader.kept = None
        return n_absent

    # Cold: raises the InputError of a value that a known step refused. The step's seed is the index of its input.
    cdef int _raise(self, const Rejection& rejection, object row) except -1:
        where = "" if row is None else f"row {row}, "
        if rejection.step.op == Op.kKnown:
            got = "None" if rejection.number != rejection.number else f"{rejection.number:g}"
        else:
            got = "None" if rejection.text.data is NULL else repr(rejection.text.data[:rejection.text.size].decode())
        name = self.reader.names[rejection.step.seed]
        raise InputError(f"{where}input {name!r}: expected a category that the program was fitted on, got {got}; to "
                         f"take others, fit the encoder with handle_unknown='ignore' (OneHotEncoder) or "
                         f"'use_encoded_value' (OrdinalEncoder)")

    def row(self, row):
        """Return the features of one mapping, or of one sequence in input order: a new float32 [n_outputs]."""
        cdef cnp.npy_intp shape = self.program.n_outputs()
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT32, 0)
        self.read(<PyObject*>row, <float*>cnp.PyArray_DATA(out))
        return out

    def absent(self, row) -> tuple:
        """Return the names of the inputs that a mapping has no key for, in input order; () for a sequence."""
        self.reader.read(<PyObject*>row)
        names = self.reader.absent()
        self.reader.kept = None
        return names

    def check_keys(self, row, also_known=None):
        """Raise InputError unless every key of a mapping names an input, or is in the set `also_known`."""
        self.reader.check_keys(<PyObject*>row, also_known)

    def row_json(self, data, parse):
        """Return the features of one row of JSON: a new float32 [n_outputs].

        `parse` turns the JSON that the quick reader does not take into a row.
        """
        cdef cnp.npy_intp shape = self.program.n_outputs()
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT32, 0)
        cdef Rejection rejection
        if self.reader.quick_json(data):
            rejection = self.program.run_row(self.reader.numbers, self.reader.texts, <float*>cnp.PyArray_DATA(out))
            if rejection.step is not NULL:
                self._raise(rejection, None)
        else:
            row = parse(data)
            self.read(<PyObject*>row, <float*>cnp.PyArray_DATA(out))
        return out

    def rows(self, rows, out=None):
        """Return the features of many mappings, or sequences in input order: float32 [n, n_outputs], new or `out`."""
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
        """Return the features of columns: [n_rows, n_outputs], new or `out`.

        Args:
            columns: one Column for each input, in order, all of n_rows rows.
            as_float64: True gives float64, not rounded to float32.
            out: a writable, C-contiguous array of that shape and type; None makes one.
        """
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
            if column.is_text != (inputs.kind_of[i] == InputKind.kCategory) or column.width != inputs.size_of[i]:
                raise InputError(f"column {inputs.names[i]!r} does not hold {inputs.size_of[i]} "
                                 f"{KINDS[<int>inputs.kind_of[i]]} values a row")
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
        cdef Rejection rejection
        with nogil:
            if as_float64:
                rejection = self.program.run_batch_f64(numbers.data(), texts.data(), n_rows, <double*>to)
            else:
                rejection = self.program.run_batch(numbers.data(), texts.data(), n_rows, <float*>to)
        if rejection.step is not NULL:
            self._raise(rejection, rejection.row)
        return rows

    @property
    def capsule(self):
        """The PyCapsule `engine.features.v1` of this program (csrc/include/engine/features.h). Keeps it alive."""
        capsule = PyCapsule_New(&self.socket, ENGINE_FEATURES_CAPSULE, _free_capsule)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void*>self)
        return capsule
