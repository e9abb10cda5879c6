# cython: annotation_typing=False
"""Executor threads, an engine's own or shared by several, and how much time the request they work on has left.

An extension links the native core as a static archive with hidden symbols, so each extension has its own copy of that
code, and of its thread-locals. Executors are made and started through this module alone. Their threads therefore run
this module's copy, and `remaining_ms` reads the thread-local that they write.
"""
from libc.stdint cimport int64_t
from libcpp.vector cimport vector

from engine.serving._scheduler cimport NEVER_NS, ExecutorOptions, now_ns

import contextvars
import math
import os

from engine.errors import ConfigError

forks = 0


def _after_fork_in_child():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)

# The deadline of the request whose online features this context looks up, on time.monotonic_ns(); 0 outside of it.
_looking_up_until = contextvars.ContextVar("engine.looking_up_until", default=0)


def remaining_ms() -> float | None:
    """Milliseconds until the request that this thread works on must be answered.

    For code that runs inside a request, so that it can stop in time or choose a cheaper way:

    - in a Python model, until the most urgent row of its batch must be answered;
    - in a look-up of online features, until the request must be answered.

    Returns:
        Milliseconds; negative when the deadline has passed, infinity without a deadline, None outside of a request.

    Never blocks; callable from any thread.

    >>> import engine
    >>> engine.remaining_ms() is None
    True
    """
    cdef int64_t until = Runtime.working_until_ns()
    if until == 0:
        until = _looking_up_until.get()
    if until == 0:
        return None
    return math.inf if until >= NEVER_NS else (until - now_ns()) / 1e6


cdef shared_ptr[Executors] make_executors(object threads, bint spin, object realtime_priority, object cpus) except *:
    cdef ExecutorOptions options
    options.threads = threads
    options.may_watch = spin
    options.realtime_priority = 0 if realtime_priority is None else realtime_priority
    if cpus is not None:
        options.cpus = cpus
    try:
        return Executors.make(options)
    except OSError as error:
        wanted = [f"cpus={sorted(cpus)}"] if cpus is not None else []
        wanted += [f"realtime_priority={realtime_priority}"] if realtime_priority is not None else []
        raise ConfigError(
            f"the system refuses {' and '.join(wanted)}: {error.strerror}. Real-time scheduling needs CAP_SYS_NICE or "
            f"an RLIMIT_RTPRIO of at least that priority; cpus must be among those this process may run on, "
            f"{sorted(os.sched_getaffinity(0))}"
        ) from None


cdef int start_threads(Runtime* runtime, Deployment* deployment, const void* rows, uint32_t n_rows) except -1:
    with nogil:
        runtime.start_threads(deployment, rows, n_rows)
    return 0


cdef class CoreExecutors:
    """The compiled half of `engine.Executors`; see its documentation. Not public."""

    def __cinit__(self, *args, **kwargs):
        self._closed = True
        self.engines = set()
        self.forked_at = forks

    def _make(self, threads, spin, realtime_priority, cpus):
        self.native = make_executors(threads, spin, realtime_priority, cpus)
        self._threads = self.native.get().count()
        self._closed = False

    @property
    def threads(self):
        """Number of threads that run batches at the same time."""
        return self._threads

    @property
    def closed(self):
        """True once `close()` was called."""
        return self._closed

    @property
    def replaced(self):
        """Number of threads that were stuck in a model so far and were replaced by a new thread."""
        return 0 if self.native.get() is NULL else self.native.get().replaced()

    def close(self) -> None:
        """End the threads. Close the engines that use them first; a second call does nothing.

        Blocks until the threads have ended, for 1 second at most: a thread that is stuck in a model then keeps its
        memory until the process ends.

        Raises:
            ConfigError: an engine that uses them is still open.
        """
        if self._closed:
            return
        if self.engines and self.forked_at == forks:
            raise ConfigError(f"{len(self.engines)} engines still use these executors: close them first")
        self._closed = True
        if self.forked_at == forks:
            with nogil:
                self.native.get().stop(1_000_000_000)

    def __dealloc__(self):
        # In a child process the threads do not exist, and the destructor would wait for them. The parent's copy frees
        # what they use; the child never does.
        if self.forked_at != forks:
            _leak(self.native)


# Executors that were found in a child process.
cdef vector[shared_ptr[Executors]] _of_parents


cdef int _leak(shared_ptr[Executors] executors) noexcept:
    _of_parents.push_back(executors)
    return 0
