from libc.stdint cimport int64_t, uint64_t

cdef class Answer:
    cdef readonly object value
    cdef readonly str source
    cdef readonly str reason
    cdef readonly str version
    cdef readonly double latency_us
    cdef readonly bint on_time
    cdef readonly bint on_time_ready
    cdef readonly uint64_t id
    cdef tuple missing  # None for none
