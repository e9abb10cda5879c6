# Reads one Python value into one register.
#
# The quick readers take values of exact, common types. They run no Python code, so a borrowed pointer into a string
# stays valid. They return False for any other value (a Decimal, a subclass of str). The caller then asks the plain
# readers of _values.pyx, which may run the value's own code, and which give a value that the quick readers take.
from cpython.bool cimport PyBool_Check
from cpython.datetime cimport (
    PyDateTime_CheckExact, datetime_day, datetime_hour, datetime_microsecond, datetime_minute, datetime_month,
    datetime_second, datetime_tzinfo, datetime_year, get_utc,
)
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_AsLongLong, PyLong_CheckExact
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint32_t

from engine.transform._native cimport Text

cdef extern from *:
    """
    #include <charconv>
    #include <cmath>
    #include <cstring>
    #include <numpy/arrayobject.h>
    #include <numpy/arrayscalars.h>

    /* Writes the decimal digits of a whole number to a buffer of kDigits bytes; returns how many. */
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
    /* A dense NumPy array of `size` float32 or float64 values; runs no Python code. */
    static inline bool engine_float_vector(PyObject* value, uint32_t size, double* to) noexcept {
        if (!PyArray_CheckExact(value)) return false;
        PyArrayObject* array = reinterpret_cast<PyArrayObject*>(value);
        if (PyArray_NDIM(array) != 1 || PyArray_DIM(array, 0) != size || !PyArray_ISCARRAY_RO(array)) return false;
        const void* from = PyArray_DATA(array);
        if (PyArray_TYPE(array) == NPY_FLOAT64) std::memcpy(to, from, size * sizeof(double));
        else if (PyArray_TYPE(array) == NPY_FLOAT32) {
            for (uint32_t i = 0; i < size; ++i) to[i] = static_cast<const float*>(from)[i];
        } else return false;
        return true;
    }
    /* Loads the value's memory into the cache ahead of its use. */
    static inline void engine_prefetch(PyObject* value) noexcept { __builtin_prefetch(value); }
    /* The hash that a string caches when it is first used as a key; -1 before that. */
    static inline Py_hash_t engine_kept_hash(PyObject* text) noexcept {
        return reinterpret_cast<PyASCIIObject*>(text)->hash;
    }
    /* Whether two strings with cached hashes are equal. Names are short, and for 8 to 16 bytes two overlapping words
       are faster than a call of memcmp. */
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
    enum: kDigits
    size_t engine_digits(long long value, char* to) noexcept nogil
    bint engine_is_whole(double value) noexcept nogil
    bint engine_numpy_number(PyObject* value, double* to) noexcept
    bint engine_float_vector(PyObject* value, uint32_t size, double* to) noexcept
    void engine_prefetch(PyObject* value) noexcept
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


# Hot: a number of an exact, common type.
cdef inline bint quick_number(PyObject* value, double* to) noexcept:
    # None comes first: its address alone tells, so its memory is not needed.
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
    if PyFloat_Check(<object>value):  # a subclass of float, as np.float64
        to[0] = PyFloat_AS_DOUBLE(<object>value)
        return True
    return engine_numpy_number(value, to)


# Hot: a category. The bytes belong to the string; those of a whole number are written to `digits`.
cdef inline bint quick_text(PyObject* value, Text* to, char* digits) noexcept:
    cdef Py_ssize_t size
    cdef double number
    if PyUnicode_Check(value):
        if PyUnicode_IS_COMPACT_ASCII(value):
            to.data = <const char*>PyUnicode_DATA(value)
            to.size = PyUnicode_GET_LENGTH(value)
            return True
        try:
            # The string caches its UTF-8 form, so this allocates once in its life at most.
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


# Hot: a datetime in UTC as microseconds of Unix time. For another zone the zone itself must be asked, in Python code.
cdef inline bint quick_timestamp(PyObject* value, double* to) noexcept:
    cdef int64_t year, month, day
    if value == Py_None:
        to[0] = NAN
        return True
    if not PyDateTime_CheckExact(<object>value) or datetime_tzinfo(<object>value) is not get_utc():
        return False
    # Days are counted from 1 March, as in csrc/transform/date.hpp.
    year, month, day = datetime_year(<object>value), datetime_month(<object>value), datetime_day(<object>value)
    year -= month <= 2
    month += 9 if month <= 2 else -3
    day += (153 * month + 2) // 5 + year * 365 + year // 4 - year // 100 + year // 400 - 719469
    cdef int64_t minutes = day * 1440 + datetime_hour(<object>value) * 60 + datetime_minute(<object>value)
    to[0] = <double>((minutes * 60 + datetime_second(<object>value)) * 1000000 + datetime_microsecond(<object>value))
    return True


# Hot: a vector: None, a list of `size` numbers, or a dense array of them.
cdef inline bint quick_vector(PyObject* value, uint32_t size, double* to) noexcept:
    cdef uint32_t i
    if value == Py_None:
        for i in range(size):
            to[i] = NAN
        return True
    if PyList_CheckExact(<object>value):
        if PyList_GET_SIZE(<object>value) != size:
            return False
        for i in range(size):
            if not quick_number(PyList_GET_ITEM(<object>value, i), &to[i]):
                return False
        return True
    return engine_float_vector(value, size, to)


cdef object plain_number(object value, object name, object row)
cdef object plain_text(object value, object name, object row)
cdef object plain_timestamp(object value, bint naive_utc, object name, object row)
cdef object plain_vector(object value, uint32_t size, object name, object row)
