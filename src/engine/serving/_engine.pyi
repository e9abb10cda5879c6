from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import CapsuleType

from engine.serving._answers import Answer, Answers
from engine.serving._deployment import Versions

Row = Mapping[str, Any] | Sequence[float] | npt.NDArray[Any]
Rows = npt.ArrayLike | Sequence[Mapping[str, Any]]
Deadlines = float | Sequence[float] | npt.NDArray[Any] | None
Instants = int | Sequence[int] | npt.NDArray[np.int64] | None

class ManyRequest:
    """A Request in a Python object. Not public."""

class CoreEngine(Versions):
    """The compiled half of `engine.Engine`; see its documentation. Not public."""

    @property
    def lane(self) -> str:
        """The lane that single requests take now: "inline" or "batch". A lane="auto" engine may change it."""
    @property
    def closed(self) -> bool:
        """True once `close()` was called."""
    def predict(
        self,
        x: Row,
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
        priority: str | None = None,
        hedge: bool = False,
        key: object = None,
    ) -> Answer:
        """Answer one request before its deadline, on the calling thread.

        Args:
            x: the row. With features: a mapping or Series of the program's inputs, or a sequence in their order.
                Without: a sequence or 1-D array of n_features numbers, by position, where None in a sequence is NaN; or
                a mapping, Series, structured array or table of one row, matched by the model's `feature_names`: in any
                order, extra columns ignored (see Engine(unknown_keys=…)). float32 and float64 arrays are read in place,
                others are converted; nothing is kept.
            deadline_ms: milliseconds from the call to the deadline, 0 or more; `math.inf` for no deadline. The engine's
                deadline_ms unless given.
            deadline_ns: the deadline as an instant of `time.monotonic_ns()`, instead of deadline_ms.
            priority: "critical", "normal" or "sheddable"; the engine's priority unless given.
            hedge: in the batch lane, run the fallback at submission. Its answer is then ready at the deadline, so the
                primary may take a little longer.
            key: bytes, or an object whose str() names the caller. A canary takes the same keys each time; None draws
                at random.

        Returns:
            An `Answer`. A late or failing model gives an answer with a reason, never an exception.

        Raises:
            InputError: wrong number of features, a missing column, an unknown priority, a NaN deadline or a negative
                one (see Engine(expired=…)), a deadline_ns of the wall clock, or both deadlines.
            InputTypeError: text or another type where a number belongs.
            ClosedError: the engine is closed, or was made before this process was forked.

        Blocks until the answer is ready: in the batch lane at most until the deadline, and without the GIL; inline for
        as long as the primary takes. Thread-safe.

        >>> import engine
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> with engine.Engine(model, default=0.5, deadline_ms=1000) as eng:
        ...     eng.predict([1.0, 2.0]).value, eng.predict([1.0, 2.0], deadline_ms=0).reason
        (3.0, 'expired')
        """
    def predict_many(
        self,
        rows: Rows,
        deadline_ms: Deadlines = None,
        *,
        deadline_ns: Instants = None,
        priority: str | None = None,
        key: object = None,
    ) -> Answers:
        """Answer many rows, each before its deadline, on the calling thread.

        Args:
            rows: an array [n, n_features] of numbers, by position; a table (a pandas or Polars data frame, a pyarrow
                Table, a structured array, a mapping of columns), by the names of its columns; or a sequence of n rows
                as in `predict`; n may be 0. A C-ordered float32 or float64 array of the model's own dtype is read in
                place, others are copied.
            deadline_ms: milliseconds from the call, as in `predict`: one number for all rows, or n of them.
            deadline_ns: an instant of `time.monotonic_ns()`, or int64 [n] of them, instead of deadline_ms.
            priority: of all rows, as in `predict`.
            key: as in `predict`. One version answers all rows.

        Returns:
            `Answers` in the order of the rows.

        Raises:
            InputError, InputTypeError, ClosedError: as `predict`. No row is then answered.

        Blocks until every row is answered, at most until the latest deadline in the batch lane. Inline, rows go to the
        primary by earliest deadline for as long as the fallback can still answer the rest in time. Gives up the GIL
        for work of over 20 us. Thread-safe.

        >>> import engine, numpy as np
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> with engine.Engine(model, deadline_ms=1000) as eng:
        ...     eng.predict_many(np.ones((3, 2))).values
        array([2., 2., 2.])
        """
    def predict_async(
        self,
        x: Row,
        deadline_ms: float | None = None,
        *,
        deadline_ns: int | None = None,
        priority: str | None = None,
        hedge: bool = False,
        key: object = None,
    ) -> Awaitable[Answer]:
        """Answer one request before its deadline, for the running event loop.

        Args:
            x, deadline_ms, deadline_ns, priority, hedge, key: as in `predict`. The row is read before this returns.

        Returns:
            A future of an `Answer`; `await` it, or use it as any `asyncio.Future`. It never holds an exception of a
            model. Cancelling it frees its place in the queue. Tasks run it too, as in `asyncio.create_task`. Where no
            loop runs it is a coroutine, for `asyncio.run`. trio and curio cannot await it; run `predict` in a thread
            there, as in `trio.to_thread.run_sync(eng.predict, row)`.

        Raises:
            InputError, InputTypeError, ClosedError, ResourceError: as `predict`, all at the await and none at the call,
                so that `asyncio.gather(…, return_exceptions=True)` returns them.
            ConfigError: awaited outside of asyncio.

        The deadline counts from the call. Does not block, except that an inline primary runs during the call, at most
        20 us a row in lane="auto". Callable from any thread that runs a loop, by several loops at once.

        >>> import asyncio, engine
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> async def main():
        ...     async with engine.Engine(model, deadline_ms=1000) as eng:
        ...         return (await eng.predict_async([1.0, 2.0])).value
        >>> asyncio.run(main())
        3.0
        """
    def close(self, timeout_s: float = 1.0) -> None:
        """Answer what is queued by its fallback, and end the threads.

        Args:
            timeout_s: seconds to wait for a primary that is still running, 0 or more, up to 3600. A primary that does
                not come back in time keeps its thread, and the memory that it uses, until the process ends.

        Raises:
            ConfigError: a timeout_s out of range.

        Blocks, without the GIL, for timeout_s at most; always returns. A second call does nothing. Thread-safe. On an
        event loop use `async with`, which closes beside the loop.
        """
    def _open(
        self,
        primary: CapsuleType,
        fallback: CapsuleType | None,
        default: float | npt.NDArray[np.float64] | Callable[[], Any],
        version: str,
        features: Any,
        parts: Any,
        columns: Any,
        warm_rows: npt.ArrayLike,
        budget_ns: int,
        limits: dict[str, Any],
    ) -> None:
        """Make the native runtime and its first deployment, whose shape all others must have.

        Args:
            primary, fallback, default, version, features, parts, columns: as in `_prepare`.
            warm_rows: [rows, n_features].
            budget_ns: from a call to its deadline, where the call gives none.
            limits: the other options by name, checked.
        """
    def _calibrate(self) -> float:
        """Time the primary on this thread. Return the microseconds of a single row, 0.0 where the primary failed."""
    def _choose_lane(self, inline: bool, auto: bool) -> None:
        """Take requests inline or in the batch lane; with `auto`, change between them later."""
    def _warmed_up(self) -> bool:
        """Whether the batch lane has timed the primary."""
    def _require_open(self) -> None:
        """Raise ClosedError if the engine is closed or belongs to the parent process."""
    async def _many_parts(
        self, rows: Rows, deadline_ms: Deadlines, deadline_ns: Instants, priority: str | None, key: object
    ) -> list[Callable[[], Answers | Awaitable[Answers]]]:
        """Cut a predict_many of the running loop into windows, its online features looked up first.

        Returns functions of nothing, to be called one after the other. Each returns Answers or a future of them.
        """
    def _statistics(self) -> dict[str, Any]:
        """Counters and quantiles of the native core as a plain dict."""
