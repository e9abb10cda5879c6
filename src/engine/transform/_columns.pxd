# A column as the native program reads it. The functions of _columns.pyx make one.
from libcpp.vector cimport vector

from engine.transform._native cimport Chunk, Text


cdef class Column:
    cdef vector[Chunk] chunks  # in row order; they point into `owner` or `texts`
    cdef Py_ssize_t n_rows
    cdef bint is_text
    cdef Py_ssize_t width      # values a row: the size of a vector, else 1
    cdef object owner          # the arrays, or the list of strings, that the chunks point into
    cdef Text* texts           # [n_rows], owned; NULL unless the column was a list
