# CoreEngine's fields.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport numpy as cnp

from engine.serving._answers cimport Answer
from engine.serving._deployment cimport Deployment, Versions
from engine.serving._executors cimport CoreExecutors
from engine.serving._futures cimport AnswerFuture
from engine.serving._loop cimport Bridges
from engine.serving._scheduler cimport Priority, Request


cdef class ManyRequest:
    # A Request that outlives the call that made it; whoever keeps this keeps its deployment too.
    cdef Request native


cdef class CoreEngine(Versions):
    cdef CoreExecutors _pool     # shared executors, or None where the runtime owns its own
    cdef object _warm_rows       # as the models take them, [rows, n_features]
    cdef Bridges _bridges
    cdef bint _inline            # single requests run the primary on the caller's thread
    cdef bint _auto              # … for as long as it does not stall
    cdef bint _expired           # a negative deadline_ms is answered as expired; else it raises
    cdef bint _abandoned         # close() left a thread behind that may still use the runtime
    cdef Priority _priority      # of requests that name none
    cdef uint32_t _slots_max
    cdef int64_t _budget_ns      # from a call to its deadline, where the call gives none
    cdef int64_t _overran_ns     # the last inline call that overran, on the monotonic clock; 0 for none
    cdef int64_t _demoted_ns     # when the engine left the inline lane; 0 while it has not
    cdef int64_t _many_ended_ns  # when the last inline predict_many returned
    cdef uint64_t _forked_at     # `forks` when the engine was made
    cdef uint64_t _overruns      # counts of the runtime when they were last looked at
    cdef uint64_t _stalls

    cdef int _start_threads(self, bint warm) except -1
    cdef int _check_open(self) except -1
    cdef Answer _predict_inline(self, Deployment deployment, const Request& request)
    cdef Answer _predict_queued(self, Deployment deployment, const Request& request)
    cdef bint _wait_again(self, uint32_t index) except -1
    cdef int _watch_lane(self, int64_t now) except -1
    cdef int _reconsider_lane(self, int64_t now) except -1
    cdef uint32_t _window(self)
    cdef object _many_inline(self, Deployment deployment, const Request& request, cnp.ndarray matrix, uint32_t n,
                             cnp.ndarray deadlines, bint absolute, object missing)
    cdef object _many_queued(self, Deployment deployment, const Request& request, cnp.ndarray matrix,
                             cnp.ndarray deadlines, object missing)
    cdef object _many_async(self, Deployment deployment, ManyRequest many, cnp.ndarray matrix, cnp.ndarray deadlines,
                            object missing, object loop)
    cdef object _ask(self, Deployment deployment, object x, Request* request, object loop, tuple missing)
    cdef object _start(self, object x, object deadline_ms, object deadline_ns, object priority, bint hedge, object key,
                       object loop)
    cdef AnswerFuture _ready(self, Answer answer, object loop, tuple missing)
    cdef object _submit_one(self, Deployment deployment, const Request& request, object loop, tuple missing)
