# Rows of Python objects in the registers of a native program; _row_reader.pyx reads them.
from cpython.object cimport PyObject
from cython cimport final
from libc.stdint cimport int32_t, uint8_t, uint32_t

from engine.transform._native cimport JsonRows, Text

# In the order of KINDS.
cdef enum InputKind:
    NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR


@final  # its methods call each other directly
cdef class RowReader:
    cdef readonly tuple names  # interned, keeps name_at's pointers alive
    cdef uint32_t n_inputs
    cdef uint32_t n_numbers    # number registers that inputs take
    cdef uint32_t n_texts
    cdef PyObject** name_at    # [n_inputs]
    cdef PyObject** value_at   # [n_inputs], of the row at hand, borrowed; NULL for an absent key
    cdef uint8_t* kind_of      # [n_inputs], of InputKind
    cdef uint32_t* size_of     # [n_inputs], values a row
    cdef uint32_t* register_of  # [n_inputs]
    cdef int32_t* name_slots   # open addressing by the name's own hash: input index, or -1
    cdef size_t name_mask
    cdef bint refuse_missing
    cdef JsonRows* json
    # One row, inputs first: used only with the GIL held and no Python code run.
    cdef double* numbers
    cdef Text* texts
    cdef char* digits          # kDigits bytes a text input

    cdef int reserve(self, uint32_t number_registers, uint32_t text_registers) except -1
    cdef int read(self, PyObject* row) except -1
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
