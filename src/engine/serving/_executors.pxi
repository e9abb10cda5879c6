# Threads for the batch lane that several engines share. Included by _runtime.pyx.


cdef shared_ptr[Executors] _make_executors(object threads, bint spin, object realtime_priority, object cpus) except *:
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
            f"the system refuses {' and '.join(wanted)}: {error.strerror}. Real-time scheduling needs CAP_SYS_NICE or an "
            f"RLIMIT_RTPRIO of at least that priority; cpus must be among those this process may run on, "
            f"{sorted(os.sched_getaffinity(0))}"
        ) from None


cdef class CoreExecutors:
    """What `engine.Executors` is made of: see its documentation. Not public."""

    cdef shared_ptr[Executors] native
    cdef readonly uint32_t threads
    cdef readonly bint closed
    cdef set _engines  # those that are open
    cdef uint64_t _forked_at

    def __cinit__(self, *args, **kwargs):
        self.closed = True
        self._engines = set()
        self._forked_at = _forks

    def _make(self, threads, spin, realtime_priority, cpus):
        self.native = _make_executors(threads, spin, realtime_priority, cpus)
        self.threads = self.native.get().count()
        self.closed = False

    @property
    def replaced(self):
        """Executors that were stuck in a model and gave their place to a new thread."""
        return self.native.get().replaced()

    def close(self):
        """Ends the threads. The engines that use them must be closed before.

        Raises:
            ConfigError: one of them is not.
        """
        if self.closed:
            return
        if self._engines and self._forked_at == _forks:
            raise ConfigError(f"{len(self._engines)} engines still use these executors: close them first")
        self.closed = True
        if self._forked_at == _forks:
            with nogil:
                self.native.get().stop(1_000_000_000)

    def __dealloc__(self):
        # After a fork the threads are the parent's: what they may still use is left alone.
        if self._forked_at != _forks:
            self._leak()

    cdef int _leak(self) noexcept:
        _left_behind.push_back(self.native)
        return 0


# Executors that a child found after a fork: destroying them would wait for threads that are not there.
cdef vector[shared_ptr[Executors]] _left_behind
