# A column as the native program reads it; _columns.pyx makes them.
from libcpp.vector cimport vector

from engine.transform._native cimport Chunk, Text


cdef class Column:
    cdef vector[Chunk] chunks
    cdef Py_ssize_t n_rows
    cdef bint is_text
    cdef Py_ssize_t width  # values a row
    cdef object owner  # keeps alive whatever the chunks point into
    cdef Text* texts   # [n_rows], owned; NULL where the texts lie elsewhere
