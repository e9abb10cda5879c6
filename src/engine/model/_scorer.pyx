# The capsule that carries a scorer between extension modules, and a direct call through it for Model.predict.
from cpython.pycapsule cimport (
    PyCapsule_GetContext,
    PyCapsule_GetPointer,
    PyCapsule_IsValid,
    PyCapsule_New,
    PyCapsule_SetContext,
)
from libc.math cimport fabs, floor
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from engine.errors import ConfigError, InputError, ModelError

cdef extern from "base/call_lock.hpp" namespace "engine" nogil:
    const int NOT_CALLED

cdef extern from "model/score_threads.hpp" namespace "engine::model" nogil:
    int score_threads(const engine_scorer& scorer, const float* rows, size_t n_rows, size_t row_stride, double* out,
                      size_t threads) noexcept
    int score_threads(const engine_scorer& scorer, const double* rows, size_t n_rows, size_t row_stride, double* out,
                      size_t threads) noexcept
    int score_until(const engine_scorer& scorer, const float* rows, size_t n_rows, size_t row_stride, double* out,
                    int64_t deadline_ns) noexcept
    int score_until(const engine_scorer& scorer, const double* rows, size_t n_rows, size_t row_stride, double* out,
                    int64_t deadline_ns) noexcept

cdef extern from "model/missing.hpp" namespace "engine::model" nogil:
    engine_scorer c_with_missing "engine::model::with_missing"(const engine_scorer& inner, float missing) except +

cdef extern from "model/reordered.hpp" namespace "engine::model" nogil:
    engine_scorer c_reordered "engine::model::reordered"(const engine_scorer& inner, vector[uint32_t] order) except +

cnp.import_array()


cdef void _free_capsule(object capsule) noexcept:
    cdef engine_scorer* scorer = <engine_scorer*>PyCapsule_GetPointer(capsule, ENGINE_SCORER_CAPSULE)
    scorer.release(scorer.ctx)
    free(scorer)


cdef object scorer_to_capsule(const engine_scorer* scorer):
    cdef engine_scorer* kept = <engine_scorer*>malloc(sizeof(engine_scorer))
    if kept is NULL:
        scorer.release(scorer.ctx)
        raise MemoryError()
    memcpy(kept, scorer, sizeof(engine_scorer))
    return PyCapsule_New(kept, ENGINE_SCORER_CAPSULE, _free_capsule)


cdef const engine_scorer* scorer_from_capsule(object capsule) except NULL:
    if not PyCapsule_IsValid(capsule, ENGINE_SCORER_CAPSULE):
        raise ConfigError(f"expected a PyCapsule named '{ENGINE_SCORER_CAPSULE.decode()}', got "
                          f"{type(capsule).__name__}")
    cdef const engine_scorer* scorer = <const engine_scorer*>PyCapsule_GetPointer(capsule, ENGINE_SCORER_CAPSULE)
    if not ENGINE_SCORER_ABI_MIN <= scorer.abi <= ENGINE_SCORER_ABI:
        raise ConfigError(f"expected a scorer of ABI {ENGINE_SCORER_ABI_MIN} to {ENGINE_SCORER_ABI}, got "
                          f"{scorer.abi}: rebuild the module that made it")
    if scorer.abi < ENGINE_SCORER_ABI:
        scorer = _grown(capsule, scorer)
    cdef const char* fault = engine_scorer_fault(scorer)
    if fault is not NULL:
        raise ConfigError(f"a scorer of ABI {scorer.abi} with {scorer.n_features} features and {scorer.n_outputs} "
                          f"outputs cannot be used: {fault.decode()}")
    return scorer


cdef const engine_scorer* _grown(object capsule, const engine_scorer* old) except NULL:
    # A copy by value would read beyond the end of an older struct. The grown copy is the capsule's context, made once.
    # The capsule's own destructor does not know it, so its 128 bytes outlive the capsule.
    cdef engine_scorer* kept = <engine_scorer*>PyCapsule_GetContext(capsule)
    if kept is NULL:
        kept = <engine_scorer*>malloc(sizeof(engine_scorer))
        if kept is NULL:
            raise MemoryError()
        kept[0] = engine_scorer_read(old)
        PyCapsule_SetContext(capsule, kept)
    return kept


def describe(capsule) -> dict:
    """Return shape and flags of a scorer capsule.

    Keys: n_features, n_outputs, takes_gil, reentrant, native, float64_rows (takes rows in double), stops (can give
    up at a deadline), in_flight_max (batches that may be out at once; 0 where every batch is a call), rows_max (of
    such a batch).

    Raises:
        ConfigError: no scorer capsule, or of a version that is not read.
    """
    cdef const engine_scorer* scorer = scorer_from_capsule(capsule)
    return {
        "n_features": scorer.n_features,
        "n_outputs": scorer.n_outputs,
        "takes_gil": bool(scorer.flags & ENGINE_SCORER_TAKES_GIL),
        "reentrant": bool(scorer.flags & ENGINE_SCORER_REENTRANT),
        "native": bool(scorer.flags & ENGINE_SCORER_NATIVE),
        "float64_rows": scorer.score_f64 is not NULL,
        "stops": scorer.score_until is not NULL,
        "in_flight_max": scorer.in_flight_max,
        "rows_max": scorer.rows_max,
    }


def score(capsule, rows, Py_ssize_t threads=1, deadline_ns=None):
    """Score a 2-D array through a scorer capsule. The GIL is released, unless the scorer takes it.

    Args:
        capsule: PyCapsule `engine.scorer.v1`.
        rows: float32 or float64 [n, n_features]. Read in place where the last axis is contiguous, else copied once. A
            float64 array stays float64 where the scorer takes that; else it is rounded to float32, and a value beyond
            float32's range becomes an infinity of its sign, without a warning.
        threads: from 1; up to this many threads share the rows, 256 at a time. A scorer that is not reentrant gets one.
        deadline_ns: a point on `time.monotonic_ns()`. One thread then scores, and a scorer that can stop gives up once
            the deadline has passed. A scorer that is not reentrant is waited for until then.

    Returns:
        float64 [n] for one output, [n, n_outputs] for several.

    Raises:
        ConfigError: no scorer capsule.
        InputError: another shape or dtype, or threads below 1.
        ModelError: the scorer failed or gave up.
    """
    cdef const engine_scorer* scorer = scorer_from_capsule(capsule)
    if threads < 1:
        raise InputError(f"expected at least one thread, got {threads}")
    cdef cnp.ndarray array = _rows(rows, scorer.n_features, scorer.score_f64 is not NULL)
    cdef size_t n_rows = array.shape[0]
    cdef size_t stride = 0
    cdef cnp.npy_intp[2] shape
    shape[0] = n_rows
    shape[1] = scorer.n_outputs
    cdef cnp.ndarray out = cnp.PyArray_SimpleNew(1 if scorer.n_outputs == 1 else 2, shape, cnp.NPY_FLOAT64)
    cdef int status = 0
    if n_rows:
        stride = array.strides[0] // array.itemsize
        if deadline_ns is not None:
            status = _score_until(scorer, array, stride, <double*>cnp.PyArray_DATA(out), deadline_ns)
        elif array.itemsize == 8:
            with nogil:
                status = score_threads(scorer[0], <const double*>cnp.PyArray_DATA(array), n_rows, stride,
                                       <double*>cnp.PyArray_DATA(out), threads)
        else:
            with nogil:
                status = score_threads(scorer[0], <const float*>cnp.PyArray_DATA(array), n_rows, stride,
                                       <double*>cnp.PyArray_DATA(out), threads)
    if status == ENGINE_SCORE_OUT_OF_TIME:
        raise ModelError(f"the model gave up on {n_rows} rows: its deadline has passed")
    if status == NOT_CALLED:
        raise ModelError("the model allows one call at a time, and it was not free: another call did not end in time, "
                         "is stuck, or calls the model from inside itself")
    if status != ENGINE_SCORE_OK:
        raise ModelError(f"the model failed on {n_rows} rows (status {status})")
    return out


def is_plain(rows, bint float64):
    """Return whether rows are a NumPy array of float32 or, with `float64`, of float64, and of no subclass.

    Such rows hold no names, no masked values, and no numbers that the model would round without a word.
    """
    # Hot for single rows: `rows.dtype != np.float32` alone takes 0.1 us in Python.
    if not cnp.PyArray_CheckExact(rows):
        return False
    cdef int kind = cnp.PyArray_TYPE(rows)
    return kind == cnp.NPY_FLOAT32 or (float64 and kind == cnp.NPY_FLOAT64)


def lost(cnp.ndarray rows not None):
    """Return (row, column) of the first whole number of a 2-D array that float32 cannot hold, or None.

    Numbers from 2^53 on in a float array do not count. Arrays of other types than int or float hold none.
    """
    if rows.ndim != 2 or rows.dtype.kind not in "iuf" or rows.dtype.itemsize < 4 or rows.dtype == np.float32:
        return None
    cdef cnp.ndarray array
    cdef const double* doubles
    cdef const int64_t* wholes
    cdef Py_ssize_t at = 0, size = rows.size
    cdef double value
    if rows.dtype.kind == "f":
        array = np.ascontiguousarray(rows, np.float64)
        doubles = <const double*>cnp.PyArray_DATA(array)
        with nogil:
            while at < size:
                value = fabs(doubles[at])
                if value > 16777216.0 and value < 9007199254740992.0 and <double><float>value != value \
                        and floor(value) == value:
                    break
                at += 1
    else:
        array = np.ascontiguousarray(rows, np.int64)
        wholes = <const int64_t*>cnp.PyArray_DATA(array)
        with nogil:
            while at < size:
                if ((wholes[at] > 16777216 or wholes[at] < -16777216)
                        and <double><float>wholes[at] != <double>wholes[at]):
                    break
                at += 1
    return divmod(at, rows.shape[1]) if at < size else None


def with_missing(capsule, float missing):
    """Return a scorer capsule that takes `missing`, as float32, for a missing value, and passes the rows on.

    It copies the rows, 64 at a time, and has the entries and flags of the scorer in `capsule`.

    Raises:
        ConfigError: no scorer capsule.
    """
    cdef const engine_scorer* inner = scorer_from_capsule(capsule)
    cdef engine_scorer scorer = c_with_missing(inner[0], missing)
    return scorer_to_capsule(&scorer)


def reordered(capsule, order):
    """Return a scorer capsule that takes columns in another order. It copies the rows, and has the inner one's flags.

    Args:
        capsule: PyCapsule `engine.scorer.v1`.
        order: order[i] is the given rows' column that is the inner scorer's column i; each column once.

    Raises:
        ConfigError: no scorer capsule, or `order` is no permutation of its columns.
    """
    cdef const engine_scorer* inner = scorer_from_capsule(capsule)
    if sorted(order) != list(range(inner.n_features)):
        raise ConfigError(f"expected each of the columns 0 to {inner.n_features - 1} once, got {list(order)!r:.80}")
    cdef vector[uint32_t] columns = order
    cdef engine_scorer scorer = c_reordered(inner[0], columns)
    return scorer_to_capsule(&scorer)


cdef int _score_until(const engine_scorer* scorer, cnp.ndarray array, size_t stride, double* out,
                      int64_t deadline_ns) except -1:
    cdef size_t n_rows = array.shape[0]
    cdef const void* rows = cnp.PyArray_DATA(array)
    cdef bint wide = array.itemsize == 8
    cdef int status
    with nogil:
        if wide:
            status = score_until(scorer[0], <const double*>rows, n_rows, stride, out, deadline_ns)
        else:
            status = score_until(scorer[0], <const float*>rows, n_rows, stride, out, deadline_ns)
    return status


cdef cnp.ndarray _rows(object rows, size_t n_features, bint float64_rows):
    # Hot for single rows: an array that needs no conversion passes without a call into NumPy's Python layer (0.8 us).
    cdef int kind
    if cnp.PyArray_CheckExact(rows) and cnp.PyArray_NDIM(rows) == 2 and cnp.PyArray_IS_C_CONTIGUOUS(rows):
        kind = cnp.PyArray_TYPE(rows)
        if ((kind == cnp.NPY_FLOAT32 or (float64_rows and kind == cnp.NPY_FLOAT64))
                and <size_t>cnp.PyArray_DIM(rows, 1) == n_features and cnp.PyArray_ISBEHAVED_RO(rows)):
            return rows
    array = np.asarray(rows)
    if array.ndim != 2 or <size_t>array.shape[1] != n_features:
        raise InputError(f"expected rows of shape [n, {n_features}], got {list(array.shape)}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"expected float32 or float64 rows, got dtype {array.dtype}")
    wanted = np.float64 if float64_rows and array.dtype != np.float32 else np.float32
    if array.dtype != wanted:
        # The caller asked for rounding: beyond float32's range is infinity, below it zero.
        with np.errstate(over="ignore", under="ignore"):
            array = array.astype(wanted)
    # A field of a structured array can have rows that do not lie a whole number of values apart, or unaligned ones.
    if (array.strides[0] < 0 or array.strides[0] % array.itemsize or array.strides[1] != array.itemsize
            or not array.flags.aligned):
        array = np.ascontiguousarray(array)
    return array
