# A Python callable as a scorer: the one scorer that takes the GIL.
#
# The engine calls score() from threads of its own, which makes the end of the interpreter the hard case. A thread that
# asks for the GIL, or is inside Python, once finalization has begun is ended by CPython up to 3.13 through
# pthread_exit, which unwinds the C++ frames below; those are noexcept, and the process would die by std::terminate.
# Two things prevent that. Nothing asks for the GIL once finalization is known to have begun. A thread that is unwound
# nevertheless sleeps in `StayPut`, above every noexcept frame, until the process ends a moment later. CPython 3.14 does
# the same and hangs such threads itself.
from libc.string cimport memcpy

import traceback

import numpy as np

cimport numpy as cnp

from engine.model._scorer cimport (
    ENGINE_SCORE_BAD_SHAPE,
    ENGINE_SCORE_FAILED,
    ENGINE_SCORE_OK,
    ENGINE_SCORER_ABI,
    ENGINE_SCORER_TAKES_GIL,
    engine_scorer,
    scorer_to_capsule,
)

cnp.import_array()

cdef extern from *:
    """
    #include <atomic>
    #include <cstddef>
    #include <unistd.h>

    struct engine_callable {
        std::atomic<size_t> references{1};
        PyObject* python;  /* a Callable; one reference of ours, given back under the GIL */
    };

    static int engine_callable_call(PyObject* python, const float* rows, size_t n_rows, size_t row_stride,
                                    double* out);

    namespace {

    bool finalizing() {
    #if PY_VERSION_HEX >= 0x030D0000
        return !Py_IsInitialized() || Py_IsFinalizing();
    #else
        return !Py_IsInitialized() || _Py_IsFinalizing();
    #endif
    }

    struct StayPut {
        bool left = false;
        ~StayPut() {
            while (!left) pause();
        }
    };

    void* callable_new(PyObject* python) {
        auto* callable = new engine_callable;
        Py_INCREF(python);
        callable->python = python;
        return callable;
    }

    int callable_score(void* ctx, const float* rows, size_t n_rows, size_t row_stride, double* out) {
        if (finalizing()) return 1;
        StayPut stay;
        const PyGILState_STATE gil = PyGILState_Ensure();
        const int status =
            engine_callable_call(static_cast<engine_callable*>(ctx)->python, rows, n_rows, row_stride, out);
        PyGILState_Release(gil);
        stay.left = true;
        return status;
    }

    void callable_retain(void* ctx) {
        static_cast<engine_callable*>(ctx)->references.fetch_add(1, std::memory_order_relaxed);
    }

    void callable_release(void* ctx) {
        engine_callable* callable = static_cast<engine_callable*>(ctx);
        if (callable->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        /* At the end of the process the object stays: no interpreter is left to free it. */
        if (!finalizing()) {
            StayPut stay;
            const PyGILState_STATE gil = PyGILState_Ensure();
            Py_DECREF(callable->python);
            PyGILState_Release(gil);
            stay.left = true;
        }
        delete callable;
    }

    }  // namespace
    """
    void* callable_new(object python) except +
    int callable_score(void* ctx, const float* rows, size_t n_rows, size_t row_stride, double* out) noexcept nogil
    void callable_retain(void* ctx) noexcept nogil
    void callable_release(void* ctx) noexcept nogil


class BadShape(ValueError):
    """The callable's answer does not have one value for each row and output."""


cdef class Callable:
    """Calls `fn` with a fresh float32 [n, n_features] array, reads its answer, and keeps its last failure.

    The kept failure holds no traceback, because its frames would keep the caller's locals alive, and with them this
    model.

    Args:
        fn: as in `engine.model.python.from_callable`.
        n_features: values a row, from 1.
        n_outputs: values an answer, from 1.

    Attributes:
        n_features, n_outputs: the sizes.
        error: the last exception of `fn`, or of the check of its answer; None where no call failed.
        error_text: its traceback as text, at most 8,000 characters; "" where no call failed.
    """

    cdef object fn
    cdef readonly size_t n_features
    cdef readonly size_t n_outputs
    cdef readonly object error
    cdef readonly str error_text

    def __cinit__(self, fn, size_t n_features, size_t n_outputs):
        self.fn = fn
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.error_text = ""

    cdef int call(self, const float* rows, size_t n_rows, size_t row_stride, double* out) except -1:
        # BaseException: a KeyboardInterrupt or SystemExit raised by a model must not end a thread of the engine.
        try:
            self.answer(rows, n_rows, row_stride, out)
        except BaseException as error:
            self.remember(error)
            return ENGINE_SCORE_BAD_SHAPE if isinstance(error, BadShape) else ENGINE_SCORE_FAILED
        return ENGINE_SCORE_OK

    cdef int answer(self, const float* rows, size_t n_rows, size_t row_stride, double* out) except -1:
        cdef cnp.ndarray given = np.empty((n_rows, self.n_features), dtype=np.float32)
        cdef float* to = <float*>cnp.PyArray_DATA(given)
        cdef size_t row
        for row in range(n_rows):
            memcpy(to + row * self.n_features, rows + row * row_stride, self.n_features * sizeof(float))
        cdef cnp.ndarray answer = self.checked(self.fn(given), n_rows)
        memcpy(out, cnp.PyArray_DATA(answer), n_rows * self.n_outputs * sizeof(double))
        return 0

    cdef cnp.ndarray checked(self, object answer, size_t n_rows):
        array = np.asarray(answer)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"the model answered with dtype {array.dtype}, expected real numbers")
        expected = (n_rows, self.n_outputs)
        if array.shape != expected and not (self.n_outputs == 1 and array.shape == (n_rows,)):
            wanted = f"[{n_rows}] or [{n_rows}, 1]" if self.n_outputs == 1 else f"[{n_rows}, {self.n_outputs}]"
            raise BadShape(f"the model answered with shape {list(array.shape)} for {n_rows} rows, expected {wanted}")
        return np.ascontiguousarray(array, dtype=np.float64)

    cdef int remember(self, object error) except -1:
        try:
            text = "".join(traceback.format_exception(error, limit=-8))
        except Exception:
            text = type(error).__name__  # an exception that cannot even be printed
        self.error_text = text if len(text) <= 8000 else "…" + text[len(text) - 8000:]
        self.error = error
        seen = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            error.__traceback__ = None
            error = error.__cause__ or error.__context__
        return 0

    def scorer(self):
        """Return a capsule `engine.scorer.v1` over this object, which the capsule keeps alive."""
        cdef engine_scorer scorer
        scorer.abi = ENGINE_SCORER_ABI
        # Not reentrant: a Python callable is rarely written for several threads, and the GIL would queue them anyway.
        scorer.flags = ENGINE_SCORER_TAKES_GIL
        scorer.n_features = self.n_features
        scorer.n_outputs = self.n_outputs
        scorer.ctx = callable_new(self)
        scorer.score = callable_score
        scorer.score_f64 = NULL
        scorer.retain = callable_retain
        scorer.release = callable_release
        return scorer_to_capsule(&scorer)


cdef int engine_callable_call "engine_callable_call"(object python, const float* rows, size_t n_rows,
                                                    size_t row_stride, double* out) noexcept:
    try:
        return (<Callable>python).call(rows, n_rows, row_stride, out)
    except BaseException:  # no memory is left to describe the failure
        return ENGINE_SCORE_FAILED
