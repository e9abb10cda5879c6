from libc.stdint cimport int64_t, uint32_t

cimport numpy as cnp

# Hot: once per request. Reads a sequence or 1-D array of n numbers into `out`, as double or float by `wide`.
# Raises InputError or InputTypeError.
cdef int read_row(object x, uint32_t n, bint wide, void* out) except -1

# Hot: once per request of a mapping. Reads the values of `names`, in their order. False, with `out` undefined, where
# `row` lacks one, has a value that is no plain number, or, with `strict`, has other keys.
cdef bint read_mapping(dict row, tuple names, bint strict, bint wide, void* out) except -1

# A C-contiguous [rows, n] array of float64 (wide) or float32. Copies `rows`, an array, only if it is not one already.
cdef cnp.ndarray read_matrix(object rows, uint32_t n, bint wide)
# The same of a list or tuple; None where NumPy finds no table of numbers in it, and rows must be read one by one.
cdef object read_list(object rows, uint32_t n, bint wide)
# The same of an array of numbers.
cdef cnp.ndarray rounded(object array, bint wide)

# The instant by which a request must be answered, NEVER_NS at most. budget_ns counts if both deadlines are None.
# A negative deadline_ms is started_ns with `expired`, and raises without.
cdef int64_t read_deadline(object deadline_ms, object deadline_ns, int64_t started_ns, int64_t budget_ns,
                           bint expired) except -1

# int64 [n] of instants: one deadline for all, or one a row.
cdef cnp.ndarray read_deadlines(object deadline_ms, object deadline_ns, uint32_t n, int64_t started_ns,
                                int64_t budget_ns, bint expired)

# Number of rows in a caller's collection. Raises InputError for an object without a length.
cdef uint32_t count_rows(object rows) except? 0

# Uninitialised arrays of a NumPy type number, and one filled from memory.
cdef cnp.ndarray column(cnp.npy_intp n, int kind)
cdef cnp.ndarray table(cnp.npy_intp n, cnp.npy_intp width, int kind)
cdef object vector_of(const double* values, uint32_t n)
