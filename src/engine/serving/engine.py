"""The Engine: checks that its parts fit, chooses a lane, and answers every request before its deadline.

What runs once per request is compiled (engine.core._runtime); here is what runs once per engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from engine.core._answer import Answers
from engine.core._rows import checked_default
from engine.core._runtime import CoreEngine
from engine.errors import ConfigError
from engine.model import Model, load_model

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

    from engine.core._runtime import Deadlines, Instants, Rows

LANES = ("auto", "inline", "batch")
INLINE_COST_US_MAX = 20.0  # a hand-off to another thread costs about half of this
WARM_UP_S_MAX = 1.0
NO_DEADLINE_NS = 2**60

Default = float | npt.ArrayLike | Callable[[], Any] | None


class Features(Protocol):
    """What an Engine needs of a feature program: `FeatureProgram` has it, and so may anything else."""

    @property
    def capsule(self) -> CapsuleType: ...


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
            the program's input order); without it they are sequences or 1-D arrays of n_features numbers.
        deadline_ms: milliseconds from the call within which an answer is due where the call does not say; above 0.
        batch_rows_max: the most rows the batch lane hands to the primary at once, 1 to 1,048,576.
        lane: "inline" (the primary on the caller's own thread: no queue, sub-microsecond, but nothing can interrupt
            it), "batch" (a queue, earliest deadline first, in front of executor threads, with a rescue that is always
            in time), or "auto": inline for a native primary of at most 20 us a row, batch otherwise. An "auto" engine
            whose inline primary twice within ten seconds takes longer than deadline_ms changes to the batch lane, and
            back after ten seconds without a stall there.
        executors: threads that run the primary in the batch lane, 1 to 64.
        queue_rows_max: requests in the batch lane at one time; what comes beyond is answered by the fallback at once.
        version: name of this deployment in answers; the primary's digest (12 digits) unless given.
        warmup: rows [rows, n_features] like those to come, for calibration before the first request; standard normal
            values unless given.
        spin: whether threads of the batch lane may watch for work or answers, for as long as a wake-up takes (100 us at
            most), before they sleep. They do so only where wake-ups are measured to be dear, as on virtual machines
            whose idle processors are taken away: 50 us instead of 5.
        miss_rate: share of rescues that may come late, in (0, 0.5]; the learned guard aims at it.

    Thread-safe. Close it, or use it as a context manager. After a fork, the child must make its own.

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
        executors: int = 1,
        *,
        queue_rows_max: int = 4096,
        version: str | None = None,
        warmup: npt.ArrayLike | None = None,
        spin: bool = True,
        miss_rate: float = 1e-4,
    ) -> None:
        rows_max = _whole("batch_rows_max", batch_rows_max, 1, 1 << 20)
        limits = {
            "batch_rows_max": rows_max,
            "executors": _whole("executors", executors, 1, 64),
            "queue_rows_max": _whole("queue_rows_max", queue_rows_max, 1, 1 << 24),
            "spin": bool(spin),
            "miss_rate": _between("miss_rate", miss_rate, 0.0, 0.5),
        }
        if lane not in LANES:
            raise ConfigError(f"lane must be one of {', '.join(LANES)}, got {lane!r}")
        model, spare = _parts(primary, fallback)
        if features is not None and not hasattr(features, "capsule"):
            raise ConfigError(f"features must be a FeatureProgram, got {type(features).__name__}")
        if lane == "inline" and _takes_gil(model):
            raise ConfigError(
                "a Python callable cannot be served inline, where nothing could rescue its caller: "
                "use lane='batch' or lane='auto'"
            )
        budget_ns = int(min(_between("deadline_ms", deadline_ms, 0.0, float("inf")) * 1e6, NO_DEADLINE_NS))
        self.primary, self.fallback = model, spare
        self._given_default = default
        self._open(
            model.scorer,
            spare.scorer if spare else None,
            _default(default, model.n_outputs),
            version if version is not None else model.digest[:12],
            features.capsule if features is not None else None,
            _warm_rows(warmup, model.n_features, rows_max),
            budget_ns,
            limits,
        )
        self._start(lane, model)

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
        self, rows: Rows, deadline_ms: Deadlines = None, *, deadline_ns: Instants = None
    ) -> Answers:
        """`predict_many` without blocking the running event loop. Same arguments, same result, same errors."""
        answered = []
        for start in self._many_parts(rows, deadline_ms, deadline_ns):
            part = start()
            answered.append(part if isinstance(part, Answers) else await part)
        return Answers.joined(answered)

    def swap(
        self,
        primary: Any = None,
        *,
        fallback: Any = None,
        default: Default = None,
        version: str | None = None,
    ) -> None:
        """Serves new requests from other models; what is not given stays. Requests under way keep what they came under.

        Args:
            primary, fallback, default: as in the constructor, of the same inputs and outputs.
            version: name of the new deployment; the primary's digest (12 digits) unless given.

        Raises:
            ConfigError: other widths, or a fallback that is not native. The engine then serves on as before.
            ClosedError: the engine is closed.
        """
        model, spare = _parts(
            primary if primary is not None else self.primary,
            fallback if fallback is not None else self.fallback,
        )
        if self.lane == "inline" and not model.native:
            raise ConfigError(
                f"this engine serves inline, which needs a native primary, got format {model.format!r}"
            )
        given = default if default is not None else self._given_default
        self._swap(
            model.scorer,
            spare.scorer if spare else None,
            _default(given, model.n_outputs),
            version if version is not None else model.digest[:12],
        )
        self.primary, self.fallback, self._given_default = model, spare, given

    def stats(self) -> dict[str, Any]:
        """Counters since the start and learned quantities of now, as a plain dict; times in microseconds.

        answers and reasons by source; on_time_ready and on_time_returned; late_dropped (primary results that lost to
        their rescue); batches, batch_rows_mean, queue_depth, queue_depth_max, in_flight; latency_us by source,
        returned_us and queued_us as {count, p50, p99, p999, max}; cost (row_us, batch_us by rows, efficient_rows,
        spread, stalls); guard_us (timer, return and fallback terms for synchronous and asynchronous callers, handoff:
        what waking an executor usually takes, prediction_error: how far admission's predictions are off).
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


def _parts(primary: Any, fallback: Any) -> tuple[Model, Model | None]:
    model = primary if isinstance(primary, Model) else _load("primary", primary)
    if fallback is None:
        return model, None
    spare = fallback if isinstance(fallback, Model) else _load("fallback", fallback)
    if not spare.native:
        raise ConfigError(
            f"the fallback must be native (a forest, a linear or a dense model), got format {spare.format!r}: it runs "
            f"when time is nearly up, so it may neither take the GIL nor wait"
        )
    for what in ("n_features", "n_outputs"):
        if getattr(model, what) != getattr(spare, what):
            raise ConfigError(
                f"primary and fallback must agree in {what}, got {getattr(model, what)} and {getattr(spare, what)}"
            )
    return model, spare


def _load(role: str, source: Any) -> Model:
    if callable(source) and not hasattr(source, "predict") and not isinstance(source, str | PathLike):
        raise ConfigError(
            f"the {role} is a Python callable, whose width is not known: pass "
            f"engine.load_model(fn, n_features=…, n_outputs=…)"
        )
    return load_model(source)


def _takes_gil(model: Model) -> bool:
    from engine.core import _scorer

    return _scorer.describe(model.scorer)["takes_gil"]


def _default(value: Default, n_outputs: int) -> Any:
    if value is None:
        return checked_default(float("nan"), n_outputs)
    if callable(value):
        return value
    try:
        return checked_default(value, n_outputs)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the default must be a number or a function of nothing, got {value!r:.60}"
        ) from None


def _warm_rows(given: npt.ArrayLike | None, n_features: int, n_rows: int) -> npt.NDArray[Any]:
    n_rows = min(n_rows, 4096)
    if given is None:
        # Values that take different branches from row to row: rows of zeros would time a perfectly predicted tree.
        return np.random.default_rng(0).standard_normal((n_rows, n_features))
    rows = np.asarray(given)
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ConfigError(
            f"warmup must be at least one row of {n_features} features, got shape {list(rows.shape)}"
        )
    return np.resize(rows, (n_rows, n_features))


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return int(value)


def _between(name: str, value: Any, above: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not above < value <= most:
        raise ConfigError(f"{name} must be a number above {above:g} and at most {most:g}, got {value!r}")
    return float(value)
