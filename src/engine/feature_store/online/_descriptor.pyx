# Waiting for a file descriptor without sleeping.
from libc.stdint cimport int64_t

cdef extern from "base/clock.hpp" namespace "engine" nogil:
    int64_t now_ns() noexcept
cdef extern from "poll.h" nogil:
    ctypedef struct pollfd:
        int fd
        short events
    short POLLIN
    int poll(pollfd* fds, unsigned long n, int timeout_ms) noexcept
cdef extern from "sched.h" nogil:
    int sched_yield() noexcept


def readable_by(int fd, int64_t until_ns):
    """Whether a file descriptor can be read, or has failed, before `until_ns` of the monotonic clock.

    Watches it awake, because waking up a sleeping processor takes longer than a short wait. Holds no GIL, and yields
    the core to any thread that wants it.
    """
    cdef pollfd watched
    watched.fd = fd
    watched.events = POLLIN
    cdef bint ready
    with nogil:
        while True:
            ready = poll(&watched, 1, 0) != 0
            if ready or now_ns() >= until_ns:
                break
            sched_yield()
    return ready
