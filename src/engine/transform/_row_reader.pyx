# Reads Python rows (a mapping, a sequence, or JSON bytes) into the registers of a native feature program.
#
# Two readers share the work. The quick one takes rows and values of exact, common types. It runs no Python code, so no
# other thread can use the program's registers meanwhile. The slow one first turns the row into a list of plain floats
# and strings, which may run code of the caller's types. It then hands the list to the quick one.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.datetime cimport import_datetime
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject, PyObject_Hash
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cython cimport final
from libc.math cimport NAN
from libc.stdint cimport int32_t, uint32_t
from libcpp.vector cimport vector

import difflib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

cimport numpy as cnp

from engine.transform._native cimport InputKind, JsonInput, JsonRows, Text, kInputKinds
from engine.transform._values cimport (
    Py_TYPE, PyFloat_Type_address, PyUnicode_Check, PyUnicode_CheckExact, engine_kept_hash, engine_prefetch,
    engine_same_text, kDigits, plain_number, plain_text, plain_timestamp, plain_vector, quick_number, quick_text,
    quick_timestamp, quick_vector, Py_None,
)

from engine._common.arguments import shown as _shown
from engine.errors import InputError, InputTypeError

cnp.import_array()
import_datetime()

cdef object _ABSENT = object()

# The kinds of input, by the code of InputKind (csrc/transform/ops.hpp).
KINDS = tuple([kInputKinds[code].decode() for code in range(<int>InputKind.kCount_)])


@final
cdef class RowReader:
    """Reads rows of a program's inputs into registers. The caller holds the GIL.

    Args:
        inputs: one (name, kind, size) for each input, in order; `kind` is one of KINDS, `size` the values a row. A
            category takes the next text register, any other input the next `size` number registers.
        refuse_missing: True makes an absent key an InputError; False makes it a missing value.
    """

    def __cinit__(self, inputs, refuse_missing):
        self.refuse_missing = refuse_missing
        self._keep_inputs(inputs)
        self._index_names()
        self._prepare_json()

    def __dealloc__(self):
        del self.json
        PyMem_Free(self.name_at)
        PyMem_Free(self.value_at)
        PyMem_Free(self.kind_of)
        PyMem_Free(self.size_of)
        PyMem_Free(self.register_of)
        PyMem_Free(self.name_slots)
        PyMem_Free(self.numbers)
        PyMem_Free(self.texts)
        PyMem_Free(self.digits)

    cdef int reserve(self, uint32_t number_registers, uint32_t text_registers) except -1:
        """Allocates the registers that a program needs. Called once, before the first row."""
        self.numbers = <double*>PyMem_Calloc(max(1, number_registers), sizeof(double))
        self.texts = <Text*>PyMem_Calloc(max(1, text_registers), sizeof(Text))
        self.digits = <char*>PyMem_Calloc(max(1, self.n_texts), kDigits)
        if self.numbers is NULL or self.texts is NULL or self.digits is NULL:
            raise MemoryError()
        return 0

    cdef int _keep_inputs(self, object inputs) except -1:
        cdef uint32_t i
        self.names = tuple([sys.intern(str(name)) for name, _, _ in inputs])
        self.known = frozenset(self.names)
        self.n_inputs = len(self.names)
        self.name_at = <PyObject**>PyMem_Calloc(max(1, self.n_inputs), sizeof(PyObject*))
        self.value_at = <PyObject**>PyMem_Calloc(max(1, self.n_inputs), sizeof(PyObject*))
        self.kind_of = <InputKind*>PyMem_Calloc(max(1, self.n_inputs), sizeof(InputKind))
        self.size_of = <uint32_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint32_t))
        self.register_of = <uint32_t*>PyMem_Calloc(max(1, self.n_inputs), sizeof(uint32_t))
        if not (self.name_at and self.value_at and self.kind_of and self.size_of and self.register_of):
            raise MemoryError()
        for i in range(self.n_inputs):
            self.name_at[i] = <PyObject*>self.names[i]
            self.kind_of[i] = <InputKind><int>KINDS.index(inputs[i][1])
            self.size_of[i] = inputs[i][2]
            if self.kind_of[i] == InputKind.kCategory:
                self.register_of[i] = self.n_texts
                self.n_texts += 1
            else:
                self.register_of[i] = self.n_numbers
                self.n_numbers += self.size_of[i]
        return 0

    cdef int _index_names(self) except -1:
        cdef size_t n_slots = 4, at
        cdef uint32_t i
        while n_slots < 2 * self.n_inputs:
            n_slots *= 2
        self.name_mask = n_slots - 1
        self.name_slots = <int32_t*>PyMem_Calloc(n_slots, sizeof(int32_t))
        if self.name_slots is NULL:
            raise MemoryError()
        for at in range(n_slots):
            self.name_slots[at] = -1
        for i in range(self.n_inputs):
            at = <size_t>PyObject_Hash(self.names[i]) & self.name_mask
            while self.name_slots[at] >= 0:
                at = (at + 1) & self.name_mask
            self.name_slots[at] = i
        return 0

    cdef int _prepare_json(self) except -1:
        cdef vector[JsonInput] inputs
        cdef JsonInput one
        cdef uint32_t i
        for i in range(self.n_inputs):
            try:
                one.name = self.names[i].encode()
            except UnicodeEncodeError:
                return 0  # a lone surrogate has no UTF-8 form, so a JSON library reads every row
            one.kind, one.at, one.size = self.kind_of[i], self.register_of[i], self.size_of[i]
            inputs.push_back(one)
        self.json = new JsonRows(inputs, self.refuse_missing)
        return 0

    # Hot: reads any row that `FeatureProgram.row` takes. Returns how many inputs the mapping has no key for.
    cdef int read(self, PyObject* row) except -1:
        cdef object kind = <object>row
        cdef bint quick = False
        self.n_absent = 0
        if type(kind) is dict:
            # A dict with many keys of no input is cheaper to query, name by name, than to walk.
            if PyDict_Size(kind) <= 4 * <Py_ssize_t>self.n_inputs + 16:
                quick = self._quick_dict(row)
        elif PyList_CheckExact(kind) or PyTuple_CheckExact(kind):
            quick = self._quick_sequence(row)
        return <int>self.n_absent if quick else self._read_slowly(kind)

    # The inputs that the last row had no key for. No Python code may run between `read` and this.
    cdef tuple absent(self):
        if self.n_absent == 0:
            return ()
        return tuple([self.names[i] for i in range(self.n_inputs) if self.value_at[i] is NULL])

    # Raises InputError unless every key of a mapping names an input or is in `also_known`, a set or None.
    cdef int check_keys(self, PyObject* row, object also_known) except -1:
        cdef Py_ssize_t position = 0
        cdef PyObject* key
        cdef PyObject* value
        cdef uint32_t expected = 0
        cdef int32_t at
        cdef object mapping = <object>row
        if type(mapping) is dict:
            # Hot: no Python code runs here. The first key that is no input ends the walk.
            while PyDict_Next(mapping, &position, &key, &value):
                if expected < self.n_inputs and key == self.name_at[expected]:
                    expected += 1
                    continue
                if not PyUnicode_CheckExact(key):
                    break
                if expected < self.n_inputs and engine_same_text(key, self.name_at[expected]):
                    expected += 1
                    continue
                at = self._find(key)
                if at < 0:
                    break
                expected = at + 1
            else:
                return 0
        elif not _is_mapping(mapping):
            return 0
        self._refuse_unknown(mapping, also_known or ())
        return 0

    # Cold.
    def _refuse_unknown(self, mapping, also_known):
        unknown = [key for key in mapping.keys() if key not in self.known and key not in also_known]
        if not unknown:
            return
        known = {name.casefold(): name for name in (*also_known, *self.names)}
        near = difflib.get_close_matches(str(unknown[0]).casefold(), known, n=1)
        others = f" (and {len(unknown) - 1} more: {_listed(unknown[1:])})" if len(unknown) > 1 else ""
        hint = f"did you mean {known[near[0]]!r}?" if near else f"the inputs are {_listed(self.names)}."
        raise InputError(f"unknown key {unknown[0]!r}{others}: no input of the program has that name; {hint} Leave the "
                         f"key out, or pass unknown_keys='ignore'")

    # Hot: reads JSON of the common shapes. False where a JSON library has to read it. The texts point into `data`.
    cdef bint quick_json(self, object data) noexcept:
        if self.json is NULL or not PyBytes_CheckExact(data):
            return False
        return self.json.read(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), self.numbers, self.texts)

    # Hot: the index of the input that an exact str names, or -1. The string is a key of a dict, so it keeps its hash.
    cdef inline int32_t _find(self, PyObject* key) noexcept:
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
        cdef InputKind kind = self.kind_of[i]
        if kind == InputKind.kNumber:
            return quick_number(value, &self.numbers[at])
        if kind == InputKind.kCategory:
            return quick_text(value, &self.texts[at], self.digits + at * kDigits)
        if kind == InputKind.kVector:
            return quick_vector(value, self.size_of[i], &self.numbers[at])
        return quick_timestamp(value, &self.numbers[at])

    # Hot: reads an exact dict in its own order. A key that follows in the program's order costs one comparison: of
    # pointers for the same string, of the text for an equal one (as JSON libraries make them). Any other key costs one
    # probe of the hash table. A key of no input is skipped.
    cdef bint _quick_dict(self, PyObject* row) noexcept:
        cdef Py_ssize_t position = 0
        cdef PyObject* key
        cdef PyObject* value
        cdef uint32_t i, expected = 0, found = 0
        cdef int32_t at
        for i in range(self.n_inputs):
            self.value_at[i] = NULL
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
                return False  # a subclass of str may redefine equality, so the dict itself must be asked
            else:
                continue
            expected = i + 1
            found += 1
            # The values lie all over the heap. Prefetching them here overlaps the cache misses.
            engine_prefetch(value)
            self.value_at[i] = value
        for i in range(self.n_inputs):
            value = self.value_at[i]
            if value is NULL:
                self._clear(i)
            elif self.kind_of[i] == InputKind.kNumber and Py_TYPE(value) == PyFloat_Type_address:
                # The commonest value, without a call.
                self.numbers[self.register_of[i]] = PyFloat_AS_DOUBLE(<object>value)
            elif not self._quick_value(i, value):
                return False
        self.n_absent = self.n_inputs - found
        return self.n_absent == 0 or not self.refuse_missing

    cdef void _clear(self, uint32_t i) noexcept:
        cdef uint32_t j
        if self.kind_of[i] == InputKind.kCategory:
            self.texts[self.register_of[i]].data = NULL
            return
        for j in range(self.size_of[i]):
            self.numbers[self.register_of[i] + j] = NAN

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

    # Cold: rows and values of other types, and every error.
    cdef int _read_slowly(self, object row) except -1:
        cdef list values = self._values_of(row)
        cdef list plain = []
        cdef uint32_t i
        for i in range(self.n_inputs):
            plain.append(None if values[i] is _ABSENT else self._plain_value(i, values[i]))
        # The registers of texts point into these strings, which live until the program has run. They are exact strings,
        # floats and datetimes, so dropping the list runs no Python code.
        self.kept = plain
        if not self._quick_sequence(<PyObject*>plain):
            raise SystemError("plain values are not plain")
        # Only now, because the values' own code may have read another row with this reader.
        self.n_absent = 0
        for i in range(self.n_inputs):
            self.value_at[i] = Py_None
            if values[i] is _ABSENT:
                self.value_at[i] = NULL
                self.n_absent += 1
        return <int>self.n_absent

    cdef object _plain_value(self, uint32_t i, object value):
        cdef InputKind kind = self.kind_of[i]
        if kind == InputKind.kNumber:
            return plain_number(value, self.names[i], None)
        if kind == InputKind.kCategory:
            return plain_text(value, self.names[i], None)
        if kind == InputKind.kVector:
            return plain_vector(value, self.size_of[i], self.names[i], None)
        return plain_timestamp(value, kind == InputKind.kTimestampUtc, self.names[i], None)

    cdef list _values_of(self, object row):
        if _is_mapping(row):
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
        # dict.get does not call __missing__, so reading a defaultdict does not make it grow.
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
                             f"pass None where the value is unknown")
        return _ABSENT


def _listed(names) -> str:
    return ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")


cdef bint _is_mapping(object row) except -1:
    return isinstance(row, Mapping) or (hasattr(row, "keys") and hasattr(row, "__getitem__"))
