# The answer to one request, as the modules that fill it see it; its docstring says what each property means.
from libc.stdint cimport int64_t, uint64_t

# One number as the value of an answer.
cdef object value_of(double number)

cdef class Answer:
    cdef object _value        # a float, or a float64 array [n_outputs]
    cdef str _source
    cdef str _reason
    cdef str _version
    cdef double _latency_us
    cdef bint _on_time
    cdef bint _on_time_ready
    cdef uint64_t _id
    cdef tuple missing        # names of imputed inputs; None for none
