"""The Engine: checks that its parts fit, chooses a lane, and answers every request before its deadline.

What runs once per request is compiled (engine.serving._engine); here is what runs once per engine or version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from engine._common.options import OPTIONS
from engine.errors import ConfigError, ModelError
from engine.model import Model
from engine.serving import golden as golden_rows
from engine.serving import parts
from engine.serving._answers import Answers
from engine.serving._engine import CoreEngine
from engine.serving.executors import Executors, placement
from engine.serving.parts import Default, Features, Monitor

if TYPE_CHECKING:
    from engine.serving._engine import Deadlines, Instants, Rows

INLINE_COST_US_MAX = 20.0  # a hand-off to another thread costs about half of this
WARM_UP_S_MAX = 1.0
SHADOW_ROWS_MAX = 4096


class Engine(CoreEngine):
    """Answers every request exactly once, before its deadline, and says where the answer came from.

    The primary answers where it can in time; else the fallback, which runs natively on a core of its own choosing; else
    the default. Errors of a model never raise: they become a fallback with a reason. Errors of the caller do raise:
    InputError (wrong width, negative or NaN deadline), InputTypeError (text where a number belongs), ClosedError.

    Args:
        primary: a Model, or what `load_model` takes.
        fallback: a native Model of the same inputs and outputs, or what `load_model` takes; None for none.
        default: a number (or n_outputs numbers), or a function of nothing that returns one. None means NaN.
        features: a FeatureProgram whose outputs are the models' columns. Requests are then mappings (or sequences in
            the program's input order); without it they are sequences or 1-D arrays of n_features numbers. One that
            also looks up online features spends at most half of a request's time on it; what has not come by then is
            imputed and named in `Answer.missing_features`.
        deadline_ms: milliseconds from the call within which an answer is due where the call does not say; above 0.
        batch_rows_max: the most rows the batch lane hands to the primary at once, 1 to 1,048,576.
        lane: "inline" (the primary on the caller's own thread: no queue, sub-microsecond, but nothing can interrupt
            it), "batch" (a queue, earliest deadline first, in front of executor threads, with a rescue that is always
            in time), or "auto": inline for a native primary of at most 20 us a row, batch otherwise. An "auto" engine
            whose inline primary twice within ten seconds takes longer than deadline_ms changes to the batch lane, and
            back after ten seconds without a stall there.
        executors: threads that run the primary in the batch lane, 1 to 64, or `Executors` shared with other engines.
            With several, as many batches are in flight where the primary may be called by several threads at once.
        monitor: a ModelMonitor, shown every answer.
        queue_rows_max: requests in the batch lane at one time; what comes beyond is answered by the fallback at once.
        version: name of this deployment in answers; the primary's digest (12 digits) unless given.
        warmup: rows [rows, n_features] like those to come, for calibration before the first request; standard normal
            values unless given.
        spin: whether threads of the batch lane may watch for work or answers, for as long as a wake-up takes (100 us at
            most), before they sleep. They do so only where wake-ups are measured to be dear, as on virtual machines
            whose idle processors are taken away: 50 us instead of 5.
        miss_rate: share of rescues that may come late, in (0, 0.5]; the learned guard aims at it.
        priority: class of requests that do not say: "critical", "normal" or "sheddable". While everybody can be served
            in time it makes no difference; at overload the lower class falls back first, with reason "shed".
        weight: this engine's share of shared executors, against the others' weights, while there is not enough for all.
        on_error: what follows a primary that fails (not one that is late): "fallback", or "default" at once.
        allow_nonfinite: take NaN and infinity for answers of the primary instead of failures.
        breaker: after many failures the primary is given a rest, and one probe at a time finds out whether it has
            recovered. True, False, or a mapping of some of: calls_in_a_row (10 failed calls open it), rows_share and
            rows_min (or half of at least 100 rows within window_ms, 10,000), rest_ms (100, doubled by every failed
            probe) and rest_ms_max (5,000).
        realtime_priority, cpus: of the engine's own executors, as in Executors; off unless given.

    Thread-safe. Close it, or use it as a context manager. After a fork, the child must make its own.

    All predict verbs take deadline_ms, counted from the call, or deadline_ns, an instant of time.monotonic_ns(); a
    priority; and a key, which decides whether a canary answers. hedge=True has the fallback run at once, so that at the
    deadline its answer lies ready and the primary can be waited for a little longer.

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
        self._open(
            model.scorer,
            spare.scorer if spare else None,
            parts.default(default, model.n_outputs),
            version if version is not None else model.digest[:12],
            features,
            (model, spare, default, features),
            parts.warm_rows(warmup, model.n_features, self._batch_rows_max),
            int(min(limits["deadline_ms"] * 1e6, parts.FAR_NS)),
            limits,
        )
        self._start(lane, model)

    @property
    def primary(self) -> Model:
        """The model that new requests go to first."""
        return self._serving()[0].parts[0]

    @property
    def fallback(self) -> Model | None:
        """The model that answers where the primary cannot in time, or None."""
        return self._serving()[0].parts[1]

    def _start(self, lane: str, model: Model) -> None:
        # Only what is native is measured on this thread: anything else might not come back.
        inline = lane == "inline" or (lane == "auto" and model.native)
        if inline:
            inline = self._calibrate() <= INLINE_COST_US_MAX or lane == "inline"
        self._choose_lane(inline, lane == "auto")
        give_up = time.monotonic() + WARM_UP_S_MAX
        while not inline and not self._warmed_up() and time.monotonic() < give_up:
            time.sleep(0.001)

    async def predict_many_async(
        self,
        rows: Rows,
        deadline_ms: Deadlines = None,
        *,
        deadline_ns: Instants = None,
        priority: str | None = None,
        key: object = None,
    ) -> Answers:
        """`predict_many` without blocking the running event loop. Same arguments, same result, same errors."""
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
        golden: golden_rows.Golden | None = None,
        warmup: npt.ArrayLike | None = None,
    ) -> None:
        """Serves new requests from other models; what is not given stays. Requests under way keep what they came under.

        The new models are warmed up, measured and checked on the calling thread first, while the old ones serve on. The
        version that was served before stays at hand for `rollback`; the one before that is freed when its last request
        is answered.

        Args:
            primary, fallback, default, features: as in the constructor, of the same inputs and outputs.
            version: name of the new deployment; the primary's digest (12 digits) unless given.
            golden: (rows, values): what the new primary must answer before it takes traffic, within 1e-6 of the larger
                of 1 and the value. Rows are [n, n_features], or mappings where the engine has features.
            warmup: rows [rows, n_features] to measure on; those of the golden rows, or standard normal values, unless
                given.

        Raises:
            ConfigError: other widths, or a fallback that is not native.
            ModelError: the new primary fails on its golden or warm-up rows.
            ClosedError: the engine is closed.
            In every case the engine serves on as before.
        """
        served = self._candidate(primary, fallback, default, features, version, golden, warmup)
        self._install(served)

    def rollback(self) -> str:
        """Serves new requests from the version before the present one again, at once; a second call undoes the first.

        Returns the version that is served now.

        Raises:
            ConfigError: there is none before.
            ClosedError: the engine is closed.
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
        golden: golden_rows.Golden | None = None,
        warmup: npt.ArrayLike | None = None,
    ) -> None:
        """Serves a share of requests from other models; `canary()` ends it. A canary that was there is replaced.

        Requests with a key fall on the same side for as long as the share is the same, in every process, and stay with
        the canary while the share grows; the others are drawn at random. A `predict_many` falls on one side as a whole.
        While the canary's breaker is open its share is served by the primary as everything else.

        Args:
            share: of requests, 0 to 1.
            primary, fallback, default, features, version, golden, warmup: as in `swap`, and so are the errors.
        """
        self._require_open()
        if primary is None:
            self._set_canary(None, 0.0)
            return
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise ConfigError(f"share must be a number from 0 to 1, got {share!r}")
        self._set_canary(
            self._candidate(primary, fallback, default, features, version, golden, warmup), float(share)
        )

    def shadow(self, primary: Any = None, *, version: str | None = None) -> None:
        """Asks another native model along with the primary and gives its answers to nobody; `shadow()` ends it.

        They are compared with the primary's in `stats()["shadow"]` and shown to the monitor. A thread that runs only
        when nothing else wants its core scores them; what it cannot keep up with is dropped and counted, so no request
        is ever delayed.

        Args:
            primary: as in `swap`, of the same inputs and outputs, and not a Python callable, whose turns with the GIL
                would delay everybody.
            version: its name in the monitor; the digest (12 digits) unless given.
        """
        self._require_open()
        if primary is None:
            self._set_shadow(None, 0)
            return
        model, _ = parts.models(primary, None)
        if parts.takes_gil(model):
            raise ConfigError(
                "a shadow must not be a Python callable: its turns with the GIL would delay live requests"
            )
        name = version if version is not None else model.digest[:12]
        current = self._serving()[0].parts
        served = self._prepare(model.scorer, None, float("nan"), name, current[3], (model, None, None, None))
        self._set_shadow(served, SHADOW_ROWS_MAX)

    def _candidate(
        self,
        primary: Any,
        fallback: Any,
        default: Default,
        features: Features | None,
        version: str | None,
        golden: golden_rows.Golden | None,
        warmup: npt.ArrayLike | None,
    ) -> Any:
        """A deployment that is checked, measured and ready to take traffic."""
        self._require_open()
        now_primary, now_fallback, now_default, now_features = self._serving()[0].parts
        model, spare = parts.models(
            primary if primary is not None else now_primary,
            fallback if fallback is not None else now_fallback,
        )
        if self.lane == "inline" and not model.native:
            raise ConfigError(
                f"this engine serves inline, which needs a native primary, got format {model.format!r}"
            )
        given = default if default is not None else now_default
        chosen = parts.checked_features(features) if features is not None else now_features
        served = self._prepare(
            model.scorer,
            spare.scorer if spare else None,
            parts.default(given, model.n_outputs),
            version if version is not None else model.digest[:12],
            chosen,
            (model, spare, given, chosen),
        )
        rows = None
        if golden is not None:
            rows = self._golden_rows(served, golden[0])
            golden_rows.check(model, "primary", rows, golden[1])
        # A primary that is already being served has been measured by its own requests.
        if model is not now_primary or golden is not None:
            warm = warmup if warmup is not None else rows
            if not self._measure(served, parts.warm_rows(warm, model.n_features, self._batch_rows_max)):
                raise ModelError(f"the new primary, version {served.version!r}, fails on its warm-up rows")
        return served

    def _golden_rows(self, served: Any, rows: Any) -> npt.NDArray[Any]:
        if isinstance(rows, np.ndarray) or (len(rows) and not isinstance(rows[0], Mapping)):
            matrix = np.asarray(rows)
            if matrix.ndim != 2 or matrix.shape[1] != self.n_features:
                raise ConfigError(
                    f"golden rows must be [n, {self.n_features}], got shape {list(matrix.shape)}"
                )
            return matrix
        return served.read_rows(rows)

    def stats(self) -> dict[str, Any]:
        """Counters since the start and learned quantities of now, as a plain dict; times in microseconds.

        answers and reasons by source; classes (answers by priority and source); on_time_ready and on_time_returned;
        late_dropped (primary results that lost to their rescue); cancelled (requests whose asker stopped waiting, in no
        other count); batches, batch_rows_mean, queue_depth, queue_depth_max, in_flight; latency_us by source,
        returned_us and queued_us as {count, p50, p99, p999, max}; cost (row_us, batch_us by rows, efficient_rows,
        spread, stalls); guard_us (timer, return and fallback terms for synchronous and asynchronous callers, handoff:
        what waking an executor usually takes, prediction_error: how far admission's predictions are off); executors
        (threads, replaced: stuck ones that gave their place to a new thread, engines that share them); breakers by
        version; canary and shadow, None where there is none.
        """
        return self._statistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # close() waits for threads, so it runs beside the loop; the loop then collects what close() answered.
        await asyncio.to_thread(self.close)
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"lane={self.lane!r}, version={self.version!r}"
        return f"Engine({self.primary!r}, fallback={self.fallback!r}, {state})"
