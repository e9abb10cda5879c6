# Executor threads as the rest of the room sees them.
from libc.stdint cimport uint32_t, uint64_t
from libcpp.memory cimport shared_ptr

from engine.serving._scheduler cimport Deployment, Executors, Runtime

# How often this process was forked off since engine was imported. Native threads do not survive a fork, so an object
# that remembers another count belongs to the parent process.
cdef uint64_t forks

# Executors that nothing runs on yet. Raises ConfigError where the system refuses the processors or the priority.
cdef shared_ptr[Executors] make_executors(object threads, bint spin, object realtime_priority, object cpus) except *

# Starts the executors of a runtime that has none running, and has one of them warm up the primary on n_rows rows.
cdef int start_threads(Runtime* runtime, Deployment* deployment, const void* rows, uint32_t n_rows) except -1


cdef class CoreExecutors:
    cdef shared_ptr[Executors] native  # null until _make
    cdef uint32_t _threads
    cdef bint _closed
    cdef set engines                   # id() of every open engine that uses these threads
    cdef uint64_t forked_at            # `forks` when these were made
