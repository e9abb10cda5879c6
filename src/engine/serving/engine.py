"""Engine: checks that its parts fit, chooses a lane, and answers every request before its deadline.

The code that runs once per request is compiled (engine.serving._engine); this module runs once per engine or version.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy.typing as npt

from engine._common.arguments import number
from engine._common.options import OPTIONS
from engine.errors import ConfigError, ModelError
from engine.model import Model
from engine.model.golden import Given, Golden
from engine.serving import parts
from engine.serving._answers import Answers
from engine.serving._engine import CoreEngine
from engine.serving.apart import apart
from engine.serving.columns import Columns, columns_of, scorer_of
from engine.serving.executors import Executors, placement
from engine.serving.loops import require_loop, warn_of_gevent
from engine.serving.parts import Default, Features, Monitor

if TYPE_CHECKING:
    from engine.serving._deployment import Deployment
    from engine.serving._engine import Deadlines, Instants, Rows

INLINE_COST_US_MAX = 20.0  # a hand-off to another thread costs about half of this
WARM_UP_S_MAX = 1.0
READY_POLL_S = 0.002
SHADOW_ROWS_MAX = 4096


class Nothing:
    """The type of NOTHING, which `swap` and `canary` take for a part that the new version lacks; None keeps the old."""

    def __repr__(self) -> str:
        return "engine.NOTHING"

    def __reduce__(self) -> str:
        return "NOTHING"


NOTHING = Nothing()


class Engine(CoreEngine):
    """Answers every request exactly once, before its deadline, and says where the answer came from.

    The primary answers if it can in time; else the fallback, natively and without the GIL; else the default. An error
    of a model never raises: it becomes a fallback with a reason. An error of the caller raises InputError (wrong width,
    negative or NaN deadline), InputTypeError (text where a number belongs) or ClosedError.

    Args:
        primary: a Model, or a source that `load_model` takes.
        fallback: a native Model of the same inputs and outputs, or a source that `load_model` takes; None for none.
        default: a number, n_outputs numbers, or a function of nothing that returns one of them. None means NaN.
        features: a FeatureProgram that makes the models' columns. Requests are then mappings, or sequences in the
            program's input order. Without it they are sequences or 1-D arrays of n_features numbers, or rows with
            names (mappings, Series, tables) where a model has `feature_names`. A program that looks up online features
            spends at most half of a request's time on it. Inputs that are then missing, or that a mapping has no key
            for, are imputed and named in `Answer.missing_features`.
        deadline_ms: milliseconds from the call to the deadline, for calls that give none. Above 0.
        batch_rows_max: the most rows that the batch lane hands to the primary at once. 1 to 1,048,576.
        lane: where the primary runs: "inline", "batch" or "auto". Inline is the caller's own thread: no queue, under a
            microsecond, but nothing can interrupt the primary. Batch is a queue, earliest deadline first, in front of
            executor threads; a fallback timer answers in time whatever the primary does. "auto" takes a native primary
            of at most 20 us a row inline, and any other through the batch lane. It changes to the batch lane when an
            inline primary takes longer than deadline_ms twice within ten seconds, and back after ten seconds without
            a stall there.
        executors: threads that run the primary in the batch lane, or `Executors` shared with other engines. 1 to 64.
            Several threads run several batches at a time if the primary may be called by several threads at once.
        monitor: a ModelMonitor, which is shown every answer.
        queue_rows_max: the most requests in the batch lane at one time. 1 to 16,777,216. The fallback answers further
            requests at once.
        version: name of the first version in answers; the first 12 digits of the primary's digest unless given.
        warmup: rows [rows, n_features] like those to come, for calibration before the first request; standard normal
            values unless given.
        spin: let threads of the batch lane watch for work briefly before they sleep. At most as long as a wake-up
            takes, and 100 us. They do so only where wake-ups are measured to be slow, 50 us instead of 5, as on virtual
            machines whose idle processors are taken away.
        miss_rate: share of fallbacks that may come late; the learned safety margin aims at it. Above 0, at most 0.5.
        priority: class of requests that name none. "critical", "normal" or "sheddable". It matters at overload only:
            the lower class then falls back first, with reason "shed".
        weight: this engine's share of shared executors. Above 0, relative to the weights of the other engines; it
            matters while there is not enough for all.
        on_error: what answers when the primary fails: "fallback", or "default" at once. A primary that is late does not
            fail.
        expired: what a negative deadline_ms does: it raises, or is answered as expired. "answer" is for callers that
            pass what is left of their time.
        unknown_keys: what a key or column that no input has does: it is ignored, or it raises. "raise" refuses a
            misspelt key of a mapping, and an extra column of a table, with an InputError that names it.
        allow_nonfinite: accept NaN and infinity as answers of the primary instead of as failures.
        breaker: rest a primary that keeps failing: True, False, or a mapping of limits. While it rests, one probe at a
            time finds out whether it has recovered. It rests after calls_in_a_row failed calls (10), or after a share
            rows_share (0.5) of at least rows_min rows (100) failed within window_ms (10,000). The first rest lasts
            rest_ms (100); each failed probe doubles it, up to rest_ms_max (5,000).
        realtime_priority: run the engine's own executors under SCHED_FIFO at this priority. 1 to 99; see `Executors`.
        cpus: processors that the engine's own executors may run on. Numbers of processors; any unless given.

    Raises:
        ConfigError: parts that do not fit together, an option out of range, or placement that the system refuses.
        ModelFormatError, UnsupportedModelError, MissingDependencyError: as `load_model`.

    The constructor blocks while it measures the primary: usually some milliseconds, at most a second in the batch lane.
    A slower primary is measured on after that; `ready` and `wait_ready` tell when it takes requests.
    All methods are thread-safe. Close the engine, or use it as a context manager (`async with` on an event loop). After
    a fork, the child must make its own.

    >>> import numpy as np, engine
    >>> primary = engine.load_model(lambda rows: rows.sum(axis=1), n_features=3)
    >>> with engine.Engine(primary, default=0.5, deadline_ms=1000) as eng:
    ...     answer = eng.predict([1.0, 2.0, 3.0])
    >>> answer.value, answer.source, answer.reason
    (6.0, 'primary', 'ok')
    """

    def __init__(
        self,
        primary: Any,
        fallback: Any = None,
        default: Default = None,
        features: Features | None = None,
        deadline_ms: float = 10.0,
        batch_rows_max: int = 64,
        lane: Literal["auto", "inline", "batch"] = "auto",
        executors: int | Executors = 1,
        *,
        monitor: Monitor | None = None,
        queue_rows_max: int = 4096,
        version: str | None = None,
        warmup: npt.ArrayLike | None = None,
        spin: bool = True,
        miss_rate: float = 1e-4,
        priority: Literal["critical", "normal", "sheddable"] = "normal",
        weight: float = 1.0,
        on_error: Literal["fallback", "default"] = "fallback",
        expired: Literal["raise", "answer"] = "raise",
        unknown_keys: Literal["ignore", "raise"] = "ignore",
        allow_nonfinite: bool = False,
        breaker: bool | Mapping[str, float] = True,
        realtime_priority: int | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        shared = isinstance(executors, Executors)
        if shared and (realtime_priority is not None or cpus is not None):
            raise ConfigError("realtime_priority and cpus belong to the shared Executors, not to one engine")
        given = {
            "deadline_ms": deadline_ms,
            "batch_rows_max": batch_rows_max,
            "lane": lane,
            "executors": 1 if shared else executors,
            "queue_rows_max": queue_rows_max,
            "spin": spin,
            "miss_rate": miss_rate,
            "priority": priority,
            "weight": weight,
            "on_error": on_error,
            "expired": expired,
            "unknown_keys": unknown_keys,
            "allow_nonfinite": allow_nonfinite,
            "breaker": breaker,
        }
        limits = {name: OPTIONS[name].checked(value) for name, value in given.items()}
        limits["realtime_priority"], limits["cpus"] = placement(realtime_priority, cpus)
        limits["breaker"] = parts.breaker(limits["breaker"])
        limits["observer"] = parts.observer(monitor)
        if shared:
            limits["executors"] = executors
        model, spare = parts.models(primary, fallback)
        parts.checked_features(features)
        if lane == "inline" and parts.takes_gil(model):
            raise ConfigError(
                "a Python callable cannot be served inline, where no fallback could answer for it in time: "
                "use lane='batch' or lane='auto'"
            )
        self._batch_rows_max: int = limits["batch_rows_max"]
        columns = columns_of(model, spare, features, None)
        self._open(
            *self._scorers(model, spare, columns, features),
            parts.default(default, model.n_outputs),
            parts.version(version, model),
            features,
            (model, spare, default, features),
            columns,
            parts.warm_rows(warmup, model, columns, self._batch_rows_max),
            int(min(limits["deadline_ms"] * 1e6, parts.FAR_NS)),
            limits,
        )
        self._start(lane, model)

    @property
    def primary(self) -> Model:
        """The Model that new requests go to first, outside of a canary."""
        return self._serving()[0].parts[0]

    @property
    def fallback(self) -> Model | None:
        """The Model that answers when the primary cannot in time, or None."""
        return self._serving()[0].parts[1]

    @staticmethod
    def _scorers(model: Model, spare: Model | None, columns: Columns, features: Any) -> tuple[Any, Any]:
        """The scorers of primary and fallback for rows in the engine's layout."""
        strict = features is None  # a program may have other names for the columns that it makes
        return (
            scorer_of(model, "primary", columns, strict=strict),
            scorer_of(spare, "fallback", columns, strict=strict) if spare is not None else None,
        )

    def _start(self, lane: str, model: Model) -> None:
        # Only a native primary is measured on this thread, because another one might not come back.
        inline = lane == "inline" or (lane == "auto" and model.native)
        if inline:
            inline = self._calibrate() <= INLINE_COST_US_MAX or lane == "inline"
        self._choose_lane(inline, lane == "auto")
        if not inline:
            warn_of_gevent()
        give_up = time.monotonic() + WARM_UP_S_MAX
        while not inline and not self._warmed_up() and time.monotonic() < give_up:
            time.sleep(0.001)

    @property
    def ready(self) -> bool:
        """True once the primary has been measured, so that requests can go to it; False after `close()`.

        Until then the batch lane answers with the fallback or the default, reason "stalled". Does not block.
        """
        return not self.closed and (self.lane == "inline" or self._warmed_up())

    def wait_ready(self, timeout_s: float = math.inf) -> bool:
        """Wait until the engine is `ready`.

        Args:
            timeout_s: the longest to wait, in seconds, 0 or more.

        Returns:
            `ready` at the end: False if the time was up, or the engine closed meanwhile.

        Raises:
            ConfigError: a timeout_s out of range.

        Blocks, without the GIL. Thread-safe. On an event loop await `wait_ready_async`.
        """
        give_up = time.monotonic() + number("timeout_s", timeout_s, 0.0, math.inf, error=ConfigError)
        while not self.ready and not self.closed and time.monotonic() < give_up:
            time.sleep(READY_POLL_S)
        return self.ready

    async def wait_ready_async(self, timeout_s: float = math.inf) -> bool:
        """Wait until the engine is `ready`, without blocking the running event loop; else as `wait_ready`."""
        require_loop()
        give_up = time.monotonic() + number("timeout_s", timeout_s, 0.0, math.inf, error=ConfigError)
        while not self.ready and not self.closed and time.monotonic() < give_up:
            await asyncio.sleep(READY_POLL_S)
        return self.ready

    async def predict_many_async(
        self,
        rows: Rows,
        deadline_ms: Deadlines = None,
        *,
        deadline_ns: Instants = None,
        priority: str | None = None,
        key: object = None,
    ) -> Answers:
        """Answer many rows, each before its deadline, without blocking the running event loop.

        Args:
            rows, deadline_ms, deadline_ns, priority, key: as in `predict_many`.

        Returns:
            `Answers` in the order of the rows.

        Raises:
            InputError, InputTypeError, ClosedError: as `predict_many`, at the await.

        An inline primary runs during the await, on the loop's thread. Callable from any thread that runs a loop.

        >>> import asyncio, engine, numpy as np
        >>> model = engine.load_model(lambda rows: rows.sum(axis=1), n_features=2)
        >>> async def main():
        ...     async with engine.Engine(model, deadline_ms=1000) as eng:
        ...         return (await eng.predict_many_async(np.ones((3, 2)))).values
        >>> asyncio.run(main())
        array([2., 2., 2.])
        """
        answered = []
        for start in await self._many_parts(rows, deadline_ms, deadline_ns, priority, key):
            part = start()
            answered.append(part if isinstance(part, Answers) else await part)
        return Answers.joined(answered)

    def swap(
        self,
        primary: Any = None,
        *,
        fallback: Any = None,
        default: Default = None,
        features: Features | None = None,
        version: str | None = None,
        golden: Given | None = None,
        warmup: npt.ArrayLike | None = None,
        timeout_s: float = math.inf,
    ) -> None:
        """Serve new requests from another version. A request under way keeps the version that it came under.

        The new models are warmed up, measured and checked first, while the old ones serve on. The version before stays
        loaded for `rollback`. The one before that is freed when its last request is answered.

        Args:
            primary, fallback, default, features: as in the constructor, of the same inputs and outputs; the present
                ones unless given. `engine.NOTHING` for a fallback or default is none.
            version: name of the new version; the first 12 digits of the primary's digest unless given.
            golden: (rows, values): the new primary must answer `values` [n] or [n, n_outputs] for these rows before it
                takes traffic, within 1e-6 of the larger of 1 and the value. Rows are [n, n_features] in the new
                primary's own order of columns, or rows with names; mappings if the engine has features.
            warmup: rows to measure on, in the same order or with names; the golden rows, or standard normal values,
                unless given.
            timeout_s: the longest that the new models may take to be checked and measured, in seconds, 0 or more.

        Raises:
            ConfigError: other widths or other columns, a fallback that is not native, or a timeout_s out of range.
            ModelError: the new primary fails on its golden or warm-up rows.
            ModelTimeoutError: it was not measured within timeout_s.
            ClosedError: the engine is closed.
            After any error, and after a KeyboardInterrupt, the engine serves on as before.

        A version whose columns stand in another order gets each row reordered: array rows keep the order that they
        have in this engine. Blocks while the new models are measured, on a thread of their own. A model that does not
        come back keeps that thread. Thread-safe.

        >>> import engine
        >>> old, new = (engine.load_model(lambda rows, by=by: rows[:, 0] * by, n_features=1) for by in (1, 2))
        >>> with engine.Engine(old, deadline_ms=1000, version="1") as eng:
        ...     eng.swap(new, version="2")
        ...     answer = eng.predict([3.0])
        ...     answer.value, answer.version, eng.rollback()
        (6.0, '2', '1')
        """
        self._install(
            self._candidate(primary, fallback, default, features, version, golden, warmup, timeout_s)
        )

    def rollback(self) -> str:
        """Serve new requests from the version before again, at once. A second call undoes the first.

        Returns:
            Name of the version that takes new requests now.

        Raises:
            ConfigError: there is no version before.
            ClosedError: the engine is closed.

        Does not block. Thread-safe.
        """
        self._require_open()
        return self._roll_back().version

    def canary(
        self,
        primary: Any = None,
        *,
        share: float = 0.0,
        fallback: Any = None,
        default: Default = None,
        features: Features | None = None,
        version: str | None = None,
        golden: Given | None = None,
        warmup: npt.ArrayLike | None = None,
        timeout_s: float = math.inf,
    ) -> None:
        """Serve a share of new requests from another version; `canary()` without arguments ends it.

        A request with a key falls on the same side in every process for as long as the share is the same, and stays
        with the canary while the share grows. Other requests are drawn at random. A `predict_many` falls on one side as
        a whole. While the canary's breaker is open, the current version serves its share. A second call replaces the
        canary.

        Args:
            primary: as in `swap`; None ends the canary.
            share: of requests, 0 to 1.
            fallback, default, features, version, golden, warmup, timeout_s: as in `swap`.

        Raises:
            ConfigError, ModelError, ModelTimeoutError, ClosedError: as `swap`; ConfigError also for a share out of
                range.

        Blocks while the new models are measured. Thread-safe.
        """
        self._require_open()
        if primary is None:
            self._set_canary(None, 0.0)
            return
        share = number("share", share, 0.0, 1.0, error=ConfigError)
        canary = self._candidate(primary, fallback, default, features, version, golden, warmup, timeout_s)
        self._set_canary(canary, share)

    def shadow(self, primary: Any = None, *, version: str | None = None) -> None:
        """Score requests with another native model too, for comparison only; `shadow()` without arguments ends it.

        No caller gets the shadow's answers. They are compared with the primary's in `stats()["shadow"]` and shown to
        the monitor. A thread that runs only on an idle core scores the rows. It drops and counts rows that it cannot
        keep up with, so it delays no request. A second call replaces the shadow.

        Args:
            primary: as in `swap`, but native: a Python callable would take the GIL from live requests. None ends the
                shadow.
            version: its name in the monitor; the first 12 digits of its digest unless given.

        Raises:
            ConfigError: other widths, or a Python callable.
            ClosedError: the engine is closed.

        Ending a shadow blocks until its thread has ended, for 1 second at most. Thread-safe.
        """
        self._require_open()
        if primary is None:
            self._set_shadow(None, 0)
            return
        model, _ = parts.models(primary, None)
        if parts.takes_gil(model):
            raise ConfigError(
                "a shadow must not be a Python callable: it would take the GIL from live requests"
            )
        name = parts.version(version, model)
        current = self._serving()[0]
        features, columns = current.parts[3], current.columns
        if columns.categories and model.categories and columns.categories != model.categories:
            raise ConfigError(
                "the shadow has other codes for the categories of its columns than the present version, whose rows it "
                "is shown: train both on one table"
            )
        scorer = scorer_of(model, "shadow", columns, strict=features is None)
        deployment = self._prepare(
            scorer, None, float("nan"), name, features, (model, None, None, None), columns
        )
        self._set_shadow(deployment, SHADOW_ROWS_MAX)

    def _candidate(
        self,
        primary: Any,
        fallback: Any,
        default: Default,
        features: Features | None,
        version: str | None,
        golden: Given | None,
        warmup: npt.ArrayLike | None,
        timeout_s: float,
    ) -> Deployment:
        """A deployment that is checked, measured and ready to take traffic."""
        self._require_open()
        patience = number("timeout_s", timeout_s, 0.0, math.inf, error=ConfigError)
        now_primary, now_fallback, now_default, now_features = self._serving()[0].parts
        model, spare = parts.models(
            primary if primary is not None else now_primary,
            None if fallback is NOTHING else fallback if fallback is not None else now_fallback,
        )
        if self.lane == "inline" and not model.native:
            raise ConfigError(
                f"this engine serves inline, which needs a native primary, got format {model.format!r}"
            )
        given = None if default is NOTHING else default if default is not None else now_default
        chosen = parts.checked_features(features) if features is not None else now_features
        columns = columns_of(model, spare, chosen, self._serving()[0].columns)
        deployment = self._prepare(
            *self._scorers(model, spare, columns, chosen),
            parts.default(given, model.n_outputs),
            parts.version(version, model),
            chosen,
            (model, spare, given, chosen),
            columns,
        )
        known = parts.golden(golden, model, deployment)
        # The present primary has been measured by its own requests.
        if model is not now_primary or known is not None:
            warm = warmup if warmup is not None else known.rows if known is not None else None
            warm_rows = parts.warm_rows(warm, model, columns, self._batch_rows_max)
            # Apart from this thread, so that Ctrl-C and the time limit count whatever the model does.
            apart(
                lambda: self._try(deployment, model, known, warm_rows),
                patience,
                f"the new primary, version {deployment.version!r}, was not measured within timeout_s={timeout_s}",
            )
        return deployment

    def _try(
        self, deployment: Deployment, model: Model, golden: Golden | None, warm_rows: npt.NDArray[Any]
    ) -> None:
        """Check and measure a candidate. Raise ModelError if its primary fails."""
        if golden is not None:
            golden.check(model, "primary")
        if not self._measure(deployment, warm_rows):
            cause = getattr(getattr(model, "_callable", None), "error", None)
            why = f": {type(cause).__name__}: {cause}" if cause is not None else ""
            raise ModelError(
                f"the new primary, version {deployment.version!r}, fails on its warm-up rows{why}"
            ) from cause

    def stats(self) -> dict[str, Any]:
        """Counters since the start and quantities learned so far, as a plain dict; times in microseconds.

        - lane, version: of new requests now.
        - answers, reasons: by source; classes: answers by priority and source.
        - on_time_ready, on_time_returned: answers that were ready in time, and back in Python in time.
        - late_dropped: results of the primary that came after another answer; cancelled: requests whose caller stopped
          waiting, in no other count; default_errors: times that the default function raised.
        - batches, batch_rows_mean, failed_batches, queue_depth, queue_depth_max, in_flight: of the batch lane.
        - inline_overruns: inline calls of the primary that took longer than deadline_ms.
        - latency_us by source, returned_us, queued_us: {count, p50, p99, p999, max}.
        - cost: row_us, batch_us by rows, efficient_rows, spread, stalls.
        - guard_us, the safety margin: timer, return, fallback and fallback_typical for "sync" and "async" callers;
          handoff, the usual time to wake an executor; prediction_error, how far admission's predictions are off.
        - executors: threads, replaced (stuck threads that were given up), engines (that share them); missing, the
          executors without a thread because the system refused to replace a stuck one, and refused, how often it did;
          seats, the batches that the primary's device takes at once, 0 for a primary without one; abandoned, the
          batches on devices that were given up because no answer came.
        - device_lost: whether the primary's GPU is lost to this process; None for a primary on the CPU.
        - breakers: by version, {open, openings}.
        - last_error: the traceback of the primary's last exception, or ONNX Runtime's message; None for none.
        - canary: {version, share}, shadow: {version, rows, dropped, failed, compared, difference_mean, difference_max};
          None for none.

        Raises:
            ClosedError: the engine was never opened.

        Takes about 60 us and does not block. Thread-safe; also after `close()`.
        """
        read = getattr(self.primary, "last_error", None)
        return {
            **self._statistics(),
            "last_error": (read() or None) if read is not None else None,
            "device_lost": getattr(self.primary, "device_lost", None),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        require_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # close() waits for threads, so it runs beside the loop. The loop then hands out the answers that close() gave.
        await asyncio.to_thread(self.close)
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        if self.closed and not hasattr(self, "_batch_rows_max"):
            return "Engine(never opened)"
        state = "closed" if self.closed else f"lane={self.lane!r}, version={self.version!r}"
        return f"Engine({self.primary!r}, fallback={self.fallback!r}, {state})"
