# Reads rows of Python objects into the registers of a native program.
from cpython.object cimport PyObject
from cython cimport final
from libc.stdint cimport int32_t, uint32_t

from engine.transform._native cimport InputKind, JsonRows, Text


@final  # its methods call each other directly
cdef class RowReader:
    cdef readonly tuple names   # of the inputs, interned; keeps the pointers of name_at alive
    cdef frozenset known        # the same names
    cdef uint32_t n_inputs
    cdef uint32_t n_numbers     # number registers that the inputs take
    cdef uint32_t n_texts       # text registers that the inputs take
    cdef PyObject** name_at     # [n_inputs], borrowed from names
    cdef PyObject** value_at    # [n_inputs], values of the current row, borrowed; NULL for an absent key
    cdef InputKind* kind_of     # [n_inputs]
    cdef uint32_t* size_of      # [n_inputs], values a row
    cdef uint32_t* register_of  # [n_inputs], the first register
    cdef int32_t* name_slots    # [name_mask + 1], a hash table by the string's own hash: an input's index, or -1
    cdef size_t name_mask
    cdef uint32_t n_absent      # inputs that the last mapping had no key for: their value_at is NULL
    cdef bint refuse_missing
    cdef JsonRows* json         # owned; NULL where a name has no UTF-8 form
    # The registers of one row, inputs first, owned. The GIL is held and no Python code runs while they are in use.
    cdef double* numbers
    cdef Text* texts
    cdef list kept              # strings that the texts of the last row point into, if it was read slowly
    cdef char* digits           # kDigits bytes for each text input: the digits of an integer that is a category

    cdef int reserve(self, uint32_t number_registers, uint32_t text_registers) except -1
    cdef int read(self, PyObject* row) except -1
    cdef tuple absent(self)
    cdef int check_keys(self, PyObject* row, object also_known) except -1
    cdef bint quick_json(self, object data) noexcept
    cdef int _keep_inputs(self, object inputs) except -1
    cdef int _index_names(self) except -1
    cdef int _prepare_json(self) except -1
    cdef int32_t _find(self, PyObject* key) noexcept
    cdef bint _quick_value(self, uint32_t i, PyObject* value) noexcept
    cdef bint _quick_dict(self, PyObject* row) noexcept
    cdef void _clear(self, uint32_t i) noexcept
    cdef bint _quick_sequence(self, PyObject* row) noexcept
    cdef int _read_slowly(self, object row) except -1
    cdef object _plain_value(self, uint32_t i, object value)
    cdef list _values_of(self, object row)
