"""Faults of a simulation as plain data: `simulate(faults=[{"fault": "slow", "factor": 10}])`.

Each fault is a dict (or JSON object): its name as `fault`, its own parameters, and a window from `from_ms` (default 0)
to `until_ms` (default None: the end of the run), both in milliseconds from the start of the run. Faults add up, also
two of one kind. `engine.testing` puts faults into real models under the same names and parameters.

    stalling      stall_ms, every_ms=None, executor=None    no progress for stall_ms, repeated every every_ms
    slow          factor=1, extra_us=0, extra_us_per_row=0, executor=None    of batches that start in the window
    failing       share=1          of the scoring calls; every row of such a call fails
    corrupting    share=1          of the rows; the primary answers NaN to them
    poisoning     share=1          of the rows; every scoring call fails that has one of them
    hanging       executor=None    a batch that starts in the window makes no progress before the window ends; the
                                   executor that replaces a single hanging one does not hang
    dying         executor=None    an executor and its batch are lost; it is back when the window ends
    jumping       jump_ms, every_ms=None    the clock jumps ahead and none of our code runs meanwhile: a paused virtual
                                   machine, a frozen container (never back, because all instants are CLOCK_MONOTONIC)
    oversleeping  late_ms, share=1 of the timed waits due in the window wakes late_ms late
    bursting      requests, every_ms=None   this many requests arrive in one instant
    overloading   factor           on the rate of arrivals: a step of load
    swapping      factor=1, measured=1, every_ms=None   a new version that costs factor times the plan's cost. Its
                                   calibration runs beside the traffic and measures `measured` times that. Every
                                   second new version costs the plan's cost again
    cancelling    share            of the callers gives up at a uniform instant of its budget
    sabotaging    broken           breaks one of `INVARIANTS` once: proof that the simulator's checks can fail
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine._common import vocabulary
from engine._common.arguments import one_of
from engine.errors import ConfigError, InputTypeError
from engine.simulation import _simulator
from engine.simulation._checks import MS, US, ns, number, whole

EXECUTORS_MAX = 64
BURST_MAX = 1 << 20
INVARIANTS = _simulator.INVARIANTS

_Check = Callable[[str, Any], Any]


def _length(unit: float) -> _Check:
    return lambda name, value: ns(name, value, unit)


def _optional(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


def _period(name: str, value: Any) -> int:
    return 0 if value is None else ns(name, value, MS)


def _invariant(name: str, value: Any) -> str:
    return one_of(name, value, INVARIANTS, error=ConfigError)


_FACTOR: _Check = lambda name, value: number(name, value, 1e-6, 1e6)  # noqa: E731
_SHARE: _Check = lambda name, value: number(name, value, 0.0, 1.0)  # noqa: E731
_COUNT: _Check = lambda name, value: whole(name, value, 0, BURST_MAX)  # noqa: E731
_EXECUTOR = _optional(lambda name, value: whole(name, value, 0, EXECUTORS_MAX - 1))
_REQUIRED = object()

# A fault's parameters: name -> (native field, check that also converts to the native unit, default).
_PARAMETERS: dict[str, dict[str, tuple[str, _Check, Any]]] = {
    "stalling": {
        "stall_ms": ("length_ns", _length(MS), _REQUIRED),
        "every_ms": ("every_ns", _period, None),
        "executor": ("executor", _EXECUTOR, None),
    },
    "slow": {
        "factor": ("factor", _FACTOR, 1.0),
        "extra_us": ("extra_ns", _length(US), 0.0),
        "extra_us_per_row": ("extra_row_ns", _length(US), 0.0),
        "executor": ("executor", _EXECUTOR, None),
    },
    "failing": {"share": ("share", _SHARE, 1.0)},
    "corrupting": {"share": ("share", _SHARE, 1.0)},
    "poisoning": {"share": ("share", _SHARE, 1.0)},
    "hanging": {"executor": ("executor", _EXECUTOR, None)},
    "dying": {"executor": ("executor", _EXECUTOR, None)},
    "jumping": {
        "jump_ms": ("length_ns", _length(MS), _REQUIRED),
        "every_ms": ("every_ns", _period, None),
    },
    "oversleeping": {"late_ms": ("length_ns", _length(MS), _REQUIRED), "share": ("share", _SHARE, 1.0)},
    "bursting": {"requests": ("count", _COUNT, _REQUIRED), "every_ms": ("every_ns", _period, None)},
    "overloading": {"factor": ("factor", _FACTOR, _REQUIRED)},
    "swapping": {
        "factor": ("factor", _FACTOR, 1.0),
        "measured": ("measured", _FACTOR, 1.0),
        "every_ms": ("every_ns", _period, None),
    },
    "cancelling": {"share": ("share", _SHARE, _REQUIRED)},
    "sabotaging": {"broken": ("broken", _invariant, _REQUIRED)},
}
FAULTS = tuple(_PARAMETERS)
vocabulary.require_same("the simulator's faults", FAULTS, _simulator.FAULTS)


def checked_faults(faults: Any) -> list[dict[str, Any]]:
    """Return a list of faults in native form, in nanoseconds. Raises InputError, InputTypeError or ConfigError."""
    if isinstance(faults, (str, bytes, Mapping)) or not isinstance(faults, Sequence):
        raise InputTypeError(f"faults must be a list of dicts, got {type(faults).__name__} {faults!r}")
    return [_checked(f"faults[{i}]", fault) for i, fault in enumerate(faults)]


def _checked(place: str, fault: Any) -> dict[str, Any]:
    if not isinstance(fault, Mapping) or "fault" not in fault:
        raise InputTypeError(f'{place} must be a dict with its name as "fault", got {fault!r}')
    kind = fault["fault"]
    if kind not in _PARAMETERS:
        raise ConfigError(f"{place} must be one of the faults {', '.join(FAULTS)}, got {kind!r}")
    parameters = _PARAMETERS[kind]
    unknown = set(fault) - {"fault", "from_ms", "until_ms", *parameters}
    if unknown:
        known = ", ".join([*parameters, "from_ms", "until_ms"])
        raise ConfigError(f"{place}: {kind} takes {known}; got {', '.join(sorted(map(str, unknown)))}")
    native = {
        "fault": kind,
        "from_ns": ns(f"{place}.from_ms", fault.get("from_ms", 0.0), MS),
        "until_ns": _optional(_length(MS))(f"{place}.until_ms", fault.get("until_ms")),
    }
    for name, (field, check, default) in parameters.items():
        value = fault.get(name, default)
        if value is _REQUIRED:
            raise ConfigError(f"{place}: {kind} needs {name}")
        native[field] = check(f"{place}.{name}", value)
    _check_together(place, native)
    return native


def _check_together(place: str, fault: dict[str, Any]) -> None:
    kind, length, every = fault["fault"], fault.get("length_ns", 0), fault.get("every_ns", 0)
    if fault["until_ns"] is not None and fault["until_ns"] < fault["from_ns"]:
        raise ConfigError(
            f"{place} needs from_ms <= until_ms, got {fault['from_ns'] / MS:g} and {fault['until_ns'] / MS:g}"
        )
    if kind in ("stalling", "jumping") and every and every <= length:
        advice = "use hanging for a primary that never answers" if kind == "stalling" else "time has to go on"
        raise ConfigError(
            f"{place}: {kind} for {length / MS:g} ms needs a longer every_ms, got {every / MS:g}; {advice}"
        )


def ends_ms(fault: Mapping[str, Any]) -> float | None:
    """Return the end of a fault, in milliseconds from the start of the run; None for a fault that never ends.

    Args:
        fault: as `simulate` takes it.
    """
    if fault["fault"] in ("sabotaging", "swapping") and fault.get("every_ms") is None:
        return float(fault.get("from_ms", 0.0))
    length = fault.get("stall_ms", fault.get("jump_ms", fault.get("late_ms", 0.0)))
    if fault["fault"] in ("stalling", "jumping", "bursting") and fault.get("every_ms") is None:
        return float(fault.get("from_ms", 0.0) + length)
    until = fault.get("until_ms")
    return None if until is None else float(until + length)


def parse_fault(text: str) -> dict[str, Any]:
    """Return the fault that a command line gives as `slow:factor=10,from_ms=5000` or as a JSON object.

    Raises:
        ConfigError: a part without `=`.
        ValueError: damaged JSON.
    """
    if text.lstrip().startswith("{"):
        return json.loads(text)
    kind, _, rest = text.partition(":")
    fault: dict[str, Any] = {"fault": kind}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"fault {text!r} must be NAME:key=value,key=value, got {part!r}")
        try:
            fault[name] = json.loads(value)
        except ValueError:
            fault[name] = value
    return fault
