"""Models that go wrong on purpose: what a demo, a benchmark or a test puts between the engine and a real model.

Each function wraps any model and gives a model of the same shape and flags back: the native code above meets the fault
as it would meet a real one. A fault is switched on when it is made, unless `armed=False` says otherwise, and may be
switched at any time with `arm()` and `disarm()`. What is drawn by chance depends on the seed and on the number of
the call only.
"""

from __future__ import annotations

import time
from typing import Any

from engine._common import arguments
from engine.errors import ConfigError
from engine.model.model import Model
from engine.testing import _fault

HOUR_NS = 3.6e12


class FaultyModel(Model):
    """A model with a fault in front of it. Format and digest are the wrapped model's; `describe()["faults"]` tells."""

    __slots__ = ("_fault", "_wrapped")

    def __init__(self, wrapped: Model, fault: _fault.Fault, name: str, settings: dict[str, Any]) -> None:
        described = wrapped.describe()
        faults = [*described.get("faults", ()), {"fault": name, **settings}]
        super().__init__(
            fault.scorer,
            format=wrapped.format,
            digest=wrapped.digest,
            feature_names=wrapped.feature_names,
            details={**described, "faults": faults},
        )
        self._fault = fault
        self._wrapped = wrapped

    def arm(self, start_ns: int | None = None) -> None:
        """Switches the fault on. A stall's first window opens at start_ns on `time.monotonic_ns()`, None being now."""
        self._fault.arm(time.monotonic_ns() if start_ns is None else start_ns)

    def disarm(self) -> None:
        """Switches the fault off for the calls to come, and lets go of those that hang."""
        self._fault.disarm()

    @property
    def armed(self) -> bool:
        return self._fault.armed

    @property
    def calls(self) -> int:
        """Calls of the scorer so far, from any thread, whether they met the fault or not."""
        return self._fault.calls

    @property
    def faults(self) -> int:
        """Calls that met the fault so far."""
        return self._fault.faults


def stalling(
    model: Model,
    *,
    stall_ms: float = 200.0,
    every_ms: float = 2000.0,
    start_ns: int | None = None,
    armed: bool = True,
) -> FaultyModel:
    """Answers nothing during the first stall_ms of every every_ms: a call that starts then sleeps until they are over.

    Args:
        stall_ms: length of the stall, 0 to every_ms.
        every_ms: from the start of one stall to the start of the next, above 0.
        start_ns: when the first begins, on `time.monotonic_ns()`; None is now.
        armed: False waits for `arm(start_ns)`.
    """
    stall_ns, every_ns = _ns("stall_ms", stall_ms, 1e6), _ns("every_ms", every_ms, 1e6)
    if every_ns < 1 or stall_ns > every_ns:
        raise ConfigError(
            f"expected 0 <= stall_ms <= every_ms and every_ms above 0, got {stall_ms} and {every_ms}"
        )
    fault = _fault.stalling(
        model.scorer, stall_ns=stall_ns, every_ns=every_ns, start_ns=_start(armed, start_ns)
    )
    return FaultyModel(model, fault, "stalling", {"stall_ms": stall_ms, "every_ms": every_ms})


def failing(model: Model, share: float, seed: int = 0, *, armed: bool = True) -> FaultyModel:
    """Fails a share (0 to 1) of the calls, as a model that raises does; those do not reach the model."""
    fault = _fault.failing(model.scorer, share=_share(share), seed=_seed(seed), start_ns=_start(armed))
    return FaultyModel(model, fault, "failing", {"share": share, "seed": seed})


def corrupting(model: Model, share: float, seed: int = 0, *, armed: bool = True) -> FaultyModel:
    """Answers NaN, in every value, to a share (0 to 1) of the calls."""
    fault = _fault.corrupting(model.scorer, share=_share(share), seed=_seed(seed), start_ns=_start(armed))
    return FaultyModel(model, fault, "corrupting", {"share": share, "seed": seed})


def slow(model: Model, extra_us: float, *, extra_us_per_row: float = 0.0, armed: bool = True) -> FaultyModel:
    """Burns extra_us of CPU before each call of the model, and extra_us_per_row more for each of its rows."""
    fault = _fault.slow(
        model.scorer,
        per_call_ns=_ns("extra_us", extra_us, 1e3),
        per_row_ns=_ns("extra_us_per_row", extra_us_per_row, 1e3),
        start_ns=_start(armed),
    )
    return FaultyModel(model, fault, "slow", {"extra_us": extra_us, "extra_us_per_row": extra_us_per_row})


def hanging(model: Model, *, armed: bool = True) -> FaultyModel:
    """Never answers while armed; `disarm()` lets the calls that hang go on to the model."""
    return FaultyModel(model, _fault.hanging(model.scorer, start_ns=_start(armed)), "hanging", {})


def _start(armed: bool, start_ns: int | None = None) -> int | None:
    if not armed:
        return None
    return time.monotonic_ns() if start_ns is None else start_ns


def _ns(name: str, value: float, scale: float) -> int:
    """Nanoseconds of a length of time; an hour is the most that makes sense here, and keeps sums in range."""
    return round(arguments.number(name, value, 0.0, HOUR_NS / scale, error=ConfigError) * scale)


def _share(share: float) -> float:
    return arguments.number("share", share, 0.0, 1.0, error=ConfigError)


def _seed(seed: int) -> int:
    return arguments.whole("seed", seed, 0, 2**64 - 1, error=ConfigError)
