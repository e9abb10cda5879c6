"""Planned faults: models that go wrong on purpose, for a demo, a benchmark or a test.

Each function wraps a model and returns a model of the same shape and flags, so native code meets the fault as it would
meet a real one. A fault is armed from the start unless `armed=False`; `arm()` and `disarm()` switch it at any time.
Random choices depend on the seed and the number of the call alone.
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
    """A model with a fault in front of it. Made by the functions of this module; any thread may use it.

    Format and digest are the wrapped model's; `describe()["faults"]` lists the faults.
    """

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
        """Switch the fault on.

        Args:
            start_ns: start of a stall's first window on `time.monotonic_ns()`; None for now.
        """
        self._fault.arm(time.monotonic_ns() if start_ns is None else start_ns)

    def disarm(self) -> None:
        """Switch the fault off for later calls. Calls that hang go on to the model."""
        self._fault.disarm()

    @property
    def armed(self) -> bool:
        """Whether the fault is switched on."""
        return self._fault.armed

    @property
    def calls(self) -> int:
        """Calls of the model so far, from any thread, with or without the fault."""
        return self._fault.calls

    @property
    def faults(self) -> int:
        """Calls so far that met the fault."""
        return self._fault.faults


def stalling(
    model: Model,
    *,
    stall_ms: float = 200.0,
    every_ms: float = 2000.0,
    start_ns: int | None = None,
    armed: bool = True,
) -> FaultyModel:
    """Return a model that stalls: a call that starts in the first stall_ms of every every_ms sleeps until their end.

    Args:
        model: to wrap.
        stall_ms: milliseconds of a stall, 0 to every_ms.
        every_ms: milliseconds from the start of one stall to the start of the next, above 0, at most an hour.
        start_ns: start of the first stall on `time.monotonic_ns()`; None for now.
        armed: whether the fault is on from the start; else `arm(start_ns)` starts it.

    Raises:
        ConfigError: a number out of range.
    """
    stall_ns, every_ns = _ns("stall_ms", stall_ms, 1e6), _ns("every_ms", every_ms, 1e6)
    if every_ns < 1 or stall_ns > every_ns:
        raise ConfigError(
            f"stalling needs 0 <= stall_ms <= every_ms and every_ms above 0, got {stall_ms} and {every_ms}"
        )
    fault = _fault.stalling(
        model.scorer, stall_ns=stall_ns, every_ns=every_ns, start_ns=_start(armed, start_ns)
    )
    return FaultyModel(model, fault, "stalling", {"stall_ms": stall_ms, "every_ms": every_ms})


def failing(model: Model, share: float, seed: int = 0, *, armed: bool = True) -> FaultyModel:
    """Return a model that fails a share of its calls, as a model that raises does. They do not reach `model`.

    Args:
        model: to wrap.
        share: of the calls, 0 to 1.
        seed: of the choice, 0 to 2**64 - 1.
        armed: whether the fault is on from the start.

    Raises:
        ConfigError: a number out of range.
    """
    fault = _fault.failing(model.scorer, share=_share(share), seed=_seed(seed), start_ns=_start(armed))
    return FaultyModel(model, fault, "failing", {"share": share, "seed": seed})


def corrupting(model: Model, share: float, seed: int = 0, *, armed: bool = True) -> FaultyModel:
    """Return a model that answers NaN, in every value, to a share of its calls.

    Args and Raises as in `failing`.
    """
    fault = _fault.corrupting(model.scorer, share=_share(share), seed=_seed(seed), start_ns=_start(armed))
    return FaultyModel(model, fault, "corrupting", {"share": share, "seed": seed})


def slow(model: Model, extra_us: float, *, extra_us_per_row: float = 0.0, armed: bool = True) -> FaultyModel:
    """Return a model that spends extra CPU time before each call.

    Args:
        model: to wrap.
        extra_us: microseconds for each call, up to an hour.
        extra_us_per_row: microseconds more for each row of the call, up to an hour.
        armed: whether the fault is on from the start.

    Raises:
        ConfigError: a number out of range.
    """
    fault = _fault.slow(
        model.scorer,
        per_call_ns=_ns("extra_us", extra_us, 1e3),
        per_row_ns=_ns("extra_us_per_row", extra_us_per_row, 1e3),
        start_ns=_start(armed),
    )
    return FaultyModel(model, fault, "slow", {"extra_us": extra_us, "extra_us_per_row": extra_us_per_row})


def hanging(model: Model, *, armed: bool = True) -> FaultyModel:
    """Return a model that never answers while it is armed. After `disarm()`, the hanging calls go on to `model`.

    Args:
        model: to wrap.
        armed: whether the fault is on from the start.
    """
    return FaultyModel(model, _fault.hanging(model.scorer, start_ns=_start(armed)), "hanging", {})


def _start(armed: bool, start_ns: int | None = None) -> int | None:
    if not armed:
        return None
    return time.monotonic_ns() if start_ns is None else start_ns


def _ns(name: str, value: float, scale: float) -> int:
    """Return a length of time in nanoseconds. At most an hour, so that sums stay in range."""
    return round(arguments.number(name, value, 0.0, HOUR_NS / scale, error=ConfigError) * scale)


def _share(share: float) -> float:
    return arguments.number("share", share, 0.0, 1.0, error=ConfigError)


def _seed(seed: int) -> int:
    return arguments.whole("seed", seed, 0, 2**64 - 1, error=ConfigError)
