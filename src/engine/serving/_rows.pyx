"""Reads the rows, matrices, deadlines and defaults that callers pass, and makes the arrays that answers go into.

Every error says what was expected and what was given.
"""
from cpython.bool cimport PyBool_Check
from cpython.dict cimport PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_Check, PyFloat_CheckExact
from cpython.list cimport PyList_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport NAN, isnan
from libc.string cimport memcpy

import time

import numpy as np

from engine.errors import ConfigError, InputError, InputTypeError

from engine.serving._scheduler cimport NEVER_NS

cnp.import_array()

# The monotonic clock begins when the machine does; the wall clock began in 1970 and is past this since 2001.
cdef int64_t WALL_CLOCK_NS = 1_000_000_000_000_000_000
cdef int64_t WALL_CLOCK_MARGIN_NS = 10 * 366 * 86_400 * 1_000_000_000

cdef str TEXT_ADVICE = "; columns of text need a feature program (Engine(features=…))"
cdef str TIME_ADVICE = "; pass times as numbers, or use a feature program (Engine(features=…))"
cdef tuple _NUMPY_NUMBERS = (np.floating, np.integer, np.bool_)

cdef extern from "Python.h":
    # Borrowed items of a list or tuple, unchecked: compare the length first.
    PyObject** PySequence_Fast_ITEMS(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)


cdef int read_row(object x, uint32_t n, bint wide, void* out) except -1:
    if PyList_CheckExact(x) or PyTuple_CheckExact(x):
        return _read_sequence(x, n, wide, out)
    return _read_array(x, n, wide, out)


cdef bint read_mapping(dict row, tuple names, bint strict, bint wide, void* out) except -1:
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(names)
    cdef PyObject* item
    cdef double value
    if strict and len(row) != n:
        return False
    for i in range(n):
        item = PyDict_GetItemWithError(row, <object>PyTuple_GET_ITEM(names, i))
        if item is NULL:
            return False
        if PyFloat_Check(<object>item):
            value = PyFloat_AS_DOUBLE(<object>item)
        elif PyLong_CheckExact(<object>item):
            try:
                value = PyLong_AsDouble(<object>item)
            except OverflowError:
                return False
        elif <object>item is None:
            value = NAN
        elif PyBool_Check(<object>item):
            value = 1.0 if <object>item is True else 0.0
        elif isinstance(<object>item, _NUMPY_NUMBERS):
            value = <object>item
        else:
            return False
        if wide:
            (<double*>out)[i] = value
        else:
            (<float*>out)[i] = <float>value
    return True


cdef int _read_sequence(object x, uint32_t n, bint wide, void* out) except -1:
    if <uint32_t>PySequence_Fast_GET_SIZE(x) != n:
        raise InputError(f"expected a row of {n} features, got {len(x)}")
    cdef double value
    cdef uint32_t i
    cdef object item
    for i in range(n):
        # `_number` below may call __float__ of a foreign class, which can shorten the list.
        if <uint32_t>PySequence_Fast_GET_SIZE(x) != n:
            raise InputError(f"the row changed its length while it was read, from {n} to {len(x)}")
        item = <object>PySequence_Fast_ITEMS(x)[i]
        if PyFloat_CheckExact(item):
            value = PyFloat_AS_DOUBLE(item)
        elif item is None:
            value = float("nan")
        else:
            value = _number(item, i)
        if wide:
            (<double*>out)[i] = value
        else:
            (<float*>out)[i] = <float>value
    return 0


cdef double _number(object item, uint32_t position) except? -1.0:
    if isinstance(item, (str, bytes)):
        raise InputTypeError(f"feature {position}: expected a number, got {type(item).__name__} {item!r:.40}; "
                             f"text needs a feature program (Engine(features=…))")
    try:
        return PyFloat_AsDouble(item)
    except TypeError:
        raise InputTypeError(f"feature {position}: expected a number, got {type(item).__name__}") from None
    except OverflowError:
        raise InputError(f"feature {position}: {item!r:.40} is too large for a float64") from None
    except Exception as error:  # of its __float__
        raise InputTypeError(f"feature {position}: expected a number, got {type(item).__name__}, which raised "
                             f"{type(error).__name__}: {error}") from error


# An array of floats is read in place, because NumPy's own conversions cost a microsecond and more.
cdef int _read_array(object x, uint32_t n, bint wide, void* out) except -1:
    if cnp.PyArray_CheckExact(x) and _read_floats(<cnp.ndarray>x, n, wide, out):
        return 0
    if x is None or isinstance(x, (str, bytes, bytearray)):
        raise InputTypeError(f"expected a row of {n} features, got {type(x).__name__}"
                             f"{'' if x is None else ' ' + repr(x)[:40]}")
    array = _array_of(x)
    if array.ndim != 1 or array.shape[0] != n:
        hint = "; for several rows call predict_many" if array.ndim == 2 else ""
        raise InputError(f"expected a row of {n} features (1-D), got {_shape(x, array)}{hint}")
    if array.dtype.kind == "O":
        return _read_sequence(array.tolist(), n, wide, out)
    _check_kind(array)
    _read_floats(rounded(array, wide), n, wide, out)
    return 0


# Returns False if `array` is not a native 1-D array of n float32 or float64 values.
cdef bint _read_floats(cnp.ndarray array, uint32_t n, bint wide, void* out) noexcept:
    if cnp.PyArray_NDIM(array) != 1 or <uint32_t>cnp.PyArray_DIM(array, 0) != n or not cnp.PyArray_ISBEHAVED_RO(array):
        return False
    cdef int kind = cnp.PyArray_TYPE(array)
    cdef const char* at = <const char*>cnp.PyArray_DATA(array)
    cdef cnp.npy_intp stride = cnp.PyArray_STRIDE(array, 0)
    cdef uint32_t i
    if kind == cnp.NPY_FLOAT32 and wide:
        for i in range(n):
            (<double*>out)[i] = (<const float*>(at + i * stride))[0]
    elif kind == cnp.NPY_FLOAT32:
        for i in range(n):
            (<float*>out)[i] = (<const float*>(at + i * stride))[0]
    elif kind == cnp.NPY_FLOAT64 and wide:
        for i in range(n):
            (<double*>out)[i] = (<const double*>(at + i * stride))[0]
    elif kind == cnp.NPY_FLOAT64:
        for i in range(n):
            (<float*>out)[i] = <float>(<const double*>(at + i * stride))[0]
    else:
        return False
    return True


# Any array or sequence as an array. What is masked is missing: NaN.
cdef object _array_of(object x):
    if isinstance(x, np.ma.MaskedArray):
        if x.dtype.kind == "O":
            return np.where(np.ma.getmaskarray(x), np.array(None), x.data)
        if x.dtype.kind not in "fiub":
            return np.asarray(x)
        return x.astype(x.dtype if x.dtype.kind == "f" else np.float64).filled(np.nan)
    try:
        return np.asarray(x)
    except Exception as error:  # NumPy's, or one of x.__array__
        raise InputError(f"expected numbers, got {type(x).__name__}: {type(error).__name__}: {error}") from error


cdef int _check_kind(object array) except -1:
    if array.dtype.kind not in "fiub":
        advice = {"U": TEXT_ADVICE, "S": TEXT_ADVICE, "M": TIME_ADVICE, "m": TIME_ADVICE}.get(array.dtype.kind, "")
        raise InputTypeError(f"expected float32, float64, integer or bool values, got dtype {array.dtype}{advice}")
    return 0


cdef cnp.ndarray read_matrix(object rows, uint32_t n, bint wide):
    array = _array_of(rows)
    if array.ndim != 2 or array.shape[1] != n:
        raise InputError(f"expected rows of shape [rows, {n}], got {_shape(rows, array).removeprefix('shape ')}")
    _check_kind(array)
    return rounded(array, wide)


cdef object read_list(object rows, uint32_t n, bint wide):
    if not len(rows):
        return table(0, n, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32)
    try:
        array = np.asarray(rows)
    except (ValueError, TypeError):
        return None
    if array.dtype.kind not in "fiub" or any(isinstance(row, np.ma.MaskedArray) for row in rows):
        return None
    if array.ndim == 2 and array.shape[1] != n:
        return None  # the reader of single rows says which row is wrong
    if array.ndim != 2:
        raise InputError(f"expected rows of shape [rows, {n}], got {list(array.shape)}")
    return rounded(array, wide)


cdef cnp.ndarray rounded(object array, bint wide):
    wanted = np.float64 if wide else np.float32
    if array.dtype == wanted:
        return np.ascontiguousarray(array)
    # Rounding to the narrower type is wanted: a value beyond float32's range becomes infinity, one below it zero. A
    # list of floats is read in the same way, without a warning.
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(array, dtype=wanted)


# The shape of what NumPy made of `x`, or its type where NumPy saw one object in it.
cdef str _shape(object x, object array):
    return f"shape {list(array.shape)}" if array.ndim or isinstance(x, np.ndarray) else f"{type(x).__name__} {x!r:.40}"


cdef int64_t _instant(double ms, int64_t started_ns, bint expired) except -1:
    if expired and ms < 0:
        return started_ns
    if isnan(ms) or ms < 0:
        raise InputError(f"deadline_ms must be zero or more milliseconds from the call, got {ms!r}{_way_out(ms)}")
    if ms >= 1e12:  # thirty years: no deadline
        return NEVER_NS
    return started_ns + <int64_t>(ms * 1e6)


cdef str _way_out(double ms):
    return "; Engine(expired='answer') answers such a request as expired" if ms < 0 else ""


cdef int64_t read_deadline(object deadline_ms, object deadline_ns, int64_t started_ns, int64_t budget_ns,
                           bint expired) except -1:
    if deadline_ns is None:
        if deadline_ms is None:
            return started_ns + budget_ns if budget_ns < NEVER_NS else NEVER_NS
        if PyFloat_CheckExact(deadline_ms):
            return _instant(PyFloat_AS_DOUBLE(deadline_ms), started_ns, expired)
        return _instant(_milliseconds(deadline_ms), started_ns, expired)
    if deadline_ms is not None:
        raise InputError("give deadline_ms (from the call) or deadline_ns (a point on time.monotonic_ns()), not both")
    return _point(deadline_ns)


cdef double _milliseconds(object value) except? -1.0:
    if isinstance(value, (str, bytes)):
        raise InputTypeError(f"deadline_ms must be a number of milliseconds, got {type(value).__name__} {value!r:.40}")
    try:
        return PyFloat_AsDouble(value)
    except TypeError:
        raise InputTypeError(f"deadline_ms must be a number of milliseconds, got {type(value).__name__}") from None
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


cdef int64_t _point(object value) except -1:
    try:
        point = value.__index__()
    except AttributeError:
        raise InputTypeError(f"deadline_ns must be an integer, a point on time.monotonic_ns(), got "
                             f"{type(value).__name__} {value!r:.40}") from None
    if point < 0:
        raise InputError(f"deadline_ns must be a point on time.monotonic_ns(), got {point}")
    if point > WALL_CLOCK_NS:
        _refuse_wall_clock(point)
    return NEVER_NS if point > NEVER_NS else point


# Raises if `point` lies within ten years of the wall clock, whose zero is 1970: no machine has run for so long.
cdef int _refuse_wall_clock(object point) except -1:
    if abs(point - time.time_ns()) < WALL_CLOCK_MARGIN_NS:
        raise InputError(f"deadline_ns must be a point on time.monotonic_ns(), got {point}, which is one of "
                         f"time.time_ns(): add the time that is left to time.monotonic_ns(), or pass deadline_ms")
    return 0


# Whether an int64 array is n valid instants, to be used as they are. The usual case, without calls of NumPy.
cdef bint _all_points(cnp.ndarray array, uint32_t n) noexcept:
    cdef const char* at = <const char*>cnp.PyArray_DATA(array)
    cdef int64_t point
    cdef uint32_t i
    if <uint32_t>array.shape[0] != n:
        return False
    for i in range(n):
        point = (<const int64_t*>(at + i * array.strides[0]))[0]
        if point < 0 or point > WALL_CLOCK_NS:
            return False
    return True


cdef cnp.ndarray read_deadlines(object deadline_ms, object deadline_ns, uint32_t n, int64_t started_ns,
                                int64_t budget_ns, bint expired):
    if deadline_ns is not None and deadline_ms is not None:
        raise InputError("give deadline_ms (from the call) or deadline_ns (a point on time.monotonic_ns()), not both")
    given = deadline_ns if deadline_ns is not None else deadline_ms
    try:
        one_for_all = given is None or np.ndim(given) == 0
    except ValueError:
        raise InputError(f"expected one deadline, or one for each of {n} rows, got ragged lists") from None
    if one_for_all:
        if isinstance(given, np.ndarray):
            given = given[()]
        one = read_deadline(None if deadline_ns is not None else given, given if deadline_ns is not None else None,
                            started_ns, budget_ns, expired)
        return np.full(n, one, dtype=np.int64)
    array = np.asarray(given)
    if deadline_ns is not None and array.ndim == 1 and array.dtype == np.int64 and _all_points(array, n):
        return np.ascontiguousarray(array)
    if array.ndim != 1 or <uint32_t>array.shape[0] != n:
        raise InputError(f"expected one deadline, or one for each of {n} rows, got shape {list(array.shape)}")
    if deadline_ns is not None:
        if array.dtype.kind not in "iu":
            raise InputTypeError(f"deadline_ns must be integers on time.monotonic_ns(), got dtype {array.dtype}")
        if n and array.min() < 0:
            raise InputError(f"deadline_ns must be points on time.monotonic_ns(), got {array.min()} for row "
                             f"{int(array.argmin())}")
        for point in array[array > WALL_CLOCK_NS].tolist():
            _refuse_wall_clock(point)
        return np.ascontiguousarray(np.minimum(array, NEVER_NS), dtype=np.int64)
    if array.dtype.kind not in "fiub":
        row = next((row for row, value in enumerate(array.tolist()) if not isinstance(value, (int, float))), 0)
        raise InputTypeError(f"deadline_ms must be numbers of milliseconds, got {array.tolist()[row]!r:.40} for row "
                             f"{row}")
    ms = array.astype(np.float64)
    if expired:
        ms[ms < 0] = 0.0
    bad = ~(ms >= 0)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"deadline_ms must be zero or more milliseconds from the call, got {ms[row]} for row {row}"
                         f"{_way_out(ms[row])}")
    far = ms >= 1e12
    return np.where(far, NEVER_NS, started_ns + (np.where(far, 0.0, ms) * 1e6).astype(np.int64))


cdef uint32_t count_rows(object rows) except? 0:
    try:
        n = len(rows)
    except Exception:
        way_out = (": pass rows.toarray()" if hasattr(rows, "toarray") else ": pass list(rows)"
                   if hasattr(rows, "__next__") else "")
        raise InputError(f"expected rows as a 2-D array or a sequence of rows, got {type(rows).__name__}"
                         f"{way_out}") from None
    if n > 0xFFFFFFF0:
        raise InputError(f"expected fewer than 2^32 rows in one call, got {n}")
    return n


cdef cnp.ndarray column(cnp.npy_intp n, int kind):
    return cnp.PyArray_SimpleNew(1, &n, kind)


cdef cnp.ndarray table(cnp.npy_intp n, cnp.npy_intp width, int kind):
    cdef cnp.npy_intp[2] shape
    shape[0], shape[1] = n, width
    return cnp.PyArray_SimpleNew(2, shape, kind)


cdef object vector_of(const double* values, uint32_t n):
    cdef cnp.ndarray array = column(n, cnp.NPY_FLOAT64)
    memcpy(cnp.PyArray_DATA(array), values, n * sizeof(double))
    return array


def checked_default(value, n_outputs):
    """The default as a float, or as a float64 array [n_outputs]. Raise ConfigError for another shape."""
    array = np.asarray(value, dtype=np.float64)
    if n_outputs == 1 and array.size == 1:
        return float(array.reshape(()))
    if array.ndim == 0 and n_outputs > 1:
        return np.full(n_outputs, float(array))
    if array.shape != (n_outputs,):
        raise ConfigError(f"the default must be one number or {n_outputs} of them, got shape {list(array.shape)}")
    return array
