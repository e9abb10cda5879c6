# Columns for the native feature program: NumPy and Arrow arrays, read in place, and lists of Python values.
# Only lists are converted here. The program widens the numbers of an array when it reads a block of rows.
from cpython.datetime cimport import_datetime
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport NAN
from libc.stdint cimport uint8_t

import numpy as np

cimport numpy as cnp

from engine.transform._native cimport Chunk, Layout, Text
from engine.transform._values cimport (
    PyUnicode_Check, Py_None, kDigits, plain_number, plain_text, quick_number, quick_text,
)

cnp.import_array()
import_datetime()

# Layouts that NumPy and Arrow share, by NumPy's kind and the bytes of a value.
cdef dict _LAYOUTS = {
    "f8": <int>Layout.kF64, "f4": <int>Layout.kF32, "b1": <int>Layout.kU8,
    "i1": <int>Layout.kI8, "i2": <int>Layout.kI16, "i4": <int>Layout.kI32, "i8": <int>Layout.kI64,
    "u1": <int>Layout.kU8, "u2": <int>Layout.kU16, "u4": <int>Layout.kU32, "u8": <int>Layout.kU64,
}
cdef dict _ARROW_LAYOUTS = {
    "double": <int>Layout.kF64, "float": <int>Layout.kF32, "bool": <int>Layout.kBit,
    "string": <int>Layout.kUtf8, "large_string": <int>Layout.kLargeUtf8,
    **{f"{word}{8 * size}": _LAYOUTS[f"{word[0]}{size}"] for word in ("int", "uint") for size in (1, 2, 4, 8)},
}
ARROW_NUMBERS = frozenset(_ARROW_LAYOUTS) - {"string", "large_string"}


cdef class Column:
    """The values of one column, and the objects that keep them alive. `len` gives the rows."""

    def __dealloc__(self):
        PyMem_Free(self.texts)

    def __len__(self):
        return self.n_rows


def array_column(array) -> Column:
    """Return the column of a NumPy array of numbers; a 2-D array makes a column of vectors.

    The array is borrowed. It is copied as float64 only if its layout cannot be read in place: swapped bytes, unaligned
    or float16 values, a negative stride.
    """
    cdef Column column = Column.__new__(Column)
    cdef Chunk chunk
    cdef cnp.ndarray kept = array
    cdef Py_ssize_t step
    key = f"{kept.dtype.kind}{kept.dtype.itemsize}"
    step = cnp.PyArray_STRIDE(kept, 0)
    dense = kept.ndim == 1 or cnp.PyArray_STRIDE(kept, 1) == kept.dtype.itemsize
    in_place = key in _LAYOUTS and kept.flags.aligned and kept.dtype.isnative and dense
    if not in_place or step < 0 or step % kept.dtype.itemsize != 0:
        kept, key = np.ascontiguousarray(kept, dtype=np.float64), "f8"
        step = cnp.PyArray_STRIDE(kept, 0)
    chunk.layout = <Layout><int>_LAYOUTS[key]
    chunk.values = cnp.PyArray_DATA(kept)
    chunk.n_rows = len(kept)
    chunk.stride = step // kept.dtype.itemsize
    column.width = 1 if kept.ndim == 1 else kept.shape[1]
    column.n_rows = len(kept)
    column.owner = kept
    column.chunks.push_back(chunk)
    return column


cdef size_t _address(object buffer) except? 0:
    return 0 if buffer is None else buffer.address


def arrow_column(chunks, bint is_text) -> Column:
    """Return the column of pyarrow arrays of one type, read in place.

    Args:
        chunks: the arrays, in row order.
        is_text: True for string or large_string arrays, False for a type of ARROW_NUMBERS.
    """
    cdef list kept = list(chunks)
    cdef Column column = Column.__new__(Column)
    cdef Chunk chunk
    column.owner, column.is_text, column.width = kept, is_text, 1
    kind = str(kept[0].type) if kept else None
    for array in kept:
        buffers = array.buffers()
        chunk.layout = <Layout><int>_ARROW_LAYOUTS[kind]
        chunk.validity = <const uint8_t*><size_t>_address(buffers[0])
        chunk.values = <const void*><size_t>_address(buffers[1])
        chunk.bytes = <const char*><size_t>_address(buffers[2]) if is_text else NULL
        chunk.first = array.offset
        chunk.n_rows = len(array)
        chunk.stride = 1
        column.n_rows += chunk.n_rows
        if chunk.n_rows > 0:
            column.chunks.push_back(chunk)
    return column


def text_column(values, name) -> Column:
    """Return the column of a list of strings, whole numbers and None. The list is copied, its strings are borrowed.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
    cdef list kept = list(values)
    cdef Column column = Column.__new__(Column)
    cdef Chunk chunk
    cdef Py_ssize_t i
    cdef PyObject* value
    cdef char digits[kDigits]  # unused: the quick reader gets only strings here
    column.n_rows, column.is_text, column.width, column.owner = len(kept), True, 1, kept
    column.texts = <Text*>PyMem_Calloc(max(1, column.n_rows), sizeof(Text))
    if column.texts is NULL:
        raise MemoryError()
    for i in range(column.n_rows):
        value = PyList_GET_ITEM(kept, i)
        if not (PyUnicode_Check(value) and quick_text(value, &column.texts[i], digits)) and value != Py_None:
            # A whole number becomes a string, so that its digits live as long as the column.
            kept[i] = plain_text(<object>value, name, i)
            quick_text(PyList_GET_ITEM(kept, i), &column.texts[i], digits)
    chunk.layout = Layout.kText
    chunk.values = column.texts
    chunk.n_rows = column.n_rows
    column.chunks.push_back(chunk)
    return column


def number_values(values, name):
    """Return a list of numbers and None as float64 [n], NaN where missing.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
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


def text_values(values, name) -> list:
    """Return a list of strings, whole numbers and None as str and None, for fitting.

    Raises InputTypeError or InputError, naming the row and `name`.
    """
    return [plain_text(value, name, i) for i, value in enumerate(values)]
