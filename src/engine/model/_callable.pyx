# A Python callable as a scorer: the one scorer that takes the GIL.
#
# The engine calls score() from threads of its own, which makes the end of the interpreter the hard case. A thread that
# asks for the GIL, or is inside Python, once finalization has begun is ended by CPython up to 3.13 through
# pthread_exit, which unwinds the C++ frames below; those are noexcept, and the process would die by std::terminate.
# Two things keep that from happening: the GIL is not asked for once finalization is known to have begun, and a thread
# that is being unwound nevertheless sleeps for ever in `StayPut`, above every noexcept frame, until the process ends a
# moment later. CPython 3.14 came to the same answer and hangs such threads itself.
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
        StayPut guard;
        const PyGILState_STATE gil = PyGILState_Ensure();
        const int status =
            engine_callable_call(static_cast<engine_callable*>(ctx)->python, rows, n_rows, row_stride, out);
        PyGILState_Release(gil);
        guard.left = true;
        return status;
    }

    void callable_retain(void* ctx) {
        static_cast<engine_callable*>(ctx)->references.fetch_add(1, std::memory_order_relaxed);
    }

    void callable_release(void* ctx) {
        engine_callable* callable = static_cast<engine_callable*>(ctx);
        if (callable->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        /* At the end of the process the object is left where it is: there is nobody to give it back to. */
        if (!finalizing()) {
            StayPut guard;
            const PyGILState_STATE gil = PyGILState_Ensure();
            Py_DECREF(callable->python);
            PyGILState_Release(gil);
            guard.left = true;
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
    """The callable answered with other than one value a row and output."""


cdef class Callable:
    """Calls `fn` with a fresh float32 [n, n_features] array and reads its answer; keeps what went wrong last.

    What is kept holds no traceback, as its frames would hold the caller's locals, and with them this very model.
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
        """A scorer capsule over this object, which it keeps alive."""
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
    except BaseException:  # there was no memory left to say what went wrong
        return ENGINE_SCORE_FAILED
