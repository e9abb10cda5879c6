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

class CoreExecutors:
    """The compiled half of `engine.Executors`; see its documentation. Not public."""

    @property
    def threads(self) -> int:
        """Number of threads that run batches at the same time."""
    @property
    def closed(self) -> bool:
        """True once `close()` was called."""
    @property
    def replaced(self) -> int:
        """Number of threads that were stuck in a model so far and were replaced by a new thread."""
    def _make(
        self, threads: int, spin: bool, realtime_priority: int | None, cpus: list[int] | None
    ) -> None: ...
    def close(self) -> None:
        """End the threads. Close the engines that use them first; a second call does nothing.

        Blocks until the threads have ended, for 1 second at most: a thread that is stuck in a model then keeps its
        memory until the process ends.

        Raises:
            ConfigError: an engine that uses them is still open.
        """
