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

    #include "base/gil_calls.hpp"

    struct engine_callable {
        std::atomic<size_t> references{1};
        PyObject* python;  /* a Callable; one reference of ours, given back under the GIL */
    };

    static int engine_callable_call(PyObject* python, const void* rows, int wide, size_t n_rows, size_t row_stride,
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

    /* The Python state of a thread that Python did not start, made at its first call and kept until it ends, so that
     * threading.local values last as long as the thread. The count of PyGILState_Ensure stays one higher meanwhile. */
    class ThreadState {
      public:
        /* With the GIL held by PyGILState_Ensure, which made the thread's state if it returned with a count of 1. */
        void keep() {
            if (kept_) return;
            kept_ = true;
            PyGILState_Ensure();
        }
        ~ThreadState() {
            if (!kept_ || finalizing()) return;  /* at the end of the interpreter the state is its own */
            StayPut stay;
            PyGILState_Ensure();
            PyGILState_Release(PyGILState_LOCKED);
            PyGILState_Release(PyGILState_UNLOCKED);  /* the last: clears and frees the state */
            stay.left = true;
        }

      private:
        bool kept_ = false;
    };

    thread_local ThreadState thread_state;

    engine::GilCalls& gil_calls = engine::GilCalls::all();

    engine::GilCall* gil_call_of_this_thread() {
        thread_local engine::GilCall* const mine = gil_calls.mine();
        return mine;
    }

    void* callable_new(PyObject* python) {
        auto* callable = new engine_callable;
        Py_INCREF(python);
        callable->python = python;
        return callable;
    }

    int callable_call(void* ctx, const void* rows, int wide, size_t n_rows, size_t row_stride, double* out) {
        if (finalizing()) return 1;
        StayPut stay;
        const bool foreign = PyGILState_GetThisThreadState() == nullptr;
        /* A thread that has the GIL already, as in Model.predict, waits for nothing. */
        const bool asks = !PyGILState_Check();
        engine::GilCall* const call = asks ? gil_call_of_this_thread() : nullptr;
        if (asks) gil_calls.asks(call);
        const PyGILState_STATE gil = PyGILState_Ensure();
        if (asks) gil_calls.got(call);
        if (foreign) thread_state.keep();
        const int status =
            engine_callable_call(static_cast<engine_callable*>(ctx)->python, rows, wide, n_rows, row_stride, out);
        PyGILState_Release(gil);
        if (asks) gil_calls.ended(call);
        stay.left = true;
        return status;
    }

    int callable_score(void* ctx, const float* rows, size_t n_rows, size_t row_stride, double* out) {
        return callable_call(ctx, rows, 0, n_rows, row_stride, out);
    }

    int callable_score_f64(void* ctx, const double* rows, size_t n_rows, size_t row_stride, double* out) {
        return callable_call(ctx, rows, 1, n_rows, row_stride, out);
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
    int callable_score_f64(void* ctx, const double* rows, size_t n_rows, size_t row_stride, double* out) noexcept nogil
    void callable_retain(void* ctx) noexcept nogil
    void callable_release(void* ctx) noexcept nogil


class BadShape(ValueError):
    """The callable's answer does not have one value for each row and output."""


cdef class Callable:
    """Calls `fn` with a fresh [n, n_features] array, float32 or float64, reads its answer, keeps its last failure.

    The kept failure holds no traceback, because its frames would keep the caller's locals alive, and with them this
    model.

    Args:
        fn: as in `engine.model.python.from_callable`.
        n_features: values a row, from 1.
        n_outputs: values an answer, from 1.
        float64: give `fn` float64 rows instead of float32.

    Attributes:
        n_features, n_outputs, float64: as given.
        error: the last exception of `fn`, or of the check of its answer; None where no call failed.
        error_text: its traceback as text, at most 8,000 characters; "" where no call failed.
    """

    cdef object fn
    cdef readonly size_t n_features
    cdef readonly size_t n_outputs
    cdef readonly bint float64
    cdef readonly object error
    cdef readonly str error_text

    def __cinit__(self, fn, size_t n_features, size_t n_outputs, bint float64=False):
        self.fn = fn
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.float64 = float64
        self.error_text = ""

    cdef int call(self, const void* rows, bint wide, size_t n_rows, size_t row_stride, double* out) except -1:
        # BaseException: a KeyboardInterrupt or SystemExit raised by a model must not end a thread of the engine.
        try:
            self.answer(rows, wide, n_rows, row_stride, out)
        except BaseException as error:
            self.remember(error)
            return ENGINE_SCORE_BAD_SHAPE if isinstance(error, BadShape) else ENGINE_SCORE_FAILED
        return ENGINE_SCORE_OK

    cdef int answer(self, const void* rows, bint wide, size_t n_rows, size_t row_stride, double* out) except -1:
        cdef cnp.npy_intp[2] shape
        shape[0] = n_rows
        shape[1] = self.n_features
        cdef cnp.ndarray given = cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT64 if self.float64 else cnp.NPY_FLOAT32)
        cdef size_t row, column
        cdef const float* floats
        cdef double* to
        if wide == self.float64:
            row = given.itemsize
            copy_rows(<char*>cnp.PyArray_DATA(given), <const char*>rows, n_rows, row_stride * row,
                      self.n_features * row)
        else:  # only a model that reads double is given double, and it may be given float32 as well
            to = <double*>cnp.PyArray_DATA(given)
            for row in range(n_rows):
                floats = <const float*>rows + row * row_stride
                for column in range(self.n_features):
                    to[row * self.n_features + column] = floats[column]
        cdef cnp.ndarray answer = self.checked(self.fn(given), n_rows)
        memcpy(out, cnp.PyArray_DATA(answer), n_rows * self.n_outputs * sizeof(double))
        return 0

    cdef cnp.ndarray checked(self, object answer, size_t n_rows):
        if isinstance(answer, np.ma.MaskedArray):  # a masked value is no value
            answer = answer.astype(np.float64).filled(np.nan)
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
        if self.float64:
            scorer.score_f64 = callable_score_f64
        scorer.retain = callable_retain
        scorer.release = callable_release
        return scorer_to_capsule(&scorer)


cdef void copy_rows(char* to, const char* rows, size_t n_rows, size_t stride, size_t size) noexcept:
    cdef size_t row
    for row in range(n_rows):
        memcpy(to + row * size, rows + row * stride, size)


cdef int engine_callable_call "engine_callable_call"(object python, const void* rows, bint wide, size_t n_rows,
                                                    size_t row_stride, double* out) noexcept:
    try:
        return (<Callable>python).call(rows, wide, n_rows, row_stride, out)
    except BaseException:  # no memory is left to describe the failure
        return ENGINE_SCORE_FAILED
