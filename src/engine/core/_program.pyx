# Python objects in, float32 rows out: reads a mapping, a sequence or whole columns into the registers of a native
# feature program and runs it.
#
# Two readers share the work. The quick one takes values of exact, common types and runs no Python code, so it may hold
# borrowed pointers into the row's strings and use the program's own scratch while the GIL is held. Whatever it does not
# know (a Decimal, a Series, a key that is a str subclass) it leaves to the slow one, which turns the row into plain
# floats and strings of its own first - running whatever code that takes - and then hands them to the quick one.
from cpython.bool cimport PyBool_Check
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsDouble, PyLong_AsLongLong, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyObject_Hash
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

import sys
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

cimport numpy as cnp

from engine.errors import InputError, InputTypeError, ProgramError

cnp.import_array()

cdef extern from *:
    """
    #include <charconv>
    #include <cmath>
    #include <cstring>
    #include <numpy/arrayobject.h>
    #include <numpy/arrayscalars.h>

    /* Decimal digits of a whole number into a buffer of kDigits bytes; returns how many. */
    static constexpr size_t kDigits = 24;
    static inline size_t engine_digits(long long value, char* to) noexcept {
        return static_cast<size_t>(std::to_chars(to, to + kDigits, value).ptr - to);
    }
    static inline bool engine_is_whole(double value) noexcept {
        return std::fabs(value) < 9223372036854775808.0 && std::trunc(value) == value;
    }
    /* A NumPy scalar of the common number types; runs no Python code. */
    static inline bool engine_numpy_number(PyObject* value, double* to) noexcept {
        if (!PyArray_IsScalar(value, Generic)) return false;
        if (PyArray_IsScalar(value, Float)) *to = PyArrayScalar_VAL(value, Float);
        else if (PyArray_IsScalar(value, Long)) *to = static_cast<double>(PyArrayScalar_VAL(value, Long));
        else if (PyArray_IsScalar(value, Int)) *to = PyArrayScalar_VAL(value, Int);
        else if (PyArray_IsScalar(value, LongLong)) *to = static_cast<double>(PyArrayScalar_VAL(value, LongLong));
        else if (PyArray_IsScalar(value, Bool)) *to = PyArrayScalar_VAL(value, Bool) ? 1.0 : 0.0;
        else return false;
        return true;
    }
    /* The hash that a string keeps once it has been a key; -1 before that. */
    static inline Py_hash_t engine_kept_hash(PyObject* text) noexcept {
        return reinterpret_cast<PyASCIIObject*>(text)->hash;
    }
    /* Equal strings of equal, kept hashes. Names are short: two overlapping words beat a call of memcmp. */
    static inline bool engine_same_text(PyObject* a, PyObject* b) noexcept {
        const size_t kind = PyUnicode_KIND(a);
        if (engine_kept_hash(a) != engine_kept_hash(b) || PyUnicode_GET_LENGTH(a) != PyUnicode_GET_LENGTH(b) ||
            kind != static_cast<size_t>(PyUnicode_KIND(b))) {
            return false;
        }
        const size_t size = static_cast<size_t>(PyUnicode_GET_LENGTH(a)) * kind;
        const char* left = static_cast<const char*>(PyUnicode_DATA(a));
        const char* right = static_cast<const char*>(PyUnicode_DATA(b));
        if (size > 16) return std::memcmp(left, right, size) == 0;
        if (size >= 8) {
            uint64_t words[4];
            std::memcpy(&words[0], left, 8);
            std::memcpy(&words[1], right, 8);
            std::memcpy(&words[2], left + size - 8, 8);
            std::memcpy(&words[3], right + size - 8, 8);
            return words[0] == words[1] && words[2] == words[3];
        }
        for (size_t i = 0; i < size; ++i) {
            if (left[i] != right[i]) return false;
        }
        return true;
    }
    """
    const size_t kDigits
    size_t engine_digits(long long value, char* to) noexcept nogil
    bint engine_is_whole(double value) noexcept nogil
    bint engine_numpy_number(PyObject* value, double* to) noexcept
    Py_hash_t engine_kept_hash(PyObject* text) noexcept
    bint engine_same_text(PyObject* a, PyObject* b) noexcept

cdef extern from "Python.h":
    bint PyUnicode_Check(PyObject* o) noexcept
    bint PyUnicode_CheckExact(PyObject* o) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(PyObject* o) noexcept
    void* PyUnicode_DATA(PyObject* o) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* o) noexcept
    const char* PyUnicode_AsUTF8AndSize(PyObject* o, Py_ssize_t* size) except? NULL
    PyObject* Py_None
    PyObject* Py_True
    void* Py_TYPE(PyObject* o) noexcept
    void* PyFloat_Type_address "(&PyFloat_Type)"

# In the order of engine::transform::Op.
OPS = ("impute", "missing", "scale", "clip", "log1p", "sqrt", "bucket", "sine", "cosine", "difference", "ratio",
       "product", "text_impute", "lookup", "hash", "hash_cross", "length", "text_missing", "emit", "one_hot")
if len(OPS) != <int>Op.kCount_:
    raise ImportError("OPS does not list the steps of csrc/include/engine/transform.hpp")

cdef object _ABSENT = object()
cdef set _NUMPY_KINDS = set("biuf")


# Hot: one number of an exact, common type. False where it takes the slow reader; runs no Python code.
cdef inline bint quick_number(PyObject* value, double* to) noexcept:
    # None first: it is known by its address alone, before the value's own memory has arrived.
    if value == Py_None:
        to[0] = NAN
        return True
    if Py_TYPE(value) == PyFloat_Type_address:
        to[0] = PyFloat_AS_DOUBLE(<object>value)
        return True
    if PyLong_CheckExact(<object>value):
        try:
            to[0] = PyLong_AsDouble(<object>value)
        except OverflowError:
            return False
        return True
    if PyBool_Check(<object>value):
        to[0] = 1.0 if value == Py_True else 0.0
        return True
    if PyFloat_Check(<object>value):  # np.float64 is one
        to[0] = PyFloat_AS_DOUBLE(<object>value)
        return True
    return engine_numpy_number(value, to)


# Hot: one text; the bytes belong to the string, or are written to `digits` for a whole number.
cdef inline bint quick_text(PyObject* value, Text* to, char* digits) noexcept:
    cdef Py_ssize_t size
    cdef double number
    if PyUnicode_Check(value):
        if PyUnicode_IS_COMPACT_ASCII(value):
            to.data = <const char*>PyUnicode_DATA(value)
            to.size = PyUnicode_GET_LENGTH(value)
            return True
        try:
            # The string keeps its UTF-8 form, so this allocates at most once in a string's life.
            to.data = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            return False
        to.size = size
        return True
    if value == Py_None:
        to.data = NULL
        return True
    if PyLong_CheckExact(<object>value):
        try:
            to.size = engine_digits(PyLong_AsLongLong(<object>value), digits)
        except OverflowError:
            return False
        to.data = digits
        return True
    if Py_TYPE(value) == PyFloat_Type_address:
        number = PyFloat_AS_DOUBLE(<object>value)
        if number != number:
            to.data = NULL
            return True
        if not engine_is_whole(number):
            return False
        to.size = engine_digits(<long long>number, digits)
        to.data = digits
        return True
    return False


def _where(name, row) -> str:
    return f"input {name!r}" if row is None else f"row {row}, input {name!r}"


def _shown(value) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _is_absent_marker(value) -> bool:
    """pandas.NA and pandas.NaT, recognised without importing pandas."""
    kind = type(value)
    return kind.__name__ in ("NAType", "NaTType") and kind.__module__.startswith("pandas.")


cdef object plain_number(object value, object name, object row):
    """The float that a number input means, or None where it is missing. Runs whatever code `value` brings."""
    if value is None or _is_absent_marker(value):
        return None
    if isinstance(value, np.generic) and value.dtype.kind not in _NUMPY_KINDS:
        raise InputTypeError(f"{_where(name, row)}: expected a number, got {_shown(value)}")
    if isinstance(value, (int, float, np.generic, Real)) or type(value).__name__ == "Decimal":
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{_where(name, row)}: expected a number that a float64 can hold, "
                             f"got an integer of {value.bit_length()} bits") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{_where(name, row)}: expected a number, got {_shown(value)}: {error}") from None
    raise InputTypeError(f"{_where(name, row)}: expected a number (int, float, bool or a NumPy scalar) or None, "
                         f"got {_shown(value)}")


cdef object plain_text(object value, object name, object row):
    """The string that a category input means, or None where it is missing. Runs whatever code `value` brings."""
    if value is None or _is_absent_marker(value):
        return None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{_where(name, row)}: expected text that UTF-8 can encode, got a lone surrogate "
                             f"U+{ord(value[error.start]):04X} at index {error.start}") from None
        return value
    if isinstance(value, np.generic) and value.dtype.kind in _NUMPY_KINDS:
        value = value.item()
    if isinstance(value, (int, float)):
        if value != value:
            return None
        if -2**63 <= value < 2**63 and value == int(value):
            return str(int(value))
        raise InputError(f"{_where(name, row)}: a number used as a category must be whole and within 64 bits, "
                         f"got {_shown(value)}; round it or bucketize it as a number")
    raise InputTypeError(f"{_where(name, row)}: expected a category (str, or a whole number) or None, "
                         f"got {_shown(value)}")


cdef class TextColumn:
    """Texts of one column as the native program reads them; keeps the strings alive."""

    cdef Text* texts
    cdef Py_ssize_t n_rows
    cdef object owner

    def __dealloc__(self):
        PyMem_Free(self.texts)

    def __len__(self):
        return self.n_rows


def text_column(values, name) -> TextColumn:
    """A column of strings, whole numbers and None. The list is copied, its strings are borrowed.

    Raises InputTypeError or InputError naming the row and `name`.
    """
    cdef list kept = list(values)
    cdef TextColumn column = TextColumn.__new__(TextColumn)
    cdef Py_ssize_t i
    cdef PyObject* value
    column.n_rows = len(kept)
    column.owner = kept
    column.texts = <Text*>PyMem_Calloc(max(1, column.n_rows), sizeof(Text))
    if column.texts is NULL:
        raise MemoryError()
    for i in range(column.n_rows):
        value = PyList_GET_ITEM(kept, i)
        if not (PyUnicode_Check(value) and quick_text(value, &column.texts[i], NULL)) and value != Py_None:
            # Whole numbers become strings here: their digits need a home as long as the column's.
            kept[i] = plain_text(<object>value, name, i)
            quick_text(PyList_GET_ITEM(kept, i), &column.texts[i], NULL)
    return column


cdef extern from *:
    """
    /* Arrow's string layout: row i is data[offsets[i] .. offsets[i + 1]), and bit i of validity says whether it is
     * there. `first` rows of all three are not ours. */
    template <class Offset>
    static inline void engine_arrow_texts(const unsigned char* validity, const Offset* offsets, const char* data,
                                          size_t first, size_t count, engine::transform::Text* to) noexcept {
        static const char empty = 0;
        for (size_t i = 0; i < count; ++i) {
            const size_t row = first + i;
            const bool there = validity == nullptr || (validity[row >> 3] >> (row & 7) & 1);
            const char* text = data == nullptr ? &empty : data + offsets[row];
            to[i] = {there ? text : nullptr, static_cast<size_t>(offsets[row + 1] - offsets[row])};
        }
    }
    """
    void engine_arrow_texts[Offset](const unsigned char* validity, const Offset* offsets, const char* data,
                                    size_t first, size_t count, Text* to) noexcept nogil


cdef size_t _address(object buffer) except? 0:
    return 0 if buffer is None else buffer.address


def arrow_text_column(chunks) -> TextColumn:
    """A column of strings out of pyarrow arrays of type string or large_string, read in place and kept alive."""
    cdef list kept = list(chunks)
    cdef TextColumn column = TextColumn.__new__(TextColumn)
    cdef size_t done = 0, first, count, validity, offsets, data
    cdef bint wide
    column.n_rows = sum([len(chunk) for chunk in kept])
    column.owner = kept
    column.texts = <Text*>PyMem_Calloc(max(1, column.n_rows), sizeof(Text))
    if column.texts is NULL:
        raise MemoryError()
    for chunk in kept:
        first, count, wide = chunk.offset, len(chunk), str(chunk.type) == "large_string"
        if count == 0:
            continue
        validity, offsets, data = [_address(buffer) for buffer in chunk.buffers()]
        with nogil:
            if wide:
                engine_arrow_texts[int64_t](<const unsigned char*>validity, <const int64_t*>offsets,
                                            <const char*>data, first, count, column.texts + done)
            else:
                engine_arrow_texts[int32_t](<const unsigned char*>validity, <const int32_t*>offsets,
                                            <const char*>data, first, count, column.texts + done)
        done += count
    return column


def text_values(values, name) -> list:
    """The same column as a list of str and None: what fitting counts."""
    return [plain_text(value, name, i) for i, value in enumerate(values)]


def number_column(values, name):
    """A column of Python objects as float64 [n]; None is NaN. Raises InputTypeError or InputError naming the row."""
    cdef list kept = list(values)
    cdef Py_ssize_t i, n = len(kept)
    cdef cnp.npy_intp shape = n
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT64, 0)
    cdef double* to = <double*>cnp.PyArray_DATA(out)
    for i in range(n):
        if not quick_number(PyList_GET_ITEM(kept, i), &to[i]):
            plain = plain_number(kept[i], name, i)
            to[i] = NAN if plain is None else plain
    return out


def xxh64(data, seed=0) -> int:
    """XXH64 of bytes, the hash that hashed categories are pinned to."""
    cdef bytes raw = bytes(data)
    return xxh64_native(raw, len(raw), seed)


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
        inputs: (name, is_text) of each input, in order. Number inputs are registers 0, 1, … of the numbers and text
            inputs of the texts, each in this order.
        n_outputs: float32 values a row.
        steps: (op of OPS, fields of engine::transform::Step by name).
        tables: (UTF-8 keys, values) of each look-up table; edges: rising edges of each bucket step.
        refuse_missing: a missing key is an InputError, where it otherwise counts as a missing value.

    Raises ProgramError where the steps make no sense.
    """

    cdef CppProgram* program
    cdef engine_features socket
    cdef tuple names        # interned, keeps name_at's pointers alive
    cdef PyObject** name_at  # [n_inputs]
    cdef uint8_t* is_text   # [n_inputs]
    cdef uint32_t* register_of  # [n_inputs]
    cdef int32_t* name_slots  # open addressing by the name's own hash: input index, or -1
    cdef size_t name_mask
    cdef uint32_t n_inputs
    cdef bint refuse_missing
    cdef double* numbers    # scratch of one row, used only with the GIL held and no Python code run
    cdef Text* texts
    cdef char* digits       # kDigits bytes a text input

    def __cinit__(self, inputs, n_outputs, steps, tables, edges, refuse_missing):
        self.refuse_missing = refuse_missing
        self._keep_inputs(inputs)
        cdef uint32_t n_texts = sum([1 for _, is_text in inputs if is_text])
        try:
            self.program = new CppProgram(self.n_inputs - n_texts, n_texts, n_outputs)
            for keys, values in tables:
                self.program.add_table(<vector[string]>keys, <vector[double]>values)
            for rising in edges:
                self.program.add_edges(<vector[double]>rising)
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
        PyMem_Free(self.is_text)
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
        step.table = fields.get("table", 0)
        step.count = fields.get("count", 0)
        step.seed = fields.get("seed", 0)
        step.x = fields.get("x", 0.0)
        step.y = fields.get("y", 0.0)
        self.program.add_step(step)
        return 0

    cdef int _keep_inputs(self, object inputs) except -1:
        cdef uint32_t i, n_numbers = 0, n_texts = 0
        cdef size_t n_slots = 4, at
        self.names = tuple([sys.intern(str(name)) for name, _ in inputs])
        self.n_inputs = len(self.names)
        while n_slots < 2 * self.n_inputs:
            n_slots *= 2
        self.name_mask = n_slots - 1
        self.name_at = <PyObject**>PyMem_Calloc(max(1, self.n_inputs), sizeof(PyObject*))
        self.is_text = <uint8_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint8_t))
        self.register_of = <uint32_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint32_t))
        self.name_slots = <int32_t*>PyMem_Calloc(n_slots, sizeof(int32_t))
        if not (self.name_at and self.is_text and self.register_of and self.name_slots):
            raise MemoryError()
        for at in range(n_slots):
            self.name_slots[at] = -1
        for i in range(self.n_inputs):
            name = self.names[i]
            self.name_at[i] = <PyObject*>name
            self.is_text[i] = bool(inputs[i][1])
            if self.is_text[i]:
                self.register_of[i] = n_texts
                n_texts += 1
            else:
                self.register_of[i] = n_numbers
                n_numbers += 1
            at = <size_t>PyObject_Hash(name) & self.name_mask
            while self.name_slots[at] >= 0:
                at = (at + 1) & self.name_mask
            self.name_slots[at] = i
        return 0

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
        if self.is_text[i]:
            return quick_text(value, &self.texts[at], self.digits + at * kDigits)
        return quick_number(value, &self.numbers[at])

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
            plain.append(plain_text(values[i], self.names[i], None) if self.is_text[i]
                         else plain_number(values[i], self.names[i], None))
        if not self._quick_sequence(<PyObject*>plain):
            raise SystemError("plain values are not plain")
        self.program.run_row(self.numbers, self.texts, out)
        return 0

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

    def rows(self, rows):
        """A sequence of mappings (or sequences in input order), read one by one -> a new [n, n_outputs]."""
        cdef list kept = list(rows)
        cdef Py_ssize_t i
        cdef size_t width = self.program.n_outputs()
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = len(kept), width
        cdef cnp.ndarray out = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32, 0)
        cdef float* to = <float*>cnp.PyArray_DATA(out)
        for i in range(len(kept)):
            try:
                self.read(PyList_GET_ITEM(kept, i), to + i * width)
            except (InputError, InputTypeError) as error:
                raise type(error)(f"row {i}, {error}") from None
        return out

    def batch(self, columns, n_rows, bint as_float64=False):
        """One column an input, in order: float64 [n_rows] for numbers, TextColumn for texts -> [n_rows, n_outputs]."""
        cdef vector[const double*] numbers
        cdef vector[const Text*] texts
        cdef size_t n = n_rows
        cdef cnp.ndarray array
        cdef uint32_t i
        cdef list kept = list(columns)
        for i in range(self.n_inputs):
            if len(kept[i]) != n_rows:
                raise InputError(f"column {self.names[i]!r} has {len(kept[i])} rows, expected {n_rows}")
            if self.is_text[i]:
                texts.push_back((<TextColumn?>kept[i]).texts)
            else:
                array = np.ascontiguousarray(kept[i], dtype=np.float64)
                kept[i] = array
                numbers.push_back(<const double*>cnp.PyArray_DATA(array))
        out = np.empty((n_rows, self.program.n_outputs()), dtype=np.float64 if as_float64 else np.float32)
        cdef void* to = cnp.PyArray_DATA(out)
        with nogil:
            if as_float64:
                self.program.run_batch_f64(numbers.data(), texts.data(), n, <double*>to)
            else:
                self.program.run_batch(numbers.data(), texts.data(), n, <float*>to)
        return out

    @property
    def capsule(self):
        """The PyCapsule `engine.features.v1` (csrc/include/engine/features.h) of this program."""
        capsule = PyCapsule_New(&self.socket, ENGINE_FEATURES_CAPSULE, _free_capsule)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void*>self)
        return capsule
