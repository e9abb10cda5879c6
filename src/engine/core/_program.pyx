# Python rows in, float32 rows out: reads a mapping, a sequence or columns into the registers of a native feature program
# and runs it.
#
# Two readers share the work. The quick one takes rows and values of exact, common types and runs no Python code, so it
# may use the program's own scratch while the GIL is held. The slow one turns the row into plain floats and strings of
# its own first - running whatever code that takes - and then hands them to the quick one.
from cpython.datetime cimport import_datetime
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyObject_Hash
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport NAN
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libcpp.string cimport string
from libcpp.vector cimport vector

import sys
from collections.abc import Mapping, Sequence

import numpy as np

cimport numpy as cnp

from engine.core._columns cimport Column
from engine.core._transform cimport (
    ENGINE_FEATURES_ABI, ENGINE_FEATURES_CAPSULE, CppColumn, CppProgram, Function, Op, Step, Text, Zone,
    engine_features, xxh64_native,
)
from engine.core._values cimport (
    PyUnicode_Check, PyUnicode_CheckExact, engine_kept_hash, engine_same_text, kDigits, plain_number, plain_text,
    plain_timestamp, plain_vector, quick_number, quick_text, quick_timestamp, quick_vector,
)

from engine.core._values import shown as _shown
from engine.errors import InputError, InputTypeError, ProgramError

cnp.import_array()
import_datetime()

# In the order of engine::transform::Op.
OPS = ("impute", "missing", "scale", "clip", "log1p", "sqrt", "bucket", "sine", "cosine", "power", "date_part",
       "difference", "ratio", "product", "cross_codes", "haversine", "call", "text_impute", "lookup", "hash", "hash_cross",
       "length", "text_missing", "emit", "one_hot", "vector", "tokens")
if len(OPS) != <int>Op.kCount_:
    raise ImportError("OPS does not list the steps of csrc/include/engine/transform.hpp")

cdef object _ABSENT = object()

# What an input holds; the numbers are NativeProgram's own.
KINDS = ("number", "category", "timestamp", "timestamp_utc", "vector")
cdef enum:
    NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR


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
    cdef tuple names        # interned, keeps name_at's pointers alive
    cdef PyObject** name_at  # [n_inputs]
    cdef uint8_t* kind_of   # [n_inputs], of the enum above
    cdef uint32_t* size_of  # [n_inputs], values a row
    cdef object functions   # keeps the addresses alive
    cdef uint32_t* register_of  # [n_inputs]
    cdef int32_t* name_slots  # open addressing by the name's own hash: input index, or -1
    cdef size_t name_mask
    cdef uint32_t n_inputs
    cdef bint refuse_missing
    cdef double* numbers    # scratch of one row, used only with the GIL held and no Python code run
    cdef Text* texts
    cdef char* digits       # kDigits bytes a text input

    def __cinit__(self, inputs, n_outputs, steps, tables, edges, zones, vectors, functions, refuse_missing):
        self.refuse_missing = refuse_missing
        self.functions = list(functions)
        cdef uint32_t n_numbers = 0, n_texts = 0
        n_numbers, n_texts = self._keep_inputs(inputs)
        try:
            self.program = new CppProgram(n_numbers, n_texts, n_outputs)
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
        self.numbers = <double*>PyMem_Calloc(max(1, self.program.number_registers()), sizeof(double))
        self.texts = <Text*>PyMem_Calloc(max(1, self.program.text_registers()), sizeof(Text))
        self.digits = <char*>PyMem_Calloc(max(1, n_texts), kDigits)
        if self.numbers is NULL or self.texts is NULL or self.digits is NULL:
            raise MemoryError()
        self.socket.abi = ENGINE_FEATURES_ABI
        self.socket.n_features = n_outputs
        self.socket.ctx = <void*>self
        self.socket.read_row = _read_row
        self.socket.retain = _retain
        self.socket.release = _release

    def __dealloc__(self):
        del self.program
        PyMem_Free(self.name_at)
        PyMem_Free(self.kind_of)
        PyMem_Free(self.size_of)
        PyMem_Free(self.register_of)
        PyMem_Free(self.name_slots)
        PyMem_Free(self.numbers)
        PyMem_Free(self.texts)
        PyMem_Free(self.digits)

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

    cdef tuple _keep_inputs(self, object inputs):
        cdef uint32_t i, n_numbers = 0, n_texts = 0
        cdef size_t n_slots = 4, at
        self.names = tuple([sys.intern(str(name)) for name, _, _ in inputs])
        self.n_inputs = len(self.names)
        while n_slots < 2 * self.n_inputs:
            n_slots *= 2
        self.name_mask = n_slots - 1
        self.name_at = <PyObject**>PyMem_Calloc(max(1, self.n_inputs), sizeof(PyObject*))
        self.kind_of = <uint8_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint8_t))
        self.size_of = <uint32_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint32_t))
        self.register_of = <uint32_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint32_t))
        self.name_slots = <int32_t*>PyMem_Calloc(n_slots, sizeof(int32_t))
        if not (self.name_at and self.kind_of and self.size_of and self.register_of and self.name_slots):
            raise MemoryError()
        for at in range(n_slots):
            self.name_slots[at] = -1
        for i in range(self.n_inputs):
            name = self.names[i]
            self.name_at[i] = <PyObject*>name
            self.kind_of[i] = KINDS.index(inputs[i][1])
            self.size_of[i] = inputs[i][2]
            if self.kind_of[i] == TEXT:
                self.register_of[i] = n_texts
                n_texts += 1
            else:
                self.register_of[i] = n_numbers
                n_numbers += self.size_of[i]
            at = <size_t>PyObject_Hash(name) & self.name_mask
            while self.name_slots[at] >= 0:
                at = (at + 1) & self.name_mask
            self.name_slots[at] = i
        return n_numbers, n_texts

    # Hot: the input that an exact str names, or -1. Its hash is kept: it is a key of a dict.
    cdef int32_t _find(self, PyObject* key) noexcept:
        cdef size_t at = <size_t>engine_kept_hash(key) & self.name_mask
        cdef int32_t i = self.name_slots[at]
        cdef PyObject* name
        while i >= 0:
            name = self.name_at[i]
            if name == key or engine_same_text(name, key):
                return i
            at = (at + 1) & self.name_mask
            i = self.name_slots[at]
        return -1

    cdef inline bint _quick_value(self, uint32_t i, PyObject* value) noexcept:
        cdef uint32_t at = self.register_of[i]
        cdef uint8_t kind = self.kind_of[i]
        if kind == NUMBER:
            return quick_number(value, &self.numbers[at])
        if kind == TEXT:
            return quick_text(value, &self.texts[at], self.digits + at * kDigits)
        if kind == VECTOR:
            return quick_vector(value, self.size_of[i], &self.numbers[at])
        return quick_timestamp(value, &self.numbers[at])

    # Hot: an exact dict, in its own order. Keys that follow the program's order cost one pointer comparison; a key out
    # of turn, or equal but not the same object (as json makes them), costs one probe; keys of no input are passed over.
    cdef bint _quick_dict(self, PyObject* row) noexcept:
        cdef Py_ssize_t position = 0
        cdef PyObject* key
        cdef PyObject* value
        cdef uint32_t i, expected = 0, found = 0
        cdef int32_t at
        for i in range(self.program.n_numbers()):
            self.numbers[i] = NAN
        for i in range(self.program.n_texts()):
            self.texts[i].data = NULL
        while found < self.n_inputs and PyDict_Next(<object>row, &position, &key, &value):
            if expected < self.n_inputs and key == self.name_at[expected]:
                i = expected
            elif PyUnicode_CheckExact(key):
                if expected < self.n_inputs and engine_same_text(key, self.name_at[expected]):
                    i = expected
                else:
                    at = self._find(key)
                    if at < 0:
                        continue
                    i = at
            elif PyUnicode_Check(key):
                return False  # a subclass may have an equality of its own: ask the dict
            else:
                continue
            expected = i + 1
            found += 1
            if not self._quick_value(i, value):
                return False
        return found == self.n_inputs or not self.refuse_missing

    cdef bint _quick_sequence(self, PyObject* row) noexcept:
        cdef uint32_t i
        if PyList_CheckExact(<object>row):
            if PyList_GET_SIZE(<object>row) != self.n_inputs:
                return False
            for i in range(self.n_inputs):
                if not self._quick_value(i, PyList_GET_ITEM(<object>row, i)):
                    return False
            return True
        if PyTuple_GET_SIZE(<object>row) != self.n_inputs:
            return False
        for i in range(self.n_inputs):
            if not self._quick_value(i, PyTuple_GET_ITEM(<object>row, i)):
                return False
        return True

    # Hot: what the socket's read_row does.
    cdef int read(self, PyObject* row, float* out) except -1:
        cdef object kind = <object>row
        cdef bint quick = False
        if type(kind) is dict:
            # A dict that is mostly other people's keys is cheaper to ask than to walk.
            if PyDict_Size(kind) <= 4 * <Py_ssize_t>self.n_inputs + 16:
                quick = self._quick_dict(row)
        elif PyList_CheckExact(kind) or PyTuple_CheckExact(kind):
            quick = self._quick_sequence(row)
        if not quick:
            return self._read_slowly(kind, out)
        self.program.run_row(self.numbers, self.texts, out)
        return 0

    # Cold, or nearly: rows of other types, values of other types, and every error.
    cdef int _read_slowly(self, object row, float* out) except -1:
        values = self._values_of(row)
        cdef list plain = []
        cdef uint32_t i
        for i in range(self.n_inputs):
            plain.append(self._plain_value(i, values[i]))
        if not self._quick_sequence(<PyObject*>plain):
            raise SystemError("plain values are not plain")
        self.program.run_row(self.numbers, self.texts, out)
        return 0

    cdef object _plain_value(self, uint32_t i, object value):
        cdef uint8_t kind = self.kind_of[i]
        if kind == NUMBER:
            return plain_number(value, self.names[i], None)
        if kind == TEXT:
            return plain_text(value, self.names[i], None)
        if kind == VECTOR:
            return plain_vector(value, self.size_of[i], self.names[i], None)
        return plain_timestamp(value, kind == TIMESTAMP_UTC, self.names[i], None)

    cdef list _values_of(self, object row):
        if isinstance(row, Mapping) or (hasattr(row, "keys") and hasattr(row, "__getitem__")):
            return [self._value_of(row, name) for name in self.names]
        if isinstance(row, (str, bytes, bytearray)) or not (
                isinstance(row, (Sequence, np.ndarray)) or hasattr(row, "__array__")):
            raise InputTypeError(f"expected a mapping of {self.n_inputs} inputs or a sequence in input order, "
                                 f"got {_shown(row)}")
        if getattr(row, "ndim", 1) != 1:
            raise InputError(f"expected one row of {self.n_inputs} values, got an array of shape {list(row.shape)}")
        if isinstance(row, np.ndarray) and row.dtype.kind not in "biufOU":
            raise InputTypeError(f"expected an array of numbers, strings or objects, got dtype {row.dtype}")
        values = row.tolist() if isinstance(row, np.ndarray) else list(row)
        if len(values) != self.n_inputs:
            raise InputError(f"expected {self.n_inputs} values in input order ({', '.join(self.names[:8])}"
                             f"{', …' if self.n_inputs > 8 else ''}), got {len(values)}")
        return values

    def _value_of(self, row, name):
        # A dict is asked without __missing__, which would let a defaultdict grow by being read.
        if isinstance(row, dict) and type(row).__getitem__ is dict.__getitem__:
            value = dict.get(row, name, _ABSENT)
        else:
            try:
                value = row[name]
            except (KeyError, IndexError):
                value = _ABSENT
        if value is not _ABSENT:
            return value
        if self.refuse_missing:
            raise InputError(f"input {name!r} is missing and the program was fitted with missing='error'; "
                             f"pass None where the value is not known")
        return None

    def row(self, row):
        """One mapping, or sequence in input order -> a new float32 [n_outputs]."""
        cdef cnp.npy_intp shape = self.program.n_outputs()
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT32, 0)
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
        for i in range(self.n_inputs):
            column = kept[i]
            if <size_t>column.n_rows != n_rows:
                raise InputError(f"column {self.names[i]!r} has {column.n_rows} rows, expected {n_rows}")
            if column.is_text != (self.kind_of[i] == TEXT) or column.width != self.size_of[i]:
                raise InputError(f"column {self.names[i]!r} does not hold {self.size_of[i]} "
                                 f"{KINDS[self.kind_of[i]]} values a row")
            native.chunks = column.chunks.data()
            native.n_chunks = column.chunks.size()
            for j in range(self.size_of[i]):
                native.component = j
                if self.kind_of[i] == TEXT:
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
